//! What is to be started, by the command line and by the variables of whoever started the launcher.

use std::ffi::OsString;
use std::time::Duration;

use sdtrain_ranks::{Launcher, Place, ProcessesPerNode, Recognition};

use crate::args::{Address, Command, LaunchArgs, Resume};
use crate::machine::Machine;
use crate::{ExitCode, Failure};

/// The processes of a run, and which of them are of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// How many processes are started here, and on each machine.
    pub nproc: usize,
    /// How many machines there are.
    pub nnodes: usize,
    /// Which of them this is.
    pub node_rank: usize,
    /// Where the processes meet; none for any free port of this machine, which alone takes part.
    pub master: Option<Address>,
    /// How often all are started again.
    pub restarts: u32,
    /// How long rank 0 may go on saving when it was told to end.
    pub grace: Duration,
    /// The threads of each of several processes, where nobody has said otherwise.
    pub threads: Option<usize>,
    /// The arguments of each process.
    pub command_line: Vec<OsString>,
}

/// The machines that take part.
struct Nodes {
    nnodes: usize,
    node_rank: usize,
    master: Option<Address>,
    nproc: ProcessesPerNode,
}

impl Settings {
    /// # Errors
    /// Where something is missing, or this is one of a run's processes itself.
    pub fn of(args: &LaunchArgs, recognition: &Recognition, machine: &Machine) -> Result<Settings, Failure> {
        let (command_line, command) = args.command_line();
        check_command(&command, args.restarts)?;
        let nodes = with_flags(args, nodes(recognition)?)?;
        let nproc = match nodes.nproc {
            ProcessesPerNode::Number(number) => number,
            ProcessesPerNode::Cpu => machine.processors,
            ProcessesPerNode::Auto => machine.gpus.max(1),
            ProcessesPerNode::Gpu if machine.gpus > 0 => machine.gpus,
            ProcessesPerNode::Gpu => {
                return Err(wrong("`--nproc gpu`: this machine has no NVIDIA GPU that this process may use")
                    .hint("`sdtrain env` shows what is seen; `--nproc N` starts a number of processes"));
            }
        };
        if nodes.nnodes.checked_mul(nproc).is_none() {
            return Err(wrong(format!("{nproc} processes on each of {} machines cannot be counted", nodes.nnodes)));
        }
        let is_said = std::env::var_os("OMP_NUM_THREADS").is_some_and(|threads| !threads.is_empty());
        let Nodes { nnodes, node_rank, master, .. } = nodes;
        Ok(Settings {
            nproc,
            nnodes,
            node_rank,
            master,
            restarts: args.restarts,
            grace: Duration::from_secs(args.grace),
            threads: (nproc > 1 && !is_said).then(|| (machine.processors / nproc).max(1)),
            command_line,
        })
    }
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(ExitCode::Configuration, message)
}

/// Refuses what makes no sense several times at once.
fn check_command(command: &Command, restarts: u32) -> Result<(), Failure> {
    match command {
        Command::Launch(_) => Err(wrong("`sdtrain launch` starts no launchers")),
        Command::Train(train) if restarts > 0 && train.resume != Resume::Auto => Err(wrong(
            "`--restarts` goes with `--resume auto` alone: a restart continues what lies in the output folder",
        )
        .hint("leave `--resume` out; to begin anew, move the output folder away")),
        Command::Train(_) => Ok(()),
        _ if restarts > 0 => Err(wrong("`--restarts` is for `train`: nothing else continues where it ended")),
        _ => Ok(()),
    }
}

