//! The run itself: epochs, what happens every so many steps, and the end.

mod after_step;
mod logging;
mod saving;
mod trouble;

use crate::batches::{Batch, Batches};
use crate::caption_templates::TemplateCaptions;
use crate::error::{Error, Result};
use crate::faults::Damage;
use crate::identity::{self, DataDigest};
use crate::input_files::Inputs;
use crate::objective::Objective;
use crate::profile::{self, Profile};
use crate::ranks::{Facts, Gathered, GradientReducer, Ranks};
use crate::run_folder::{RunFolder, Start};
use crate::seeded_bugs::{self, Bug, seeded};
use crate::spikes::Spikes;
use crate::state::{self, Position};
use crate::step::{Step, StepOutcome};
use crate::text_encoder_stop;
use crate::trace::Trace;
use crate::trainable::Trainable;
use crate::validation::Validation;
use sdtrain_checkpoint::ManifestInfo;
use sdtrain_data_loader::{Contents, DataSet};
use sdtrain_files::{Reserve, say};
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::{Ema, GradScaler, Optimizer, ParamGroup, learning_rate_factor};
use sdtrain_pipeline::Request;
use sdtrain_recipe::{RAW, TrainConfig};
use sdtrain_run_log::{MetricSink, Outcome as RecordedOutcome, RunLog, RunRecord, StepMetrics};
use sdtrain_signals::StopRequest;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use trouble::{Before, what_becomes_of};

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
    pub profile: Option<Profile>,
    pub total_steps: u64,
    pub started: Instant,
    pub inputs: Inputs,
    /// Sentences in the place of captions.
    pub templates: Option<TemplateCaptions>,
    /// The weights, or what belongs to them, are between two states: nothing of it may be saved.
    pub torn: bool,
    /// Images that it was told of that others take their place.
    pub left_out: BTreeSet<PathBuf>,
    /// The step of the newest checkpoint.
    pub saved_step: Cell<Option<u64>>,
    /// That of the last one that all ranks waited for.
    pub saved_together: Option<u64>,
    /// Whether the folder was taken again and lacks the run's record.
    pub is_folder_new: Cell<bool>,
    /// Room on the disk for one more checkpoint, until it is needed.
    pub reserve: RefCell<Option<Reserve>>,
    /// Whether the last thing that was saved found the disk full, which is said once.
    pub was_disk_full: Cell<bool>,
    /// Somebody was told that saving may take longer than a stop leaves.
    pub grace_is_short: bool,
    pub data_digest: DataDigest,
    pub spikes: Spikes,
    /// Who else works on this run. The lead alone writes, draws and measures.
    pub ranks: Rc<Ranks>,
    pub reducer: Box<dyn GradientReducer>,
    /// What [`GradientReducer::order`] was after the last step.
    pub gradient_order: Arc<[String]>,
    /// The optimizer's state of all ranks, while it is being saved and where it is shared out.
    pub gathered: Gathered,
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
    pub fn run(mut self, stop: &StopRequest) -> Result<Outcome> {
        let result = self.run_to_the_end(stop);
        for problem in self.data.unreadable() {
            say!("left out, another image took its place: {problem}");
        }
        let (outcome, step) = match &result {
            Ok((Outcome::Stopped(_), position)) => (RecordedOutcome::Stopped, position.step),
            Ok((_, position)) => (RecordedOutcome::Finished, position.step),
            Err(_) => (RecordedOutcome::Failed, self.record.steps),
        };
        if !self.ranks.is_lead() || !self.folder.is_claimed() {
            return result.map(|(outcome, _)| outcome);
        }
        self.record.end(outcome, step);
        // Nothing large is written any more, so that on a full disk the room that was kept is the record's.
        drop(self.reserve.take());
        let folder = &self.folder;
        let in_place = folder.check_in_place();
        let write = |record: &mut RunRecord| {
            // Before the second time, minutes may have gone by.
            folder.check_in_place()?;
            record.write(&folder.path).map_err(|error| Error::storage(&folder.path, error))
        };
        let written = if in_place.is_ok() { self.inputs.write_into(&mut self.record, write) } else { Ok(()) };
        let (outcome, _) = result?;
        in_place?;
        match (written, &outcome) {
            // Its checkpoint is there, and whoever stopped it has to hear that it can go on.
            (Err(error), Outcome::Stopped(_)) => say!("warning: {error}"),
            (written, _) => written?,
        }
        Ok(outcome)
    }

    /// What all ranks must have in common of the state that they begin with.
    fn facts_of_state(&self, position: &Position) -> Result<Facts> {
        let weights = self.optimizer.groups().iter().flat_map(|group| &group.parameters).map(|(_, weight)| weight);
        Ok(Facts(BTreeMap::from([
            ("step that is continued after".to_string(), position.step.to_string()),
            ("trained weights".to_string(), identity::of_numbers(weights)?),
        ])))
    }

    fn run_to_the_end(&mut self, stop: &StopRequest) -> Result<(Outcome, Position)> {
        let mut set_aside = 0;
        if self.ranks.is_lead() {
            self.folder.check_room(self.state_bytes(), &self.config.checkpoint)?;
        }
        let mut position = match &self.folder.start {
            Start::Continue(saved) => {
                let (optimizer, scaler, ema) = (self.optimizer.as_mut(), self.scaler.as_mut(), self.ema.as_mut());
                let changes = &self.folder.changes;
                let may_lack = |key: &str| changes.iter().any(|change| change.key == key);
                let restored = state::restore(&saved.folder, optimizer, scaler, ema, &may_lack)?;
                (self.spikes, self.gradient_order) = (restored.spikes, restored.gradient_order.into());
                restored.position
            }
            Start::Fresh | Start::Finished => Position::default(),
        };
        // From a checkpoint that cannot be gone on from, at whichever rank, nothing is done to the folder. Each has read it by itself, and
        // it may have been another one.
        if self.ranks.size() > 1 {
            self.ranks.compare(&self.facts_of_state(&position)?)?;
        }
        if self.ranks.is_lead() {
            set_aside = self.folder.claim(&self.config, &self.later_products())?;
        }
        let saved = position;
        if self.folder.has_other_order() && position.batch > 0 && !seeded(Bug::SameEpoch) {
            // The batches of this epoch are others now: nobody can say which of them were seen.
            (position.epoch, position.batch) = (position.epoch + 1, 0);
        }
        // Of other images an epoch may be without a batch that had one.
        self.pass_over_ended_epochs(&mut position);
        if let Some(path) = &self.config.debug.trace {
            let (steps, config) = (self.config.debug.trace_steps, self.config.to_toml());
            self.trace = Some(Trace::new(self.ranks.own_path(path), steps, config, self.optimizer.groups()));
        }
        let steps = self.config.debug.profile_steps;
        if steps > 0 {
            let folder = self.ranks.own_path(&profile::folder_in(&self.folder.path));
            self.profile = Some(Profile::new(folder, self.model.device, steps, position.step, self.total_steps));
        }
        self.saved_step.set((position.step > 0).then_some(position.step));
        self.saved_together = self.saved_step.get();
        self.record.resumed_step = (position.step > 0).then_some(position.step);
        if self.ranks.is_lead() {
            self.record.write(&self.folder.path).map_err(|error| Error::storage(&self.folder.path, error))?;
        }
        let mut log = self.open_log(&position)?;
        if position.step == 0 {
            if self.ranks.is_lead() {
                self.validate(&mut log, 0, stop)?;
                self.sample(&mut log, 0, stop)?;
            }
        } else {
            for (path, reason) in &self.folder.passed_over {
                log.message(&format!(
                    "warning: `{}` is not whole ({reason}); {}",
                    path.display(),
                    what_becomes_of(path, position.step)
                ));
            }
            log.message(&format!("continuing after step {}", position.step));
            if set_aside > 0 {
                log.message(&format!(
                    "checkpoints and products of later steps are set aside in `{}`: {set_aside}",
                    self.folder.aside().display()
                ));
            }
            for line in &self.record.changes {
                log.message(line);
            }
        }
        if !self.config.train.fused_backward {
            sdtrain_optimizer::prepare_gradients(self.optimizer.groups())?;
        }
        if self.ranks.is_lead() {
            self.reserve_room();
            let missed = sdtrain_torch::catch(|| {
                self.save_missed_product(&mut log, &saved, stop)?;
                self.make_up_for(&mut log, &saved, stop)
            });
            missed.unwrap_or_else(|panic| Err(panic.into()))?;
        }
        self.record.phase("train");
        // What loading and encoding needed has other sizes.
        sdtrain_torch::return_freed_blocks();
        self.ranks.phase("first step");
        let workers = self.config.data.workers;
        let contents = match (self.objective.wants_pixels(), self.objective.wants_masks() && self.data.has_masks()) {
            (true, _) => Some(Contents::Whole),
            (false, true) => Some(Contents::Masks),
            (false, false) => None,
        };
        let mut batches = Batches::new(&self.data, contents, position.epoch, position.batch, workers);
        stop.begin();
        // A defect of this program is no reason to lose what was learned either.
        let outcome = sdtrain_torch::catch(|| {
            self.ranks.follow_lead("first step")?;
            self.reducer.follow_order(&self.ranks, self.optimizer.groups(), &self.gradient_order)?;
            self.steps(&mut log, &mut batches, &mut position, stop)
        });
        let mut outcome = outcome.unwrap_or_else(|panic| Err(panic.into()));
        let is_saved = self.saved_step.get().unwrap_or_default() == position.step;
        if matches!(outcome, Err(Error::Rank(_))) && stop.is_set() && is_saved {
            // All were asked to stop, and some of them before they had anything to save.
            outcome = Ok(Outcome::Stopped(position.step));
        }
        if let Err(error) = &outcome {
            // Before what may take long.
            self.ranks.phase("save");
            self.ranks.fail(&error.to_string());
            self.rescue(&mut log, &position);
        }
        log.finish();
        Ok((outcome?, position))
    }

    /// Step after step to the end, or to where somebody asks to stop.
    fn steps(
        &mut self,
        log: &mut RunLog,
        batches: &mut Batches,
        position: &mut Position,
        stop: &StopRequest,
    ) -> Result<Outcome> {
        while position.step < self.total_steps {
            self.one_step(log, batches, position, stop)?;
            let asked = self.ranks.agree(stop)?;
            if asked.save && self.saved_together != Some(position.step) {
                log.message(&format!("a signal asks for a checkpoint: saving after step {}", position.step));
                self.save_together(log, position, stop)?;
            }
            if asked.stop && position.step < self.total_steps {
                self.say_why_it_stops(log, position);
                self.finish_trace()?;
                // It may have been asked while pictures were drawn, behind the checkpoint of this step.
                if self.saved_together != Some(position.step) {
                    self.save_together(log, position, stop)?;
                }
                self.finish_profile(log);
                return Ok(Outcome::Stopped(position.step));
            }
            // Behind whatever is to be saved: to write a trace takes seconds.
            if self.profile.as_ref().is_some_and(|profile| profile.is_over(position.step)) {
                self.finish_profile(log);
            }
        }
        self.finish_trace()?;
        match self.trust_the_end(log, batches, position, stop)? {
            true => self.end(log, position, stop),
            // The checkpoint of the last step is there, and the next start asks again.
            false => Ok(Outcome::Stopped(position.step)),
        }
    }

    /// What follows the last step is the lead's; the others hear how it came out.
    fn end(&mut self, log: &mut RunLog, position: &Position, stop: &StopRequest) -> Result<Outcome> {
        const DONE: &str = "done";
        let mut product = None;
        let ranks = Rc::clone(&self.ranks);
        ranks.phase("end");
        let said = ranks.hear("end", || {
            product = self.finish(log, position, stop)?;
            Ok(product.as_ref().map_or("stopped", |_| DONE).to_string())
        })?;
        Ok(match said == DONE {
            true => Outcome::Done(product.unwrap_or_default()),
            false => Outcome::Stopped(position.step),
        })
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
        self.ranks.phase("step");
        self.begin_profile(log, position.step + 1);
        if self.config.train.text_encoder_is_done(position.step, position.epoch)
            && text_encoder_stop::stop(self.optimizer.groups())
        {
            self.reducer.mind_stopped(self.optimizer.groups());
            log.message(&format!("the text encoder stands still from step {} on", position.step + 1));
        }
        // Pictures and measurements of the step before may have brought them back.
        for &network in self.objective.idle() {
            self.model.unload(network)?;
        }
        let taken = self.take_batches(batches, position)?;
        self.tell_of_stand_ins(log);
        let waited = began.elapsed();
        let rates = self.learning_rates(position.step);
        let is_logged = self.is_logged(position.step + 1);
        let before = Before { position: *position, scaler: self.scaler.clone() };
        let outcome = self.step(&taken, &rates, position, is_logged)?;
        let epoch = position.epoch + 1;
        let ended = self.advance(position);
        if let Err(error) = self.mind_skipped(log, &outcome, &taken, position, before.position.passes) {
            // Such a step has changed nothing: what was there before it is the state to keep.
            (*position, self.torn) = (before.position, outcome.torn);
            if !seeded(Bug::ScaleOfFailed) {
                self.scaler = before.scaler;
                self.optimizer.forget_skipped();
            }
            return Err(error);
        }
        if let Some(ema) = self.ema.as_mut().filter(|_| !outcome.skipped) {
            ema.update(self.optimizer.groups())?;
        }
        self.torn = false;
        self.gradient_order = self.reducer.order();
        seeded_bugs::leak();
        self.record.steps = position.step;
        self.mind_spikes(log, &outcome, position.step);
        let names = self.optimizer.groups().iter().map(|group| group.name.clone());
        let seconds = began.elapsed().as_secs_f64();
        if let Some(profile) = &mut self.profile {
            profile.step_ended(seconds);
        }
        log.step(&StepMetrics {
            step: position.step,
            epoch,
            loss: outcome.loss,
            lrs: names.zip(self.optimizer.effective_rates(&rates)).collect(),
            grad_norm: Some(outcome.grad_norm),
            seconds,
            data_wait_seconds: (waited + self.objective.take_data_wait()).as_secs_f64(),
            images: taken.iter().map(|batch| batch.whole as u64).sum::<u64>() / self.data.ranks().len() as u64,
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

    /// How many batches the step after `position` takes: as many as are accumulated, but never across the end of an epoch.
    fn batches_of_step(&self, position: &Position) -> usize {
        let left = self.data.batches_of_epoch(position.epoch) - position.batch;
        (self.config.train.gradient_accumulation_steps as usize).clamp(1, left)
    }

    /// This rank's parts of the batches of one optimizer step.
    fn take_batches(&self, batches: &mut Batches, position: &Position) -> Result<Vec<Batch>> {
        let count = self.batches_of_step(position);
        let played = self.data.ranks();
        let parts = (0..count).flat_map(|batch| played.iter().map(move |rank| batch * rank.world() + rank.number()));
        let mut taken = parts.map(|place| Ok(Batch { place, ..batches.next()? })).collect::<Result<Vec<_>>>()?;
        if let Some(templates) = &self.templates {
            taken.iter_mut().for_each(|batch| templates.apply(batch));
        }
        Ok(taken)
    }

    /// The rate of each group at `step`, counted from 0; 0 where nothing learns any more.
    fn learning_rates(&self, step: u64) -> Vec<f64> {
        let forgotten = self.record.resumed_step.filter(|_| seeded(Bug::LearningRate)).unwrap_or(0);
        let step = step - forgotten;
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
        self.torn = true;
        let mut step = self.step_of(position, measure_groups);
        let outcome = step.run(batches, rates, position.passes);
        let torn = step.torn;
        drop(step);
        // Until everything that belongs to the step has followed the weights.
        self.torn = torn;
        outcome
    }

    /// The step after `position`, ready to run.
    fn step_of(&mut self, position: &Position, measure_groups: bool) -> Step<'_> {
        let (faults, step, model) = (&self.config.debug.faults, position.step + 1, &self.model);
        let places = self.batches_of_step(position) * self.data.ranks()[0].world();
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
            damage: Box::new(move |trained| Damage::of_step(faults, step, model, trained)),
            ranks: &self.ranks,
            reducer: self.reducer.as_mut(),
            parts_of_batch: self.data.ranks().len(),
            places,
            torn: false,
        }
    }

    /// Moves on by one step; the numbers, from 1, of the epochs that this completed. An epoch without a batch is complete with the one
    /// before it.
    fn advance(&self, position: &mut Position) -> Range<u64> {
        let batches = self.batches_of_step(position);
        let first = position.epoch + 1;
        position.step += 1;
        position.passes += batches as u64 * self.data.ranks()[0].world() as u64;
        position.batch += batches;
        self.pass_over_ended_epochs(position);
        first..position.epoch + 1
    }

    /// Moves on to the next epoch with a batch, where that of `position` has none left.
    fn pass_over_ended_epochs(&self, position: &mut Position) {
        while position.batch >= self.data.batches_of_epoch(position.epoch) {
            position.epoch += 1;
            position.batch = 0;
        }
    }
}
