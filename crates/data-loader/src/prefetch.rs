//! Batches read ahead on other threads, handed out in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::batch::{BatchPlan, Contents, HostBatch};
use crate::{DataError, DataSet};

/// The batches of a data set from one point on: an iterator that ends only with an error. Dropping it stops its threads.
pub struct Prefetcher {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Number of the batch handed out next.
    next: u64,
    failed: bool,
}

struct Shared {
    data: Arc<DataSet>,
    contents: Contents,
    /// How many batches may lie ready or be in the making.
    capacity: u64,
    /// Apart from the state, since the next epoch is planned under its lock, and the consumer need not wait for that.
    cursor: Mutex<Cursor>,
    state: Mutex<State>,
    /// A batch became ready.
    ready: Condvar,
    /// A batch was taken, or the end was called.
    taken: Condvar,
}

struct State {
    /// Batches that a worker has begun, or is about to.
    begun: u64,
    /// Batches handed out so far.
    handed_out: u64,
    ready: BTreeMap<u64, Result<HostBatch, DataError>>,
    stop: bool,
}

/// The place in the endless row of batches from which the next one is taken.
struct Cursor {
    number: u64,
    epoch: u64,
    batch: usize,
    plan: Vec<BatchPlan>,
}

impl Cursor {
    /// The next batch: its number, its epoch, its plan.
    fn advance(&mut self, data: &DataSet) -> (u64, u64, BatchPlan) {
        // An epoch of few images may be without a batch; the first of all is not.
        while self.batch >= self.plan.len() {
            self.epoch += 1;
            self.batch = 0;
            self.plan = data.epoch_plan(self.epoch);
        }
        let job = (self.number, self.epoch, self.plan[self.batch].clone());
        self.number += 1;
        self.batch += 1;
        job
    }
}

