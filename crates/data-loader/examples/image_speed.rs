//! How long images take from their files to the numbers of a batch: `cargo run --release --example image_speed FOLDER`.
//!
//! Two workers are held against two processes of one worker each, which share nothing but the machine: where those are no
//! faster, it is the machine that does not have twice the speed.

use std::error::Error;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use sdtrain_data_loader::DataSet;
use sdtrain_recipe::{CaptionConfig, DataConfig, MissingCaption, Subset};

/// Images that worker threads read in one measurement, at least; as many before it fill the system's file cache.
const IMAGES: usize = 256;
/// The ways take turns, so that whatever else runs slows all of them down; the medians count.
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder of images")?;
    let is_one_of_two = std::env::args().nth(2).is_some();
    let config = DataConfig {
        subsets: vec![Subset { path: folder.clone().into(), ..Subset::default() }],
        caption: CaptionConfig { missing: MissingCaption::Empty },
        ..DataConfig::default()
    };
    let data = Arc::new(DataSet::open(&config, 0, 64)?);
    if is_one_of_two {
        println!("{}", images_a_second(&data, 1)?);
        return Ok(());
    }
    let mut milliseconds = Vec::new();
    for image in (0..data.images()).cycle().take(3 * data.images().max(8)) {
        let start = Instant::now();
        data.load_image(image, false)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        rates[0].push(images_a_second(&data, 1)?);
        rates[1].push(images_a_second(&data, 2)?);
        rates[2].push(of_two_processes(&folder)?);
    }
    let [one, two, processes] = rates.map(median);
    println!(
        "{{\"images\": {}, \"milliseconds\": {:.3}, \"one_worker\": {one:.2}, \"two_workers\": {two:.2}, \
         \"two_processes\": {processes:.2}}}",
        data.images(),
        median(milliseconds),
    );
    Ok(())
}

/// What a consumer gets that does nothing with them.
fn images_a_second(data: &Arc<DataSet>, workers: usize) -> Result<f64, Box<dyn Error>> {
    // Every epoch has as many batches: nothing is carried over.
    let an_epoch = data.batches_of_epoch(0);
    let epochs = IMAGES.div_ceil(data.images());
    let mut start = Instant::now();
    for (number, batch) in data.clone().prefetch(0, 0, workers).take(2 * epochs * an_epoch).enumerate() {
        batch?;
        if number + 1 == epochs * an_epoch {
            start = Instant::now();
        }
    }
    Ok((epochs * data.images()) as f64 / start.elapsed().as_secs_f64())
}

/// The same by two processes at a time.
fn of_two_processes(folder: &str) -> Result<f64, Box<dyn Error>> {
    let start = || Command::new(std::env::current_exe()?).args([folder, "one"]).stdout(Stdio::piped()).spawn();
    let mut rate = 0.0;
    for process in [start()?, start()?] {
        let answer = String::from_utf8(process.wait_with_output()?.stdout)?;
        rate += answer.trim().parse::<f64>()?;
    }
    Ok(rate)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
