//! Progress for whoever watches: a bar on a terminal, a line now and then elsewhere; always on stderr.

use crate::terminal::Terminal;
use crate::window::{LOSS_WINDOW, Window};
use crate::{MetricSink, StepMetrics};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sdtrain_files::say;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Steps over which the pace is averaged: enough to be calm, few enough to follow a change of bucket sizes.
const PACE_WINDOW: usize = 20;

/// How the run's progress is shown.
#[derive(Debug, Clone)]
pub struct ConsoleOptions {
    /// Steps of the whole run, where known.
    pub total_steps: Option<u64>,
    /// Epochs of the whole run, where known.
    pub total_epochs: Option<u64>,
    /// Steps done before this process began (a resumed run).
    pub steps_done: u64,
    /// Without a terminal: a line every so many steps.
    pub every_steps: u64,
    /// Without a terminal: no line sooner than this after the one before. First and last step always get theirs.
    pub not_before: Duration,
}

impl Default for ConsoleOptions {
    fn default() -> Self {
        ConsoleOptions {
            total_steps: None,
            total_epochs: None,
            steps_done: 0,
            every_steps: 10,
            not_before: Duration::from_secs(5),
        }
    }
}

/// Step, epoch, smoothed loss, pace and time left.
pub struct Console {
    options: ConsoleOptions,
    output: Output,
    losses: Window,
    seconds: Window,
    first_line_written: bool,
    last_line_at: Instant,
}

enum Output {
    Bar(ProgressBar),
    Lines(Box<dyn FnMut(&str) + Send>),
}

impl Console {
    /// A bar if stderr is a terminal that can move its cursor, else lines.
    pub fn new(options: ConsoleOptions) -> Console {
        let moves_cursor = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let output = if std::io::stderr().is_terminal() && moves_cursor {
            Output::Bar(bar(&options))
        } else {
            Output::Lines(Box::new(|line: &str| say!("{line}")))
        };
        Console::with_output(options, output)
    }

    fn with_output(options: ConsoleOptions, output: Output) -> Console {
        Console {
            options,
            output,
            losses: Window::new(LOSS_WINDOW),
            seconds: Window::new(PACE_WINDOW),
            first_line_written: false,
            last_line_at: Instant::now(),
        }
    }

    fn is_due(&self, step: u64) -> bool {
        !self.first_line_written
            || self.options.total_steps == Some(step)
            || step.is_multiple_of(self.options.every_steps.max(1))
                && self.last_line_at.elapsed() >= self.options.not_before
    }

    fn epoch(&self, epoch: u64) -> String {
        match self.options.total_epochs {
            Some(total) => format!("epoch {epoch}/{total}"),
            None => format!("epoch {epoch}"),
        }
    }

    fn loss_and_pace(&self) -> String {
        let loss = self.losses.mean().map_or("-".to_owned(), |mean| format!("{mean:.4}"));
        match self.seconds.mean() {
            Some(seconds) => format!("loss {loss}  {:.2} it/s", 1.0 / seconds.max(1e-9)),
            None => format!("loss {loss}"),
        }
    }

    fn time_left(&self, step: u64) -> Option<String> {
        let steps = self.options.total_steps?.saturating_sub(step);
        Some(readable(self.seconds.mean()? * steps as f64))
    }

    fn line(&self, metrics: &StepMetrics) -> String {
        let step = match self.options.total_steps {
            Some(total) => format!("step {}/{total} ({}%)", metrics.step, 100 * metrics.step / total.max(1)),
            None => format!("step {}", metrics.step),
        };
        let lrs = rates(&metrics.lrs);
        let left = self.time_left(metrics.step).map_or(String::new(), |left| format!("  eta {left}"));
        format!("{step}  {}  {}{lrs}{left}", self.epoch(metrics.epoch), self.loss_and_pace())
    }
}

/// Each group's rate, or where they are many from which to which they go.
fn rates(lrs: &[(String, f64)]) -> String {
    const MANY: usize = 4;
    if lrs.len() <= MANY {
        return lrs.iter().map(|(group, lr)| format!("  lr/{group} {lr:.2e}")).collect();
    }
    let least = lrs.iter().map(|(_, lr)| *lr).fold(f64::INFINITY, f64::min);
    let most = lrs.iter().map(|(_, lr)| *lr).fold(0.0, f64::max);
    format!("  lr {least:.2e} to {most:.2e} in {} groups", lrs.len())
}

