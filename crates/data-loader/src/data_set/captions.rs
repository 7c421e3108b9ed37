//! The captions of a data set: of one image, of a batch, and all that a run will see.

use std::collections::BTreeSet;

use sdtrain_recipe::{Leftovers, Subset};

use super::DataSet;
use crate::DataError;
use crate::batch::{BatchPlan, Visit};
use crate::caption::{self, Progress};
use crate::tokens::{TokenReport, TokenWindow};

impl DataSet {
    /// The caption of an image with prefix and suffix, nothing dropped and nothing shuffled, the first of each choice.
    pub fn caption(&self, image: usize) -> String {
        caption::plain(&self.images[image].captions, self.subset_of(image))
    }

    /// Counts the tokens of every caption that can be trained on.
    pub fn count_tokens(&self, window: TokenWindow<'_>) -> TokenReport {
        TokenReport::count(&self.images, &self.subsets, window)
    }

    /// The captions of a batch, as `load` would give them, without reading an image.
    pub fn captions_of(&self, plan: &BatchPlan, epoch: u64) -> Result<Vec<String>, DataError> {
        let progress = self.progress(plan, epoch);
        let caption = |&visit: &Visit| Ok(self.caption_of_visit(visit, self.stand_in(visit.image)?, progress));
        plan.visits.iter().map(caption).collect()
    }

    /// Every caption that a run over these data sees, at whatever rank, each once: draws are a function of seed and epoch, so all of them can be
    /// made beforehand. Outside of training those of all images.
    ///
    /// An image that turns out unreadable later is replaced by another one, whose caption may not be among them.
    pub fn captions_of_run(&self) -> Result<BTreeSet<String>, DataError> {
        let is_constant: Vec<bool> =
            self.subsets.iter().map(|subset| self.steps.is_none() || !is_random(subset)).collect();
        let constant = (0..self.images()).filter(|&image| is_constant[self.images[image].subset]);
        let mut captions: BTreeSet<String> = constant.map(|image| self.caption(image)).collect();
        let Some(train) = self.steps.as_ref().filter(|_| is_constant.contains(&false)) else { return Ok(captions) };
        let total = self.total_steps(train);
        let recurring = self.epochs_until_captions_recur();
        for epoch in 0.. {
            if self.lengths.steps_before(&self.order, train, epoch) >= total || recurring.is_some_and(|n| epoch >= n) {
                break;
            }
            for plan in self.whole_epoch_plan(epoch) {
                let progress = self.progress(&plan, epoch).filter(|progress| progress.step < total);
                let Some(progress) = progress else { break };
                for &visit in &plan.visits {
                    let image = self.stand_in(visit.image)?;
                    if !is_constant[self.images[image].subset] {
                        captions.insert(self.caption_of_visit(visit, image, Some(progress)));
                    }
                }
            }
        }
        Ok(captions)
    }

    /// After how many epochs no new caption comes, where each of them sees the same visits.
    fn epochs_until_captions_recur(&self) -> Option<u64> {
        let whole_epochs =
            self.leftovers == Leftovers::ShortBatch && self.order.images().iter().all(|image| image.repeats.is_whole());
        let random = || self.subsets.iter().filter(|subset| is_random(subset));
        let depends_on_time =
            random().any(|subset| subset.token_warmup_step > 0.0 || subset.caption_dropout_every_n_epochs > 0);
        if !whole_epochs || depends_on_time {
            return None;
        }
        random().map(|subset| subset.caption_variants).try_fold(0, |most, variants| Some(variants?.max(most)))
    }

    /// `image` is the visit's own, or the one that stands in for it.
    pub(super) fn caption_of_visit(&self, visit: Visit, image: usize, progress: Option<Progress>) -> String {
        let (own, subset) = (&self.images[image].captions, self.subset_of(image));
        match progress {
            Some(progress) => {
                let progress = Progress { epoch: progress.epoch - visit.epochs_ago, ..progress };
                caption::of_visit(own, subset, self.seed, progress, self.index(visit))
            }
            None => caption::plain(own, subset),
        }
    }

    /// How far the training is at a batch; nothing outside of training.
    pub(super) fn progress(&self, plan: &BatchPlan, epoch: u64) -> Option<Progress> {
        let train = self.steps.as_ref()?;
        let before = self.lengths.steps_before(&self.order, train, epoch);
        let step = before + plan.number as u64 / train.gradient_accumulation_steps.max(1);
        Some(Progress { epoch, step, total_steps: self.total_steps(train) })
    }
}

/// Whether captions of a subset may differ from visit to visit.
fn is_random(subset: &Subset) -> bool {
    subset.changes_caption_parts()
        || subset.enable_wildcard
        || subset.caption_dropout_rate > 0.0
        || subset.caption_dropout_every_n_epochs > 0
        || subset.captions.len() > 1
}
