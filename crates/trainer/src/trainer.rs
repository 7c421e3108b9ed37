//! The run itself: epochs, what happens every so many steps, and the end.

use crate::batches::{Batch, Batches};
use crate::caption_templates::TemplateCaptions;
use crate::error::{Error, Result};
use crate::input_files::Inputs;
use crate::objective::Objective;
use crate::precision::kind_of;
use crate::run_folder::{RunFolder, Start};
use crate::samples;
use crate::setup::load_model;
use crate::signals::StopRequest;
use crate::state::{self, Position};
use crate::step::{Step, StepOutcome};
use crate::trace::Trace;
use crate::trainable::Trainable;
use sdtrain_checkpoint::ManifestInfo;
use sdtrain_data_loader::DataSet;
use sdtrain_evaluate::DenoisingLoss;
use sdtrain_model::{PromptReading, StableDiffusion};
use sdtrain_optimizer::{GradScaler, Optimizer, build, learning_rate_factor};
use sdtrain_pipeline::Request;
use sdtrain_recipe::{TrainConfig, TrainableKind};
use sdtrain_run_log::{
    Console, ConsoleOptions, JsonLines, MetricSink, Outcome as RecordedOutcome, RunLog, RunRecord, StepMetrics,
    TensorBoard,
};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

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
    /// Images that are not trained on.
    pub held_out: Option<DataSet>,
    pub validation: Option<DenoisingLoss>,
    pub sample_request: Option<Request>,
    pub metadata: BTreeMap<String, String>,
    pub trace: Option<Trace>,
    pub total_steps: u64,
    pub prompt_reading: PromptReading,
    pub started: Instant,
    pub inputs: Inputs,
    /// Sentences in the place of captions.
    pub templates: Option<TemplateCaptions>,
}

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
        self.folder.claim(&self.config)?;
        let mut position = match self.folder.start.clone() {
            Start::Continue(checkpoint) => state::restore(&checkpoint, self.optimizer.as_mut(), self.scaler.as_mut())?,
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
            log.message(&format!("continuing after step {}", position.step));
        }
        self.record.phase("train");
        let workers = self.config.data.workers;
        let with_pixels = self.objective.wants_pixels();
        let mut batches = Batches::new(&self.data, with_pixels, position.epoch, position.batch, workers);
        while position.step < self.total_steps {
            self.one_step(&mut log, &mut batches, &mut position)?;
            if stop.is_set() && position.step < self.total_steps {
                self.finish_trace()?;
                self.save_checkpoint(&mut log, &position)?;
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
    fn one_step(&mut self, log: &mut RunLog, batches: &mut Batches, position: &mut Position) -> Result<()> {
        let began = Instant::now();
        let taken = self.take_batches(batches, position)?;
        let rates = self.learning_rates(position.step);
        let outcome = self.step(&taken, &rates, position.passes)?;
        let epoch = position.epoch + 1;
        let ended = self.advance(position, taken.len());
        self.record.steps = position.step;
        self.check_finite(&outcome, &taken, position.step)?;
        let names = self.optimizer.groups().iter().map(|group| group.name.clone());
        log.step(&StepMetrics {
            step: position.step,
            epoch,
            loss: outcome.loss,
            lrs: names.zip(rates.iter().copied()).collect(),
            grad_norm: Some(outcome.grad_norm),
            seconds: began.elapsed().as_secs_f64(),
            images: taken.iter().map(|batch| batch.examples.len() as u64).sum(),
        });
        if !self.record.timings.contains_key("start_to_first_step") {
            self.record.timings.insert("start_to_first_step".into(), self.started.elapsed().as_secs_f64());
        }
        if let Some(trace) = &mut self.trace
            && trace.record(position.step, &outcome, &rates)
        {
            self.finish_trace()?;
        }
        self.after_step(log, position, ended)
    }

    /// Writes the trace, with fewer steps than asked for when the run ends before.
    fn finish_trace(&mut self) -> Result<()> {
        self.trace.take().map_or(Ok(()), |trace| trace.finish(self.optimizer.groups()))
    }

    /// The product, then the last measurements and pictures: what was trained is safe before anything else is tried.
    /// Nothing when it was asked to stop before the end of them.
    fn finish(&mut self, log: &mut RunLog, position: &Position, stop: &StopRequest) -> Result<Option<Vec<PathBuf>>> {
        self.record.phase("save");
        let product = self.save_product(&self.config.name.clone(), position)?;
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

    /// What brings the latents of the first training images to a standard deviation of 1, as the noise schedule expects
    /// them (Rombach et al. 2022, arXiv:2112.10752, appendix G).
    fn unit_scaling_factor(&self) -> Result<f64> {
        const IMAGES: usize = 256;
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        let mut images = 0;
        for plan in self.data.epoch_plan(0) {
            if images >= IMAGES {
                break;
            }
            let batch = self.data.load(&plan, 0)?;
            images += batch.len();
            let shape = [batch.len() as i64, 3, batch.size.1 as i64, batch.size.0 as i64];
            let pixels = Tensor::f_from_slice(&batch.pixels)?.f_reshape(shape)?;
            let (mean, logvar) = self.model.latent_distribution(&pixels)?;
            sum += mean.sum(Kind::Double).double_value(&[]);
            squares += (mean.square() + logvar.exp()).sum(Kind::Double).double_value(&[]);
            count += mean.numel() as f64;
        }
        let variance = squares / count - (sum / count).powi(2);
        Ok(1.0 / variance.sqrt())
    }

    /// Measures base and product, as `sdtrain evaluate` does, and shows the table.
    fn evaluate(&mut self, log: &mut RunLog, product: &[PathBuf]) -> Result<()> {
        let Some(held_out) = &self.held_out else { return Ok(()) };
        if !self.config.validation.evaluate_at_end || !self.config.objective_kind().denoises() {
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

    /// When a checkpoint is due.
    fn save_checkpoint(&mut self, log: &mut RunLog, position: &Position) -> Result<()> {
        log.flush();
        let info = ManifestInfo { step: position.step, epoch: position.epoch, ..self.manifest.clone() };
        let keep = self.config.checkpoint.keep_last;
        let folder = self.folder.checkpoints();
        state::save(&folder, info, position, self.optimizer.as_ref(), self.scaler.as_ref(), keep)?;
        log.message(&format!("saved {}", folder.join(format!("step-{:06}", position.step)).display()));
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

    /// In fp16 an overflow now and then is part of loss scaling; otherwise nothing good can follow.
    fn check_finite(&self, outcome: &StepOutcome, batches: &[Batch], step: u64) -> Result<()> {
        // A loss that overflows in the forward pass is none that scaling could mend, nor is a scale without end.
        let scaling_helps = self.scaler.as_ref().is_some_and(|scaler| scaler.scale >= 1.0);
        if !outcome.skipped || (scaling_helps && outcome.loss.is_finite()) {
            return Ok(());
        }
        let images = batches.iter().flat_map(|batch| &batch.examples);
        Err(Error::NotFinite { step, images: images.map(|e| format!("`{}`", e.path.display())).collect() })
    }

    fn due(&self, every: sdtrain_recipe::Every, position: &Position, ended: &Range<u64>) -> bool {
        every.due_after_step(position.step) || ended.clone().any(|epoch| every.due_after_epoch(epoch))
    }

    fn after_step(&mut self, log: &mut RunLog, position: &Position, ended: Range<u64>) -> Result<()> {
        let last = position.step == self.total_steps;
        if last || self.due(self.config.checkpoint.every(), position, &ended) {
            self.save_checkpoint(log, position)?;
        }
        if last {
            return Ok(());
        }
        let every = self.config.save.every();
        if self.due(every, position, &ended) {
            let stem = match every.due_after_step(position.step) {
                true => format!("{}-step{:08}", self.config.name, position.step),
                false => format!("{}-{:06}", self.config.name, position.epoch),
            };
            for path in self.save_product(&stem, position)? {
                log.message(&format!("saved {}", path.display()));
            }
            self.prune_products(log);
        }
        if self.due(self.config.validation.every(), position, &ended) {
            self.validate(log, position.step)?;
        }
        if self.due(self.config.samples.every(), position, &ended) {
            self.sample(log, position.step)?;
        }
        Ok(())
    }

    fn save_product(&mut self, stem: &str, position: &Position) -> Result<Vec<PathBuf>> {
        if self.config.trainable_kind() == TrainableKind::Vae && self.config.vae_objective.train_encoder {
            self.model.vae.set_scaling_factor(self.unit_scaling_factor()?);
        }
        let kind = kind_of(self.config.precision.save);
        let mut metadata = self.metadata.clone();
        metadata.insert("ss_steps".into(), position.step.to_string());
        let epoch = position.epoch + u64::from(position.batch > 0);
        metadata.insert("ss_epoch".into(), epoch.max(1).to_string());
        self.trainable.save(&self.model, &self.folder.path, stem, kind, &metadata)
    }

    /// Deletes products on the way beyond `save.keep_last`, those that were written before a continuation included. One that
    /// cannot be deleted is only untidy.
    fn prune_products(&mut self, log: &mut RunLog) {
        let Some(keep) = self.config.save.keep_last else { return };
        let mut stems = self.products_on_the_way();
        stems.truncate(stems.len().saturating_sub(keep));
        for name in stems.iter().flat_map(|stem| self.trainable.product_names(stem)) {
            let path = self.folder.path.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed {
                log.message(&format!("cannot delete {}: {error}", path.display()));
            }
        }
    }

    /// The names, without ending, of this run's products on the way, oldest first.
    fn products_on_the_way(&self) -> Vec<String> {
        let prefix = format!("{}-", self.config.name);
        let entries = fs::read_dir(&self.folder.path).into_iter().flatten().flatten();
        let mut found: Vec<(std::time::SystemTime, String)> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let stem = name.strip_suffix(".safetensors").unwrap_or(&name);
                let number = stem.strip_prefix(&prefix)?;
                let digits = number.strip_prefix("step").map_or((number, 6), |number| (number, 8));
                let is_number = digits.0.len() >= digits.1 && digits.0.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| Some((entry.metadata().ok()?.modified().ok()?, stem.to_string())))?
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, stem)| stem).collect()
    }

    fn validate(&self, log: &mut RunLog, step: u64) -> Result<()> {
        let Some(validation) = &self.validation else { return Ok(()) };
        let losses = validation.losses(&self.model, &self.prompt_reading)?;
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
        let folder = self.folder.path.join("samples").join(format!("step-{step:06}"));
        let pictures = samples::draw(&self.model, request, &folder)?;
        for (index, picture) in pictures.iter().enumerate() {
            log.image(&format!("samples/{index:02}"), step, picture);
        }
        log.message(&format!("drew {}", folder.join("grid.png").display()));
        Ok(())
    }
}
