//! How long images take from their files to the numbers of a batch: `cargo run --release --example image_speed FOLDER`.

use std::sync::Arc;
use std::time::Instant;

use sdtrain_data_loader::DataSet;
use sdtrain_recipe::{CaptionConfig, DataConfig, MissingCaption, Subset};

/// Epochs that the worker threads read; the first one also fills the system's file cache.
const EPOCHS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder of images")?;
    let config = DataConfig {
        subsets: vec![Subset { path: folder.into(), ..Subset::default() }],
        caption: CaptionConfig { missing: MissingCaption::Empty },
        ..DataConfig::default()
    };
    let data = Arc::new(DataSet::open(&config, 0, 64)?);
    let mut milliseconds = Vec::new();
    for image in (0..data.images()).cycle().take(3 * data.images().max(8)) {
        let start = Instant::now();
        data.load_image(image, false)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    milliseconds.sort_by(f64::total_cmp);
    let images_a_second = |workers: usize| -> Result<f64, Box<dyn std::error::Error>> {
        // Every epoch has as many: nothing is carried over.
        let an_epoch = data.batches_of_epoch(0);
        let batches = (EPOCHS + 1) * an_epoch;
        let mut start = Instant::now();
        for (number, batch) in data.clone().prefetch(0, 0, workers).take(batches).enumerate() {
            batch?;
            if number + 1 == an_epoch {
                start = Instant::now();
            }
        }
        Ok((EPOCHS * data.images()) as f64 / start.elapsed().as_secs_f64())
    };
    println!(
        "{{\"images\": {}, \"milliseconds\": {:.3}, \"one_worker\": {:.2}, \"two_workers\": {:.2}}}",
        data.images(),
        milliseconds[milliseconds.len() / 2],
        images_a_second(1)?,
        images_a_second(2)?
    );
    Ok(())
}
