//! `metrics.jsonl`: one object a step; beside it `scalars.jsonl` for numbers that are not of a step (validation).

use crate::{Error, MetricSink, StepMetrics};
use sdtrain_checkpoint::vfs::{RealVfs, Vfs};
use sdtrain_files::is_same_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The name of the file of numbers that are not of a step.
pub const SCALARS: &str = "scalars.jsonl";

/// What is longer is no record: a disk that was damaged may hold gigabytes without the end of a line.
const LONGEST_LINE: u64 = 1 << 20;

/// What the name of a file begins with while the file is written that takes the place of another.
const TEMPORARY: &str = ".tmp-";

/// Writes each record as it comes, with one call: a run that is killed leaves whole lines.
pub struct JsonLines {
    steps: Records,
    scalars: Records,
    warning: Option<String>,
    warned: bool,
}

/// One line of `metrics.jsonl`. A number that is not finite is written as `null`.
#[derive(Serialize)]
struct StepRecord<'a> {
    step: u64,
    epoch: u64,
    loss: f64,
    lr: BTreeMap<&'a str, f64>,
    grad_norm: Option<f64>,
    seconds: f64,
    images_per_second: f64,
    data_wait_seconds: f64,
}

#[derive(Serialize)]
struct ScalarRecord<'a> {
    step: u64,
    tag: &'a str,
    value: f64,
}

impl JsonLines {
    /// Opens both files in a run's folder. A run that continues after `resumed_step` keeps the records up to that step;
    /// the steps after it will be done again. Lines between them that cannot be read are left out, which is a warning. Otherwise the
    /// files begin empty.
    pub fn open(folder: &Path, resumed_step: Option<u64>) -> Result<JsonLines, Error> {
        let steps = Records::open(&folder.join("metrics.jsonl"), resumed_step)?;
        let scalars = Records::open(&folder.join(SCALARS), resumed_step)?;
        let left_out: Vec<String> = [&steps, &scalars].into_iter().filter_map(Records::left_out).collect();
        let warning = (!left_out.is_empty()).then(|| left_out.join("; "));
        Ok(JsonLines { steps, scalars, warning, warned: false })
    }

    fn report(&mut self, written: Result<(), Error>) {
        if let Err(error) = written
            && !self.warned
        {
            self.warned = true;
            self.warning = Some(format!("{error}; the run goes on without it"));
        }
    }
}

impl MetricSink for JsonLines {
    fn step(&mut self, metrics: &StepMetrics) {
        let written = self.steps.append(&StepRecord {
            step: metrics.step,
            epoch: metrics.epoch,
            loss: metrics.loss,
            lr: metrics.lrs.iter().map(|(group, lr)| (group.as_str(), *lr)).collect(),
            grad_norm: metrics.grad_norm,
            seconds: metrics.seconds,
            images_per_second: metrics.images_per_second(),
            data_wait_seconds: metrics.data_wait_seconds,
        });
        self.report(written);
    }

    fn scalar(&mut self, tag: &str, step: u64, value: f64) {
        let written = self.scalars.append(&ScalarRecord { step, tag, value });
        self.report(written);
    }

    fn reopen(&mut self, step: u64) {
        let (steps, scalars) = (self.steps.reopen(), self.scalars.reopen());
        // Another file, and so another chance.
        self.warned = false;
        if let Err(error) = steps.and(scalars) {
            self.warning = Some(format!("{error}; the metrics up to step {step} are lost"));
        }
    }

    fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }
}

/// A file of JSON objects, one a line, each with a `step`.
struct Records {
    path: PathBuf,
    file: File,
    length: u64,
    /// Lines that could not be read when it was opened.
    unreadable: u64,
}

impl Records {
    fn open(path: &Path, resumed_step: Option<u64>) -> Result<Records, Error> {
        let open = || {
            let mut options = OpenOptions::new();
            options.create(true).append(true).read(true);
            options.open(path).map_err(|error| Error::new("open", path, error))
        };
        let mut file = open()?;
        let kept = match resumed_step {
            Some(step) => Kept::up_to(step, &file).map_err(|error| Error::new("read", path, error))?,
            None => Kept::default(),
        };
        match resumed_step {
            Some(step) if kept.length != kept.beginning => {
                replace_with_kept(path, &file, step).map_err(|error| Error::new("rewrite", path, error))?;
                // The one that has the name now.
                file = open()?;
            }
            _ => file.set_len(kept.length).map_err(|error| Error::new("shorten", path, error))?,
        }
        Ok(Records { path: path.to_owned(), file, length: kept.length, unreadable: kept.unreadable })
    }

