//! Every seeded bug is noticed by the test that names it, which passes without it:
//! `cargo test --release -p sdtrain-trainer --features seeded-bugs --test it -- --ignored --nocapture every_seeded_bug_is_caught`

use sdtrain_trainer::Bug;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Instant;

#[test]
#[ignore = "runs the tests of this crate once for each bug: some minutes"]
fn every_seeded_bug_is_caught() {
    let tests: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.test()).collect();
    for test in tests {
        assert!(passes(test, None), "without a bug, {test} fails");
    }
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let began = Instant::now();
        let is_caught = !passes(bug.test(), Some(*bug));
        let verdict = if is_caught { format!("{:.1} s", began.elapsed().as_secs_f64()) } else { "NOT CAUGHT".into() };
        println!("| {}: {} | `{}` | {verdict} |", bug.name(), bug.what(), bug.test());
        if !is_caught {
            missed.push(bug.name());
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// Whether a test of this program passes in a process of its own.
fn passes(test: &str, bug: Option<Bug>) -> bool {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([test, "--exact"]).env_remove("SDTRAIN_SEEDED_TRAINER_BUG");
    if let Some(bug) = bug {
        command.env("SDTRAIN_SEEDED_TRAINER_BUG", bug.name());
    }
    let output = command.stderr(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    // A name that matches nothing passes as well.
    assert!(said.contains("running 1 test"), "there is no test {test}: {said}");
    output.status.success()
}
