//! Every launcher is told, and the place is the one it means.

use crate::variables::{PYTORCH_JOB, SLURM, TORCHRUN, TRAIN_JOB, recognised};
use sdtrain_ranks::{Launcher, Place, ProcessesPerNode, Recognition};

fn place(line: &str) -> Place {
    let recognition = recognised(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(!recognition.reasons.is_empty(), "{line}: no reasons");
    recognition.place.unwrap_or_else(|| panic!("{line}: no place, but {:?}", recognition.reasons))
}

/// Rank, local rank, processes, processes here, where they meet.
fn short(place: &Place) -> String {
    let Place { rank, local_rank, world_size, local_world_size, master_addr, master_port, .. } = place;
    format!("{rank} {local_rank} {world_size} {local_world_size} {master_addr}:{master_port}")
}

#[test]
fn torchrun_says_everything_and_holds_the_store() {
    let place = place(TORCHRUN);
    assert_eq!(short(&place), "3 1 4 2 node0:29400");
    assert_eq!((place.launcher, place.has_agent_store, place.restart_count), (Launcher::Torchrun, true, 2));
}

#[test]
fn each_launcher_is_told_by_its_variables() {
    let four = "RANK=3 LOCAL_RANK=1 WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node0 MASTER_PORT=29400";
    let same_store = format!("{four} TORCHELASTIC_USE_AGENT_STORE=False");
    let launched = format!("{four} SDTRAIN_LAUNCHER_PID=77 TORCHELASTIC_RESTART_COUNT=1");
    // The launcher that is nearest to the process counts.
    let torchrun_in_srun = format!("{SLURM} {four} TORCHELASTIC_RUN_ID=x");
    let launched_in_srun = format!("{launched} {SLURM}");
    let launched_in_pod = format!("{launched} {TRAIN_JOB}");
    let torchrun_in_pod = format!("{TORCHRUN} {TRAIN_JOB}");
    let by_hand_in_pod = format!("{four} {TRAIN_JOB}");
    let newer = "PET_NNODES=3 PET_NODE_RANK=2 PET_NPROC_PER_NODE=1 PET_MASTER_ADDR=m PET_MASTER_PORT=4";
    let newer = format!("{PYTORCH_JOB} {newer}");
    let train_job = TRAIN_JOB.replace("NODE=4", "NODE=1");
    let same_in_srun = format!("{SLURM} RANK=5 LOCAL_RANK=1 WORLD_SIZE=7 LOCAL_WORLD_SIZE=2");
    let told_master = format!("{SLURM} MASTER_ADDR=n02 MASTER_PORT=1234 WORLD_SIZE=7");
    let last = SLURM.replace("PROCID=5", "PROCID=6").replace("LOCALID=1", "LOCALID=0").replace("NODEID=2", "NODEID=3");
    let of_step = format!("{SLURM} SLURM_STEP_NUM_TASKS=6 SLURM_STEP_TASKS_PER_NODE=2(x3) SLURM_STEP_NODELIST=n02,n03");
    let single_task = SLURM.replace("NTASKS=7", "NTASKS=1");
    for (line, launcher, expected) in [
        (four, Launcher::Variables, "3 1 4 2 node0:29400"),
        (&same_store, Launcher::Torchrun, "3 1 4 2 node0:29400"),
        (&launched, Launcher::SdtrainLaunch, "3 1 4 2 node0:29400"),
        (&torchrun_in_srun, Launcher::Torchrun, "3 1 4 2 node0:29400"),
        (&launched_in_srun, Launcher::SdtrainLaunch, "3 1 4 2 node0:29400"),
        (&launched_in_pod, Launcher::SdtrainLaunch, "3 1 4 2 node0:29400"),
        (&torchrun_in_pod, Launcher::Torchrun, "3 1 4 2 node0:29400"),
        (&by_hand_in_pod, Launcher::Variables, "3 1 4 2 node0:29400"),
        // Within a single task anybody may start processes.
        (&format!("{single_task} {four}"), Launcher::Variables, "3 1 4 2 node0:29400"),
        ("RANK=0 WORLD_SIZE=1", Launcher::Variables, "0 0 1 1 127.0.0.1:0"),
        (PYTORCH_JOB, Launcher::PyTorchJob, "2 0 3 1 job-master-0:23456"),
        (&newer, Launcher::PyTorchJob, "2 0 3 1 m:4"),
        (&train_job, Launcher::TrainJob, "1 0 2 1 job-node-0-0.job:29400"),
        ("PET_NNODES=1 PET_NPROC_PER_NODE=1", Launcher::TrainJob, "0 0 1 1 127.0.0.1:0"),
        (SLURM, Launcher::Slurm, "5 1 7 2 n01:13456"),
        (&last, Launcher::Slurm, "6 0 7 1 n01:13456"),
        (&of_step, Launcher::Slurm, "5 1 6 2 n02:13456"),
        (&same_in_srun, Launcher::Variables, "5 1 7 2 n01:13456"),
        (&told_master, Launcher::Slurm, "5 1 7 2 n02:1234"),
    ] {
        let place = place(line);
        assert_eq!((place.launcher, short(&place).as_str()), (launcher, expected), "{line}");
        assert_eq!(place.has_agent_store, line.contains("AGENT_STORE=True"), "{line}");
    }
    assert_eq!(place(&launched).restart_count, 1);
}

#[test]
fn srun_without_a_list_of_tasks_is_told_by_the_number_for_each_node() {
    let line = SLURM.replace("SLURM_TASKS_PER_NODE=2(x3),1", "SLURM_NTASKS_PER_NODE=2");
    assert_eq!(short(&place(&line)), "5 1 7 2 n01:13456");
}

#[test]
fn a_single_process_is_one_with_the_reason_said() {
    let batch = SLURM.replace("SLURM_STEP_ID=0 ", "");
    for (line, variable) in [
        ("HOME=/root", None),
        ("RANK= WORLD_SIZE=", None),
        ("MASTER_ADDR=a MASTER_PORT=1", Some("MASTER_ADDR")),
        (&batch, Some("SLURM_JOB_ID")),
        (&SLURM.replace("STEP_ID=0", "STEP_ID=4294967291"), Some("SLURM_STEP_ID")),
        (&SLURM.replace("NAME=train", "NAME=bash"), Some("SLURM_JOB_NAME")),
        (&SLURM.replace("NAME=train", "NAME=interactive"), Some("SLURM_JOB_NAME")),
        (&SLURM.replace("NTASKS=7", "NTASKS=1"), Some("SLURM_NTASKS")),
        ("KUBERNETES_SERVICE_HOST=10.0.0.1", None),
    ] {
        let Recognition { place, node, reasons } = recognised(line).expect(line);
        assert_eq!((place, node), (None, None), "{line}");
        assert_eq!(reasons.first().map(|reason| reason.variable.as_str()), variable, "{line}");
    }
}

#[test]
fn several_processes_in_a_pod_make_it_a_node_that_nobody_can_train_in() {
    let old = "PET_NNODES=3 PET_NODE_RANK=2 PET_NPROC_PER_NODE=4";
    let all = PYTORCH_JOB.replace("WORLD_SIZE=3", "WORLD_SIZE=12");
    for (line, expected, processes) in [
        (TRAIN_JOB, "1 of 2 job-node-0-0.job:29400", ProcessesPerNode::Number(4)),
        (&TRAIN_JOB.replace("NODE=4", "NODE=auto"), "1 of 2 job-node-0-0.job:29400", ProcessesPerNode::Auto),
        (&TRAIN_JOB.replace("NNODES=2", "NNODES=2:2"), "1 of 2 job-node-0-0.job:29400", ProcessesPerNode::Number(4)),
        ("PET_NPROC_PER_NODE=gpu", "0 of 1 127.0.0.1:0", ProcessesPerNode::Gpu),
        ("PET_NPROC_PER_NODE=cpu", "0 of 1 127.0.0.1:0", ProcessesPerNode::Cpu),
        // `WORLD_SIZE` counts pods or processes, as the operator is old or new.
        (&format!("{PYTORCH_JOB} {old}"), "2 of 3 job-master-0:23456", ProcessesPerNode::Number(4)),
        (&format!("{all} {old}"), "2 of 3 job-master-0:23456", ProcessesPerNode::Number(4)),
    ] {
        let recognition = recognised(line).expect(line);
        assert_eq!(recognition.place, None, "{line}");
        let node = recognition.node.clone().expect(line);
        let short = format!("{} of {} {}:{}", node.node_rank, node.nnodes, node.master_addr, node.master_port);
        assert_eq!((short.as_str(), node.nproc_per_node), (expected, processes), "{line}");
        let said = recognition.place_to_train_in().expect_err(line).to_string();
        assert!(said.contains("PET_NPROC_PER_NODE") && said.contains("hint: `sdtrain launch"), "{said}");
    }
    assert_eq!(recognised("").expect("nothing").place_to_train_in(), Ok(None));
}
