//! The launcher with small shell scripts in the place of the program.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;

/// A script that each process runs, and the folder in which they leave traces.
struct Stage {
    folder: tempfile::TempDir,
    written: Arc<Mutex<Vec<u8>>>,
    patience: Patience,
    settings: Settings,
}

impl Stage {
    fn new(nproc: usize, script: &str) -> Stage {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // No file of its own: while another test starts a process, one that was just written is "busy".
        let script = format!("cd \"$1\"\n{script}");
        let settings = Settings {
            nproc,
            nnodes: 1,
            node_rank: 0,
            master: None,
            restarts: 0,
            grace: Duration::from_secs(20),
            threads: None,
            command_line: vec!["-c".into(), script.into(), "script".into(), folder.path().into()],
        };
        let long = settings.grace;
        let patience = Patience { to_notice: long, to_end: long, to_save: long };
        Stage { folder, written: Arc::default(), patience, settings }
    }

    /// Launches; `meanwhile` may send signals, as whoever calls the launcher does.
    fn launch_with(&self, meanwhile: impl FnOnce(&Stage, Sender<Signal>) + Send) -> (ExitCode, String) {
        let output = Output { stdout: self.written.clone(), stderr: self.written.clone() };
        let (sender, signals) = channel();
        let ended = thread::scope(|scope| {
            scope.spawn(|| meanwhile(self, sender));
            launch(Path::new("/bin/sh"), &self.settings, &self.patience, &signals, &output)
        });
        let code = ended.map_or_else(|failure| failure.code, |()| ExitCode::Done);
        (code, self.said())
    }

