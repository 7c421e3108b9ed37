//! What a run writes of what it has learned: checkpoints, products, and products on the way.

use super::{RAW, Trainer};
use crate::error::{Error, Result};
use crate::patience::until_the_disk_takes_it;
use crate::precision::kind_of;
use crate::ranks::gather_state;
use crate::seeded_bugs::{Bug, seeded};
use crate::state::{self, Contents, Position};
use sdtrain_checkpoint::{ManifestInfo, Pruned, storage_error};
use sdtrain_files::Reserve;
use sdtrain_model::vae::LatentDistribution;
use sdtrain_recipe::{FloatType, TrainSection};
use sdtrain_run_log::{MetricSink, RunLog};
use sdtrain_signals::StopRequest;
use std::cell::{Cell, RefCell};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

impl Trainer {
    /// What brings the latents of the first training images to a standard deviation of 1, as the noise schedule expects
    /// them (Rombach et al. 2022, arXiv:2112.10752, appendix G).
    fn unit_scaling_factor(&self) -> Result<f64> {
        const IMAGES: usize = 256;
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        let mut images = 0;
        for plan in self.data.whole_epoch_plan(0) {
            if images >= IMAGES {
                break;
            }
            let batch = self.data.load(&plan, 0)?;
            images += batch.len();
            let shape = [batch.len() as i64, 3, batch.size.1 as i64, batch.size.0 as i64];
            let pixels = Tensor::f_from_slice(&batch.pixels)?.f_reshape(shape)?;
            let LatentDistribution { mean, logvar } = self.model.latent_distribution(&pixels)?;
            sum += mean.sum(Kind::Double).double_value(&[]);
            squares += (mean.square() + logvar.exp()).sum(Kind::Double).double_value(&[]);
            count += mean.numel() as f64;
        }
        let variance = squares / count - (sum / count).powi(2);
        Ok(1.0 / variance.sqrt())
    }

    /// A checkpoint at a step that all ranks agree on: the lead writes it, and the others go on when it is there.
    pub(super) fn save_together(&mut self, log: &mut RunLog, position: &Position, stop: &StopRequest) -> Result<()> {
        self.ranks.phase("save");
        if self.reducer.is_shared_out() {
            let all = gather_state(&self.ranks, self.optimizer.state())?;
            *self.gathered.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        }
        let saved = match self.ranks.is_lead() {
            true => self.save_checkpoint(log, position, stop),
            false => self.check_weights(position),
        };
        *self.gathered.lock().unwrap_or_else(PoisonError::into_inner) = None;
        saved?;
        self.saved_step.set(Some(position.step));
        self.saved_together = Some(position.step);
        self.ranks.follow_lead("saved")?;
        self.ranks.phase("saved");
        Ok(())
    }