impl Prefetcher {
    pub(crate) fn start(data: Arc<DataSet>, contents: Contents, epoch: u64, batch: usize, workers: usize) -> Self {
        let cursor = Cursor { number: 0, epoch, batch: batch * data.ranks().len(), plan: data.epoch_plan(epoch) };
        let shared = Arc::new(Shared {
            data,
            contents,
            // Every worker busy with one, and two lying ready.
            capacity: workers as u64 + 2,
            cursor: Mutex::new(cursor),
            state: Mutex::new(State { begun: 0, handed_out: 0, ready: BTreeMap::new(), stop: false }),
            ready: Condvar::new(),
            taken: Condvar::new(),
        });
        let worker = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.work())
        };
        let workers = (0..workers).map(worker).collect();
        Self { shared, workers, next: 0, failed: false }
    }

    fn receive(&self) -> Result<HostBatch, DataError> {
        if self.workers.is_empty() {
            let (_, epoch, plan) = self.shared.advance();
            return self.shared.load(&plan, epoch);
        }
        let mut state = self.shared.lock();
        loop {
            if let Some(batch) = state.ready.remove(&self.next) {
                state.handed_out += 1;
                self.shared.taken.notify_all();
                return batch;
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Iterator for Prefetcher {
    type Item = Result<HostBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = self.receive();
        self.next += 1;
        self.failed = batch.is_err();
        Some(batch)
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.taken.notify_all();
        for worker in self.workers.drain(..) {
            // A worker reports its failures as batches; there is nothing left to learn here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut state = self.lock();
            while !state.stop && state.begun >= state.handed_out + self.capacity {
                state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            state.begun += 1;
            drop(state);
            let (number, epoch, plan) = self.advance();
            // A thread that dies silently would leave the trainer waiting for ever.
            let batch = catch_unwind(AssertUnwindSafe(|| self.load(&plan, epoch)))
                .unwrap_or_else(|_| Err(DataError::Internal { what: self.gave_up_at(&plan) }));
            self.lock().ready.insert(number, batch);
            self.ready.notify_all();
        }
    }

    /// The next batch. Another worker may have begun later and be here earlier: as many have begun as are taken all the same.
    fn advance(&self) -> (u64, u64, BatchPlan) {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).advance(&self.data)
    }

    fn load(&self, plan: &BatchPlan, epoch: u64) -> Result<HostBatch, DataError> {
        self.data.load_only(self.contents, plan, epoch)
    }

    /// What is said of a batch that was not made: the images it is of.
    fn gave_up_at(&self, plan: &BatchPlan) -> String {
        let paths = plan.visits.iter().map(|visit| format!("`{}`", self.data.path(visit.image).display()));
        format!("the thread that made the batch of {} panicked", paths.collect::<Vec<_>>().join(", "))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name of an image at which whoever reads it panics.
#[cfg(test)]
pub(crate) const MAKES_READERS_PANIC: &str = "makes_readers_panic.png";

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use sdtrain_recipe::{DataConfig, Resolution, Subset};

    use super::*;

    /// `names` as pictures with captions, one a batch.
    fn data_of(folder: &std::path::Path, names: &[&str]) -> Arc<DataSet> {
        for name in names {
            image::RgbImage::new(64, 64).save(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).with_extension("txt"), "a").unwrap();
        }
        let subsets = vec![Subset { path: folder.to_owned(), ..Subset::default() }];
        let config = DataConfig { resolution: Resolution::Square(64), batch_size: 1, subsets, ..DataConfig::default() };
        Arc::new(DataSet::open(&config, 1, 64).unwrap())
    }

    #[test]
    fn a_panic_of_a_thread_that_reads_is_an_error_with_the_name_of_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let data = data_of(folder.path(), &["0.png", "1.png", MAKES_READERS_PANIC, "3.png"]);
        for workers in [0, 1, 2] {
            let mut batches = Arc::clone(&data).prefetch(0, 0, workers);
            // Each image is due once an epoch; what was ready before the panic is handed out.
            let error = batches.by_ref().take(4).find_map(Result::err).expect("one of the four cannot be read");
            assert!(matches!(&error, DataError::Panicked { .. }), "{error}");
            let path = folder.path().join(MAKES_READERS_PANIC);
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert!(error.hint().is_some());
            assert!(batches.next().is_none(), "nothing comes after an error");
        }
    }

    #[test]
    fn a_panic_elsewhere_names_every_image_of_the_batch() {
        let folder = tempfile::tempdir().unwrap();
        let data = data_of(folder.path(), &["0.png", "1.png"]);
        let batches = Arc::clone(&data).prefetch(0, 0, 0);
        let mut plan = data.epoch_plan(0).remove(0);
        plan.visits.extend(data.epoch_plan(0)[1].visits.clone());
        let said = batches.shared.gave_up_at(&plan);
        assert!(said.contains("0.png`") && said.contains("1.png`"), "{said}");
    }

    /// While the next epoch is planned, which the lock of the cursor stands for here, batches that lie ready are handed out.
    #[test]
    fn planning_an_epoch_keeps_no_one_from_a_batch_that_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..8 {
            image::RgbImage::new(64, 64).save(folder.path().join(format!("{index}.png"))).unwrap();
            std::fs::write(folder.path().join(format!("{index}.txt")), "a").unwrap();
        }
        let subsets = vec![Subset { path: folder.path().to_owned(), ..Subset::default() }];
        let config = DataConfig { resolution: Resolution::Square(64), subsets, ..DataConfig::default() };
        let data = Arc::new(DataSet::open(&config, 1, 64).unwrap());
        let mut batches = data.prefetch(0, 0, 1);
        let shared = Arc::clone(&batches.shared);
        while (shared.lock().ready.len() as u64) < shared.capacity {
            thread::sleep(Duration::from_millis(1));
        }
        let (taken, is_taken) = mpsc::channel();
        let planning = shared.cursor.lock().unwrap();
        let consumer = thread::spawn(move || {
            for _ in 0..3 {
                let _ = taken.send(batches.next().unwrap().is_ok());
            }
            batches
        });
        for _ in 0..3 {
            assert_eq!(is_taken.recv_timeout(Duration::from_secs(20)), Ok(true));
        }
        drop(planning);
        drop(consumer.join().unwrap());
    }
}
