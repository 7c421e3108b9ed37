//! Says how long a data set of many files takes to open, and how much memory that needs.
//!
//! ```sh
//! cargo run --release --example scan_speed -- FOLDER make 1000000    # half images, half captions, a thousand in a folder
//! cargo run --release --example scan_speed -- FOLDER                 # a process for each start: memory is its peak
//! ```
//! What a start keeps for the next one lies below `$XDG_CACHE_HOME/sdtrain/scans`.

use std::error::Error;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use sdtrain_data_loader::DataSet;
use sdtrain_recipe::{DataConfig, Resolution, Subset};

/// Images in a folder.
const IN_A_FOLDER: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: scan_speed FOLDER [make COUNT]";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [folder] => open(Path::new(folder)),
        [folder, word, count] if word == "make" => make(Path::new(folder), count.parse()?),
        _ => Err(usage.into()),
    }
}

fn make(folder: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    let mut image = Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8 * 4, y as u8 * 5, (x * y) as u8]));
    picture.write_to(&mut image, image::ImageFormat::Jpeg)?;
    for number in 0..count / 2 {
        let folder = folder.join(format!("folder-{:04}", number / IN_A_FOLDER));
        if number % IN_A_FOLDER == 0 {
            fs::create_dir_all(&folder)?;
        }
        let file = folder.join(format!("picture-{number:07}.jpg"));
        fs::write(&file, image.get_ref())?;
        let caption =
            format!("picture number {number} of many, a poster with a red bottle, flat colours, 1960s, print");
        fs::write(file.with_extension("txt"), caption)?;
    }
    println!("made {} files in `{}`", count / 2 * 2, folder.display());
    Ok(())
}

fn open(folder: &Path) -> Result<(), Box<dyn Error>> {
    let config = DataConfig {
        subsets: vec![Subset { path: folder.to_owned(), ..Subset::default() }],
        resolution: Resolution::Square(64),
        batch_size: 4,
        ..DataConfig::default()
    };
    let start = Instant::now();
    let data = DataSet::open(&config, 0, 16)?;
    let opened = start.elapsed().as_secs_f64();
    let batches = data.epoch_plan(1).len();
    println!(
        "{} images opened in {opened:.1} s, an epoch of {batches} batches planned after {:.1} s; peak memory {}",
        data.images(),
        start.elapsed().as_secs_f64(),
        peak_memory().unwrap_or_else(|| "not known".to_owned())
    );
    for warning in &data.report().warnings {
        println!("warning: {warning}");
    }
    Ok(())
}

/// Largest resident memory of this process so far, as Linux states it.
fn peak_memory() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(format!("{:.0} MB", kibibytes * 1024.0 / 1e6))
}