    /// When a checkpoint is due. A step that was skipped has left the weights as they were, and they can be saved; but whatever
    /// spoils every step may lie in them already, so that in such a row no older checkpoint is deleted.
    pub(super) fn save_checkpoint(&mut self, log: &mut RunLog, position: &Position, stop: &StopRequest) -> Result<()> {
        if seeded(Bug::UnsavedInARow) && position.skipped_in_a_row > 0 {
            return Ok(());
        }
        self.check_weights(position)?;
        if self.reducer.is_shared_out() && self.gathered.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            let reason =
                "the folder is gone, and the optimizer's state of the other ranks is not at hand to begin it anew";
            return Err(Error::storage(&self.folder.path, reason));
        }
        log.flush();
        let info = self.manifest_at(position);
        let keep = if position.skipped_in_a_row > 0 && !seeded(Bug::PruneInARow) {
            usize::MAX
        } else {
            self.config.checkpoint.keep_last
        };
        let took = Cell::new(Duration::ZERO);
        let (path, pruned) = self.until_there_is_room(log, position.step, stop, || {
            let began = Instant::now();
            let published = self.publish(info.clone(), position, keep);
            took.set(began.elapsed());
            published
        })?;
        self.saved_step.set(Some(position.step));
        self.reserve_room();
        log.message(&format!("saved {}", path.display()));
        for (older, reason) in &pruned.failed {
            log.message(&format!("warning: cannot delete {}: {reason}", older.display()));
        }
        if let Some(warning) = self.short_grace(took.get()) {
            log.message(&warning);
        }
        Ok(())
    }

    /// Once: that a checkpoint which `took` so long might not be finished when the run is asked to stop.
    fn short_grace(&mut self, took: Duration) -> Option<String> {
        let grace = self.config.checkpoint.grace_seconds?;
        if self.grace_is_short || took.as_secs_f64() <= grace / 2.0 {
            return None;
        }
        self.grace_is_short = true;
        let took = took.as_secs_f64();
        Some(format!(
            "warning: saving took {took:.2} s, more than half of the {grace} s of `checkpoint.grace_seconds` that a stop leaves, and \
             a step has to end before it: give the job more time after its signal, or save to a faster disk"
        ))
    }

    /// Writes a checkpoint, then deletes all but the newest `keep`; its folder, and what became of those.
    pub(super) fn publish(&self, info: ManifestInfo, position: &Position, keep: usize) -> Result<(PathBuf, Pruned)> {
        let contents = Contents {
            position,
            optimizer: self.optimizer.as_ref(),
            scaler: self.scaler.as_ref(),
            ema: self.ema.as_ref(),
            spikes: &self.spikes,
            gradient_order: &self.gradient_order,
            config: &self.config.to_toml(),
        };
        state::save(&self.folder.checkpoints(), info, &contents, keep)
    }

    /// What the checkpoint at `position` says of itself.
    pub(super) fn manifest_at(&mut self, position: &Position) -> ManifestInfo {
        self.manifest.data_digest = self.data_digest.so_far();
        ManifestInfo { step: position.step, epoch: position.epoch, ..self.manifest.clone() }
    }

    /// Weights beyond all bounds never become a file: the last good checkpoint and product stay.
    pub(super) fn check_weights(&self, position: &Position) -> Result<()> {
        let groups = self.optimizer.groups();
        let weights: Vec<Tensor> =
            groups.iter().flat_map(|group| &group.parameters).map(|(_, weight)| weight.detach()).collect();
        let norm = sdtrain_torch::clip_grad_norm(&weights, None)?.double_value(&[]);
        if norm.is_finite() || seeded(Bug::SaveNotFinite) {
            Ok(())
        } else {
            Err(Error::WeightsNotFinite { step: position.step })
        }
    }

    pub(super) fn save_product(
        &mut self,
        log: &mut RunLog,
        stem: &str,
        position: &Position,
        stop: &StopRequest,
    ) -> Result<Vec<PathBuf>> {
        self.check_weights(position)?;
        // Each product has that of its own weights.
        let moves_latents = self.trainable.moves_latents();
        if moves_latents {
            let of_average = self.with_average(Self::unit_scaling_factor)??;
            self.model.vae.set_scaling_factor(of_average);
        }
        let kind = kind_of(self.config.precision.save);
        let mut metadata = self.metadata.clone();
        metadata.insert("ss_steps".into(), position.step.to_string());
        let epoch = position.epoch + u64::from(position.batch > 0);
        metadata.insert("ss_epoch".into(), epoch.max(1).to_string());
        let mut write = |this: &Self, stem: &str| {
            if let Some(warning) = this.check_narrowing()? {
                log.message(&warning);
            }
            this.until_there_is_room(log, position.step, stop, || {
                this.trainable.save(&this.model, &this.folder.path, stem, kind, &metadata)
            })
        };
        let mut product = self.with_average(|this| write(this, stem))??;
        if self.config.ema.save_raw {
            let of_average = self.model.vae.config().scaling_factor;
            if moves_latents {
                self.model.vae.set_scaling_factor(self.unit_scaling_factor()?);
            }
            product.extend(write(self, &format!("{stem}{RAW}"))?);
            // Pictures are drawn with the average.
            self.model.vae.set_scaling_factor(of_average);
        }
        Ok(product)
    }

    /// What saving in fp16 does to weights: one that would be infinite is an error, and many that would be zero are said.
    fn check_narrowing(&self) -> Result<Option<String>> {
        // Half of the smallest number that fp16 has: what is not larger is rounded to 0.
        const NOTHING: f64 = 1.0 / (1u64 << 25) as f64;
        const SHARE: f64 = 1e-3;
        if self.config.precision.save != FloatType::Fp16 || seeded(Bug::Overflow) {
            return Ok(None);
        }
        let (mut infinite, mut vanished, mut all, mut first) = (0, 0, 0, None);
        for (name, weight) in self.optimizer.groups().iter().flat_map(|group| &group.parameters) {
            let [beyond, lost, nonzero] = sdtrain_torch::catch(|| {
                let size = weight.detach().to_kind(Kind::Float).abs();
                // Rounded as the file will be: between the largest and the next, half go down.
                let beyond = size.to_kind(Kind::Half).isinf().sum(Kind::Int64);
                let is_something = size.not_equal(0.0);
                let lost = size.less_equal(NOTHING).logical_and(&is_something).sum(Kind::Int64);
                [beyond, lost, is_something.sum(Kind::Int64)].map(|count| count.int64_value(&[]) as u64)
            })?;
            if beyond > 0 {
                first.get_or_insert(name);
            }
            (infinite, vanished, all) = (infinite + beyond, vanished + lost, all + nonzero);
        }
        if let Some(first) = first {
            return Err(Error::DoesNotFit { count: infinite, first: first.clone() });
        }
        let share = vanished as f64 / all.max(1) as f64;
        Ok((share > SHARE).then(|| {
            format!(
                "warning: {vanished} of {all} weights ({:.1} %) are so small that fp16 makes them 0; `precision.save = \"bf16\"` keeps \
                 them",
                share * 100.0
            )
        }))
    }

    /// What a checkpoint takes at least: the trained weights, their average, and what the optimizer keeps by now.
    pub(super) fn state_bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        let parameters = self.optimizer.groups().iter().flat_map(|group| &group.parameters);
        let averages = self.ema.iter().flat_map(|ema| ema.state().0);
        let kept = self.optimizer.state();
        // Of an optimizer that is shared out this rank has its part, about as much as each other has.
        let shares = if self.reducer.is_shared_out() { self.ranks.size() as u64 } else { 1 };
        parameters.chain(averages).map(|(_, tensor)| bytes(tensor)).sum::<u64>()
            + kept.iter().map(|(_, tensor)| bytes(tensor)).sum::<u64>() * shares
    }

    /// Keeps the room of a checkpoint, where that is wanted, can be done, and is not done yet.
    pub(super) fn reserve_room(&self) {
        /// For names, manifest and configuration beside the tensors.
        const BESIDE: u64 = 1 << 20;
        if self.config.checkpoint.reserve && self.reserve.borrow().is_none() {
            let taken = Reserve::take(&self.folder.reserve(), self.state_bytes() + BESIDE);
            self.reserve.replace(taken.ok().flatten());
        }
    }

    /// Does `write` in the run's folder, after `step`, until the disk takes it or patience ends. Where the disk is full, the room
    /// that was kept for this goes first.
    fn until_there_is_room<T>(
        &self,
        log: &mut RunLog,
        step: u64,
        stop: &StopRequest,
        write: impl Fn() -> Result<T>,
    ) -> Result<T> {
        let patience = Duration::from_secs(self.config.checkpoint.retry_minutes.saturating_mul(60));
        let gave_up = Cell::new(false);
        let log = RefCell::new(log);
        let attempt = || {
            self.hold_folder(&mut log.borrow_mut(), step)?;
            write()
        };
        let mut say = |text: &str| log.borrow_mut().message(text);
        let written =
            until_the_disk_takes_it(patience, stop, &mut say, &mut || self.in_kept_room(attempt, || gave_up.set(true)));
        let was_full = self.was_disk_full.replace(gave_up.get());
        if gave_up.get() && !was_full {
            say("warning: the disk is full; the room that was kept for a checkpoint has been given up");
        }
        written
    }

    /// Does `write`, and where the disk is full once more in the room that was kept for this, which is given up.
    pub(super) fn in_kept_room<T>(&self, write: impl Fn() -> Result<T>, gives_up: impl FnOnce()) -> Result<T> {
        match write() {
            Err(error) if is_full(&error) && self.reserve.take().is_some() => {
                gives_up();
                write()
            }
            result => result,
        }
    }

    /// Before anything is saved: where the run's folder was deleted, moved or replaced, it is taken again, and everything of the run
    /// that is still known goes into it.
    pub(super) fn hold_folder(&self, log: &mut RunLog, step: u64) -> Result<()> {
        if self.folder.is_in_place()? {
            return self.complete_folder();
        }
        self.folder.retake(&self.config, &self.record.run_id)?;
        let path = &self.folder.path;
        log.message(&format!(
            "warning: `{}` was deleted, moved or replaced while the run went on: it is taken again, and the run saves there what it \
             has in memory; what was saved before step {step} has gone with the old folder",
            path.display()
        ));
        log.reopen(step);
        drop(self.reserve.take());
        self.reserve_room();
        self.is_folder_new.set(true);
        self.saved_step.set(None);
        self.complete_folder()
    }

    /// Writes the run's record into a folder that was taken again, where that has not been done yet.
    fn complete_folder(&self) -> Result<()> {
        if self.is_folder_new.get() {
            let path = &self.folder.path;
            self.record.clone().write(path).map_err(|error| Error::storage(path, error))?;
            self.is_folder_new.set(false);
        }
        Ok(())
    }

    /// Does `work` with the averaged weights in the place of the trained ones, if there is an average: what came of it. An error of
    /// its own where the weights could not be exchanged.
    pub(super) fn with_average<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<Result<T>> {
        let exchange = |this: &mut Self| match &mut this.ema {
            Some(ema) => ema.exchange(this.optimizer.groups()),
            None => Ok(()),
        };
        self.torn = self.ema.is_some();
        exchange(self)?;
        let result = work(self);
        exchange(self)?;
        self.torn = false;
        Ok(result)
    }

    /// Deletes products on the way beyond `save.keep_last`, those that were written before a continuation included. Those of later
    /// steps neither count nor go: the run has yet to come to them. One that cannot be deleted is only untidy.
    pub(super) fn prune_products(&self, log: &mut RunLog, position: &Position) {
        let Some(keep) = self.config.save.keep_last else { return };
        let mut products = self.products_on_the_way();
        products.retain(|(place, _)| !place.is_after(position.step, position.epoch));
        if seeded(Bug::KeepLater) {
            products.reverse();
        }
        products.truncate(products.len().saturating_sub(keep));
        for name in products.iter().flat_map(|(_, stem)| self.files_of(stem)) {
            if let Err(error) = self.folder.delete_product(&name) {
                let path = self.folder.path.join(&name);
                log.message(&format!("cannot delete {}: {error}", path.display()));
            }
        }
    }

    /// The files of products of later steps than that which the run was told to go back to. Asked before the run writes its record:
    /// by the one that is there, the product of the end is one of them.
    pub(super) fn later_products(&self) -> Vec<String> {
        let Some(info) = &self.folder.goes_back_to else { return Vec::new() };
        let mut products = self.products_on_the_way();
        products.retain(|(place, _)| place.is_after(info.step, info.epoch));
        let mut files: Vec<String> = products.iter().flat_map(|(_, stem)| self.files_of(stem)).collect();
        if self.folder.furthest_step() > info.step {
            files.extend(self.files_of(&self.config.name));
        }
        files
    }

    /// Whether a file of the product on the way `stem`, that of the step of `position`, is not there, and no product of a later step
    /// either: with one, it may have been deleted for its age.
    pub(super) fn lacks_newest_product(&self, stem: &str, position: &Position) -> bool {
        let mut names = self.trainable.product_names(stem);
        if self.config.ema.save_raw {
            names.extend(self.trainable.product_names(&format!("{stem}{RAW}")));
        }
        let is_whole = names.iter().all(|name| self.folder.path.join(name).exists());
        let products = self.products_on_the_way();
        !is_whole && !products.iter().any(|(place, _)| place.is_after(position.step, position.epoch))
    }

    /// The names in the run's folder of what is there of the product on the way `stem`.
    fn files_of(&self, stem: &str) -> Vec<String> {
        let raw = format!("{stem}{RAW}");
        let mut names = self.trainable.product_names(stem);
        names.extend(self.trainable.product_names(&raw));
        names.retain(|name| self.folder.path.join(name).exists());
        names
    }

    /// This run's products on the way by their names without ending, those of earlier steps first. What the clock says of the files
    /// does not count: it jumps, and a copy of a folder has the times of the copying.
    fn products_on_the_way(&self) -> Vec<(Place, String)> {
        let last_step = self.total_steps.max(self.folder.furthest_step());
        let entries = fs::read_dir(&self.folder.path).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<(u64, Place, String)> = names
            .filter_map(|name| {
                let stem = name.strip_suffix(".safetensors").unwrap_or(&name);
                let place = place_of(stem, &self.config.name)?;
                let step = match place {
                    Place::Step(step) => step,
                    Place::Epoch(epoch) => self.steps_of_epochs(epoch),
                };
                // Whatever else has such a name, as one with a date, is the user's. Of other images epochs may have been shorter.
                let is_possible = step <= last_step || matches!(place, Place::Epoch(epoch) if epoch <= last_step);
                is_possible.then(|| (step, place, stem.to_string()))
            })
            .collect();
        found.sort();
        found.dedup();
        found.into_iter().map(|(_, place, stem)| (place, stem)).collect()
    }

    /// Optimizer steps of so many epochs.
    fn steps_of_epochs(&self, epochs: u64) -> u64 {
        self.data.total_steps(&TrainSection { max_epochs: Some(epochs), max_steps: None, ..self.config.train.clone() })
    }
}

