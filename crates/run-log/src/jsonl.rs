//! `metrics.jsonl`: one object a step; beside it `scalars.jsonl` for numbers that are not of a step (validation).

use crate::{Error, MetricSink, StepMetrics};
use sdtrain_files::is_same_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The name of the file of numbers that are not of a step.
pub const SCALARS: &str = "scalars.jsonl";

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
    /// the steps after it will be done again. Otherwise the files begin empty.
    pub fn open(folder: &Path, resumed_step: Option<u64>) -> Result<JsonLines, Error> {
        Ok(JsonLines {
            steps: Records::open(&folder.join("metrics.jsonl"), resumed_step)?,
            scalars: Records::open(&folder.join(SCALARS), resumed_step)?,
            warning: None,
            warned: false,
        })
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
}

impl Records {
    fn open(path: &Path, resumed_step: Option<u64>) -> Result<Records, Error> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        let file = options.open(path).map_err(|error| Error::new("open", path, error))?;
        let length = match resumed_step {
            Some(step) => length_up_to(&file, step).map_err(|error| Error::new("read", path, error))?,
            None => 0,
        };
        file.set_len(length).map_err(|error| Error::new("shorten", path, error))?;
        Ok(Records { path: path.to_owned(), file, length })
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

/// Length of the part that holds steps up to `step`; it also ends before a line that was cut off by a crash.
fn length_up_to(file: &File, step: u64) -> std::io::Result<u64> {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut length = 0;
    while reader.read_until(b'\n', &mut line)? > 0 {
        let whole = line.ends_with(b"\n");
        match serde_json::from_slice::<Step>(&line) {
            Ok(record) if whole && record.step <= step => length += line.len() as u64,
            _ => break,
        }
        line.clear();
    }
    Ok(length)
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
