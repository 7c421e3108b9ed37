//! What is due after a step and at the end of a run. What was trained is saved before anything is measured or drawn, and neither
//! costs the run where it fails.

use super::Trainer;
use crate::error::{Error, Result};
use crate::ranks::Alone;
use crate::samples;
use crate::seeded_bugs::{Bug, seeded};
use crate::setup::load_model;
use crate::state::Position;
use sdtrain_optimizer::{Weights, build};
use sdtrain_recipe::step_name;
use sdtrain_run_log::{MetricSink, RunLog, SCALARS};
use sdtrain_signals::StopRequest;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

impl Trainer {
    fn due(&self, every: sdtrain_recipe::Every, position: &Position, ended: &Range<u64>) -> bool {
        every.due_after_step(position.step) || ended.clone().any(|epoch| every.due_after_epoch(epoch))
    }

    /// What the product on the way is called, without ending, that is due after the step of `position`; none where none is.
    fn product_due(&self, position: &Position, ended: &Range<u64>) -> Option<String> {
        let every = self.config.save.every();
        self.due(every, position, ended).then(|| match every.due_after_step(position.step) {
            true => format!("{}-step{:08}", self.config.name, position.step),
            false => format!("{}-{:06}", self.config.name, position.epoch),
        })
    }

    /// The numbers, from 1, of the epochs that the last step completed: what [`Trainer::advance`] said of it, from where it led.
    fn epochs_ended(&self, position: &Position) -> Range<u64> {
        let end = position.epoch + 1;
        if position.batch > 0 {
            return end..end;
        }
        let mut first = position.epoch;
        while first > 1 && self.data.batches_of_epoch(first - 1) == 0 {
            first -= 1;
        }
        first..end
    }

    /// Writes the product on the way that was due after the step of the checkpoint at `position`, where a run was killed between the
    /// two. The lead's.
    pub(super) fn save_missed_product(
        &mut self,
        log: &mut RunLog,
        position: &Position,
        stop: &StopRequest,
    ) -> Result<()> {
        if position.step == 0 || position.step >= self.total_steps {
            return Ok(());
        }
        let due = self.product_due(position, &self.epochs_ended(position));
        let Some(stem) = due.filter(|stem| self.lacks_newest_product(stem, position)) else { return Ok(()) };
        self.ranks.phase("save");
        self.optimizer.hold(Weights::Evaluation)?;
        self.save_on_the_way(log, &stem, position, stop)?;
        self.optimizer.hold(Weights::Training)?;
        Ok(())
    }

    /// Writes a product on the way, then deletes those beyond `save.keep_last`. The weights are those for evaluation.
    fn save_on_the_way(&mut self, log: &mut RunLog, stem: &str, position: &Position, stop: &StopRequest) -> Result<()> {
        match self.save_product(log, stem, position, stop) {
            Ok(paths) => paths.iter().for_each(|path| log.message(&format!("saved {}", path.display()))),
            // The last one may fit again, and is refused where it does not.
            Err(error @ Error::DoesNotFit { .. }) => {
                log.message(&format!("warning: no product is saved here: {error}"))
            }
            Err(error) => return Err(error),
        }
        self.prune_products(log, position);
        Ok(())
    }

    pub(super) fn after_step(
        &mut self,
        log: &mut RunLog,
        position: &Position,
        ended: Range<u64>,
        stop: &StopRequest,
    ) -> Result<()> {
        let last = position.step == self.total_steps;
        if self.ranks.is_lead()
            && seeded(Bug::SampleFirst)
            && !last
            && self.due(self.config.samples.every(), position, &ended)
        {
            self.sample(log, position.step, stop)?;
        }
        if last || self.due(self.config.checkpoint.every(), position, &ended) {
            self.save_together(log, position, stop)?;
        }
        if last {
            return Ok(());
        }
        let product = self.product_due(position, &ended);
        let [validates, samples] = [self.config.validation.every(), self.config.samples.every()]
            .map(|every| self.due(every, position, &ended));
        if !(product.is_some() || validates || samples) {
            return Ok(());
        }
        self.ranks.phase("samples");
        if !self.ranks.is_lead() {
            return self.ranks.follow_lead("after step");
        }
        if product.is_some() && !self.folder.is_in_place()? {
            // Else the new folder would hold a product and nothing to continue from.
            self.save_checkpoint(log, position, stop)?;
        }
        self.optimizer.hold(Weights::Evaluation)?;
        if let Some(stem) = product {
            // Where another rank ends now, it is finished first.
            self.ranks.phase("save");
            self.save_on_the_way(log, &stem, position, stop)?;
            self.ranks.phase("samples");
        }
        // Whoever asks to stop meanwhile does not wait for them: they are broken off, the step is saved, and the next start makes up
        // for them.
        if validates {
            self.validate(log, position.step, stop)?;
        }
        if samples {
            self.sample(log, position.step, stop)?;
        }
        self.optimizer.hold(Weights::Training)?;
        self.ranks.follow_lead("after step")
    }

