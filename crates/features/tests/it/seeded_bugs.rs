//! The seeded bug is noticed by the test that is to notice it, which passes without it:
//! `cargo test --release -p sdtrain-features --features seeded-bugs --test it -- --nocapture the_first_image_is_not_blamed_unnoticed`

use std::process::{Command, Stdio};
use std::time::Instant;

const VARIABLE: &str = "SDTRAIN_SEEDED_FEATURE_BUG";
const TEST: &str = "latents::of_several_images_the_one_whose_latents_are_not_finite_is_named";

#[test]
fn the_first_image_is_not_blamed_unnoticed() {
    assert!(passes(None), "without a bug, {TEST} fails");
    let began = Instant::now();
    assert!(!passes(Some("first-image")), "not caught");
    println!("| first-image | `{TEST}` | {:.1} s |", began.elapsed().as_secs_f64());
}

/// Whether the test passes in a process of its own.
fn passes(bug: Option<&str>) -> bool {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([TEST, "--exact"]).env_remove(VARIABLE);
    if let Some(bug) = bug {
        command.env(VARIABLE, bug);
    }
    let output = command.stderr(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    // A name that matches nothing passes as well, and a bug that there is not fails.
    assert!(said.contains("running 1 test"), "there is no test {TEST}: {said}");
    assert!(!said.contains("which is no seeded bug"), "{said}");
    output.status.success()
}
