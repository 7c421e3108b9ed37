//! `launch` and `env`: what is recognised, and what becomes of several processes.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::project::Project;

const TORCHRUN: [(&str, &str); 7] = [
    ("RANK", "3"),
    ("LOCAL_RANK", "1"),
    ("WORLD_SIZE", "4"),
    ("LOCAL_WORLD_SIZE", "2"),
    ("MASTER_ADDR", "node0"),
    ("MASTER_PORT", "29400"),
    ("TORCHELASTIC_USE_AGENT_STORE", "True"),
];

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_sdtrain"))
}

#[test]
fn what_torchrun_says_is_recognised() {
    let project = Project::new();
    let answer = project.run_with(&program(), &TORCHRUN, &["env"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for words in [
        "rank 3 of 4 processes, local rank 1 of 2 on this node (torchrun)\n",
        "  they meet at node0, port 29400; the launcher holds the store\n",
        "LOCAL_WORLD_SIZE",
        "processors  ",
    ] {
        assert!(answer.stdout.contains(words), "`{words}` is not in\n{}", answer.stdout);
    }
    let answer = project.run_with(&program(), &TORCHRUN, &["env", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    assert_eq!((&said["place"]["rank"], &said["place"]["launcher"]), (&3.into(), &"torchrun".into()));
    assert!(said["machine"]["processors"].as_u64() >= Some(1) && said["node"].is_null(), "{said}");
    assert!(said["reasons"].as_array().is_some_and(|reasons| reasons.iter().any(|one| one["variable"] == "RANK")));
}

#[test]
fn contradictions_end_with_a_table() {
    let project = Project::new();
    let wrong: Vec<_> =
        TORCHRUN.iter().map(|&(name, value)| (name, if name == "RANK" { "4" } else { value })).collect();
    let engine = project.with_engine("echo engine");
    for args in [&["env"][..], &["env", "--json"], &["--config", "run.toml"], &["launch", "--config", "run.toml"]] {
        let answer = project.run_with(&engine, &wrong, args);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert_eq!(
            answer.stderr,
            "error: the variables of this process contradict each other\n  \
             variable  value  why it cannot be\n  \
             RANK      `4`    must be less than `WORLD_SIZE`, which is 4: the first one is 0\n  \
             hint: `sdtrain env` shows what is recognised; for a single process `unset` these variables\n"
        );
    }
}

#[test]
fn a_pod_of_several_processes_is_launched_in_and_not_trained_in() {
    let project = Project::new();
    let engine = project.with_engine("echo $RANK of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT");
    let pod = [
        ("PET_NNODES", "2"),
        ("PET_NODE_RANK", "1"),
        ("PET_NPROC_PER_NODE", "2"),
        ("PET_MASTER_ADDR", "job-0"),
        ("PET_MASTER_PORT", "29400"),
    ];
    let answer = project.run_with(&engine, &pod, &["--config", "run.toml"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""));
    assert!(answer.stderr.contains("PET_NPROC_PER_NODE") && answer.stderr.contains("hint: `sdtrain launch"));
    let answer = project.run_with(&program(), &pod, &["env"]);
    assert!(answer.stdout.starts_with("node 1 of 2, whose processes (2) are still to be started"), "{}", answer.stdout);
    let answer = project.run_with(&engine, &pod, &["launch", "--config", "run.toml"]);
    let mut lines: Vec<&str> = answer.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(lines, ["[rank 2] 2 of 4 at job-0:29400", "[rank 3] 3 of 4 at job-0:29400"]);
}

#[test]
fn any_command_can_be_launched_and_its_mistakes_are_told_once() {
    let project = Project::new();
    let answer = project.run(&["launch", "--nproc", "2", "--", "check", "run.toml"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for rank in ["[rank 0] ", "[rank 1] "] {
        assert!(answer.stdout.lines().any(|line| line.starts_with(rank)), "{}", answer.stdout);
    }
    assert!(answer.stdout.lines().all(|line| line.starts_with("[rank ")), "{}", answer.stdout);
    let answer = project.run(&["launch", "--nproc", "2", "--", "check", "none.toml"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("[launch] the run failed: rank "), "{}", answer.stderr);
    assert!(answer.stderr.contains("ended with exit code 2: the command line or configuration is wrong"));
    let answer = project.run(&["launch", "--nproc", "2", "--", "chekc", "run.toml"]);
    assert_eq!((answer.code, answer.stderr.contains("[rank")), (Some(2), false), "{}", answer.stderr);
}

/// A launcher at work on two engines, each of which has left a file with its number.
struct Launched {
    launcher: Child,
    engines: Vec<String>,
}

impl Launched {
    fn new(project: &Project, script: &str) -> Launched {
        let engine = project.with_engine(&format!("echo $$ > new$RANK; mv new$RANK pid$RANK\n{script}"));
        let mut command = Command::new(&engine);
        command.args(["launch", "--nproc", "2", "--config", "run.toml"]).current_dir(project.path(""));
        let launcher = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let pid = |rank| project.path(&format!("pid{rank}"));
        wait_until(|| pid(0).exists() && pid(1).exists());
        let read = |rank| fs::read_to_string(pid(rank)).expect("it is there").trim().to_owned();
        Launched { launcher, engines: vec![read(0), read(1)] }
    }

    fn send(&self, signal: &str) {
        let pid = self.launcher.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("`kill` is there").success());
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is gone, or only waits for somebody to take note of its end.
fn is_gone(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(said) => said.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[test]
fn processes_do_not_outlive_a_launcher_that_is_killed() {
    let project = Project::new();
    let mut launched = Launched::new(&project, "exec sleep 300");
    assert!(launched.engines.iter().all(|pid| !is_gone(pid)));
    launched.send("-KILL");
    launched.launcher.wait().expect("it ends");
    wait_until(|| launched.engines.iter().all(|pid| is_gone(pid)));
}

#[test]
fn a_launcher_that_is_told_to_stop_lets_all_of_them_save() {
    let project = Project::new();
    // Signals wait until the engine listens. This one, a shell, cannot, and looks whether one waits.
    let mut launched = Launched::new(
        &project,
        "while grep -q '^ShdPnd:[[:space:]]*0*$' /proc/$$/status; do sleep 0.02; done\nexit 75",
    );
    launched.send("-TERM");
    assert_eq!(launched.launcher.wait().expect("it ends").code(), Some(75));
}

#[test]
fn a_process_whose_launcher_is_gone_does_not_begin() {
    let project = Project::new();
    let mut gone = Command::new("true").spawn().expect("it starts");
    gone.wait().expect("it ends");
    let answer = project.run_with(&program(), &[("SDTRAIN_LAUNCHER_PID", &gone.id().to_string())], &["env"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(8), ""));
    assert!(answer.stderr.contains("which started this, is gone"), "{}", answer.stderr);
}
