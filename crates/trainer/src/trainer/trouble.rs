//! When something goes wrong: steps that are skipped, weights that are to be trusted, and what is saved on the way out.

use super::Trainer;
use crate::batches::{Batch, Batches};
use crate::error::{Error, Result};
use crate::inputs::StepInputs;
use crate::seeded_bugs::{Bug, seeded};
use crate::state::Position;
use crate::step::StepOutcome;
use sdtrain_checkpoint::ManifestInfo;
use sdtrain_optimizer::{GradScaler, Weights};
use sdtrain_recipe::{step_name, step_of_name};
use sdtrain_run_log::{MetricSink, RunLog};
use sdtrain_signals::StopRequest;
use std::path::Path;

/// Where a step began, to go back to when it has changed nothing.
pub(super) struct Before {
    pub position: Position,
    pub scaler: Option<GradScaler>,
}

impl Trainer {
    /// Minds a step that was skipped since a loss or gradient was not finite: counted, named, and the end of the run when there
    /// are too many in a row. In fp16 an overflow now and then is part of loss scaling.
    pub(super) fn mind_skipped(
        &self,
        log: &mut RunLog,
        outcome: &StepOutcome,
        batches: &[Batch],
        position: &mut Position,
        first_pass: u64,
    ) -> Result<()> {
        if !outcome.skipped {
            position.skipped_in_a_row = 0;
            return Ok(());
        }
        if outcome.rescaled {
            if let Some(scaler) = &self.scaler {
                log.message(&format!(
                    "step {} is skipped, its gradients overflow in fp16: the loss scale becomes {}",
                    position.step, scaler.scale
                ));
                log.scalar("train/loss_scale", position.step, scaler.scale);
            }
            return Ok(());
        }
        position.skipped += 1;
        position.skipped_in_a_row += 1;
        // Weights that an update has spoiled spoil every step after it, and no image is to blame.
        if position.skipped_in_a_row == 1 && !outcome.torn {
            self.check_weights(&Position { step: position.step - 1, ..*position })?;
        }
        // Of several batches those that are to blame, where their losses tell.
        let is_to_blame = |place: usize| match seeded(Bug::FirstBlamed) {
            true => place == 0,
            false => !outcome.some_not_finite || outcome.not_finite.contains(&place),
        };
        let blamed = batches.iter().enumerate().filter(|(place, _)| is_to_blame(*place));
        let images = blamed.flat_map(|(_, batch)| &batch.examples);
        let images: Vec<String> = images.map(|example| format!("`{}`", example.path.display())).collect();
        // Those of all ranks.
        let images: Vec<String> =
            self.ranks.gather("blamed", images.join(", "))?.into_iter().filter(|names| !names.is_empty()).collect();
        let passes = self.ranks.gather("evidence", evidence_of(outcome, batches, first_pass).to_string())?;
        if self.ranks.is_lead()
            && let Err(error) = self.keep_evidence(outcome, &passes, position)
        {
            log.message(&format!("warning: what the step was made of cannot be written down: {error}"));
        }
        if position.skipped_in_a_row > self.config.train.max_skipped_steps || outcome.torn {
            return Err(Error::NotFinite { step: position.step, images });
        }
        let batch = match batches.len() > 1 && !outcome.some_not_finite {
            // Every loss is a number, and the gradients are summed up.
            true => "one of the batches of",
            false => "batch of",
        };
        let scale = self.scaler.as_ref().map(|scaler| format!("; the loss scale becomes {}", scaler.scale));
        log.message(&format!(
            "step {} is skipped, its loss or gradient is not finite ({batch} {}){}",
            position.step,
            images.join(", "),
            scale.unwrap_or_default()
        ));
        if let Some(scaler) = &self.scaler {
            log.scalar("train/loss_scale", position.step, scaler.scale);
        }
        log.scalar("train/skipped_steps", position.step, position.skipped as f64);
        Ok(())
    }

