//! How long an image takes from its file to the numbers of a batch: `cargo run --release --example image_speed FOLDER`.

use std::time::Instant;

use sdtrain_data_loader::DataSet;
use sdtrain_recipe::{CaptionConfig, DataConfig, MissingCaption, Subset};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder of images")?;
    let config = DataConfig {
        subsets: vec![Subset { path: folder.into(), ..Subset::default() }],
        caption: CaptionConfig { missing: MissingCaption::Empty },
        ..DataConfig::default()
    };
    let data = DataSet::open(&config, 0, 64)?;
    for image in 0..data.images() {
        let mut milliseconds = Vec::new();
        for _ in 0..25 {
            let start = Instant::now();
            data.load_image(image, false)?;
            milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        milliseconds.sort_by(f64::total_cmp);
        let (bucket, path) = (data.placement(image).bucket, data.path(image).display());
        println!(
            "{:6.2} ms, fastest {:6.2} ms, to {} × {}: {path}",
            milliseconds[12], milliseconds[0], bucket.0, bucket.1
        );
    }
    Ok(())
}
