//! What a run writes while it goes: progress, metrics, TensorBoard files and `run.json`.
#![doc = include_str!("../README.md")]

mod console;
mod error;
mod jsonl;
mod run_json;
mod tensorboard;
mod terminal;
mod window;

pub use self::console::{Console, ConsoleOptions};
pub use error::Error;
pub use image::RgbImage;
pub use jsonl::{JsonLines, SCALARS};
pub use run_json::{
    Device, InputFile, Outcome, Program, RunRecord, git_commit, graphics_processor_names, instruction_set,
    peak_memory_bytes, processor_name, program_digest,
};
pub use tensorboard::TensorBoard;

/// What one optimizer step measured.
#[derive(Debug, Clone, PartialEq)]
pub struct StepMetrics {
    /// Optimizer steps done since the training began, this one included (the first is 1).
    pub step: u64,
    /// Epoch the step belongs to, as the trainer counts them.
    pub epoch: u64,
    /// The step's loss, mean over its micro-batches.
    pub loss: f64,
    /// Learning rate of every parameter group, with the group's name.
    pub lrs: Vec<(String, f64)>,
    /// Norm of the gradient over all trained tensors before clipping, where it was computed.
    pub grad_norm: Option<f64>,
    /// Wall time of the step, data loading included, saving and sampling not.
    pub seconds: f64,
    /// The part of it that went into waiting for images and captions, and reading what is kept of them.
    pub data_wait_seconds: f64,
    /// Images the step trained on.
    pub images: u64,
}

impl StepMetrics {
    /// Images trained on per second of this step.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.seconds.max(1e-9)
    }
}

/// One place where a run's measurements go. No method fails: what goes wrong comes out of `take_warning`.
pub trait MetricSink: Send {
    /// After every optimizer step.
    fn step(&mut self, metrics: &StepMetrics);

    /// Any other number, under a tag such as `validation/loss`.
    fn scalar(&mut self, _tag: &str, _step: u64, _value: f64) {}

    /// A picture, such as a sample; one for each tag and step.
    fn image(&mut self, _tag: &str, _step: u64, _image: &RgbImage) {}

    /// A text (Markdown), such as the resolved configuration.
    fn text(&mut self, _tag: &str, _step: u64, _text: &str) {}

    /// A line for whoever watches the run: "saved checkpoints/step-000250".
    fn message(&mut self, _line: &str) {}

    /// Everything so far becomes visible to others; called before a checkpoint.
    fn flush(&mut self) {}

    /// The run's folder was made anew after `step`, since it was deleted or moved: files go on under their names. What is lost of
    /// the steps before comes out of `take_warning`.
    fn reopen(&mut self, _step: u64) {}

    /// The run is over, well or not; nothing comes after this.
    fn finish(&mut self) {}

    /// What went wrong since the last call, once for each kind of trouble.
    fn take_warning(&mut self) -> Option<String> {
        None
    }
}

/// All sinks of a run behind one; their warnings become messages.
#[derive(Default)]
pub struct RunLog {
    sinks: Vec<Box<dyn MetricSink>>,
}

impl RunLog {
    /// A log that goes nowhere yet.
    pub fn new() -> RunLog {
        RunLog::default()
    }

    /// The log with one more place to go to.
    pub fn with(mut self, sink: impl MetricSink + 'static) -> RunLog {
        self.sinks.push(Box::new(sink));
        self
    }

    fn each(&mut self, mut tell: impl FnMut(&mut dyn MetricSink)) {
        for sink in &mut self.sinks {
            tell(sink.as_mut());
        }
        let warnings: Vec<String> = self.sinks.iter_mut().filter_map(|sink| sink.take_warning()).collect();
        for warning in warnings {
            for sink in &mut self.sinks {
                sink.message(&format!("warning: {warning}"));
            }
        }
    }
}

impl MetricSink for RunLog {
    fn step(&mut self, metrics: &StepMetrics) {
        self.each(|sink| sink.step(metrics));
    }

    fn scalar(&mut self, tag: &str, step: u64, value: f64) {
        self.each(|sink| sink.scalar(tag, step, value));
    }

    fn image(&mut self, tag: &str, step: u64, image: &RgbImage) {
        self.each(|sink| sink.image(tag, step, image));
    }

    fn text(&mut self, tag: &str, step: u64, text: &str) {
        self.each(|sink| sink.text(tag, step, text));
    }

    fn message(&mut self, line: &str) {
        self.each(|sink| sink.message(line));
    }

    fn flush(&mut self) {
        self.each(|sink| sink.flush());
    }

    fn reopen(&mut self, step: u64) {
        self.each(|sink| sink.reopen(step));
    }

    // Last first: the console was added before the sinks whose last warnings it is to show.
    fn finish(&mut self) {
        for index in (0..self.sinks.len()).rev() {
            self.sinks[index].finish();
            if let Some(warning) = self.sinks[index].take_warning() {
                self.message(&format!("warning: {warning}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    pub(crate) fn metrics(step: u64) -> StepMetrics {
        let lrs = vec![("unet".to_owned(), 1e-4), ("text_encoder".to_owned(), 5e-5)];
        StepMetrics {
            step,
            epoch: 1,
            loss: 0.5,
            lrs,
            grad_norm: Some(1.25),
            seconds: 0.5,
            data_wait_seconds: 0.125,
            images: 4,
        }
    }

    struct Broken;
    impl MetricSink for Broken {
        fn step(&mut self, _: &StepMetrics) {}
        fn take_warning(&mut self) -> Option<String> {
            Some("the disk is full".to_owned())
        }
    }

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);
    impl MetricSink for Heard {
        fn step(&mut self, metrics: &StepMetrics) {
            self.0.lock().expect("no test panics while it holds this").push(format!("step {}", metrics.step));
        }
        fn message(&mut self, line: &str) {
            self.0.lock().expect("no test panics while it holds this").push(line.to_owned());
        }
    }

    #[test]
    fn warnings_of_one_sink_are_messages_of_the_others() {
        let heard = Heard::default();
        let mut log = RunLog::new().with(heard.clone()).with(Broken);
        log.step(&metrics(7));
        assert_eq!(*heard.0.lock().expect("unlocked"), ["step 7", "warning: the disk is full"]);
    }

    #[test]
    fn a_step_knows_its_images_per_second() {
        assert_eq!(metrics(1).images_per_second(), 8.0);
    }
}