/// Whether the disk, or what of it is this user's, is full.
fn is_full(error: &Error) -> bool {
    let kind = storage_error(error).map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// When a product on the way was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Step(u64),
    Epoch(u64),
}

impl Place {
    /// Whether that was after so many steps and complete epochs.
    fn is_after(self, step: u64, epoch: u64) -> bool {
        match self {
            Place::Step(own) => own > step,
            Place::Epoch(own) => own > epoch,
        }
    }
}

/// What the name of a product on the way, without ending, says of it. A longer number is none of the names that are given.
fn place_of(stem: &str, run: &str) -> Option<Place> {
    let number = stem.strip_prefix(run)?.strip_prefix('-')?;
    let (digits, length, place): (_, _, fn(u64) -> Place) = match number.strip_prefix("step") {
        Some(digits) => (digits, 8, Place::Step),
        None => (number, 6, Place::Epoch),
    };
    let is_number = digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok().map(place))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_product_says_when_it_was_written() {
        for (stem, expected) in [
            ("run-step00000250", Some(Place::Step(250))),
            ("run-000002", Some(Place::Epoch(2))),
            ("run-step250", None),
            ("run-step000000250", None),
            ("run-20261122", None),
            ("run", None),
            ("run-raw", None),
            ("run-step00000250-raw", None),
            ("another-000002", None),
        ] {
            assert_eq!(place_of(stem, "run"), expected, "{stem}");
        }
    }
}
