//! The run that the harness kills, starves and cuts off: every durable save is acknowledged on standard output.
//!
//! `crash-driver FOLDER STEPS EVERY KEEP_LAST BUILD PACE_MS`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use sdtrain_checkpoint::FolderLock;
use sdtrain_checkpoint::vfs::RealVfs;
use sdtrain_crash::run::{Failure, Plan, Surroundings, live};
use sdtrain_data_loader::{PIXELS_VERSION, StillView};
use sdtrain_feature_cache::{EncoderIdentity, EntryName, Found, LatentEntry, LatentFolder, LatentKey, Moments, Origin};
use sdtrain_recipe::{AlphaConfig, ResizeKernel};
use sdtrain_run_log::{JsonLines, MetricSink, StepMetrics};
use sdtrain_state_dict::Dtype;

const SHAPE: [usize; 3] = [4, 8, 8];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, steps, every, keep_last, build, pace] = &arguments[..] else {
        eprintln!("usage: crash-driver FOLDER STEPS EVERY KEEP_LAST BUILD PACE_MS");
        return ExitCode::from(2);
    };
    let numbers = || Some((steps.parse().ok()?, every.parse().ok()?, keep_last.parse().ok()?, pace.parse().ok()?));
    let Some((steps, every, keep_last, pace)) = numbers() else {
        eprintln!("STEPS, EVERY, KEEP_LAST and PACE_MS are whole numbers");
        return ExitCode::from(2);
    };
    let plan = Plan { steps, every, keep_last, build: build.clone() };
    match run(Path::new(folder), &plan, Duration::from_millis(pace)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            if let Failure::Checkpoint(error) = &failure
                && let Some(hint) = error.hint()
            {
                eprintln!("  hint: {hint}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(folder: &Path, plan: &Plan, pace: Duration) -> Result<(), Failure> {
    let _lock = FolderLock::acquire(folder)?;
    let mut around = Process { folder: folder.to_owned(), log: None, cache: None, pace };
    around.say("locked");
    live(&RealVfs, folder, plan, &mut around)
}

struct Process {
    folder: PathBuf,
    log: Option<JsonLines>,
    cache: Option<LatentFolder>,
    pace: Duration,
}

impl Surroundings for Process {
    fn begin(&mut self, resumed: Option<u64>) -> Result<(), Failure> {
        self.log = Some(JsonLines::open(&self.folder, resumed)?);
        self.cache = Some(LatentFolder::open(&self.folder.join("cache"))?);
        Ok(())
    }

    fn step(&mut self, step: u64) -> Result<(), Failure> {
        std::thread::sleep(self.pace);
        if let Some(cache) = &self.cache {
            let (name, entry) = entry((step % 5) as u8);
            match cache.read(&name, SHAPE)? {
                Found::Entry(found) if found == entry => (),
                Found::Entry(_) => {
                    return Err(Failure::Wrong("the cache gave the numbers of another image".to_owned()));
                }
                Found::Missing => cache.write(&name, &entry)?,
                Found::Damaged { reason, .. } => {
                    say(&format!("damaged cache entry {reason}"));
                    cache.write(&name, &entry)?;
                }
            }
        }
        if let Some(log) = &mut self.log {
            let lrs = vec![("unet".to_owned(), 1e-4)];
            log.step(&StepMetrics {
                step,
                epoch: 0,
                loss: 0.5,
                lrs,
                grad_norm: None,
                seconds: 0.1,
                data_wait_seconds: 0.0,
                images: 1,
            });
            if let Some(warning) = log.take_warning() {
                eprintln!("warning: {warning}");
            }
        }
        Ok(())
    }

    fn say(&mut self, line: &str) {
        say(line);
    }
}

/// One call, so that no line is ever half-said. If nobody listens any more, there is nobody to tell.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush());
}

/// An entry as an encoder would give it for one of a few images.
fn entry(image: u8) -> (EntryName, LatentEntry) {
    let view = StillView {
        original_size: (64, 64),
        resized: (64, 64),
        corner: (0, 0),
        bucket: (64, 64),
        resize_kernel: ResizeKernel::Auto,
        alpha: AlphaConfig::default(),
        pixels_version: PIXELS_VERSION,
    };
    let encoder = EncoderIdentity { digest: [7; 32], compute: Dtype::F32, latent_channels: 4, downscale_factor: 8 };
    let name = LatentKey { image: &[image; 32], view: &view, encoder: &encoder }.name();
    let numbers = |from: f32| (0..SHAPE.iter().product()).map(|index: usize| from + index as f32 / 100.0).collect();
    let plain = Moments { mean: numbers(f32::from(image)), logvar: numbers(-f32::from(image)) };
    (name, LatentEntry { shape: SHAPE, plain, mirrored: None, origin: Origin::Encoded })
}
