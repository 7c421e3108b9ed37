//! Kubeflow: PyTorchJob of the training operator, and TrainJob of the trainer that follows it.

use crate::reading::Reading;
use crate::recognise::{Found, check_order, master};
use crate::{Launcher, Node, Place, ProcessesPerNode};

/// The variables from which torchrun would take `--nnodes`, `--node-rank` and `--nproc-per-node`.
const OF_NODES: [&str; 3] = ["PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE"];
/// Every pod has this one.
const POD: &str = "KUBERNETES_SERVICE_HOST";

/// Whether the variables describe a pod, and not yet a process in it.
pub(crate) fn is_meant(reading: &Reading<'_>) -> bool {
    let is_pod_of_old_operators = reading.is_set(POD) && reading.is_set("RANK") && reading.is_set("WORLD_SIZE");
    !reading.is_set("LOCAL_RANK") && (reading.first_set(&OF_NODES).is_some() || is_pod_of_old_operators)
}

/// The pod as a place if it has one process, else as a node.
pub(crate) fn find(reading: &mut Reading<'_>) -> Option<Found> {
    let processes = match reading.is_set("PET_NPROC_PER_NODE") {
        true => reading.parsed("PET_NPROC_PER_NODE", "is not `gpu`, `cpu`, `auto` or a number from 1 on")?,
        false => ProcessesPerNode::Number(1),
    };
    let launcher = match reading.first_set(&["RANK", "WORLD_SIZE"]) {
        Some(_) => Launcher::PyTorchJob,
        None => Launcher::TrainJob,
    };
    let (nnodes, node_rank) = match launcher {
        Launcher::PyTorchJob => nodes_of_pytorch_job(reading, processes),
        _ => nodes_of_train_job(reading),
    };
    check_order(reading, node_rank.1, nnodes.1, [node_rank.0, nnodes.0]);
    let names: [&[&'static str]; 2] = [&["PET_MASTER_ADDR", "MASTER_ADDR"], &["PET_MASTER_PORT", "MASTER_PORT"]];
    let meeting = master(reading, nnodes.1? > 1, names);
    let (nnodes_name, nnodes, node_rank_name, node_rank) = (nnodes.0, nnodes.1?, node_rank.0, node_rank.1?);
    let (master_addr, master_port) = meeting?;
    reading.note(node_rank_name, format!("{launcher}: node {node_rank} of {nnodes}"));
    reading.note(nnodes_name, format!("{nnodes} nodes"));
    for (list, meaning) in names.into_iter().zip(["the host where the processes meet", "the port there"]) {
        if let Some(name) = reading.first_set(list) {
            reading.note(name, meaning);
        }
    }
    if processes != ProcessesPerNode::Number(1) {
        reading.note("PET_NPROC_PER_NODE", "several processes here, which `sdtrain launch` starts");
        return Some(Found::Node(Node { nnodes, node_rank, nproc_per_node: processes, master_addr, master_port }));
    }
    reading.note("PET_NPROC_PER_NODE", "one process on each node");
    Some(Found::Place(Place {
        rank: node_rank,
        local_rank: 0,
        world_size: nnodes,
        local_world_size: 1,
        master_addr,
        master_port,
        has_agent_store: false,
        restart_count: 0,
        launcher,
    }))
}

/// A number with the variable that says it.
type Named = (&'static str, Option<usize>);

/// `RANK` is the number of the pod. `WORLD_SIZE` counts pods where the operator is old, and processes since its pull request 1840.
fn nodes_of_pytorch_job(reading: &mut Reading<'_>, processes: ProcessesPerNode) -> (Named, Named) {
    for (name, other) in [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")] {
        if !reading.is_set(name) {
            reading.refuse(name, format!("is missing, though `{other}` is set"));
        }
    }
    let rank = reading.number("RANK");
    let world_size = reading.count("WORLD_SIZE");
    let node_rank = reading.number("PET_NODE_RANK");
    if let (Some(rank), Some(node_rank)) = (rank, node_rank)
        && rank != node_rank
    {
        reading.refuse("PET_NODE_RANK", format!("is not `RANK`, which is {rank}: both are the number of the pod"));
    }
    if !reading.is_set("PET_NNODES") {
        if processes == ProcessesPerNode::Number(1) {
            return (("WORLD_SIZE", world_size), ("RANK", rank));
        }
        reading.refuse("PET_NNODES", "is missing: `WORLD_SIZE` alone does not say whether it counts pods or processes");
        return (("PET_NNODES", None), ("RANK", rank));
    }
    let nnodes = nnodes(reading);
    if let (Some(world_size), Some(nnodes)) = (world_size, nnodes) {
        let all = match processes {
            ProcessesPerNode::Number(number) => nnodes.checked_mul(number),
            _ => None,
        };
        if world_size != nnodes && Some(world_size) != all {
            let all = all.map(|all| format!(" nor the {all} processes on them")).unwrap_or_default();
            reading.refuse("WORLD_SIZE", format!("is neither the {nnodes} pods of `PET_NNODES`{all}"));
        }
    }
    (("PET_NNODES", nnodes), ("RANK", rank))
}

fn nodes_of_train_job(reading: &mut Reading<'_>) -> (Named, Named) {
    let nnodes = match reading.is_set("PET_NNODES") {
        true => nnodes(reading),
        false => Some(1),
    };
    let node_rank = match reading.is_set("PET_NODE_RANK") {
        true => reading.number("PET_NODE_RANK"),
        false if nnodes == Some(1) => Some(0),
        false => {
            if nnodes.is_some() {
                reading.refuse("PET_NODE_RANK", "is missing: it says which of several nodes this is");
            }
            None
        }
    };
    (("PET_NNODES", nnodes), ("PET_NODE_RANK", node_rank))
}

/// A number of nodes, or torchrun's range of them where that is one number.
fn nnodes(reading: &mut Reading<'_>) -> Option<usize> {
    let text = reading.text("PET_NNODES")?;
    let Some((least, most)) = text.split_once(':') else { return reading.count("PET_NNODES") };
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if least == most && least > 0 => Some(least),
        _ => {
            reading.refuse("PET_NNODES", "is not one number of nodes, at least 1");
            reading.hint("for a job that grows and shrinks, torchrun starts the processes: `torchrun --no-python sdtrain train …`");
            None
        }
    }
}
