//! Several processes: which one this is, and starting them.

use crate::project::Project;

#[test]
fn variables_of_torchrun_are_recognised_and_contradictions_refused() {
    let project = Project::new();
    let with_rank = |rank: &str| {
        let mut command = project.command(&["env"]);
        command.envs([("RANK", rank), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")]);
        command.envs([("MASTER_ADDR", "node0"), ("MASTER_PORT", "29400"), ("TORCHELASTIC_USE_AGENT_STORE", "True")]);
        let output = command.output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = with_rank("3");
    assert_eq!(code, Some(0));
    assert!(said.starts_with("rank 3 of 4 processes, local rank 1 of 2 on this node (torchrun)\n"), "{said}");
    let (code, _, said) = with_rank("4");
    assert_eq!(code, Some(2));
    assert!(said.contains("RANK      `4`    must be less than `WORLD_SIZE`, which is 4"), "{said}");
}

#[test]
fn a_launcher_shows_each_line_with_its_rank_and_ends_as_its_processes_do() {
    let project = Project::new();
    let (said, _) = project.expect(0, &["launch", "--nproc", "2", "--", "check", "--config", "run.toml"]);
    for rank in ["[rank 0] ", "[rank 1] "] {
        assert!(said.lines().any(|line| line.starts_with(rank)), "{said}");
    }
    let (_, said) = project.expect(2, &["launch", "--nproc", "2", "--", "check", "--config", "none.toml"]);
    assert!(said.contains("ended with exit code 2: the command line or configuration is wrong"), "{said}");
}