/// What the variables say of the machines.
fn nodes(recognition: &Recognition) -> Result<Nodes, Failure> {
    let address = |host: &str, port: u16| (port != 0).then(|| Address { host: host.to_owned(), port });
    if let Some(node) = &recognition.node {
        return Ok(Nodes {
            nnodes: node.nnodes,
            node_rank: node.node_rank,
            master: address(&node.master_addr, node.master_port),
            nproc: node.nproc_per_node,
        });
    }
    let Some(place) = &recognition.place else {
        return Ok(Nodes { nnodes: 1, node_rank: 0, master: None, nproc: ProcessesPerNode::Auto });
    };
    let Place { rank, world_size, launcher, .. } = place;
    // One task or pod on each machine may as well be the launcher of several processes there.
    let is_one_of_a_node = matches!(launcher, Launcher::Slurm | Launcher::PyTorchJob | Launcher::TrainJob);
    if !is_one_of_a_node || place.local_world_size != 1 {
        let hint = match launcher {
            Launcher::Slurm => "leave `launch` out, or start one launcher on each node: `srun --ntasks-per-node=1`",
            _ => "leave `launch` out: `sdtrain train …`",
        };
        let started = format!("this is rank {rank} of {world_size} already ({launcher})");
        return Err(wrong(format!("{started}, and would start processes of its own")).hint(hint));
    }
    // One process on each machine can be what was asked for.
    let is_asked = recognition.reasons.iter().any(|reason| reason.variable == "PET_NPROC_PER_NODE");
    Ok(Nodes {
        nnodes: *world_size,
        node_rank: *rank,
        master: address(&place.master_addr, place.master_port),
        nproc: if is_asked { ProcessesPerNode::Number(1) } else { ProcessesPerNode::Auto },
    })
}

