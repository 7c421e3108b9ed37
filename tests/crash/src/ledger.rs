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
    /// Digest of the sources of the checkpoint crate: counts of another one are not added to these.
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

/// The file, beside the sources.
pub struct Ledger {
    path: PathBuf,
    commit: String,
    code: String,
}

impl Ledger {
    /// The ledger of a repository.
    pub fn open(repository: &Path) -> Result<Ledger, String> {
        let dirty = !said(repository, "git", &["status", "--porcelain", "--", "crates", "tests/crash/src"])?.is_empty();
        let commit = said(repository, "git", &["rev-parse", "--short", "HEAD"])?;
        let commit = if dirty { format!("{commit}+") } else { commit };
        let code = digest(&repository.join("crates/checkpoint/src")).map_err(|error| error.to_string())?;
        Ok(Ledger { path: repository.join("tests/crash/ledger.jsonl"), commit, code })
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

    /// How many cases of a row were tried with the checkpoint crate as it is.
    pub fn tried(&self, row: &str) -> Result<u64, String> {
        Ok(self.lines()?.iter().filter(|line| line.row == row && line.code == self.code).map(|line| line.count).sum())
    }

    /// Adds a line.
    pub fn add(&self, row: &str, from: u64, seconds: u64, report: &Report) -> Result<(), String> {
        let line = Line {
            date: said(Path::new("."), "date", &["+%F"])?,
            commit: self.commit.clone(),
            code: self.code.clone(),
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
            date: String,
            commit: String,
        }
        let mut rows: BTreeMap<(String, String), Sum> = BTreeMap::new();
        for line in self.lines()? {
            let sum = rows.entry((line.row, line.code)).or_default();
            sum.tried += line.count;
            sum.failures += line.failures;
            sum.seconds += line.seconds;
            (sum.date, sum.commit) = (line.date, line.commit);
        }
        let mut table =
            "| row | code | tried | failures | seconds | last on | at commit |\n|---|---|---|---|---|---|---|\n"
                .to_owned();
        for ((row, code), Sum { tried, failures, seconds, date, commit }) in rows {
            table += &format!("| {row} | {code} | {tried} | {failures} | {seconds} | {date} | {commit} |\n");
        }
        Ok(table)
    }
}

fn said(folder: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first digits of a digest of all files of a folder.
fn digest(folder: &Path) -> std::io::Result<String> {
    fn add(folder: &Path, hasher: &mut blake3::Hasher) -> std::io::Result<()> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        paths.sort();
        for path in paths {
            if path.is_dir() {
                add(&path, hasher)?;
            } else {
                hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(&fs::read(&path)?);
            }
        }
        Ok(())
    }
    let mut hasher = blake3::Hasher::new();
    add(folder, &mut hasher)?;
    Ok(hasher.finalize().to_hex()[..8].to_owned())
}
