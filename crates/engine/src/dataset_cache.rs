//! `sdtrain dataset cache`.

use crate::failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sdtrain::args::DatasetCacheArgs;
use sdtrain::{Failure, print_answer};
use sdtrain_files::say;
use sdtrain_recipe::{Loaded, TrainConfig};
use sdtrain_trainer::{Prefill, Watcher, fill_cache};
use std::io::IsTerminal;
use std::time::Duration;

/// Encodes what the cache does not hold, takes out what is not used if told to, and says what it found and made.
pub fn run(args: &DatasetCacheArgs) -> Result<(), Failure> {
    let Loaded { config, .. } = TrainConfig::load(&args.config.config, &args.config.set)?;
    let mut keep_for = Vec::new();
    for path in &args.keep_for {
        keep_for.push(TrainConfig::load(path, &[])?.config);
    }
    let prefill = Prefill { device: args.device.to_string(), import_npz: args.import_npz, prune: args.prune, keep_for };
    let mut watcher = Terminal { bar: None };
    let filled = fill_cache(&config, &prefill, &mut watcher);
    watcher.end_bar();
    let report = filled.map_err(failure::of)?;
    for file in &report.refused {
        say!("not taken: {file}");
    }
    for image in &report.unreadable {
        say!("left out: {image}");
    }
    print_answer(&format!("{}\n", report.text()));
    Ok(())
}

/// What is told while it goes.
struct Terminal {
    /// Begins with the first of its kind, not while the model is being loaded.
    bar: Option<(&'static str, ProgressBar)>,
}

impl Terminal {
    fn end_bar(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.abandon();
        }
    }
}

impl Watcher for Terminal {
    fn announce(&mut self, text: &str) {
        self.end_bar();
        say!("{text}");
    }

    fn progress(&mut self, what: &'static str, done: usize, total: usize) {
        if !std::io::stderr().is_terminal() {
            return line_at_every_tenth(what, done, total);
        }
        if self.bar.as_ref().is_none_or(|(of, _)| *of != what) {
            self.end_bar();
        }
        let (_, bar) = self.bar.get_or_insert_with(|| (what, progress_bar(what, total)));
        bar.set_position(done as u64);
    }
}

fn progress_bar(what: &str, total: usize) -> ProgressBar {
    let template = format!("{{pos}}/{{len}} {what} {{wide_bar}} {{percent:>3}}%  eta {{eta}}  [{{elapsed}}]");
    let style = ProgressStyle::with_template(&template).expect("the template is well formed");
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(8))
        .with_style(style.progress_chars("━╸─"))
        .with_finish(ProgressFinish::Abandon);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// For a log file: ten lines, however many there are.
fn line_at_every_tenth(what: &str, done: usize, total: usize) {
    let tenth = |done: usize| done * 10 / total.max(1);
    if tenth(done) > tenth(done - 1) {
        say!("encoded {done} of {total} {what}");
    }
}
