//! What is known of a process once its variables are read.

use std::fmt;
use std::str::FromStr;

use crate::Contradiction;

/// Who started the processes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Launcher {
    /// `torchrun`, or `python -m torch.distributed.run`.
    Torchrun,
    /// `sdtrain launch`.
    SdtrainLaunch,
    /// SLURM's `srun`.
    Slurm,
    /// Kubeflow's training operator, version 1.
    PyTorchJob,
    /// Kubeflow's trainer, version 2.
    TrainJob,
    /// `RANK` and its like, set by hand or by a script around `mpirun`.
    Variables,
}

impl Launcher {
    /// Its name as its users know it.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Torchrun => "torchrun",
            Launcher::SdtrainLaunch => "sdtrain launch",
            Launcher::Slurm => "SLURM",
            Launcher::PyTorchJob => "PyTorchJob",
            Launcher::TrainJob => "TrainJob",
            Launcher::Variables => "variables",
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Which of a run's processes this one is, and where they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The number of this process among all, from 0 on.
    pub rank: usize,
    /// Its number among those of its node, from 0 on; also the number of its GPU.
    pub local_rank: usize,
    /// How many processes there are.
    pub world_size: usize,
    /// How many of them are on this node.
    pub local_world_size: usize,
    /// The host where they meet, of rank 0.
    pub master_addr: String,
    /// The port there; 0 for a single process that was told none, which may take any.
    pub master_port: u16,
    /// The launcher holds the store at that address already, and rank 0 must not.
    pub has_agent_store: bool,
    /// How often the launcher has started these processes anew.
    pub restart_count: u32,
    /// Who said all this.
    pub launcher: Launcher,
}

/// A node whose processes nobody has started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// How many nodes there are.
    pub nnodes: usize,
    /// The number of this one, from 0 on.
    pub node_rank: usize,
    /// How many processes each of them is to have.
    pub nproc_per_node: ProcessesPerNode,
    /// The host where they are to meet.
    pub master_addr: String,
    /// The port there; 0 on a single node that was told none.
    pub master_port: u16,
}

/// How many processes a node is to have, as torchrun's `--nproc-per-node` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessesPerNode {
    /// That many, at least 1.
    Number(usize),
    /// One for each GPU.
    Gpu,
    /// One for each processor.
    Cpu,
    /// One for each GPU; without any, a single one.
    Auto,
}

impl FromStr for ProcessesPerNode {
    type Err = String;

    fn from_str(text: &str) -> Result<ProcessesPerNode, String> {
        match text {
            "gpu" => Ok(ProcessesPerNode::Gpu),
            "cpu" => Ok(ProcessesPerNode::Cpu),
            "auto" => Ok(ProcessesPerNode::Auto),
            number => match number.parse() {
                Ok(0) | Err(_) => Err("it is `gpu`, `cpu`, `auto` or a number from 1 on".to_owned()),
                Ok(number) => Ok(ProcessesPerNode::Number(number)),
            },
        }
    }
}

impl fmt::Display for ProcessesPerNode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessesPerNode::Number(number) => write!(formatter, "{number}"),
            ProcessesPerNode::Gpu => formatter.write_str("gpu"),
            ProcessesPerNode::Cpu => formatter.write_str("cpu"),
            ProcessesPerNode::Auto => formatter.write_str("auto"),
        }
    }
}

/// A variable that was looked at, and what was made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Its name.
    pub variable: String,
    /// What it is set to.
    pub value: String,
    /// What that means here.
    pub meaning: String,
}

/// What the variables of a process say. Without a place and a node it is a run's only process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognition {
    /// Which of several processes this is.
    pub place: Option<Place>,
    /// In place of that: where several are still to be started.
    pub node: Option<Node>,
    /// Every variable that counted, in the order in which they were looked at.
    pub reasons: Vec<Reason>,
}

impl Recognition {
    /// The place to train in; none for a run's only process.
    ///
    /// # Errors
    /// Where the variables describe a node, whose processes `sdtrain launch` must start first.
    pub fn place_to_train_in(self) -> Result<Option<Place>, Contradiction> {
        match self.node {
            None => Ok(self.place),
            Some(node) => Err(Contradiction::of_a_node(&node)),
        }
    }
}