    /// Writes down what a skipped step was made of, so that it can be done again: `not-finite/step-000012.json`.
    /// `passes` is what each rank says of its own.
    fn keep_evidence(&self, outcome: &StepOutcome, passes: &[String], position: &Position) -> Result<()> {
        self.folder.check_in_place()?;
        let folder = self.folder.path.join("not-finite");
        let of_rank = |text: &String| serde_json::from_str::<Vec<serde_json::Value>>(text).unwrap_or_default();
        let mut passes: Vec<serde_json::Value> = passes.iter().flat_map(of_rank).collect();
        passes.sort_by_key(|pass| pass["pass"].as_u64());
        let evidence = serde_json::json!({
            "step": position.step,
            "seed": self.config.seed,
            "loss": outcome.loss.to_string(),
            "grad_norm": outcome.grad_norm.to_string(),
            "loss_scale": self.scaler.as_ref().map(|scaler| scaler.scale),
            "largest_of_modules": outcome.magnitudes,
            "passes": passes,
        });
        let path = folder.join(format!("{}.json", step_name(position.step)));
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, format!("{evidence:#}\n")));
        written.map_err(|error| Error::storage(&path, error))
    }

    /// Counts and says where a gradient is far beyond what is usual in this run.
    pub(super) fn mind_spikes(&mut self, log: &mut RunLog, outcome: &StepOutcome, step: u64) {
        if outcome.skipped {
            return;
        }
        if let Some(times) = self.spikes.see(outcome.grad_norm) {
            log.message(&format!("warning: the gradient of step {step} is {times:.0} times the usual"));
            log.scalar("train/gradient_spikes", step, self.spikes.count as f64);
        }
    }

    /// That it was asked to, and how long the job has still, where the cluster says.
    pub(super) fn say_why_it_stops(&self, log: &mut RunLog, position: &Position) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let end = std::env::var("SLURM_JOB_END_TIME").ok().and_then(|end| end.parse::<u64>().ok());
        let left = end.map(|end| format!("; the job has {} s left", end.saturating_sub(now))).unwrap_or_default();
        log.message(&format!("a signal asks to stop: saving after step {}{left}", position.step));
    }

    /// A run that ends in steps that were skipped has not shown that its last weights are good: those that are finite and far
    /// out of all bounds spoil every step. The batches that would come next are asked, without an update, as many as might
    /// still be skipped, but no more than a few: one finite loss is enough. False where it was asked to stop before.
    pub(super) fn trust_the_end(
        &mut self,
        log: &mut RunLog,
        batches: &mut Batches,
        position: &Position,
        stop: &StopRequest,
    ) -> Result<bool> {
        // Whatever spoils so many batches in a row does not lie in them.
        const MOST: u64 = 100;
        if position.skipped_in_a_row == 0 || seeded(Bug::EndInARow) {
            return Ok(true);
        }
        let mut ahead = *position;
        let mut images = Vec::new();
        let left = self.config.train.max_skipped_steps.saturating_add(1).saturating_sub(position.skipped_in_a_row);
        for _ in 0..left.min(MOST) {
            if self.ranks.agree(stop)?.stop {
                log.message(&format!("a signal asks to stop: the checkpoint of step {} is there", position.step));
                return Ok(false);
            }
            let taken = self.take_batches(batches, &ahead)?;
            let loss = self.step_of(&ahead, false).loss(&taken, ahead.passes)?;
            self.advance(&mut ahead);
            if loss.is_finite() {
                log.message(&format!(
                    "the last {} steps were skipped; the weights before them are good: the next loss is {loss:.4}",
                    position.skipped_in_a_row
                ));
                return Ok(true);
            }
            images.extend(taken.iter().flat_map(|batch| &batch.examples).map(|e| format!("`{}`", e.path.display())));
        }
        Err(Error::NotFinite { step: position.step, images })
    }

    /// What an error leaves is saved, where it is the whole state of a step and not saved yet. Nothing older is deleted for it,
    /// and it is tried once: the disk may well be the cause. The error stays the run's.
    pub(super) fn rescue(&mut self, log: &mut RunLog, position: &Position) {
        let is_saved = self.saved_step.get() == Some(position.step) && self.folder.is_in_place().unwrap_or(false);
        // Where the optimizer is shared out, the state of the others is not here.
        let is_whole = self.ranks.is_lead() && !self.reducer.is_shared_out();
        if !is_whole || position.step == 0 || seeded(Bug::NoRescue) || is_saved {
            return;
        }
        if self.torn {
            log.message("warning: weights had begun to change, so that what was learned since the last checkpoint is not a state of any step");
            return;
        }
        let whole = self.optimizer.hold(Weights::Training).map_err(Error::from);
        if whole.and_then(|()| self.check_weights(position)).is_err() {
            return;
        }
        self.ranks.phase("save");
        log.flush();
        let info = self.manifest_at(position);
        let held = self.hold_folder(log, position.step);
        let publish =
            |info: ManifestInfo| self.in_kept_room(|| self.publish(info.clone(), position, usize::MAX), || ());
        match held.and_then(|()| publish(info)) {
            Ok((path, _)) => log.message(&format!("what was learned before it is saved: {}", path.display())),
            Err(error) => log.message(&format!("warning: what was learned before it cannot be saved: {error}")),
        }
    }
}

