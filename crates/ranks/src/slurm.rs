//! SLURM: `srun` starts a step's tasks, and says to each of them which it is.

use crate::reading::Reading;
use crate::recognise::{RANKS, check_order, note_master};
use crate::{Launcher, Place, expand_hosts, expand_tasks_per_node};

/// Job names under which somebody works at a prompt, where each process is on its own (Lightning's rule).
const INTERACTIVE: [&str; 2] = ["bash", "interactive"];
/// Numbers of steps from this one on are none of `srun`'s: SLURM gives them to the batch script and to a prompt (`SLURM_BATCH_SCRIPT`,
/// `SLURM_INTERACTIVE_STEP` of slurm.h).
const FIRST_SPECIAL_STEP: u64 = 0xffff_fff0;
/// Ports of steps lie from here on, below the range from which Linux takes the ports of outgoing connections.
const FIRST_PORT: u64 = 10_000;
/// How many ports jobs share. Jobs with neighbouring numbers, which may share a node, have different ones.
const PORTS: u64 = 20_000;

/// One of several tasks that `srun` has started.
pub(crate) struct Step {
    tasks_name: &'static str,
    tasks: usize,
}

/// The step of several tasks that this process belongs to. All else under SLURM is a process of its own, or was started by somebody else
/// within a task; what tells so is noted.
pub(crate) fn step(reading: &mut Reading<'_>) -> Option<Step> {
    const ONE: &str = "counts as one process";
    let sign = reading.first_set(&["SLURM_JOB_ID", "SLURM_JOBID", "SLURM_PROCID"])?;
    let Some(id_name) = reading.first_set(&["SLURM_STEP_ID", "SLURM_STEPID"]) else {
        reading.note(sign, format!("a batch script or allocation, not started by `srun`: {ONE}"));
        return None;
    };
    let id: u64 = reading.parsed(id_name, "is not a whole number from 0 on")?;
    if id >= FIRST_SPECIAL_STEP {
        reading.note(id_name, format!("the batch script or a prompt, not started by `srun`: {ONE}"));
        return None;
    }
    if reading.text("SLURM_JOB_NAME").is_some_and(|name| INTERACTIVE.contains(&name.as_str())) {
        reading.note("SLURM_JOB_NAME", format!("somebody works at a prompt: {ONE}"));
        return None;
    }
    let Some(tasks_name) = reading.first_set(&["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"]) else {
        reading.refuse("SLURM_NTASKS", "is missing, though SLURM sets it for each task");
        return None;
    };
    let tasks = reading.count(tasks_name)?;
    if tasks == 1 {
        reading.note(tasks_name, format!("the step's only task: {ONE}"));
        return None;
    }
    Some(Step { tasks_name, tasks })
}

impl Step {
    /// The place of this task. `RANK` and its like may be set as well, by a script around the program, and must say the same.
    pub(crate) fn place(&self, reading: &mut Reading<'_>) -> Option<Place> {
        for name in ["SLURM_PROCID", "SLURM_LOCALID"] {
            if !reading.is_set(name) {
                reading.refuse(name, "is missing, though SLURM sets it for each task");
            }
        }
        let rank = reading.number("SLURM_PROCID");
        let local_rank = reading.number("SLURM_LOCALID");
        let (tasks_per_node_name, local_tasks) = self.tasks_of_this_node(reading).unzip();
        check_order(reading, rank, Some(self.tasks), ["SLURM_PROCID", self.tasks_name]);
        check_order(reading, local_rank, local_tasks, ["SLURM_LOCALID", tasks_per_node_name.unwrap_or_default()]);
        let by_hand = RANKS.into_iter().filter(|name| reading.is_set(name)).count();
        let slurms = [
            ("SLURM_PROCID", rank),
            ("SLURM_LOCALID", local_rank),
            (self.tasks_name, Some(self.tasks)),
            (tasks_per_node_name.unwrap_or_default(), local_tasks),
        ];
        for (name, (slurm_name, expected)) in RANKS.into_iter().zip(slurms) {
            let Some(found) = reading.number(name) else { continue };
            match expected {
                Some(expected) if found != expected => {
                    reading.refuse(name, format!("is not {expected}, as `{slurm_name}` has it"));
                    reading.hint(
                        "`srun` gives each task its rank: `unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE` in the \
                         batch script, or set them from SLURM's within the task",
                    );
                }
                _ => reading.note(name, format!("the same as `{slurm_name}`")),
            }
        }
        let (master_addr, master_port) = master(reading)?;
        let (rank, local_rank, local_world_size) = (rank?, local_rank?, local_tasks?);
        reading.note("SLURM_PROCID", format!("process {rank} of {}", self.tasks));
        reading.note(self.tasks_name, format!("{} processes", self.tasks));
        reading.note("SLURM_LOCALID", format!("process {local_rank} of this node"));
        reading.note(tasks_per_node_name?, format!("{local_world_size} processes on this node"));
        Some(Place {
            rank,
            local_rank,
            world_size: self.tasks,
            local_world_size,
            master_addr,
            master_port,
            has_agent_store: false,
            restart_count: 0,
            launcher: if by_hand == RANKS.len() { Launcher::Variables } else { Launcher::Slurm },
        })
    }

