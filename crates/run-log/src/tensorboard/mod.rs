//! TensorBoard event files, written on a thread of their own so that a slow or full disk never holds up a step.

mod frame;
mod proto;

use crate::window::{LOSS_WINDOW, Window};
use crate::{MetricSink, RgbImage, StepMetrics};
use proto::{Event, Status, What};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Events that may wait to be written; beyond that, numbers are dropped rather than the training held up.
const QUEUE: usize = 4096;
/// How long an event may stay in memory.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// How long the end of a run waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes `loss/current`, `loss/average`, `lr/<group>`, `grad_norm`, and every scalar, image and text under its own tag.
pub struct TensorBoard {
    folder: PathBuf,
    /// Absent once the writer is finished or has failed.
    queue: Option<SyncSender<Entry>>,
    writer: Option<JoinHandle<io::Result<()>>>,
    losses: Window,
    warning: Option<String>,
    lagged: bool,
}

enum Entry {
    Event(Event),
    /// PNG encoding is the writer's work.
    Image {
        wall_time: f64,
        step: i64,
        tag: String,
        image: RgbImage,
    },
    Flush(SyncSender<()>),
}

impl TensorBoard {
    /// Begins a new event file in `folder` (made if absent). TensorBoard is told to forget what an earlier file says about the steps
    /// after `resumed_step`, about all of them where a run that left no checkpoint begins anew.
    pub fn open(folder: &Path, resumed_step: Option<u64>) -> TensorBoard {
        let mut first = vec![Event::now(0, What::FileVersion("brain.Event:2".to_owned()))];
        let is_first = || std::fs::read_dir(folder).map_or(true, |mut earlier| earlier.next().is_none());
        let forgotten_from = resumed_step.map(|step| step as i64 + 1).or_else(|| (!is_first()).then_some(0));
        if let Some(step) = forgotten_from {
            first.push(Event::now(step, What::session(Status::Start)));
        }
        let path = folder.join(file_name());
        let (queue, entries) = mpsc::sync_channel(QUEUE);
        let spawned = std::thread::Builder::new().name("tensorboard".to_owned()).spawn(move || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = BufWriter::new(File::create_new(&path)?);
            for event in &first {
                frame::write(&mut file, &event.bytes())?;
            }
            write_all(file, entries)
        });
        let mut sink = TensorBoard {
            folder: folder.to_owned(),
            queue: Some(queue),
            writer: None,
            losses: Window::new(LOSS_WINDOW),
            warning: None,
            lagged: false,
        };
        match spawned {
            Ok(writer) => sink.writer = Some(writer),
            Err(error) => sink.fail(error),
        }
        sink
    }

    fn fail(&mut self, error: io::Error) {
        self.queue = None;
        self.warning = Some(format!(
            "cannot write TensorBoard files to `{}`: {error}; the run goes on without them",
            self.folder.display()
        ));
    }

    fn send(&mut self, entry: Entry) {
        match self.queue.as_ref().map(|queue| queue.try_send(entry)) {
            None | Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => {
                if !self.lagged {
                    self.lagged = true;
                    let folder = self.folder.display();
                    self.warning = Some(format!("writing to `{folder}` is too slow; TensorBoard files will have gaps"));
                }
            }
            Some(Err(TrySendError::Disconnected(_))) => self.ended(),
        }
    }

    /// The writer is gone, by an error or at the end: takes its verdict.
    fn ended(&mut self) {
        self.queue = None;
        match self.writer.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => self.fail(error),
            Some(Err(_)) => self.fail(io::Error::other("the writer stopped")),
        }
    }
}

impl MetricSink for TensorBoard {
    fn step(&mut self, metrics: &StepMetrics) {
        self.losses.push(metrics.loss);
        let mut numbers = vec![("loss/current".to_owned(), metrics.loss)];
        numbers.extend(self.losses.mean().map(|mean| ("loss/average".to_owned(), mean)));
        numbers.extend(metrics.grad_norm.map(|norm| ("grad_norm".to_owned(), norm)));
        numbers.extend(metrics.lrs.iter().map(|(group, lr)| (format!("lr/{group}"), *lr)));
        self.send(Entry::Event(Event::now(metrics.step as i64, What::scalars(numbers))));
    }

    fn scalar(&mut self, tag: &str, step: u64, value: f64) {
        self.send(Entry::Event(Event::now(step as i64, What::scalar(tag.to_owned(), value))));
    }

    fn image(&mut self, tag: &str, step: u64, image: &RgbImage) {
        let (wall_time, step) = (seconds_now(), step as i64);
        self.send(Entry::Image { wall_time, step, tag: tag.to_owned(), image: image.clone() });
    }

    fn text(&mut self, tag: &str, step: u64, text: &str) {
        self.send(Entry::Event(Event::now(step as i64, What::text(tag, text))));
    }

    fn flush(&mut self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.send(Entry::Flush(done));
        // An error here means that the writer has failed (the next `send` says so) or that the disk does not answer.
        let _ = wait.recv_timeout(PATIENCE);
    }

    fn reopen(&mut self, step: u64) {
        self.finish();
        let is_there = self.folder.read_dir().is_ok_and(|mut files| files.next().is_some());
        let anew = TensorBoard::open(&self.folder, Some(step));
        let mut before = std::mem::replace(self, anew);
        std::mem::swap(&mut self.losses, &mut before.losses);
        if !is_there {
            self.warning.get_or_insert_with(|| format!("the TensorBoard files up to step {step} are lost"));
        }
    }

    fn finish(&mut self) {
        self.flush();
        self.queue = None; // the writer ends when nobody can send any more
        let until = Instant::now() + PATIENCE;
        while self.writer.as_ref().is_some_and(|writer| !writer.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.writer.as_ref().is_some_and(JoinHandle::is_finished) {
            self.ended();
        }
    }

    fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }
}