    fn launch(&self) -> (ExitCode, String) {
        self.launch_with(|_, _| {})
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().expect("nobody panicked")).into_owned()
    }

    fn wait_for(&self, words: &str) {
        let began = Instant::now();
        while !self.said().contains(words) {
            assert!(began.elapsed() < Duration::from_secs(60), "`{words}` was not said, but:\n{}", self.said());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn each_process_gets_its_variables_and_its_lines_get_its_rank() {
    let mut stage = Stage::new(
        2,
        "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $OMP_NUM_THREADS\n\
         echo restart $TORCHELASTIC_RESTART_COUNT of $SDTRAIN_LAUNCHER_PID >&2",
    );
    stage.settings.threads = Some(3);
    let (code, said) = stage.launch();
    let pid = std::process::id();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(code, ExitCode::Done);
    assert_eq!(
        lines,
        [
            "[launch] OMP_NUM_THREADS=3 for each of 2 processes, since it is not set",
            "[rank 0] 0 0 2 2 127.0.0.1 3",
            &format!("[rank 0] restart 0 of {pid}"),
            "[rank 1] 1 1 2 2 127.0.0.1 3",
            &format!("[rank 1] restart 0 of {pid}"),
        ]
    );
}

#[test]
fn ranks_of_the_second_machine_come_after_those_of_the_first() {
    let mut stage = Stage::new(2, "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT");
    stage.settings.nnodes = 3;
    stage.settings.node_rank = 1;
    stage.settings.master = Some(Address { host: "node0".into(), port: 29500 });
    let (_, said) = stage.launch();
    assert!(
        said.contains("[rank 2] 2 0 6 2 node0 29500\n") && said.contains("[rank 3] 3 1 6 2 node0 29500\n"),
        "{said}"
    );
}

#[test]
fn what_processes_say_at_once_is_never_torn() {
    let stage =
        Stage::new(4, "for i in $(seq 300); do echo \"$RANK$RANK$RANK$RANK$RANK$RANK$RANK$RANK line $i\"; done");
    let (_, said) = stage.launch();
    assert_eq!(said.lines().count(), 1200);
    for line in said.lines() {
        let rank = &line[6..7];
        assert!(line.starts_with(&format!("[rank {rank}] {} line ", rank.repeat(8))), "{line}");
    }
}

#[test]
fn exit_codes_are_weighed() {
    for (script, code) in [
        ("exit 0", ExitCode::Done),
        ("exit 75", ExitCode::Stopped),
        ("exit $((RANK * 75))", ExitCode::Stopped),
        ("[ $RANK = 0 ] || exit 8; exit 5", ExitCode::NonFinite),
        ("[ $RANK = 1 ] || { sleep 0.3; exit 8; }; exit 3", ExitCode::Data),
        ("[ $RANK = 1 ] || exit 8; sleep 0.3; exit 3", ExitCode::Data),
        ("[ $RANK = 1 ] || { sleep 0.1; exit 8; }; kill -SEGV $$", ExitCode::Rank),
        ("[ $RANK = 1 ] || exit 75; exit 9", ExitCode::FolderInUse),
        ("exit 42", ExitCode::Internal),
    ] {
        let stage = Stage::new(2, script);
        let (ended, said) = stage.launch();
        assert_eq!(ended, code, "{script}:\n{said}");
    }
}

#[test]
fn the_first_failure_is_named_and_the_others_may_end_by_themselves() {
    let stage = Stage::new(3, "[ $RANK = 1 ] && kill -KILL $$\nsleep 0.3; echo rank 1 is gone >&2; exit 8");
    let (code, said) = stage.launch();
    assert_eq!(code, ExitCode::Rank);
    assert!(said.contains("was ended by SIGKILL; the 2 other(s) have 20 s to end by themselves"), "{said}");
    assert!(said.contains("[rank 0] rank 1 is gone") && said.contains("[rank 2] rank 1 is gone"), "{said}");
    assert!(!said.contains("SIGTERM"), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("[launch] the run failed: rank 1 (process "), "{last}");
}

#[test]
fn whoever_does_not_end_is_told_and_then_killed() {
    // Rank 1 ends when it is told to, rank 2 does not.
    let mut stage = Stage::new(
        3,
        "case $RANK in\n\
         0) while [ ! -e ready1 ] || [ ! -e ready2 ]; do sleep 0.01; done; exit 6;;\n\
         1) trap 'echo told; exit 75' TERM;;\n\
         2) trap '' TERM;;\n\
         esac\n\
         : > ready$RANK; while :; do sleep 0.02; done",
    );
    let seconds = Duration::from_secs;
    stage.patience = Patience { to_notice: Duration::from_millis(100), to_end: seconds(2), to_save: seconds(2) };
    let (code, said) = stage.launch();
    assert_eq!(code, ExitCode::DeviceMemory, "{said}");
    for words in [
        "rank 0 (process ",
        "ended with exit code 6: too little memory; the 2 other(s) have",
        "still running: rank 1, 2; told to end (SIGTERM)",
        "[rank 1] told",
        "still running: rank 2; ended (SIGKILL)",
        "was ended by SIGKILL",
    ] {
        assert!(said.contains(words), "`{words}` is not in\n{said}");
    }
}

#[test]
fn rank_0_may_end_what_it_saves() {
    let mut stage = Stage::new(
        3,
        "case $RANK in\n\
         0) trap '' TERM;;\n\
         1) while [ ! -e ready0 ] || [ ! -e ready2 ]; do sleep 0.01; done; exit 6;;\n\
         2) trap '' TERM;;\n\
         esac\n\
         : > ready$RANK; while [ $RANK = 2 ] || [ ! -e save ]; do sleep 0.02; done; echo saved",
    );
    let (soon, long) = (Duration::from_millis(100), Duration::from_secs(60));
    stage.patience = Patience { to_notice: soon, to_end: soon, to_save: long };
    let (code, said) = stage.launch_with(|stage, _| {
        stage.wait_for("still running: rank 2; ended (SIGKILL)");
        std::fs::write(stage.folder.path().join("save"), "").expect("there is room");
    });
    assert_eq!(code, ExitCode::DeviceMemory, "{said}");
    assert!(said.contains("[rank 0] saved"), "{said}");

    stage.patience.to_save = Duration::from_secs(1);
    for name in ["save", "ready0", "ready1", "ready2"] {
        let _ = std::fs::remove_file(stage.folder.path().join(name));
    }
    let (_, said) = stage.launch();
    assert!(
        said.contains("still running: rank 0, 1 s after it was told to end (`--grace`); ended (SIGKILL)"),
        "{said}"
    );
}

#[test]
fn signals_are_handed_on_each_time() {
    let script = "trap 'echo saved' USR2; trap 'echo stopping; exit 75' TERM\necho ready\nwhile :; do sleep 0.02; done";
    let stage = Stage::new(2, script);
    let (code, said) = stage.launch_with(|stage, signals| {
        for words in ["[rank 0] ready", "[rank 1] ready"] {
            stage.wait_for(words);
        }
        for _ in 0..2 {
            let before = stage.said().matches("saved").count();
            signals.send(Signal::SIGUSR2).expect("the launcher listens");
            let began = Instant::now();
            while stage.said().matches("saved").count() < before + 2 && began.elapsed() < Duration::from_secs(60) {
                thread::sleep(Duration::from_millis(2));
            }
        }
        signals.send(Signal::SIGTERM).expect("the launcher listens");
    });
    assert_eq!(code, ExitCode::Stopped, "{said}");
    assert_eq!((said.matches("saved").count(), said.matches("stopping").count()), (4, 2), "{said}");
}

#[test]
fn a_stop_in_the_first_moments_is_no_failure() {
    // It answers no signal yet.
    let stage = Stage::new(2, "echo ready; exec sleep 60");
    let (code, said) = stage.launch_with(|stage, signals| {
        for words in ["[rank 0] ready", "[rank 1] ready"] {
            stage.wait_for(words);
        }
        signals.send(Signal::SIGTERM).expect("the launcher listens");
    });
    assert_eq!((code, said.contains("failed")), (ExitCode::Stopped, false), "{said}");
}

#[test]
fn all_are_started_again_after_a_failure() {
    let script = "echo start $TORCHELASTIC_RESTART_COUNT at $MASTER_PORT\n\
                  [ $TORCHELASTIC_RESTART_COUNT = 2 ] && exit 0\n[ $RANK = 1 ] && kill -KILL $$\nexit 8";
    let mut stage = Stage::new(2, script);
    stage.settings.restarts = 3;
    let (code, said) = stage.launch();
    assert_eq!(code, ExitCode::Done, "{said}");
    for words in ["[rank 0] start 0 ", "[rank 1] start 1 ", "[rank 0] start 2 ", "restart 2 of 3"] {
        assert!(said.contains(words), "`{words}` is not in\n{said}");
    }
    assert!(!said.contains("restart 3"), "{said}");
    stage.settings.restarts = 1;
    assert_eq!(stage.launch().0, ExitCode::Rank);
}

#[test]
fn what_stays_wrong_is_not_started_again() {
    for (script, code) in [("exit 2", ExitCode::Configuration), ("exit 75", ExitCode::Stopped)] {
        let mut stage = Stage::new(2, script);
        stage.settings.restarts = 3;
        let (ended, said) = stage.launch();
        assert_eq!((ended, said.contains("started again")), (code, false), "{said}");
    }
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let stage = Stage::new(2, "");
    let output = Output { stdout: stage.written.clone(), stderr: stage.written.clone() };
    let (_sender, signals) = channel();
    let failure = launch(&stage.folder.path().join("none"), &stage.settings, &stage.patience, &signals, &output)
        .expect_err("no program");
    let said = failure.problems.to_string();
    assert!(said.starts_with("error: rank 0 cannot be started: `") && said.contains("No such file"), "{said}");
    assert_eq!(failure.code, ExitCode::Rank);
}