    /// How many of the step's tasks are on this node, and by which variable.
    fn tasks_of_this_node(&self, reading: &mut Reading<'_>) -> Option<(&'static str, usize)> {
        let Some(name) = reading.first_set(&["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"]) else {
            let name = "SLURM_NTASKS_PER_NODE";
            if !reading.is_set(name) {
                reading.refuse("SLURM_TASKS_PER_NODE", "is missing, though SLURM sets it for each task");
            }
            return Some((name, reading.count(name)?));
        };
        let nodes = match expand_tasks_per_node(&reading.text(name)?) {
            Ok(nodes) => nodes,
            Err(why) => {
                reading.refuse(name, why);
                return None;
            }
        };
        let sum = nodes.iter().try_fold(0usize, |sum, &tasks| sum.checked_add(tasks));
        if sum != Some(self.tasks) {
            reading.refuse(name, format!("does not add up to the {} tasks of `{}`", self.tasks, self.tasks_name));
            return None;
        }
        if nodes.iter().all(|&tasks| tasks == nodes[0]) {
            return Some((name, nodes[0]));
        }
        if !reading.is_set("SLURM_NODEID") {
            reading.refuse("SLURM_NODEID", "is missing, though nodes have different numbers of tasks");
        }
        let node = reading.number("SLURM_NODEID")?;
        match nodes.get(node) {
            Some(&tasks) => Some((name, tasks)),
            None => {
                reading.refuse("SLURM_NODEID", format!("must be less than the {} nodes of `{name}`", nodes.len()));
                None
            }
        }
    }
}

/// Where the tasks meet: `MASTER_ADDR` or the step's first host, and `MASTER_PORT` or one that follows from the job's number, so that all
/// tasks know it without asking.
fn master(reading: &mut Reading<'_>) -> Option<(String, u16)> {
    let host = match reading.text("MASTER_ADDR") {
        Some(host) => Some(host),
        None => first_host(reading),
    };
    let port = match reading.is_set("MASTER_PORT") {
        true => reading.port("MASTER_PORT"),
        false => port_of_job(reading),
    };
    note_master(reading);
    Some((host?, port?))
}

fn first_host(reading: &mut Reading<'_>) -> Option<String> {
    let Some(name) = reading.first_set(&["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"]) else {
        reading.refuse("SLURM_JOB_NODELIST", "is missing, though SLURM sets it for each task");
        return None;
    };
    match expand_hosts(&reading.text(name)?) {
        Ok(hosts) => {
            let first = hosts.into_iter().next()?;
            reading.note(name, format!("the processes meet at its first host, `{first}`"));
            Some(first)
        }
        Err(why) => {
            reading.refuse(name, why);
            None
        }
    }
}

fn port_of_job(reading: &mut Reading<'_>) -> Option<u16> {
    let Some(name) = reading.first_set(&["SLURM_JOB_ID", "SLURM_JOBID"]) else {
        reading.refuse("SLURM_JOB_ID", "is missing, though SLURM sets it for each task");
        return None;
    };
    let job: u64 = reading.parsed(name, "is not a whole number from 0 on")?;
    let port = u16::try_from(FIRST_PORT + job % PORTS).ok()?;
    reading.note(name, format!("the processes meet at port {FIRST_PORT} + {job} mod {PORTS} = {port}"));
    Some(port)
}
