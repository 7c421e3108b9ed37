//! The short form of every row, for each run of the tests. What the machine cannot do is said aloud.

use std::path::Path;

use sdtrain_crash::program::Program;
use sdtrain_crash::ranks::RankProgram;
use sdtrain_crash::{Extent, Report, calls, flips, kills, power, states};

fn driver() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_crash-driver"))
}

fn survived(row: &str, at_least: u64, report: Report) {
    if let Some(reason) = report.skipped {
        // Past the capture of the test's output: nobody is to think that it ran.
        let line = format!("SKIPPED {row}: {reason}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), line.as_bytes());
        return;
    }
    assert!(report.failures.is_empty(), "{row}: {}", report.failures.join("\n"));
    assert!(report.tried >= at_least, "{row}: only {} were tried", report.tried);
}

fn in_scratch(method: impl FnOnce(&Path) -> Report) -> Report {
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    method(scratch.path())
}

#[test]
fn sixty_random_kills() {
    survived("kills", 60, in_scratch(|scratch| kills::kills(driver(), scratch, Extent::short(60))));
}

#[test]
fn a_kill_at_every_ninth_call() {
    survived("calls", 60, in_scratch(|scratch| calls::kills_at_calls(driver(), scratch, Extent::short(60))));
}

#[test]
fn errors_of_failing_disks_at_some_calls() {
    survived("errors", 80, in_scratch(|scratch| calls::errors_at_calls(driver(), scratch, 8, Extent::short(80))));
}

#[test]
fn three_errors_at_every_call_in_memory() {
    survived("memory", 1000, states::errors_in_memory(3, Extent::short(u64::MAX)));
}

#[test]
fn six_power_cuts() {
    survived("power", 6, in_scratch(|scratch| power::power_cuts(driver(), scratch, 3, Extent::short(6))));
}

#[test]
fn thousands_of_states_after_power_cuts() {
    survived("states", 16_000, states::power_cut_states(Extent::short(16_000)));
}

#[test]
fn every_bit_of_a_small_checkpoint() {
    survived("flips", 15_000, flips::small_checkpoint(Extent::short(u64::MAX)));
    survived("flips-1m", 300, flips::large_checkpoint(Extent::short(300)));
}

/// The row of the whole program, where `scripts/test` has built that beside the driver.
fn of_the_program(steps: u32, row: impl FnOnce(Program<'_>, &Path) -> Report) -> Report {
    let path = driver().with_file_name("sdtrain");
    if !path.is_file() {
        return Report::skipped(format!("there is no `{}`; `scripts/test` builds it", path.display()));
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    in_scratch(|scratch| row(Program { path: &path, repository: &repository, steps }, scratch))
}

#[test]
fn the_program_is_killed_five_times() {
    survived("program", 5, of_the_program(12, |program, scratch| program.kills(scratch, Extent::short(5))));
}

#[test]
fn the_program_is_killed_at_five_calls_of_its_saves() {
    let report = of_the_program(4, |program, scratch| program.kills_at_calls(scratch, Extent::short(5)));
    survived("program-calls", 5, report);
}

#[test]
fn the_power_of_the_program_is_cut_twice() {
    survived("program-power", 2, of_the_program(12, |program, scratch| program.power_cuts(scratch, Extent::short(2))));
}

#[test]
fn one_of_two_ranks_is_killed_or_stopped() {
    // A panic needs an engine with seeded bugs; of the others those in the middle of a run: killed while steady and while saving, stopped.
    let path = driver().with_file_name("sdtrain");
    let report = match path.is_file() {
        false => Report::skipped(format!("there is no `{}`; `scripts/test` builds it", path.display())),
        true => {
            let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            let program = RankProgram { path: &path, has_seeded_bugs: false, repository: &repository };
            in_scratch(|scratch| program.faults(scratch, Extent { from: 2, ..Extent::short(7) }))
        }
    };
    survived("ranks", 7, report);
}
