//! The ledger: a line for each time that a row was run, so that counts can be added up over days and runs be continued.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Report;

/// One time that a row was run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Day, as 2026-01-31.
    pub date: String,
    /// Commit of the repository, with `+` where files differed from it.
    pub commit: String,
    /// Digest of the sources that the row tries: counts of others are not added to these.
    pub code: String,
    /// Row of the table.
    pub row: String,
    /// First case.
    pub from: u64,
    /// How many were tried.
    pub count: u64,
    /// How many of them went wrong.
    pub failures: u64,
    /// How long it took.
    pub seconds: u64,
    /// What else is worth knowing.
    pub note: String,
}

/// What every row tries.
const SOURCES: [&str; 2] = ["crates/checkpoint/src", "crates/files/src/file_system.rs"];

/// What the rows of the whole program try besides: the rest of what it writes, and when.
const SOURCES_OF_PROGRAM: [&str; 10] = [
    "crates/trainer/src",
    "crates/engine/src",
    "crates/optimizer/src",
    "crates/run-log/src",
    "crates/recipe/src/continuation.rs",
    "crates/files/src",
    "crates/signals/src",
    "crates/state-dict/src/write.rs",
    "crates/state-dict/src/diffusers_folder.rs",
    "crates/state-dict/src/staging.rs",
];

/// The rows of the whole program.
const ROWS_OF_PROGRAM: [&str; 6] = ["program", "program-calls", "program-power", "ranks", "soak", "leak"];

/// The file, beside the sources.
pub struct Ledger {
    path: PathBuf,
    commit: String,
    code: String,
    code_of_program: String,
}

impl Ledger {
    /// The ledger of a repository.
    pub fn open(repository: &Path) -> Result<Ledger, String> {
        let sources = ["status", "--porcelain", "--", "crates", "tests/crash/src", "tests/crash/soak"];
        let dirty = !said(repository, "git", &sources)?.is_empty();
        let commit = said(repository, "git", &["rev-parse", "--short", "HEAD"])?;
        let commit = if dirty { format!("{commit}+") } else { commit };
        let all: Vec<&str> = SOURCES.into_iter().chain(SOURCES_OF_PROGRAM).collect();
        let (code, code_of_program) = (digest(repository, &SOURCES)?, digest(repository, &all)?);
        Ok(Ledger { path: repository.join("tests/crash/ledger.jsonl"), commit, code, code_of_program })
    }

    /// The digest of what a row tries.
    fn code_of(&self, row: &str) -> &str {
        if ROWS_OF_PROGRAM.contains(&row) { &self.code_of_program } else { &self.code }
    }

    /// Every line.
    pub fn lines(&self) -> Result<Vec<Line>, String> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| format!("cannot read `{}`: {error}", self.path.display()))?,
        };
        let line = |line| serde_json::from_str(line).map_err(|error| format!("`{}`: {error}", self.path.display()));
        text.lines().map(line).collect()
    }

    /// The first case of a row that was not tried with the sources as they are. Parts of a row may have been tried side by side: those
    /// behind a gap are tried again rather than left out.
    pub fn tried(&self, row: &str) -> Result<u64, String> {
        let code = self.code_of(row);
        let lines = self.lines()?;
        let of_row = lines.iter().filter(|line| line.row == row && line.code == code);
        Ok(without_gap(of_row.map(|line| (line.from, line.from + line.count))))
    }

    /// Adds a line.
    pub fn add(&self, row: &str, from: u64, seconds: u64, report: &Report) -> Result<(), String> {
        let line = Line {
            date: said(Path::new("."), "date", &["+%F"])?,
            commit: self.commit.clone(),
            code: self.code_of(row).to_owned(),
            row: row.to_owned(),
            from,
            count: report.tried,
            failures: report.failures.len() as u64,
            seconds,
            note: report.note.clone(),
        };
        let json = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(format!("{json}\n").as_bytes()))
            .map_err(|error| format!("cannot write to `{}`: {error}", self.path.display()))
    }

    /// The survival table, as it stands in docs/reliability.md.
    pub fn table(&self) -> Result<String, String> {
        #[derive(Default)]
        struct Sum {
            tried: u64,
            failures: u64,
            seconds: u64,
            first: String,
            last: String,
            commits: Vec<String>,
        }
        let mut rows: BTreeMap<(String, String), Sum> = BTreeMap::new();
        for line in self.lines()? {
            let sum = rows.entry((line.row, line.code)).or_default();
            sum.tried += line.count;
            sum.failures += line.failures;
            sum.seconds += line.seconds;
            if sum.first.is_empty() {
                sum.first.clone_from(&line.date);
            }
            sum.last = line.date;
            if !sum.commits.contains(&line.commit) {
                sum.commits.push(line.commit);
            }
        }
        let mut table = "| row | tried | failed | seconds | of | at commit | sources | as they are |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for ((row, code), Sum { tried, failures, seconds, first, last, commits }) in rows {
            let of = if first == last { last } else { format!("{first} to {last}") };
            let (commits, is_now) = (commits.join(", "), if code == self.code_of(&row) { "yes" } else { "no" });
            table +=
                &format!("| `{row}` | {tried} | {failures} | {seconds} | {of} | {commits} | {code} | {is_now} |\n");
        }
        Ok(table)
    }
}

/// Where what these ranges cover together, from 0 on, has its first gap.
fn without_gap(ranges: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut ranges: Vec<(u64, u64)> = ranges.collect();
    ranges.sort_unstable();
    ranges.into_iter().fold(0, |reached, (from, end)| if from <= reached { reached.max(end) } else { reached })
}

fn said(folder: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first digits of a digest of these files, and of all files of these folders, of a repository.
fn digest(repository: &Path, sources: &[&str]) -> Result<String, String> {
    fn add(path: &Path, hasher: &mut blake3::Hasher) -> std::io::Result<()> {
        if !path.is_dir() {
            hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(&fs::read(path)?);
            return Ok(());
        }
        let mut paths: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        paths.sort();
        paths.iter().try_for_each(|path| add(path, hasher))
    }
    let mut hasher = blake3::Hasher::new();
    for source in sources {
        let path = repository.join(source);
        add(&path, &mut hasher).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    }
    Ok(hasher.finalize().to_hex()[..8].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_row_leave_no_gap() {
        for (ranges, reached) in [
            (&[][..], 0),
            (&[(0, 10), (10, 25)], 25),
            (&[(240, 300), (0, 176)], 176),
            (&[(240, 480), (0, 176), (176, 240)], 480),
            (&[(5, 9)], 0),
        ] {
            assert_eq!(without_gap(ranges.iter().copied()), reached, "{ranges:?}");
        }
    }

    #[test]
    fn rows_of_the_program_are_counted_for_more_sources_than_those_of_the_driver() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("it lies in `tests`");
        let ledger = Ledger::open(repository).expect("every source is there");
        assert_eq!(ledger.code_of("kills"), digest(repository, &SOURCES).expect("it is there"));
        for row in ROWS_OF_PROGRAM {
            assert_ne!(ledger.code_of(row), ledger.code_of("kills"), "{row}");
        }
        digest(repository, &["crates/checkpoint/sources"])
            .expect_err("a source that has moved is no digest of nothing");
        let table = ledger.table().expect("every line can be read");
        assert!(table.lines().all(|line| line.matches('|').count() == 9), "{table}");
    }
}
