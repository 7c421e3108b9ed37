#![doc = include_str!("../README.md")]

mod contradiction;
mod death;
mod kubeflow;
mod nodelist;
mod place;
mod reading;
mod recognise;
mod slurm;

pub use contradiction::{Contradiction, Mistake};
pub use death::{LAUNCHER_PID, die_with_launcher};
pub use nodelist::{expand_hosts, expand_tasks_per_node};
pub use place::{Launcher, Node, Place, ProcessesPerNode, Reason, Recognition};
pub use recognise::{recognise, recognise_environment};