    /// The product, then the last measurements and pictures. Nothing when it was asked to stop before the end of them.
    pub(super) fn finish(
        &mut self,
        log: &mut RunLog,
        position: &Position,
        stop: &StopRequest,
    ) -> Result<Option<Vec<PathBuf>>> {
        self.record.phase("save");
        if !self.folder.is_in_place()? && !self.reducer.is_shared_out() {
            // The last checkpoint has gone with its folder.
            self.save_checkpoint(log, position, stop)?;
        }
        self.optimizer.hold(Weights::Evaluation)?;
        let product = self.save_product(log, &self.config.name.clone(), position, stop)?;
        for path in &product {
            log.message(&format!("saved {}", path.display()));
        }
        self.record.phase("samples");
        self.validate(log, position.step, stop)?;
        if stop.is_set() {
            return Ok(None);
        }
        self.sample(log, position.step, stop)?;
        if stop.is_set() {
            return Ok(None);
        }
        let of_step = |step: u64| self.pictures_of(step);
        let target = self.folder.path.join("samples").join(samples::GRID);
        let compared = samples::compare(&of_step(0), &of_step(position.step), &target);
        go_on_without(log, "the sheet of pictures", compared);
        if stop.is_set() {
            return Ok(None);
        }
        self.record.phase("evaluate");
        let evaluated = self.evaluate(log, &product);
        go_on_without(log, "the evaluation, which `sdtrain evaluate` does again,", evaluated);
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
            self.reducer = Box::new(Alone);
            self.model = load_model(&self.config, self.model.device)?;
        }
        let base = &self.model;
        sdtrain_evaluate::detach_all(base);
        let mut announce = |name: &str| log.message(&format!("evaluating {name}"));
        let evaluation = sdtrain_evaluate::run(&self.config, base, held_out, &product[..1], &mut announce)?;
        self.folder.check_in_place()?;
        evaluation.write(&self.folder.path)?;
        log.message(&evaluation.table());
        Ok(())
    }

    /// Measures the loss on held-out images, and goes on where that fails; an error is one of the weights.
    pub(super) fn validate(&mut self, log: &mut RunLog, step: u64, stop: &StopRequest) -> Result<()> {
        let measured = self.with_average(|this| {
            let validation = this.validation.as_ref().zip(this.held_out.as_ref());
            validation.map(|(validation, data)| validation.measure(&this.model, data, stop)).transpose()
        })?;
        let Some(measured) = go_on_without(log, "validation", measured).flatten().flatten() else { return Ok(()) };
        for (tag, figure) in &measured.scalars {
            log.scalar(&format!("validation/{tag}"), step, *figure);
        }
        log.message(&format!("validation at step {step}: {}", measured.text));
        Ok(())
    }

    /// Draws the pictures, and goes on where that fails; an error is one of the weights.
    pub(super) fn sample(&mut self, log: &mut RunLog, step: u64, stop: &StopRequest) -> Result<()> {
        if self.sample_requests.is_empty() {
            return Ok(());
        }
        let folder = self.pictures_of(step);
        let pictures = self.with_average(|this| {
            this.folder.check_in_place()?;
            samples::draw(&this.model, &this.sample_requests, &folder, stop)
        })?;
        let pictures = if seeded(Bug::PicturesEndRun) { Ok(pictures?) } else { pictures };
        let Some(pictures) = go_on_without(log, "the pictures", pictures) else { return Ok(()) };
        let Some(pictures) = pictures else {
            log.message(&format!("the pictures of step {step} are drawn when the run goes on: somebody asks to stop"));
            return Ok(());
        };
        for (index, picture) in pictures.iter().enumerate() {
            log.image(&format!("samples/{index:02}"), step, picture);
        }
        log.message(&format!("drew {}", folder.join(samples::GRID).display()));
        Ok(())
    }

    /// The folder of the pictures that are drawn after `step`.
    fn pictures_of(&self, step: u64) -> PathBuf {
        self.folder.path.join("samples").join(step_name(step))
    }

    /// Measures and draws what was due after the step of the checkpoint at `position`, where a stop or a kill came first. The lead's.
    pub(super) fn make_up_for(&mut self, log: &mut RunLog, position: &Position, stop: &StopRequest) -> Result<()> {
        if position.step == 0 || position.step >= self.total_steps {
            return Ok(());
        }
        let ended = self.epochs_ended(position);
        let validates = self.validation.is_some()
            && self.due(self.config.validation.every(), position, &ended)
            && self.lacks_measurement(position.step);
        let samples = !self.sample_requests.is_empty()
            && self.due(self.config.samples.every(), position, &ended)
            && !self.pictures_of(position.step).join(samples::GRID).exists();
        if !(validates || samples) {
            return Ok(());
        }
        self.ranks.phase("samples");
        self.optimizer.hold(Weights::Evaluation)?;
        if validates {
            self.validate(log, position.step, stop)?;
        }
        if samples {
            self.sample(log, position.step, stop)?;
        }
        Ok(self.optimizer.hold(Weights::Training)?)
    }

    /// Whether the run's own file says that nothing was measured after `step`; without that file nobody knows.
    fn lacks_measurement(&self, step: u64) -> bool {
        let Ok(text) = fs::read_to_string(self.folder.path.join(SCALARS)) else { return false };
        let is_it = |line: &str| {
            let scalar: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            scalar["step"] == step && scalar["tag"].as_str().is_some_and(|tag| tag.starts_with("validation/"))
        };
        !text.lines().rev().any(is_it)
    }
}

/// What came of something that a run can do without; where it failed, a warning.
fn go_on_without<T>(log: &mut RunLog, what: &str, result: Result<T>) -> Option<T> {
    result.map_err(|error| log.message(&format!("warning: {what} failed, and the run goes on: {error}"))).ok()
}
