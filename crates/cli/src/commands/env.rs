//! `sdtrain env`: which of a run's processes this would be, and by which variables.

use sdtrain_files::say;
use sdtrain_ranks::{Node, Place, Reason, Recognition, recognise_environment};
use serde_json::{Value as Json, json};

use crate::args::EnvArgs;
use crate::machine::Machine;
use crate::{Failure, print_answer};

/// Contradictions end it with their table.
pub(crate) fn run(args: &EnvArgs) -> Result<(), Failure> {
    let recognition = recognise_environment()?;
    let machine = Machine::this();
    let gpus = machine.gpus;
    let text = match args.json {
        true => format!("{:#}\n", as_json(&recognition, &machine)),
        false => as_text(&recognition, &machine),
    };
    print_answer(&text);
    if let Some(place) = &recognition.place
        && gpus > 0
        && place.local_world_size != gpus
    {
        say!(
            "warning: this node is to have {} processes, and this one sees {gpus} GPU(s): several would share one, or some have none",
            place.local_world_size
        );
    }
    Ok(())
}

fn as_text(recognition: &Recognition, machine: &Machine) -> String {
    let mut text = match (&recognition.place, &recognition.node) {
        (Some(place), _) => of_place(place),
        (None, Some(node)) => of_node(node),
        (None, None) => "a run's only process\n".to_owned(),
    };
    if recognition.reasons.is_empty() {
        text += "  no launcher's variables are set\n";
    }
    text += &reasons(&recognition.reasons);
    let driver = machine.driver.as_deref().unwrap_or("no NVIDIA driver");
    text += &format!("host        {}\n", machine.host);
    text += &format!("processors  {}\n", machine.processors);
    text += &format!("GPUs        {} ({driver})\n", machine.gpus);
    text
}

fn of_place(place: &Place) -> String {
    let Place { rank, local_rank, world_size, local_world_size, launcher, .. } = place;
    let mut text = format!(
        "rank {rank} of {world_size} processes, local rank {local_rank} of {local_world_size} on this node ({launcher})\n"
    );
    let store = match (place.has_agent_store, *rank) {
        (true, _) => "the launcher holds the store",
        (false, 0) => "this process holds the store",
        (false, _) => "rank 0 holds the store",
    };
    match place.master_port {
        0 => text += "  alone: nobody to meet\n",
        port => text += &format!("  they meet at {}, port {port}; {store}\n", place.master_addr),
    }
    if place.restart_count > 0 {
        text += &format!("  started again {} times\n", place.restart_count);
    }
    text
}

fn of_node(node: &Node) -> String {
    let Node { nnodes, node_rank, nproc_per_node, .. } = node;
    format!(
        "node {node_rank} of {nnodes}, whose processes ({nproc_per_node}) are still to be started: `sdtrain launch -- train …`\n"
    )
}

/// The variables as a table.
fn reasons(reasons: &[Reason]) -> String {
    let width = |of: fn(&Reason) -> usize| reasons.iter().map(of).max().unwrap_or_default();
    let names = width(|reason| reason.variable.chars().count());
    let values = width(|reason| reason.value.chars().count());
    let line =
        |reason: &Reason| format!("  {:names$}  {:values$}  {}\n", reason.variable, reason.value, reason.meaning);
    reasons.iter().map(line).collect()
}

fn as_json(recognition: &Recognition, machine: &Machine) -> Json {
    let place = recognition.place.as_ref().map(|place| {
        json!({
            "rank": place.rank,
            "local_rank": place.local_rank,
            "world_size": place.world_size,
            "local_world_size": place.local_world_size,
            "master_addr": place.master_addr,
            "master_port": place.master_port,
            "has_agent_store": place.has_agent_store,
            "restart_count": place.restart_count,
            "launcher": place.launcher.name(),
        })
    });
    let node = recognition.node.as_ref().map(|node| {
        json!({
            "nnodes": node.nnodes,
            "node_rank": node.node_rank,
            "nproc_per_node": node.nproc_per_node.to_string(),
            "master_addr": node.master_addr,
            "master_port": node.master_port,
        })
    });
    let reason =
        |reason: &Reason| json!({"variable": reason.variable, "value": reason.value, "meaning": reason.meaning});
    let reasons: Vec<Json> = recognition.reasons.iter().map(reason).collect();
    let machine = json!({
        "host": machine.host,
        "processors": machine.processors,
        "gpus": machine.gpus,
        "driver": machine.driver,
    });
    json!({"place": place, "node": node, "reasons": reasons, "machine": machine})
}
