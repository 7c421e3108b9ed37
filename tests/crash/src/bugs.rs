//! Bugs on purpose: each must be caught by at least one method, or the figures of the others prove nothing.

#[cfg(feature = "seeded-bugs")]
mod seeded {
    use std::collections::BTreeMap;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use sdtrain_checkpoint::Bug;

    use crate::{Extent, Report};

    /// Tries every bug with every method and prints a table of which caught which; `only` names some of them.
    ///
    /// `program` is this harness, which runs a method in a process that has the bug.
    pub fn bugs(program: &std::path::Path, methods: &[(&str, &str)], only: &[String], extent: Extent) -> Report {
        let mut report = Report::default();
        let mut caught: BTreeMap<&str, u64> = BTreeMap::new();
        let header: Vec<&str> = methods.iter().map(|(name, _)| *name).collect();
        println!("| bug | {} |", header.join(" | "));
        println!("|---{}|", "|---".repeat(methods.len()));
        let chosen = Bug::ALL.iter().filter(|bug| only.is_empty() || only.iter().any(|name| name == bug.name()));
        for bug in chosen.skip(extent.from as usize) {
            if !extent.goes_on(&report) {
                break;
            }
            let mut row = Vec::new();
            for &(name, count) in methods {
                let began = Instant::now();
                let mut command = Command::new(program);
                command.args([name, "--count", count, "--stop"]).env("SDTRAIN_SEEDED_BUG", bug.name());
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let code = command.status().ok().and_then(|status| status.code());
                let seconds = began.elapsed().as_secs_f64();
                row.push(match code {
                    Some(0) => "—".to_owned(),
                    // 101: what it did made the run panic.
                    Some(1 | 101) => {
                        *caught.entry(name).or_default() += 1;
                        format!("yes, {seconds:.1} s")
                    }
                    Some(3) => "skipped".to_owned(),
                    other => format!("?? {other:?}"),
                });
            }
            println!("| {}: {} | {} |", bug.name(), bug.what(), row.join(" | "));
            let is_caught = row.iter().any(|cell| cell.starts_with("yes"));
            report.tried(|| bug.name().to_owned(), if is_caught { Ok(()) } else { Err("nothing noticed it".into()) });
        }
        let by_method: Vec<String> = caught.iter().map(|(name, count)| format!("{name} {count}")).collect();
        report.note = format!("caught by: {}", by_method.join(", "));
        report
    }
}

#[cfg(feature = "seeded-bugs")]
pub use seeded::bugs;