    /// What is to be said of lines that could not be read.
    fn left_out(&self) -> Option<String> {
        let path = self.path.display();
        match self.unreadable {
            0 => None,
            1 => Some(format!("1 line of `{path}` could not be read and is left out")),
            count => Some(format!("{count} lines of `{path}` could not be read and are left out")),
        }
    }

    fn append(&mut self, record: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(record).map_err(|error| Error::new("write", &self.path, error.into()))?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // Half a line would spoil the next one, if there is room again by then. That this fails too is no news.
            let _ = self.file.set_len(self.length);
            return Err(Error::new("write", &self.path, error));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// The file under its name again, with all that was written so far: one that was deleted can be read as long as it is open.
    fn reopen(&mut self) -> Result<(), Error> {
        if is_same_file(&self.path, &self.file).unwrap_or(false) {
            return Ok(());
        }
        let anew = Records::open(&self.path, None)?;
        let mut before = std::mem::replace(self, anew);
        let copied = before.file.rewind().and_then(|()| {
            let mut records = Read::by_ref(&mut before.file).take(before.length);
            io::copy(&mut records, &mut self.file)
        });
        match copied {
            Ok(length) => {
                self.length = length;
                Ok(())
            }
            Err(error) => {
                // As in `append`.
                let _ = self.file.set_len(0);
                Err(Error::new("copy", &self.path, error))
            }
        }
    }
}

/// A line of a file of records.
enum Line {
    /// A record of this step.
    Record(u64),
    /// A whole line that is none.
    Unreadable,
    /// The last one, which a crash cut off.
    CutOff,
}

impl Line {
    /// Whether it stays when a run goes on after `step`.
    fn stays(&self, step: u64) -> bool {
        matches!(self, Line::Record(own) if *own <= step)
    }
}

/// What of a file stays when a run goes on.
#[derive(Default)]
struct Kept {
    /// Bytes of all lines that stay.
    length: u64,
    /// Bytes of those with nothing else before them.
    beginning: u64,
    /// Lines that cannot be read; behind the first record of a later step they would go in any case, and are not counted.
    unreadable: u64,
}

impl Kept {
    /// The records of the steps up to `step`: one that is spoiled is no reason to lose those behind it.
    fn up_to(step: u64, file: &File) -> io::Result<Kept> {
        let mut kept = Kept::default();
        let (mut is_beginning, mut is_later) = (true, false);
        each_line(file, |bytes, line| {
            if line.stays(step) {
                kept.length += bytes.len() as u64;
                if is_beginning {
                    kept.beginning = kept.length;
                }
            } else {
                is_beginning = false;
            }
            match line {
                Line::Record(own) => is_later = own > step,
                Line::Unreadable if !is_later => kept.unreadable += 1,
                Line::Unreadable | Line::CutOff => {}
            }
            Ok(())
        })?;
        Ok(kept)
    }
}

/// Puts a file with nothing but the records up to `step` in the place of the one at `path`, which is open as `file`. At every moment
/// there is the old one or the new one, whole.
fn replace_with_kept(path: &Path, file: &File, step: u64) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!("{TEMPORARY}{name}"));
    let write = || {
        // One that a kill left is written over.
        let mut written = BufWriter::new(File::create(&temporary)?);
        each_line(file, |bytes, line| match line.stays(step) {
            true => written.write_all(bytes),
            false => Ok(()),
        })?;
        written.flush()?;
        written.get_ref().sync_all()?;
        fs::rename(&temporary, path)?;
        RealVfs.sync_folder(folder)
    };
    let replaced = write();
    if replaced.is_err() {
        // It only takes room, and is gone already where it got the name.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

/// Tells of each line of a file from its beginning on, with no more of the file in memory than a line.
fn each_line(file: &File, mut tell: impl FnMut(&[u8], Line) -> io::Result<()>) -> io::Result<()> {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    let mut reader = BufReader::new(file);
    reader.rewind()?;
    let mut bytes = Vec::new();
    while Read::by_ref(&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut bytes)? > 0 {
        let line = if bytes.ends_with(b"\n") {
            // A string that is skipped is not looked at for being text, and other readers refuse one that is not.
            let record = std::str::from_utf8(&bytes).ok().and_then(|text| serde_json::from_str::<Step>(text).ok());
            record.map_or(Line::Unreadable, |record| Line::Record(record.step))
        } else if bytes.len() as u64 == LONGEST_LINE {
            reader.skip_until(b'\n')?;
            Line::Unreadable
        } else {
            Line::CutOff
        };
        tell(&bytes, line)?;
        bytes.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::metrics;

    fn steps_in(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).expect("the file was written");
        text.lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("valid JSON")["step"].as_u64().expect("a step")
            })
            .collect()
    }

    #[test]
    fn writes_one_object_a_step_with_the_documented_fields() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut log = JsonLines::open(folder.path(), None).expect("opens");
        log.step(&StepMetrics { loss: f64::NAN, ..metrics(1) });
        log.scalar("validation/loss", 1, 0.25);
        assert_eq!(
            std::fs::read_to_string(folder.path().join("metrics.jsonl")).expect("written"),
            "{\"step\":1,\"epoch\":1,\"loss\":null,\"lr\":{\"text_encoder\":0.00005,\"unet\":0.0001},\
             \"grad_norm\":1.25,\"seconds\":0.5,\"images_per_second\":8.0,\"data_wait_seconds\":0.125}\n"
        );
        assert_eq!(
            std::fs::read_to_string(folder.path().join("scalars.jsonl")).expect("written"),
            "{\"step\":1,\"tag\":\"validation/loss\",\"value\":0.25}\n"
        );
    }

    #[test]
    fn continues_after_the_resumed_step() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut log = JsonLines::open(folder.path(), None).expect("opens");
        (1..=5).for_each(|step| log.step(&metrics(step)));
        drop(log);
        let mut log = JsonLines::open(folder.path(), Some(3)).expect("opens again");
        assert_eq!(steps_in(&path), [1, 2, 3]);
        log.step(&metrics(4));
        assert_eq!(steps_in(&path), [1, 2, 3, 4]);
    }

    #[test]
    fn drops_a_line_that_a_crash_cut_off() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2,\"lo").expect("writes");
        JsonLines::open(folder.path(), Some(9)).expect("opens");
        assert_eq!(steps_in(&path), [1]);
    }

    /// The files of a run of steps 1 to 9 with these lines in the place of some steps, opened to go on after step 8: the steps that are
    /// left, and the warning.
    fn opened_with(spoiled: &[(u64, &[u8])]) -> (Vec<u64>, Option<String>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut bytes = Vec::new();
        for step in 1..=9 {
            match spoiled.iter().find(|(other, _)| *other == step) {
                Some((_, line)) => bytes.extend_from_slice(line),
                None => bytes.extend_from_slice(format!("{{\"step\":{step}}}\n").as_bytes()),
            }
        }
        std::fs::write(&path, bytes).expect("writes");
        let mut log = JsonLines::open(folder.path(), Some(8)).expect("opens");
        let warning = log.take_warning();
        log.step(&metrics(9));
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        assert_eq!(names, ["metrics.jsonl", "scalars.jsonl"]);
        // To which `append` goes back where the disk refuses a record.
        assert_eq!(log.steps.length, std::fs::metadata(&path).expect("it is there").len());
        (steps_in(&path), warning)
    }

    #[test]
    fn a_spoiled_line_costs_no_record_but_its_own() {
        let (steps, warning) = opened_with(&[(3, &b"{\"step\":3,\"lo\n"[..])]);
        assert_eq!(steps, [1, 2, 4, 5, 6, 7, 8, 9]);
        let warning = warning.expect("it is said");
        assert!(
            warning.starts_with("1 line of `") && warning.ends_with("metrics.jsonl` could not be read and is left out"),
            "{warning}"
        );
        // Half a line before a whole one, text in no encoding, nothing at all, and what a power cut leaves of a file.
        let spoiled: [(u64, &[u8]); 4] = [
            (1, b"{\"step\":1,{\"step\":1}\n"),
            (2, b"{\"step\":2,\"name\":\"\xff\"}\n"),
            (5, b"\n"),
            (8, b"\0\0\0\0\n"),
        ];
        let (steps, warning) = opened_with(&spoiled);
        assert_eq!(steps, [3, 4, 6, 7, 9]);
        assert!(warning.expect("it is said").starts_with("4 lines of `"));
    }

    #[test]
    fn spoiled_lines_of_steps_that_are_done_again_are_not_worth_a_word() {
        let (steps, warning) = opened_with(&[(9, &b"{\"step\":9}\n{\"st\n{\"step\":11,\"lo"[..])]);
        assert_eq!((steps, warning), (vec![1, 2, 3, 4, 5, 6, 7, 8, 9], None));
    }

    #[test]
    fn a_line_of_any_length_is_left_out() {
        for end in [&b"\n"[..], b""] {
            let line = [&vec![b' '; 3 * LONGEST_LINE as usize + 7][..], end].concat();
            let (steps, warning) = opened_with(&[(9, &line[..])]);
            assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
            assert!(warning.expect("it is said").starts_with("1 line of `"));
        }
        let line = [&vec![b'x'; 3 * LONGEST_LINE as usize + 7][..], b"\n"].concat();
        assert_eq!(opened_with(&[(4, &line[..])]).0, [1, 2, 3, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_a_kill_left_of_a_file_being_rewritten_is_in_nobodys_way() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let left = folder.path().join(".tmp-metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\nnonsense\n{\"step\":3}\n").expect("writes");
        std::fs::write(&left, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st").expect("writes");
        JsonLines::open(folder.path(), Some(3)).expect("opens");
        assert_eq!(steps_in(&path), [1, 3]);
        assert!(!left.exists());
    }

    #[test]
    fn a_new_run_begins_with_an_empty_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("metrics.jsonl"), "{\"step\":1}\n").expect("writes");
        JsonLines::open(folder.path(), None).expect("opens");
        assert!(steps_in(&folder.path().join("metrics.jsonl")).is_empty());
    }

    #[test]
    fn a_folder_that_is_made_anew_has_the_records_of_the_one_that_was_deleted() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("run");
        let path = folder.join("metrics.jsonl");
        std::fs::create_dir(&folder).expect("a folder");
        let mut log = JsonLines::open(&folder, None).expect("opens");
        (1..=3).for_each(|step| log.step(&metrics(step)));
        std::fs::remove_dir_all(&folder).expect("it is there");
        log.step(&metrics(4));
        std::fs::create_dir(&folder).expect("it is gone");
        log.reopen(4);
        assert_eq!(log.take_warning(), None);
        assert_eq!(steps_in(&path), [1, 2, 3, 4]);
        log.step(&metrics(5));
        // Nothing happens to files that are where they were.
        log.reopen(5);
        log.step(&metrics(6));
        assert_eq!((log.take_warning(), steps_in(&path)), (None, vec![1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn records_that_cannot_be_taken_along_are_said_with_their_last_step() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("run");
        std::fs::create_dir(&folder).expect("a folder");
        let mut log = JsonLines::open(&folder, None).expect("opens");
        log.step(&metrics(7));
        std::fs::remove_dir_all(&folder).expect("it is there");
        log.reopen(7);
        let warning = log.take_warning().expect("there is no folder to write to");
        assert!(
            warning.contains("metrics.jsonl") && warning.ends_with("the metrics up to step 7 are lost"),
            "{warning}"
        );
    }

    #[test]
    fn a_full_disk_is_one_warning() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut log = JsonLines::open(folder.path(), None).expect("opens");
        log.steps.file = OpenOptions::new().append(true).open(full).expect("opens for writing");
        log.step(&metrics(1));
        assert!(log.take_warning().expect("a warning").contains("metrics.jsonl"));
        log.step(&metrics(2));
        assert_eq!(log.take_warning(), None);
    }
}
