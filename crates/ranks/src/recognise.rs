//! Asks the launchers in turn, the innermost first: whoever started this very process has said so last.

use crate::reading::Reading;
use crate::{Contradiction, LAUNCHER_PID, Launcher, Node, Place, Recognition, kubeflow, slurm};

/// The four that say which process this is.
pub(crate) const RANKS: [&str; 4] = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"];
/// What torchrun sets and nobody else does.
const OF_TORCHRUN: [&str; 3] = ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"];

/// What a launcher has said.
pub(crate) enum Found {
    Place(Place),
    Node(Node),
}

/// What the variables say that `variables` looks up.
///
/// # Errors
/// Where they cannot all be true.
pub fn recognise(variables: &dyn Fn(&str) -> Option<String>) -> Result<Recognition, Contradiction> {
    let mut reading = Reading::new(variables);
    let found = find(&mut reading);
    let reasons = reading.finish()?;
    let (place, node) = match found {
        Some(Found::Place(place)) => (Some(place), None),
        Some(Found::Node(node)) => (None, Some(node)),
        None => (None, None),
    };
    Ok(Recognition { place, node, reasons })
}

/// What the variables of this process say.
///
/// # Errors
/// Where they cannot all be true.
pub fn recognise_environment() -> Result<Recognition, Contradiction> {
    recognise(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
}

fn find(reading: &mut Reading<'_>) -> Option<Found> {
    if reading.is_set(LAUNCHER_PID) {
        reading.note(LAUNCHER_PID, "started by `sdtrain launch`, whose variables count");
        return of_four(reading, Launcher::SdtrainLaunch).map(Found::Place);
    }
    if let Some(sign) = reading.first_set(&OF_TORCHRUN) {
        reading.note(sign, "started by torchrun, whose variables count");
        return of_four(reading, Launcher::Torchrun).map(Found::Place);
    }
    if kubeflow::is_meant(reading) {
        return kubeflow::find(reading);
    }
    if let Some(step) = slurm::step(reading) {
        return step.place(reading).map(Found::Place);
    }
    if reading.first_set(&RANKS).is_some() {
        return of_four(reading, Launcher::Variables).map(Found::Place);
    }
    for name in ["MASTER_ADDR", "MASTER_PORT"] {
        reading.note(name, "not looked at, since `RANK` and `WORLD_SIZE` are not set");
    }
    None
}

/// The place that the four variables describe.
fn of_four(reading: &mut Reading<'_>, launcher: Launcher) -> Option<Place> {
    let rank = reading.number("RANK");
    let world_size = reading.count("WORLD_SIZE");
    // One process of one has its place on its node.
    let is_alone = world_size == Some(1) && rank == Some(0);
    let of_one = |number: usize| is_alone.then_some(number);
    let local_rank = reading.number("LOCAL_RANK").or(of_one(0));
    let local_world_size = reading.count("LOCAL_WORLD_SIZE").or(of_one(1));
    let present = RANKS.into_iter().filter(|name| reading.is_set(name)).map(|name| format!("`{name}`"));
    let present = present.collect::<Vec<_>>().join(", ");
    for (name, value) in RANKS.into_iter().zip([rank, local_rank, world_size, local_world_size]) {
        if value.is_none() && !reading.is_set(name) {
            let why = match present.is_empty() {
                true => format!("is missing, though {launcher} sets it"),
                false => format!("is missing: {present} alone do not tell which process this is"),
            };
            reading.refuse(name, why);
            reading.hint(
                "set all of `RANK`, `LOCAL_RANK`, `WORLD_SIZE` and `LOCAL_WORLD_SIZE`, or none; \
                 where each machine has one process, `LOCAL_RANK` is 0 and `LOCAL_WORLD_SIZE` is 1",
            );
        }
    }
    check_order(reading, rank, world_size, ["RANK", "WORLD_SIZE"]);
    check_order(reading, local_rank, local_world_size, ["LOCAL_RANK", "LOCAL_WORLD_SIZE"]);
    if let (Some(local), Some(world)) = (local_world_size, world_size)
        && local > world
    {
        reading.refuse("LOCAL_WORLD_SIZE", format!("must not be more than `WORLD_SIZE`, which is {world}"));
    }
    let restart_count = reading.parsed("TORCHELASTIC_RESTART_COUNT", "is not a whole number from 0 on").unwrap_or(0);
    let agent_store = reading.text("TORCHELASTIC_USE_AGENT_STORE").unwrap_or_default();
    let has_agent_store = launcher == Launcher::Torchrun && ["True", "true", "1"].contains(&agent_store.as_str());
    let (master_addr, master_port) = master(reading, world_size? > 1, [&["MASTER_ADDR"], &["MASTER_PORT"]])?;
    let (rank, local_rank, world_size, local_world_size) = (rank?, local_rank?, world_size?, local_world_size?);
    reading.note("RANK", format!("process {rank} of {world_size}"));
    reading.note("WORLD_SIZE", format!("{world_size} processes"));
    reading.note("LOCAL_RANK", format!("process {local_rank} of this node"));
    reading.note("LOCAL_WORLD_SIZE", format!("{local_world_size} processes on this node"));
    note_master(reading);
    if has_agent_store {
        reading.note("TORCHELASTIC_USE_AGENT_STORE", "torchrun holds the store where the ranks meet");
    }
    if restart_count > 0 {
        reading.note("TORCHELASTIC_RESTART_COUNT", format!("started again {restart_count} times"));
    }
    Some(Place {
        rank,
        local_rank,
        world_size,
        local_world_size,
        master_addr,
        master_port,
        has_agent_store,
        restart_count,
        launcher,
    })
}

/// Refuses a number that is not below its count.
pub(crate) fn check_order(reading: &mut Reading<'_>, number: Option<usize>, count: Option<usize>, names: [&str; 2]) {
    if let (Some(number), Some(count)) = (number, count)
        && number >= count
    {
        reading.refuse(names[0], format!("must be less than `{}`, which is {count}: the first one is 0", names[1]));
    }
}

/// Host and port where the processes meet, from the first variable of each list that is set. Where they need not be set, this machine
/// and any port.
pub(crate) fn master(reading: &mut Reading<'_>, is_needed: bool, names: [&[&'static str]; 2]) -> Option<(String, u16)> {
    let host = reading.first_set(names[0]).and_then(|name| reading.text(name));
    let port_name = reading.first_set(names[1]);
    let port = port_name.and_then(|name| reading.port(name));
    if is_needed {
        for (list, is_missing) in [(names[0], host.is_none()), (names[1], port_name.is_none())] {
            if is_missing {
                reading.refuse(list[0], "is missing: it says where the processes meet");
                reading.hint("`MASTER_ADDR` is the host of rank 0, and `MASTER_PORT` a free port there");
            }
        }
        return Some((host?, port?));
    }
    if port_name.is_some() && port.is_none() {
        return None;
    }
    Some((host.unwrap_or_else(|| "127.0.0.1".to_owned()), port.unwrap_or(0)))
}

pub(crate) fn note_master(reading: &mut Reading<'_>) {
    reading.note("MASTER_ADDR", "the host where the processes meet");
    reading.note("MASTER_PORT", "the port there");
}
