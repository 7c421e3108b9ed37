//! Variables that cannot all be true are refused by name.

use crate::variables::{PYTORCH_JOB, SLURM, TORCHRUN, TRAIN_JOB, recognised};

#[test]
fn every_contradiction_is_refused_with_its_variable() {
    let four = "RANK=3 LOCAL_RANK=1 WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node0 MASTER_PORT=29400";
    let changed = |line: &str, old: &str, new: &str| {
        assert!(line.contains(old), "`{old}` is not in {line}");
        line.replace(old, new)
    };
    let newer = format!("{PYTORCH_JOB} PET_NNODES=3 PET_NODE_RANK=2 PET_NPROC_PER_NODE=2");
    for (line, variable, why) in [
        (changed(four, "RANK=3 ", "RANK=4 "), "RANK", "less than `WORLD_SIZE`, which is 4"),
        (changed(four, "LOCAL_RANK=1", "LOCAL_RANK=2"), "LOCAL_RANK", "less than `LOCAL_WORLD_SIZE`, which is 2"),
        (
            changed(four, "LOCAL_WORLD_SIZE=2", "LOCAL_WORLD_SIZE=5"),
            "LOCAL_WORLD_SIZE",
            "not be more than `WORLD_SIZE`",
        ),
        (changed(four, "RANK=3 ", "RANK=three "), "RANK", "whole number"),
        (changed(four, "RANK=3 ", "RANK=-1 "), "RANK", "whole number"),
        (changed(four, " WORLD_SIZE=4", " WORLD_SIZE=0"), "WORLD_SIZE", "at least 1"),
        (changed(four, "RANK=3 LOCAL_RANK=1", "LOCAL_RANK=1"), "RANK", "is missing"),
        (changed(four, " WORLD_SIZE=4", ""), "WORLD_SIZE", "is missing"),
        (changed(four, "LOCAL_RANK=1 ", ""), "LOCAL_RANK", "is missing"),
        (changed(four, "LOCAL_WORLD_SIZE=2 ", ""), "LOCAL_WORLD_SIZE", "is missing"),
        (changed(four, "MASTER_ADDR=node0 ", ""), "MASTER_ADDR", "where the processes meet"),
        (changed(four, "MASTER_PORT=29400", ""), "MASTER_PORT", "where the processes meet"),
        (changed(four, "29400", "0"), "MASTER_PORT", "1 to 65535"),
        (changed(four, "29400", "65536"), "MASTER_PORT", "1 to 65535"),
        (changed(four, "29400", "http"), "MASTER_PORT", "1 to 65535"),
        (changed(TORCHRUN, "COUNT=2", "COUNT=x"), "TORCHELASTIC_RESTART_COUNT", "whole number"),
        ("TORCHELASTIC_RUN_ID=x".to_owned(), "RANK", "though torchrun sets it"),
        ("SDTRAIN_LAUNCHER_PID=7".to_owned(), "RANK", "though sdtrain launch sets it"),
        (format!("{SLURM} RANK=4"), "RANK", "is not 5, as `SLURM_PROCID` has it"),
        (format!("{SLURM} WORLD_SIZE=8"), "WORLD_SIZE", "is not 7, as `SLURM_NTASKS` has it"),
        (format!("{SLURM} LOCAL_RANK=0"), "LOCAL_RANK", "is not 1, as `SLURM_LOCALID` has it"),
        (format!("{SLURM} LOCAL_WORLD_SIZE=1"), "LOCAL_WORLD_SIZE", "is not 2, as `SLURM_TASKS_PER_NODE` has it"),
        (format!("{SLURM} MASTER_PORT=99999"), "MASTER_PORT", "1 to 65535"),
        (changed(SLURM, "PROCID=5", "PROCID=7"), "SLURM_PROCID", "less than `SLURM_NTASKS`, which is 7"),
        (changed(SLURM, "LOCALID=1", "LOCALID=2"), "SLURM_LOCALID", "less than `SLURM_TASKS_PER_NODE`, which is 2"),
        (changed(SLURM, "SLURM_PROCID=5", ""), "SLURM_PROCID", "is missing"),
        (changed(SLURM, "SLURM_NTASKS=7", ""), "SLURM_NTASKS", "is missing"),
        (changed(SLURM, "SLURM_NTASKS=7", "SLURM_NTASKS=many"), "SLURM_NTASKS", "whole number"),
        (changed(SLURM, "SLURM_TASKS_PER_NODE=2(x3),1", ""), "SLURM_TASKS_PER_NODE", "is missing"),
        (changed(SLURM, "2(x3),1", "2(x3)"), "SLURM_TASKS_PER_NODE", "does not add up to the 7 tasks"),
        (changed(SLURM, "2(x3),1", "2(3)"), "SLURM_TASKS_PER_NODE", "in place of a number of tasks"),
        (changed(SLURM, "SLURM_NODEID=2", ""), "SLURM_NODEID", "is missing"),
        (changed(SLURM, "SLURM_NODEID=2", "SLURM_NODEID=4"), "SLURM_NODEID", "less than the 4 nodes"),
        (changed(SLURM, "n[01-03]", "n[01-"), "SLURM_JOB_NODELIST", "brackets"),
        (changed(SLURM, "SLURM_JOB_NODELIST=n[01-03],gpu-a", ""), "SLURM_JOB_NODELIST", "is missing"),
        (changed(SLURM, "123456", "batch"), "SLURM_JOB_ID", "whole number"),
        (changed(PYTORCH_JOB, "RANK=2", "RANK=3"), "RANK", "less than `WORLD_SIZE`, which is 3"),
        // Without a pod around it nobody says that each machine has one process.
        (changed(PYTORCH_JOB, "KUBERNETES_SERVICE_HOST=10.0.0.1", ""), "LOCAL_RANK", "is missing"),
        (changed(&newer, " PET_NODE_RANK=2", " PET_NODE_RANK=1"), "PET_NODE_RANK", "is not `RANK`, which is 2"),
        (changed(&newer, "WORLD_SIZE=3", "WORLD_SIZE=5"), "WORLD_SIZE", "neither the 3 pods of `PET_NNODES` nor the 6"),
        (changed(&newer, "PET_NNODES=3", ""), "PET_NNODES", "whether it counts pods or processes"),
        (changed(TRAIN_JOB, "NODE_RANK=1", "NODE_RANK=2"), "PET_NODE_RANK", "less than `PET_NNODES`, which is 2"),
        (changed(TRAIN_JOB, "PET_NODE_RANK=1", ""), "PET_NODE_RANK", "is missing"),
        (changed(TRAIN_JOB, "NODE=4", "NODE=all"), "PET_NPROC_PER_NODE", "is not `gpu`"),
        (changed(TRAIN_JOB, "NODE=4", "NODE=0"), "PET_NPROC_PER_NODE", "is not `gpu`"),
        (changed(TRAIN_JOB, "NNODES=2", "NNODES=1:3"), "PET_NNODES", "is not one number"),
        (changed(TRAIN_JOB, "PET_MASTER_ADDR=job-node-0-0.job", ""), "PET_MASTER_ADDR", "where the processes meet"),
        (format!("{TRAIN_JOB} RANK=1"), "WORLD_SIZE", "is missing, though `RANK` is set"),
    ] {
        let found = recognised(&line);
        let contradiction = found.expect_err(&line);
        let mistake = contradiction.mistakes.iter().find(|mistake| mistake.variable == variable);
        let mistake = mistake.unwrap_or_else(|| panic!("{line}: `{variable}` is not in\n{contradiction}"));
        assert!(mistake.why.contains(why), "{line}: {}", mistake.why);
        assert!(!contradiction.hint.is_empty());
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_in_a_table() {
    let line = "RANK=4 LOCAL_RANK=two WORLD_SIZE=4 MASTER_ADDR=node0 MASTER_PORT=70000";
    assert_eq!(
        recognised(line).expect_err("nonsense").to_string(),
        "the variables of this process contradict each other\n  \
         variable          value    why it cannot be\n  \
         LOCAL_RANK        `two`    is not a whole number from 0 on\n  \
         LOCAL_WORLD_SIZE  not set  is missing: `RANK`, `LOCAL_RANK`, `WORLD_SIZE` alone do not tell which process this is\n  \
         RANK              `4`      must be less than `WORLD_SIZE`, which is 4: the first one is 0\n  \
         MASTER_PORT       `70000`  is not a port, a number from 1 to 65535\n  \
         hint: set all of `RANK`, `LOCAL_RANK`, `WORLD_SIZE` and `LOCAL_WORLD_SIZE`, or none; where each machine has one \
         process, `LOCAL_RANK` is 0 and `LOCAL_WORLD_SIZE` is 1"
    );
}