impl MetricSink for Console {
    fn step(&mut self, metrics: &StepMetrics) {
        self.losses.push(metrics.loss);
        self.seconds.push(metrics.seconds);
        let due = self.is_due(metrics.step);
        if let Output::Bar(bar) = &self.output {
            let left = self.time_left(metrics.step).map_or(String::new(), |left| format!("  eta {left}"));
            bar.set_position(metrics.step);
            bar.set_prefix(self.epoch(metrics.epoch));
            bar.set_message(format!("{}{left}", self.loss_and_pace()));
        } else if due {
            let line = self.line(metrics);
            self.message(&line);
            self.first_line_written = true;
            self.last_line_at = Instant::now();
        }
    }

    fn message(&mut self, line: &str) {
        match &mut self.output {
            // `println` of the bar is a drawing like others, which a terminal that is held does not get.
            Output::Bar(bar) => bar.suspend(|| say!("{line}")),
            Output::Lines(write) => write(line),
        }
    }

    fn finish(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.abandon();
        }
    }
}

fn bar(options: &ConsoleOptions) -> ProgressBar {
    let template = match options.total_steps {
        Some(_) => "{prefix}  {pos}/{len} {wide_bar} {percent:>3}%  {msg}  [{elapsed}]",
        None => "{prefix}  step {pos} {spinner}  {wide_msg} [{elapsed}]",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are well formed");
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(Terminal::stderr()), 8);
    let bar = ProgressBar::with_draw_target(options.total_steps, target)
        .with_style(style.progress_chars("━╸─"))
        .with_finish(ProgressFinish::Abandon); // an error leaves the last state on the screen, too
    bar.set_position(options.steps_done);
    bar.set_prefix("starting");
    // A step may take many seconds; the clock shows that the program lives.
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A duration to two places: `45s`, `13m 20s`, `1h 02m`, `3d 04h`.
fn readable(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::metrics;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Written(Arc<Mutex<Vec<String>>>);

    impl Written {
        fn lines(&self) -> Vec<String> {
            self.0.lock().expect("no test panics while it holds this").clone()
        }
    }

    fn console(written: &Written, not_before: Duration) -> Console {
        let options =
            ConsoleOptions { total_steps: Some(25), every_steps: 10, not_before, ..ConsoleOptions::default() };
        let lines = written.0.clone();
        let write = move |line: &str| lines.lock().expect("no test panics while it holds this").push(line.to_owned());
        Console::with_output(options, Output::Lines(Box::new(write)))
    }

    #[test]
    fn without_a_terminal_the_first_the_last_and_every_nth_step_get_a_line() {
        let written = Written::default();
        let mut console = console(&written, Duration::ZERO);
        (1..=25).for_each(|step| console.step(&metrics(step)));
        let lines = written.lines();
        let begins = ["step 1/25 (4%)  ", "step 10/25 (40%)  ", "step 20/25 (80%)  ", "step 25/25 (100%)  "];
        assert_eq!(lines.len(), begins.len());
        assert!(lines.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{lines:?}");
        assert_eq!(
            lines[1],
            "step 10/25 (40%)  epoch 1  loss 0.5000  2.00 it/s  lr/unet 1.00e-4  lr/text_encoder 5.00e-5  eta 8s"
        );
    }

    #[test]
    fn many_groups_do_not_flood_a_line() {
        let lrs: Vec<(String, f64)> =
            (0..25).map(|block| (format!("unet.block_{block:02}"), 1e-5 * block as f64)).collect();
        assert_eq!(rates(&lrs), "  lr 0.00e0 to 2.40e-4 in 25 groups");
        assert_eq!(rates(&lrs[1..2]), "  lr/unet.block_01 1.00e-5");
    }

    #[test]
    fn fast_steps_do_not_flood_a_log_file() {
        let written = Written::default();
        let mut console = console(&written, Duration::from_secs(3600));
        (1..=25).for_each(|step| console.step(&metrics(step)));
        assert_eq!(written.lines().len(), 2);
    }

    #[test]
    fn a_run_without_a_known_end_still_has_a_pace() {
        let written = Written::default();
        let mut console = console(&written, Duration::ZERO);
        console.options.total_steps = None;
        console.step(&metrics(3));
        assert!(written.lines()[0].starts_with("step 3  epoch 1  loss 0.5000  2.00 it/s"), "{:?}", written.lines());
    }

    #[test]
    fn durations_are_readable() {
        let all = [0.4, 45.0, 800.0, 3725.0, 273_700.0].map(readable);
        assert_eq!(all, ["0s", "45s", "13m 20s", "1h 02m", "3d 04h"]);
    }
}
