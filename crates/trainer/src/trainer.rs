//! The run itself: epochs, what happens every so many steps, and the end.

use crate::batches::{Batch, Batches};
use crate::error::{Error, Result};
use crate::objective::Objective;
use crate::precision::kind_of;
use crate::samples;
use crate::step::{Step, StepOutcome};
use crate::trace::Trace;
use crate::trainable::Trainable;
use crate::validation::Validation;
use sdtrain_data_loader::DataSet;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::{GradScaler, Optimizer, learning_rate_factor};
use sdtrain_pipeline::Request;
use sdtrain_recipe::TrainConfig;
use sdtrain_run_log::{Console, ConsoleOptions, JsonLines, MetricSink, RunLog, StepMetrics, TensorBoard};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything a run works with.
pub(crate) struct Trainer {
    pub config: TrainConfig,
    pub output: PathBuf,
    pub model: StableDiffusion,
    pub data: Arc<DataSet>,
    pub trainable: Box<dyn Trainable>,
    pub objective: Box<dyn Objective>,
    pub optimizer: Box<dyn Optimizer>,
    pub scaler: Option<GradScaler>,
    pub validation: Option<Validation>,
    pub sample_request: Option<Request>,
    pub metadata: BTreeMap<String, String>,
    pub trace: Option<Trace>,
    pub total_steps: u64,
    pub clip_skip: usize,
    pub started: Instant,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All steps are done; these files are the product.
    Done(Vec<PathBuf>),
    /// A signal stopped it after it had saved a checkpoint at this step.
    Stopped(u64),
}

/// Where a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Optimizer steps done.
    pub step: u64,
    /// Epochs complete.
    pub epoch: u64,
    /// Batches of the current epoch done.
    pub batch: usize,
    /// Forward passes done.
    pub passes: u64,
}

impl Trainer {
    pub fn run(mut self) -> Result<Outcome> {
        fs::create_dir_all(&self.output).map_err(|error| Error::storage(&self.output, error))?;
        let mut log = self.open_log()?;
        let mut position = Position::default();
        let with_pixels = self.objective.wants_pixels();
        let workers = self.config.data.workers;
        let mut batches = Batches::new(&self.data, with_pixels, position.epoch, position.batch, workers);
        if position.step == 0 {
            self.validate(&mut log, 0)?;
            self.sample(&mut log, 0)?;
        }
        while position.step < self.total_steps {
            let step_started = Instant::now();
            let taken = self.take_batches(&mut batches, &position)?;
            let rates = self.learning_rates(position.step);
            let outcome = self.step(&taken, &rates, position.passes)?;
            let epoch_ended = self.advance(&mut position, taken.len());
            self.check_finite(&outcome, &taken, position.step)?;
            let names = self.optimizer.groups().iter().map(|group| group.name.clone());
            log.step(&StepMetrics {
                step: position.step,
                epoch: position.epoch + u64::from(!epoch_ended),
                loss: outcome.loss,
                lrs: names.zip(rates.iter().copied()).collect(),
                grad_norm: Some(outcome.grad_norm),
                seconds: step_started.elapsed().as_secs_f64(),
                images: taken.iter().map(|batch| batch.examples.len() as u64).sum(),
            });
            if position.step == 1 {
                log.scalar("seconds_to_first_step", 1, self.started.elapsed().as_secs_f64());
            }
            if let Some(trace) = &mut self.trace
                && trace.record(position.step, &outcome, &rates, self.optimizer.groups())?
            {
                self.trace = None;
            }
            self.after_step(&mut log, &position, epoch_ended)?;
        }
        let product = self.save_product(&self.config.name.clone())?;
        for path in &product {
            log.message(&format!("saved {}", path.display()));
        }
        if self.config.samples.every().is_never() || !self.due(self.config.samples.every(), &position, false) {
            self.sample(&mut log, position.step)?;
        }
        log.finish();
        Ok(Outcome::Done(product))
    }

    fn open_log(&self) -> Result<RunLog> {
        let options = ConsoleOptions {
            total_steps: Some(self.total_steps),
            total_epochs: None,
            steps_done: 0,
            every_steps: self.config.log.every_steps,
            not_before: Duration::from_secs(2),
        };
        let mut log = RunLog::new().with(Console::new(options));
        if self.config.log.jsonl {
            log = log.with(JsonLines::open(&self.output, None).map_err(|error| Error::storage(&self.output, error))?);
        }
        if self.config.log.tensorboard {
            log = log.with(TensorBoard::open(&self.output.join("tensorboard"), None));
        }
        Ok(log)
    }

