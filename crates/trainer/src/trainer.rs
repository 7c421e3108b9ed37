//! The run itself: epochs, what happens every so many steps, and the end.

mod saving;

use crate::batches::{Batch, Batches};
use crate::caption_templates::TemplateCaptions;
use crate::error::{Error, Result};
use crate::faults::Damage;
use crate::input_files::Inputs;
use crate::objective::Objective;
use crate::run_folder::{RunFolder, Start};
use crate::samples;
use crate::setup::load_model;
use crate::signals::StopRequest;
use crate::state::{self, Position};
use crate::step::{Step, StepOutcome};
use crate::text_encoder_stop;
use crate::trace::Trace;
use crate::trainable::Trainable;
use crate::validation::Validation;
use sdtrain_checkpoint::ManifestInfo;
use sdtrain_data_loader::{Contents, DataSet};
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::{Ema, GradScaler, Optimizer, ParamGroup, Weights, build, learning_rate_factor};
use sdtrain_pipeline::Request;
use sdtrain_recipe::TrainConfig;
use sdtrain_run_log::{
    Console, ConsoleOptions, JsonLines, MetricSink, Outcome as RecordedOutcome, RunLog, RunRecord, StepMetrics,
    TensorBoard,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Everything a run works with.
pub(crate) struct Trainer {
    pub config: TrainConfig,
    pub folder: RunFolder,
    pub record: RunRecord,
    pub manifest: ManifestInfo,
    pub model: StableDiffusion,
    pub data: Arc<DataSet>,
    pub trainable: Box<dyn Trainable>,
    pub objective: Box<dyn Objective>,
    pub optimizer: Box<dyn Optimizer>,
    pub scaler: Option<GradScaler>,
    pub ema: Option<Ema>,
    /// Images that are not trained on.
    pub held_out: Option<DataSet>,
    pub validation: Option<Validation>,
    pub sample_requests: Vec<Request>,
    pub metadata: BTreeMap<String, String>,
    pub trace: Option<Trace>,
    pub total_steps: u64,
    pub started: Instant,
    pub inputs: Inputs,
    /// Sentences in the place of captions.
    pub templates: Option<TemplateCaptions>,
}

/// What stands behind the name of a product that holds the weights as trained, beside the one of averaged weights.
const RAW: &str = "-raw";

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All steps are done; these files are the product.
    Done(Vec<PathBuf>),
    /// A signal stopped it after it had saved a checkpoint at this step.
    Stopped(u64),
    /// There was nothing to do: the folder holds this very run, finished.
    AlreadyDone,
}

impl Trainer {
    pub fn run(mut self) -> Result<Outcome> {
        let result = self.run_to_the_end();
        for problem in self.data.unreadable() {
            eprintln!("left out, another image took its place: {problem}");
        }
        let (outcome, step) = match &result {
            Ok((Outcome::Stopped(_), position)) => (RecordedOutcome::Stopped, position.step),
            Ok((_, position)) => (RecordedOutcome::Finished, position.step),
            Err(_) => (RecordedOutcome::Failed, self.record.steps),
        };
        self.record.inputs = self.inputs.take();
        self.record.end(outcome, step);
        let written = self.record.write(&self.folder.path).map_err(|error| Error::storage(&self.folder.path, error));
        let (outcome, _) = result?;
        written?;
        Ok(outcome)
    }

    fn run_to_the_end(&mut self) -> Result<(Outcome, Position)> {
        let stop = StopRequest::listen()?;
        self.folder.check_room(self.trained_bytes())?;
        self.folder.claim(&self.config)?;
        let mut position = match self.folder.start.clone() {
            Start::Continue(checkpoint) => {
                let (optimizer, scaler, ema) = (self.optimizer.as_mut(), self.scaler.as_mut(), self.ema.as_mut());
                state::restore(&checkpoint, optimizer, scaler, ema)?
            }
            Start::Fresh | Start::Finished => Position::default(),
        };
        if let Some(path) = &self.config.debug.trace {
            let (steps, config) = (self.config.debug.trace_steps, self.config.to_toml());
            self.trace = Some(Trace::new(path.clone(), steps, config, self.optimizer.groups()));
        }
        self.record.resumed_step = (position.step > 0).then_some(position.step);
        self.record.write(&self.folder.path).map_err(|error| Error::storage(&self.folder.path, error))?;
        let mut log = self.open_log(&position)?;
        if position.step == 0 {
            self.validate(&mut log, 0)?;
            self.sample(&mut log, 0)?;
        } else {
            for (path, reason) in &self.folder.passed_over {
                log.message(&format!(
                    "warning: `{}` is not whole ({reason}); its steps are done again",
                    path.display()
                ));
            }
            log.message(&format!("continuing after step {}", position.step));
        }
        if !self.config.train.fused_backward {
            sdtrain_optimizer::prepare_gradients(self.optimizer.groups())?;
        }
        self.record.phase("train");
        let workers = self.config.data.workers;
        let contents = match (self.objective.wants_pixels(), self.objective.wants_masks() && self.data.has_masks()) {
            (true, _) => Some(Contents::Whole),
            (false, true) => Some(Contents::Masks),
            (false, false) => None,
        };
        let mut batches = Batches::new(&self.data, contents, position.epoch, position.batch, workers);
        while position.step < self.total_steps {
            self.one_step(&mut log, &mut batches, &mut position, &stop)?;
            if stop.is_set() && position.step < self.total_steps {
                self.finish_trace()?;
                self.save_checkpoint(&mut log, &position, &stop)?;
                log.finish();
                return Ok((Outcome::Stopped(position.step), position));
            }
        }
        self.finish_trace()?;
        let product = self.finish(&mut log, &position, &stop)?;
        log.finish();
        Ok((product.map_or(Outcome::Stopped(position.step), Outcome::Done), position))
    }

