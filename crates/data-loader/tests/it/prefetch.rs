//! Reading ahead: the same batches in the same order, and no thread left behind.

use std::sync::Arc;

use sdtrain_data_loader::{DataSet, HostBatch};
use sdtrain_recipe::{DataConfig, Subset};

use crate::folder::Folder;

fn data(folder: &Folder) -> Arc<DataSet> {
    let subset = Subset { flip: true, random_crop: true, shuffle_caption: true, repeats: 2.0, ..folder.subset() };
    Arc::new(DataSet::open(&DataConfig { subsets: vec![subset], ..folder.config() }, 42, 64).unwrap())
}

/// The batches from a point on, as plain loading gives them.
fn straight(data: &DataSet, mut epoch: u64, mut batch: usize, count: usize) -> Vec<HostBatch> {
    let mut batches = Vec::new();
    while batches.len() < count {
        let plans = data.epoch_plan(epoch);
        for plan in &plans[batch.min(plans.len())..] {
            batches.push(data.load(plan, epoch).unwrap());
        }
        (epoch, batch) = (epoch + 1, 0);
    }
    batches.truncate(count);
    batches
}

#[test]
fn any_number_of_workers_gives_the_same_batches() {
    let folder = Folder::with_images(7);
    let data = data(&folder);
    let expected = straight(&data, 0, 0, 20);
    for workers in [0, 1, 2, 8] {
        let batches: Vec<HostBatch> =
            Arc::clone(&data).prefetch(0, 0, workers).take(20).collect::<Result<_, _>>().unwrap();
        assert!(batches == expected, "{workers} workers");
    }
}

#[test]
fn starts_in_the_middle_of_an_epoch() {
    let folder = Folder::with_images(7);
    let data = data(&folder);
    let per_epoch = data.batches_of_epoch(0);
    for start in [1, 3, per_epoch - 1, per_epoch] {
        let batches: Vec<HostBatch> =
            Arc::clone(&data).prefetch(2, start, 2).take(9).collect::<Result<_, _>>().unwrap();
        assert!(batches == straight(&data, 2, start, 9), "from batch {start}");
    }
}

#[test]
fn reads_only_a_few_batches_ahead() {
    let folder = Folder::with_images(7);
    let data = data(&folder);
    let mut batches = Arc::clone(&data).prefetch(0, 0, 2);
    batches.next().unwrap().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    // Would the workers run on, they would soon meet the files that are gone now.
    for index in 0..7 {
        std::fs::remove_file(folder.join(&format!("{index:02}.png"))).unwrap();
    }
    let read_ahead = batches.by_ref().take_while(Result::is_ok).count();
    assert_eq!(read_ahead, 4);
}

#[test]
fn an_error_names_the_file_and_ends_the_row() {
    let folder = Folder::with_images(7);
    let data = data(&folder);
    std::fs::remove_file(folder.join("03.png")).unwrap();
    for workers in [0, 2] {
        let mut batches = Arc::clone(&data).prefetch(0, 0, workers);
        let error = batches.find_map(Result::err).unwrap().to_string();
        assert!(error.contains("03.png"), "{error}");
        assert!(batches.next().is_none());
    }
}

#[test]
fn dropping_it_stops_its_threads() {
    let folder = Folder::with_images(7);
    let data = data(&folder);
    let mut batches = Arc::clone(&data).prefetch(0, 0, 4);
    batches.next().unwrap().unwrap();
    drop(batches);
    assert_eq!(Arc::strong_count(&data), 1, "a worker still holds the data set");
}
