//! Variables as a line of text.

use sdtrain_ranks::{Contradiction, Recognition, recognise};

/// What is recognised with `NAME=VALUE NAME=VALUE …` set and nothing else.
pub fn recognised(line: &str) -> Result<Recognition, Contradiction> {
    let variables: Vec<(&str, &str)> = line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
    recognise(&|name| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned()))
}

/// torchrun's rank 3 of 4 on two nodes.
pub const TORCHRUN: &str = "RANK=3 LOCAL_RANK=1 WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node0 MASTER_PORT=29400 \
     GROUP_RANK=1 ROLE_RANK=3 TORCHELASTIC_RUN_ID=none TORCHELASTIC_USE_AGENT_STORE=True \
     TORCHELASTIC_RESTART_COUNT=2 TORCHELASTIC_MAX_RESTARTS=3";

/// The sixth task of seven that `srun` has put on four nodes.
pub const SLURM: &str = "SLURM_JOB_ID=123456 SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NODEID=2 SLURM_NTASKS=7 \
     SLURM_TASKS_PER_NODE=2(x3),1 SLURM_JOB_NODELIST=n[01-03],gpu-a SLURM_JOB_NAME=train";

/// A pod of a PyTorchJob with one process in each of three pods, by an operator before `PET_*`.
pub const PYTORCH_JOB: &str =
    "KUBERNETES_SERVICE_HOST=10.0.0.1 RANK=2 WORLD_SIZE=3 MASTER_ADDR=job-master-0 MASTER_PORT=23456";

/// A node of a TrainJob with two nodes of four processes.
pub const TRAIN_JOB: &str = "KUBERNETES_SERVICE_HOST=10.0.0.1 PET_NNODES=2 PET_NPROC_PER_NODE=4 PET_NODE_RANK=1 \
     PET_MASTER_ADDR=job-node-0-0.job PET_MASTER_PORT=29400";