    /// The batches of one optimizer step: as many as are accumulated, but never across the end of an epoch.
    fn take_batches(&self, batches: &mut Batches, position: &Position) -> Result<Vec<Batch>> {
        let left = self.data.batches_per_epoch() - position.batch;
        let count = (self.config.train.gradient_accumulation_steps as usize).clamp(1, left);
        (0..count).map(|_| batches.next()).collect()
    }

    /// The rate of each group at `step`, counted from 0.
    fn learning_rates(&self, step: u64) -> Vec<f64> {
        let factor = learning_rate_factor(&self.config.lr_schedule, step, self.total_steps);
        self.optimizer.groups().iter().map(|group| group.learning_rate * factor).collect()
    }

    fn step(&mut self, batches: &[Batch], rates: &[f64], first_pass: u64) -> Result<StepOutcome> {
        Step {
            model: &self.model,
            trainable: self.trainable.as_ref(),
            objective: self.objective.as_mut(),
            optimizer: self.optimizer.as_mut(),
            scaler: self.scaler.as_mut(),
            gradient_checkpointing: self.config.train.gradient_checkpointing,
            clip_norm: self.config.train.clip_norm(),
        }
        .run(batches, rates, first_pass)
    }

    /// Moves on by one step of `batches` batches; whether that completed an epoch.
    fn advance(&self, position: &mut Position, batches: usize) -> bool {
        position.step += 1;
        position.passes += batches as u64;
        position.batch += batches;
        let ended = position.batch >= self.data.batches_per_epoch();
        if ended {
            position.epoch += 1;
            position.batch = 0;
        }
        ended
    }

    /// In fp16 an overflow now and then is part of loss scaling; otherwise nothing good can follow.
    fn check_finite(&self, outcome: &StepOutcome, batches: &[Batch], step: u64) -> Result<()> {
        if !outcome.skipped || self.scaler.is_some() {
            return Ok(());
        }
        let images = batches.iter().flat_map(|batch| &batch.examples);
        Err(Error::NotFinite { step, images: images.map(|e| format!("`{}`", e.path.display())).collect() })
    }

    fn due(&self, every: sdtrain_recipe::Every, position: &Position, epoch_ended: bool) -> bool {
        every.due_after_step(position.step) || (epoch_ended && every.due_after_epoch(position.epoch))
    }

    fn after_step(&mut self, log: &mut RunLog, position: &Position, epoch_ended: bool) -> Result<()> {
        let last = position.step == self.total_steps;
        if !last && self.due(self.config.save.every(), position, epoch_ended) {
            let stem = match self.config.save.every().due_after_step(position.step) {
                true => format!("{}-step{:08}", self.config.name, position.step),
                false => format!("{}-{:06}", self.config.name, position.epoch),
            };
            for path in self.save_product(&stem)? {
                log.message(&format!("saved {}", path.display()));
            }
        }
        if last || self.due(self.config.validation.every(), position, epoch_ended) {
            self.validate(log, position.step)?;
        }
        if self.due(self.config.samples.every(), position, epoch_ended) {
            self.sample(log, position.step)?;
        }
        Ok(())
    }

    fn save_product(&self, stem: &str) -> Result<Vec<PathBuf>> {
        let kind = kind_of(self.config.precision.save);
        self.trainable.save(&self.model, &self.output, stem, kind, &self.metadata)
    }

    fn validate(&self, log: &mut RunLog, step: u64) -> Result<()> {
        let Some(validation) = &self.validation else { return Ok(()) };
        let losses = validation.losses(&self.model, self.clip_skip)?;
        for (band, loss) in losses.iter().enumerate() {
            log.scalar(&format!("validation/band_{band}"), step, *loss);
        }
        let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        log.scalar("validation/loss", step, mean);
        let text: Vec<String> = losses.iter().map(|loss| format!("{loss:.5}")).collect();
        log.message(&format!("validation at step {step}: {mean:.5} (bands {})", text.join(" ")));
        Ok(())
    }

    fn sample(&self, log: &mut RunLog, step: u64) -> Result<()> {
        let Some(request) = &self.sample_request else { return Ok(()) };
        let folder = self.output.join("samples").join(format!("step-{step:06}"));
        let pictures = samples::draw(&self.model, request, &folder)?;
        for (index, picture) in pictures.iter().enumerate() {
            log.image(&format!("samples/{index:02}"), step, picture);
        }
        log.message(&format!("drew {}", folder.join("grid.png").display()));
        Ok(())
    }
}