/// What becomes of a checkpoint that is not whole, and of its steps, where a run goes on after `step`.
pub(super) fn what_becomes_of(passed_over: &Path, step: u64) -> String {
    let name = passed_over.file_name().and_then(|name| name.to_str());
    match name.and_then(step_of_name) {
        Some(last) if last > step => format!("its {} steps after step {step} are done again", last - step),
        // One whose manifest cannot be read is looked at before newer ones.
        Some(_) => "it is of no later step than the one that the run goes on from, and is left where it is".to_string(),
        None => format!("whatever it holds behind step {step} is done again"),
    }
}

/// What this rank's parts of a skipped step were made of; `position` is after it.
fn evidence_of(outcome: &StepOutcome, batches: &[Batch], first_pass: u64) -> serde_json::Value {
    let mut inputs = outcome.inputs.iter();
    let passes = batches.iter().enumerate().filter(|(_, batch)| !batch.examples.is_empty()).map(|(number, batch)| {
        let timesteps = match inputs.next() {
            Some(StepInputs::Denoising(inputs)) => Vec::<i64>::try_from(&inputs.timesteps).unwrap_or_default(),
            _ => Vec::new(),
        };
        let images = batch.examples.iter().zip(&batch.captions).map(|(example, caption)| {
            serde_json::json!({
                "path": example.path,
                "index": example.index,
                "epoch": example.epoch,
                "caption_blake3": blake3::hash(caption.as_bytes()).to_hex().as_str(),
            })
        });
        serde_json::json!({
            "pass": first_pass + batch.place as u64,
            "size": batch.size,
            "timesteps": timesteps,
            "loss_is_finite": !outcome.not_finite.contains(&number),
            "images": images.collect::<Vec<_>>(),
        })
    });
    passes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_damaged_checkpoint_are_done_again_where_they_are_behind_the_one_that_is_continued() {
        for (folder, expected) in [
            ("checkpoints/step-000012", "its 2 steps after step 10 are done again"),
            ("checkpoints/step-000010", "left where it is"),
            ("checkpoints/step-000005", "left where it is"),
            ("checkpoints/copy", "whatever it holds behind step 10 is done again"),
        ] {
            let said = what_becomes_of(Path::new(folder), 10);
            assert!(said.contains(expected), "{folder}: {said}");
        }
        assert!(!what_becomes_of(Path::new("step-000005"), 10).contains("again"));
    }
}
