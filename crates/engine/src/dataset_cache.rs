//! `sdtrain dataset cache`.

use crate::failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sdtrain::args::DatasetCacheArgs;
use sdtrain::{Failure, print_answer};
use sdtrain_recipe::{Loaded, TrainConfig};
use sdtrain_trainer::fill_latent_cache;
use std::cell::OnceCell;
use std::io::IsTerminal;
use std::time::Duration;

/// Encodes what the cache does not hold, and says what it found and made.
pub fn run(args: &DatasetCacheArgs) -> Result<(), Failure> {
    let Loaded { config, .. } = TrainConfig::load(&args.config.config, &args.config.set)?;
    let is_terminal = std::io::stderr().is_terminal();
    // Begins with the first image, not while the model is being loaded.
    let bar = OnceCell::new();
    let mut progress = |done: usize, total: usize| match is_terminal {
        true => bar.get_or_init(|| progress_bar(total)).set_position(done as u64),
        false => line_at_every_tenth(done, total),
    };
    let mut announce = |text: &str| eprintln!("{text}");
    let filled = fill_latent_cache(&config, &args.device.to_string(), args.import_npz, &mut announce, &mut progress);
    if let Some(bar) = bar.get() {
        bar.abandon();
    }
    let report = filled.map_err(failure::of)?;
    for file in &report.refused {
        eprintln!("not taken: {file}");
    }
    for image in &report.unreadable {
        eprintln!("left out: {image}");
    }
    print_answer(&format!("{}\n", report.text()));
    Ok(())
}

fn progress_bar(total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{pos}/{len} images {wide_bar} {percent:>3}%  eta {eta}  [{elapsed}]")
        .expect("the template is well formed");
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(8))
        .with_style(style.progress_chars("━╸─"))
        .with_finish(ProgressFinish::Abandon);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// For a log file: ten lines, however many images there are.
fn line_at_every_tenth(done: usize, total: usize) {
    let tenth = |images: usize| images * 10 / total.max(1);
    if tenth(done) > tenth(done - 1) {
        eprintln!("encoded {done} of {total} images");
    }
}