/// The flags count before the variables.
fn with_flags(args: &LaunchArgs, mut nodes: Nodes) -> Result<Nodes, Failure> {
    if let Some(nproc) = args.nproc {
        nodes.nproc = nproc;
    }
    if let Some(nnodes) = args.nnodes {
        let nnodes = nnodes as usize;
        if nnodes != nodes.nnodes {
            // Other machines than the variables speak of.
            nodes = Nodes { nnodes, node_rank: 0, master: None, nproc: nodes.nproc };
            if nnodes > 1 && args.node_rank.is_none() {
                return Err(wrong(format!("`--nnodes {nnodes}` needs `--node-rank`: which of them this machine is"))
                    .hint("0 on the machine of `--master`, and another number on each other one"));
            }
        }
    }
    if let Some(node_rank) = args.node_rank {
        nodes.node_rank = node_rank as usize;
    }
    if nodes.node_rank >= nodes.nnodes {
        return Err(wrong(format!(
            "`--node-rank {}` must be less than the number of machines, which is {}: the first one is 0",
            nodes.node_rank, nodes.nnodes
        ))
        .hint("`--nnodes` says how many machines take part"));
    }
    nodes.master = args.master.clone().or(nodes.master);
    if nodes.nnodes > 1 && nodes.master.is_none() {
        return Err(wrong(format!("{} machines need `--master HOST:PORT`: where their processes meet", nodes.nnodes))
            .hint("the host of `--node-rank 0`, as the others know it, and a free port there"));
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use sdtrain_ranks::recognise;

    use super::*;
    use crate::args::Cli;

    /// What is started by `sdtrain launch FLAGS --config a.toml` with these variables, on a machine with 8 processors and 2 GPUs.
    fn settings(flags: &str, variables: &str) -> Result<Settings, String> {
        let line = format!("sdtrain launch {flags} --config a.toml");
        let Command::Launch(args) = Cli::try_parse_from(line.split_whitespace()).expect(&line).command else {
            panic!("{line} launches nothing")
        };
        let variables: Vec<(&str, &str)> =
            variables.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let look_up = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned());
        let recognition = recognise(&look_up).map_err(|contradiction| contradiction.to_string())?;
        let machine = Machine { host: "here".into(), processors: 8, gpus: 2, driver: None };
        Settings::of(&args, &recognition, &machine).map_err(|failure| failure.problems.to_string())
    }

    const TRAIN_JOB: &str =
        "PET_NNODES=2 PET_NPROC_PER_NODE=4 PET_NODE_RANK=1 PET_MASTER_ADDR=job-0 PET_MASTER_PORT=29400";
    const SLURM: &str = "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=2 SLURM_LOCALID=0 SLURM_NTASKS=3 \
         SLURM_TASKS_PER_NODE=1(x3) SLURM_JOB_NODELIST=n[1-3]";

    #[test]
    fn flags_count_before_variables_and_these_before_defaults() {
        let one_each = TRAIN_JOB.replace("PET_NPROC_PER_NODE=4", "PET_NPROC_PER_NODE=1");
        assert_ne!(one_each, TRAIN_JOB);
        for (flags, variables, expected) in [
            ("--nproc 4", "", "4 of 1 0 -"),
            ("--nproc auto", "", "2 of 1 0 -"),
            ("--nproc gpu", "", "2 of 1 0 -"),
            ("--nproc cpu", "", "8 of 1 0 -"),
            ("--restarts 1", "", "2 of 1 0 -"),
            ("--nproc 1 --master a:1", "", "1 of 1 0 a:1"),
            ("--nproc 2 --nnodes 2 --node-rank 1 --master a:1", "", "2 of 2 1 a:1"),
            ("--restarts 1", TRAIN_JOB, "4 of 2 1 job-0:29400"),
            ("--nproc 1", TRAIN_JOB, "1 of 2 1 job-0:29400"),
            ("--nproc 1 --nnodes 1", TRAIN_JOB, "1 of 1 0 -"),
            ("--master a:1 --node-rank 0", TRAIN_JOB, "4 of 2 0 a:1"),
            ("--restarts 1", "PET_NPROC_PER_NODE=gpu", "2 of 1 0 -"),
            ("--restarts 1", &one_each, "1 of 2 1 job-0:29400"),
            // One task or pod on each machine starts the others there.
            ("--nproc 4", SLURM, "4 of 3 2 n1:10007"),
            ("--nproc 4", "KUBERNETES_SERVICE_HOST=a RANK=1 WORLD_SIZE=2 MASTER_ADDR=m MASTER_PORT=5", "4 of 2 1 m:5"),
        ] {
            let found = settings(flags, variables).unwrap_or_else(|error| panic!("{flags} {variables}: {error}"));
            let master = found.master.map_or("-".to_owned(), |master| master.to_string());
            let short = format!("{} of {} {} {master}", found.nproc, found.nnodes, found.node_rank);
            assert_eq!(short, expected, "{flags} {variables}");
            assert_eq!(found.command_line, ["train", "--config", "a.toml"]);
        }
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_a_way_out() {
        let torchrun =
            "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1 TORCHELASTIC_RUN_ID=x";
        let two_tasks = SLURM.replace("1(x3)", "3");
        for (flags, variables, expected) in [
            ("--nnodes 2 --master a:1", "", "needs `--node-rank`"),
            ("--nnodes 2 --node-rank 0", "", "need `--master HOST:PORT`"),
            ("--nnodes 2 --node-rank 2 --master a:1", "", "`--node-rank 2` must be less than the number of machines"),
            ("--node-rank 1", "", "must be less than the number of machines, which is 1"),
            ("--nproc 2", torchrun, "this is rank 0 of 2 already (torchrun)"),
            ("--nproc 2", &two_tasks, "srun --ntasks-per-node=1"),
            ("--nproc 2", "RANK=1", "contradict each other"),
            ("--restarts 1 -- train --resume never", "", "`--restarts` goes with `--resume auto` alone"),
            ("--restarts 1 -- evaluate", "", "`--restarts` is for `train`"),
            ("-- launch", "", "starts no launchers"),
            ("--nproc 18446744073709551615 --nnodes 2 --node-rank 0 --master a:1", "", "cannot be counted"),
        ] {
            let said = settings(flags, variables).expect_err(flags);
            assert!(said.contains(expected), "{flags} {variables}: {said}");
        }
    }
}