impl Drop for TensorBoard {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The writer's life: events as they come, on disk at most `FLUSH_EVERY` later.
fn write_all(mut file: BufWriter<File>, entries: Receiver<Entry>) -> io::Result<()> {
    file.flush()?;
    let mut flushed = Instant::now();
    loop {
        match entries.recv_timeout(FLUSH_EVERY.saturating_sub(flushed.elapsed())) {
            Ok(Entry::Event(event)) => frame::write(&mut file, &event.bytes())?,
            Ok(Entry::Image { wall_time, step, tag, image }) => {
                let event = Event { wall_time, step, what: Some(What::image(tag, &image)?) };
                frame::write(&mut file, &event.bytes())?;
            }
            Ok(Entry::Flush(done)) => {
                file.flush()?;
                let _ = done.send(()); // nobody waits any more: fine
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return file.flush(),
        }
        if flushed.elapsed() >= FLUSH_EVERY {
            file.flush()?;
            flushed = Instant::now();
        }
    }
}

/// TensorBoard reads files with `tfevents` in their name, in the order of their names; so the time comes first.
fn file_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("events.out.tfevents.{:010}.{host}.{}.{}", now.as_secs(), std::process::id(), now.subsec_nanos())
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::metrics;
    use prost::Message;

    /// The events of the only file in a folder, every checksum verified.
    fn events_in(folder: &Path) -> Vec<Event> {
        let files: Vec<_> = std::fs::read_dir(folder).expect("a folder").collect();
        assert_eq!(files.len(), 1);
        let bytes = std::fs::read(files[0].as_ref().expect("an entry").path()).expect("readable");
        frame::read_all(&bytes)
            .expect("whole frames")
            .iter()
            .map(|payload| Event::decode(payload.as_slice()).expect("an event"))
            .collect()
    }

    fn tags_of(event: &Event) -> Vec<String> {
        match &event.what {
            Some(What::Summary(summary)) => summary.value.iter().map(|value| value.tag.clone()).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn writes_a_step_under_the_documented_tags() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut board = TensorBoard::open(folder.path(), None);
        board.step(&metrics(7));
        board.scalar("validation/loss", 7, 0.25);
        board.image("samples/0", 7, &RgbImage::new(3, 2));
        board.text("config", 0, "name = \"x\"");
        board.finish();
        assert_eq!(board.take_warning(), None);
        let events = events_in(folder.path());
        assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".to_owned())));
        let tags: Vec<_> = events[1..].iter().map(tags_of).collect();
        let of_step = ["loss/current", "loss/average", "grad_norm", "lr/unet", "lr/text_encoder"].map(str::to_owned);
        assert_eq!(tags[0], of_step);
        assert_eq!(
            tags[1..],
            [["validation/loss"], ["samples/0"], ["config"]].map(|tag| tag.map(str::to_owned).to_vec())
        );
        assert!(events[1..4].iter().all(|event| event.step == 7));
    }

    #[test]
    fn a_resumed_run_takes_back_the_steps_after_its_checkpoint() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        TensorBoard::open(folder.path(), Some(250)).finish();
        let events = events_in(folder.path());
        assert_eq!((events[1].step, events[1].what.clone()), (251, Some(What::session(Status::Start))));
    }

    #[test]
    fn a_run_that_begins_anew_takes_back_all_steps_of_the_one_before() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("events.of.one.that.was.killed"), "").expect("there is room");
        TensorBoard::open(folder.path(), None).finish();
        std::fs::remove_file(folder.path().join("events.of.one.that.was.killed")).expect("it is there");
        let events = events_in(folder.path());
        assert_eq!((events[1].step, events[1].what.clone()), (0, Some(What::session(Status::Start))));
    }

    #[test]
    fn events_are_readable_while_the_run_goes_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut board = TensorBoard::open(folder.path(), None);
        board.step(&metrics(1));
        board.flush();
        assert_eq!(events_in(folder.path()).len(), 2);
    }

    #[test]
    fn a_folder_that_was_deleted_gets_a_file_from_the_next_step_on_and_what_is_lost_is_said() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("tensorboard");
        let mut board = TensorBoard::open(&folder, None);
        board.step(&metrics(7));
        board.flush();
        std::fs::remove_dir_all(&folder).expect("it is there");
        board.reopen(7);
        assert_eq!(board.take_warning().as_deref(), Some("the TensorBoard files up to step 7 are lost"));
        board.step(&metrics(8));
        board.finish();
        assert_eq!(board.take_warning(), None);
        let events = events_in(&folder);
        assert_eq!((events[1].step, events[1].what.clone()), (8, Some(What::session(Status::Start))));
        assert_eq!(events[2].step, 8);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_one_warning() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("tensorboard");
        std::fs::write(&file, "in the way").expect("writes");
        let mut board = TensorBoard::open(&file, None);
        board.flush();
        board.step(&metrics(1));
        board.finish();
        assert!(board.take_warning().expect("a warning").contains("cannot write TensorBoard files"));
        board.step(&metrics(2));
        assert_eq!(board.take_warning(), None);
    }

    #[test]
    fn a_full_disk_ends_the_writer_and_nothing_else() {
        let Ok(full) = File::options().write(true).open("/dev/full") else { return };
        let (queue, entries) = mpsc::sync_channel(QUEUE);
        for step in 0..1000 {
            queue.send(Entry::Event(Event::now(step, What::scalar("loss/current".to_owned(), 1.0)))).expect("room");
        }
        drop(queue);
        let error = write_all(BufWriter::new(full), entries).expect_err("the disk is full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