    /// One optimizer step and everything that is due after it.
    fn one_step(
        &mut self,
        log: &mut RunLog,
        batches: &mut Batches,
        position: &mut Position,
        stop: &StopRequest,
    ) -> Result<()> {
        let began = Instant::now();
        if self.config.train.text_encoder_is_done(position.step, position.epoch)
            && text_encoder_stop::stop(self.optimizer.groups())
        {
            log.message(&format!("the text encoder stands still from step {} on", position.step + 1));
        }
        // Pictures and measurements of the step before may have brought them back.
        for &network in self.objective.idle() {
            self.model.unload(network);
        }
        let taken = self.take_batches(batches, position)?;
        let waited = began.elapsed();
        let rates = self.learning_rates(position.step);
        let is_logged = self.is_logged(position.step + 1);
        let outcome = self.step(&taken, &rates, position, is_logged)?;
        let epoch = position.epoch + 1;
        let ended = self.advance(position, taken.len());
        self.record.steps = position.step;
        self.mind_skipped(log, &outcome, &taken, position)?;
        if let Some(ema) = self.ema.as_mut().filter(|_| !outcome.skipped) {
            ema.update(self.optimizer.groups())?;
        }
        let names = self.optimizer.groups().iter().map(|group| group.name.clone());
        log.step(&StepMetrics {
            step: position.step,
            epoch,
            loss: outcome.loss,
            lrs: names.zip(self.optimizer.effective_rates(&rates)).collect(),
            grad_norm: Some(outcome.grad_norm),
            seconds: began.elapsed().as_secs_f64(),
            data_wait_seconds: (waited + self.objective.take_data_wait()).as_secs_f64(),
            images: taken.iter().map(|batch| batch.examples.len() as u64).sum(),
        });
        if is_logged {
            self.log_norms(log, position.step, &outcome)?;
        }
        if !self.record.timings.contains_key("start_to_first_step") {
            self.record.timings.insert("start_to_first_step".into(), self.started.elapsed().as_secs_f64());
        }
        if let Some(trace) = &mut self.trace
            && trace.record(position.step, &outcome, &rates)
        {
            self.finish_trace()?;
        }
        self.after_step(log, position, ended, stop)
    }

    /// Whether what takes time to measure is measured in `step`, counted from 1: where a file takes it.
    fn is_logged(&self, step: u64) -> bool {
        let log = &self.config.log;
        let is_due = step == 1 || step.is_multiple_of(log.every_steps.max(1)) || step == self.total_steps;
        is_due && (log.jsonl || log.tensorboard)
    }

    /// Gradient norms of the groups, where there are several, and how far what was trained has moved.
    fn log_norms(&self, log: &mut RunLog, step: u64, outcome: &StepOutcome) -> Result<()> {
        if outcome.group_norms.len() > 1 {
            for (group, norm) in &outcome.group_norms {
                log.scalar(&format!("grad_norm/{group}"), step, *norm);
            }
        }
        for (tag, norm) in self.trainable.weight_norms()? {
            log.scalar(&tag, step, norm);
        }
        Ok(())
    }

    /// Writes the trace, with fewer steps than asked for when the run ends before.
    fn finish_trace(&mut self) -> Result<()> {
        self.trace.take().map_or(Ok(()), |trace| trace.finish(self.optimizer.groups()))
    }

    /// The product, then the last measurements and pictures: what was trained is safe before anything else is tried.
    /// Nothing when it was asked to stop before the end of them.
    fn finish(&mut self, log: &mut RunLog, position: &Position, stop: &StopRequest) -> Result<Option<Vec<PathBuf>>> {
        self.record.phase("save");
        self.optimizer.hold(Weights::Evaluation)?;
        let product = self.save_product(log, &self.config.name.clone(), position, stop)?;
        for path in &product {
            log.message(&format!("saved {}", path.display()));
        }
        self.record.phase("samples");
        self.validate(log, position.step)?;
        if stop.is_set() {
            return Ok(None);
        }
        self.sample(log, position.step)?;
        let samples = self.folder.path.join("samples");
        let of_step = |step: u64| samples.join(format!("step-{step:06}"));
        samples::compare(&of_step(0), &of_step(position.step), &samples.join("grid.png"))?;
        if stop.is_set() {
            return Ok(None);
        }
        self.record.phase("evaluate");
        self.evaluate(log, &product)?;
        Ok(Some(product))
    }

    /// Measures base and product, as `sdtrain evaluate` does, and shows the table.
    fn evaluate(&mut self, log: &mut RunLog, product: &[PathBuf]) -> Result<()> {
        let Some(held_out) = &self.held_out else { return Ok(()) };
        if !self.config.validation.evaluate_at_end {
            return Ok(());
        }
        // A trained model is no base any more: the base's weights are read in its place. Adapters are only taken off.
        if self.trainable.adapter_kind().is_none() {
            self.optimizer = build(&self.config.optimizer, Vec::new());
            self.model = load_model(&self.config, self.model.device)?;
        }
        let base = &self.model;
        sdtrain_evaluate::detach_all(base);
        let mut announce = |name: &str| log.message(&format!("evaluating {name}"));
        let evaluation = sdtrain_evaluate::run(&self.config, base, held_out, &product[..1], &mut announce)?;
        evaluation.write(&self.folder.path)?;
        log.message(&evaluation.table());
        Ok(())
    }

    fn open_log(&self, position: &Position) -> Result<RunLog> {
        let folder = &self.folder.path;
        let resumed = (position.step > 0).then_some(position.step);
        let options = ConsoleOptions {
            total_steps: Some(self.total_steps),
            total_epochs: self.config.train.max_epochs,
            steps_done: position.step,
            every_steps: self.config.log.every_steps,
            ..ConsoleOptions::default()
        };
        let mut log = RunLog::new().with(Console::new(options));
        if self.config.log.jsonl {
            log = log.with(JsonLines::open(folder, resumed).map_err(|error| Error::storage(folder, error))?);
        }
        if self.config.log.tensorboard {
            log = log.with(TensorBoard::open(&folder.join("tensorboard"), resumed));
        }
        Ok(log)
    }

    /// The batches of one optimizer step: as many as are accumulated, but never across the end of an epoch.
    fn take_batches(&self, batches: &mut Batches, position: &Position) -> Result<Vec<Batch>> {
        let left = self.data.batches_of_epoch(position.epoch) - position.batch;
        let count = (self.config.train.gradient_accumulation_steps as usize).clamp(1, left);
        let mut taken = (0..count).map(|_| batches.next()).collect::<Result<Vec<_>>>()?;
        if let Some(templates) = &self.templates {
            taken.iter_mut().for_each(|batch| templates.apply(batch));
        }
        Ok(taken)
    }

    /// The rate of each group at `step`, counted from 0; 0 where nothing learns any more.
    fn learning_rates(&self, step: u64) -> Vec<f64> {
        let factor = learning_rate_factor(&self.config.lr_schedule, step, self.total_steps);
        let rate =
            |group: &ParamGroup| if text_encoder_stop::learns(group) { group.learning_rate * factor } else { 0.0 };
        self.optimizer.groups().iter().map(rate).collect()
    }

    fn step(
        &mut self,
        batches: &[Batch],
        rates: &[f64],
        position: &Position,
        measure_groups: bool,
    ) -> Result<StepOutcome> {
        let (faults, step, model) = (&self.config.debug.faults, position.step + 1, &self.model);
        Step {
            model: &self.model,
            trainable: self.trainable.as_ref(),
            objective: self.objective.as_mut(),
            optimizer: self.optimizer.as_mut(),
            scaler: self.scaler.as_mut(),
            gradient_checkpointing: self.config.train.gradient_checkpointing,
            clip_norm: self.config.train.clip_norm(),
            fused_backward: self.config.train.fused_backward,
            measure_groups,
            damage: &|| Damage::of_step(faults, step, model),
        }
        .run(batches, rates, position.passes)
    }

    /// Moves on by one step of `batches` batches; the numbers, from 1, of the epochs that this completed. An epoch without a
    /// batch is complete with the one before it.
    fn advance(&self, position: &mut Position, batches: usize) -> Range<u64> {
        let first = position.epoch + 1;
        position.step += 1;
        position.passes += batches as u64;
        position.batch += batches;
        while position.batch >= self.data.batches_of_epoch(position.epoch) {
            position.epoch += 1;
            position.batch = 0;
        }
        first..position.epoch + 1
    }

    /// Minds a step that was skipped since a loss or gradient was not finite: counted, named, and the end of the run when there
    /// are too many in a row. In fp16 an overflow now and then is part of loss scaling.
    fn mind_skipped(
        &self,
        log: &mut RunLog,
        outcome: &StepOutcome,
        batches: &[Batch],
        position: &mut Position,
    ) -> Result<()> {
        if !outcome.skipped {
            position.skipped_in_a_row = 0;
            return Ok(());
        }
        // A loss that overflows in the forward pass is none that scaling could mend, nor is a scale without end.
        let scaling_helps = self.scaler.as_ref().is_some_and(|scaler| scaler.scale >= 1.0);
        if scaling_helps && outcome.loss.is_finite() {
            return Ok(());
        }
        position.skipped += 1;
        position.skipped_in_a_row += 1;
        // Of several batches those that are to blame, where their losses tell.
        let is_to_blame = |place: usize| outcome.not_finite.is_empty() || outcome.not_finite.contains(&place);
        let blamed = batches.iter().enumerate().filter(|(place, _)| is_to_blame(*place));
        let images = blamed.flat_map(|(_, batch)| &batch.examples);
        let images: Vec<String> = images.map(|example| format!("`{}`", example.path.display())).collect();
        let is_last = position.step == self.total_steps;
        if position.skipped_in_a_row > self.config.train.max_skipped_steps || is_last || outcome.torn {
            return Err(Error::NotFinite { step: position.step, images });
        }
        log.message(&format!(
            "step {} is skipped, its loss or gradient is not finite (batch of {})",
            position.step,
            images.join(", ")
        ));
        log.scalar("train/skipped_steps", position.step, position.skipped as f64);
        Ok(())
    }

    fn due(&self, every: sdtrain_recipe::Every, position: &Position, ended: &Range<u64>) -> bool {
        every.due_after_step(position.step) || ended.clone().any(|epoch| every.due_after_epoch(epoch))
    }

    fn after_step(
        &mut self,
        log: &mut RunLog,
        position: &Position,
        ended: Range<u64>,
        stop: &StopRequest,
    ) -> Result<()> {
        let last = position.step == self.total_steps;
        if last || self.due(self.config.checkpoint.every(), position, &ended) {
            self.save_checkpoint(log, position, stop)?;
        }
        if last {
            return Ok(());
        }
        let every = self.config.save.every();
        let [saves, validates, samples] = [every, self.config.validation.every(), self.config.samples.every()]
            .map(|every| self.due(every, position, &ended));
        if !(saves || validates || samples) {
            return Ok(());
        }
        self.optimizer.hold(Weights::Evaluation)?;
        if saves {
            let stem = match every.due_after_step(position.step) {
                true => format!("{}-step{:08}", self.config.name, position.step),
                false => format!("{}-{:06}", self.config.name, position.epoch),
            };
            for path in self.save_product(log, &stem, position, stop)? {
                log.message(&format!("saved {}", path.display()));
            }
            self.prune_products(log);
        }
        if validates {
            self.validate(log, position.step)?;
        }
        if samples {
            self.sample(log, position.step)?;
        }
        Ok(self.optimizer.hold(Weights::Training)?)
    }

    fn validate(&mut self, log: &mut RunLog, step: u64) -> Result<()> {
        let measured = self.with_average(|this| {
            let validation = this.validation.as_ref().zip(this.held_out.as_ref());
            validation.map(|(validation, data)| validation.measure(&this.model, data)).transpose()
        })?;
        let Some(measured) = measured else { return Ok(()) };
        for (tag, figure) in &measured.scalars {
            log.scalar(&format!("validation/{tag}"), step, *figure);
        }
        log.message(&format!("validation at step {step}: {}", measured.text));
        Ok(())
    }

    fn sample(&mut self, log: &mut RunLog, step: u64) -> Result<()> {
        if self.sample_requests.is_empty() {
            return Ok(());
        }
        let folder = self.folder.path.join("samples").join(format!("step-{step:06}"));
        let pictures = self.with_average(|this| samples::draw(&this.model, &this.sample_requests, &folder))?;
        for (index, picture) in pictures.iter().enumerate() {
            log.image(&format!("samples/{index:02}"), step, picture);
        }
        log.message(&format!("drew {}", folder.join("grid.png").display()));
        Ok(())
    }
}
