//! `[train]`: how long to train, and what an optimizer step consists of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::GradientCheckpointing;

/// How long to train, and what an optimizer step consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Length of the run in optimizer steps. Either this or `max_epochs` is needed.
    #[schemars(extend("x-other-names" = ["max_train_steps"]))]
    pub max_steps: Option<u64>,

    /// Length of the run in epochs; in one of them each image is seen `repeats` times (with
    /// `data.leftovers = "carry"` and fractional `repeats` on average). Either this or `max_steps` is needed.
    #[schemars(extend("x-other-names" = ["max_train_epochs", "num_train_epochs"]))]
    pub max_epochs: Option<u64>,

    /// Optimizer steps after which the text encoder, or its adapters, stand still while the UNet goes on learning. Absent: never.
    #[schemars(extend("x-other-names" = ["stop_text_encoder_training"]))]
    pub max_text_encoder_steps: Option<u64>,

    /// The same in epochs.
    pub max_text_encoder_epochs: Option<u64>,

    /// Batches whose gradients are averaged into one optimizer step: a larger batch for less memory. A step ends with its epoch, whose last
    /// one so may take fewer.
    pub gradient_accumulation_steps: u64,

    /// For how many ranks the batch size is meant: `data.batch_size` images for each of them make up a batch, whoever computes it. With
    /// fewer ranks each does the part of several, one after the other, so that a run can be continued by another number of ranks, to
    /// the same order and noise. Absent: as many as there are (see `sdtrain launch`), or as the run that is continued began with.
    #[schemars(extend("x-other-names" = ["num_processes"]))]
    pub world_size: Option<u64>,

    /// Which blocks are computed again in the backward pass instead of being kept: less memory, more time, the same numbers. `true` is
    /// `"all"`, `false` is `"none"`.
    #[schemars(with = "crate::gradient_checkpointing::Written")]
    pub gradient_checkpointing: GradientCheckpointing,

    /// Update each tensor as soon as its gradient is complete, in the middle of the backward pass, and free the gradient: no memory
    /// for gradients, the same numbers. Needs `max_grad_norm = 0` and no accumulation. A gradient that is not finite ends the
    /// run, since other weights have moved by then.
    #[schemars(extend("x-other-names" = ["fused_backward_pass"]))]
    pub fused_backward: bool,

    /// Largest norm of the gradient over all trained parameters; larger ones are scaled down to it.
    /// Typical: 1. 0: no clipping. Applied after unscaling and accumulation.
    pub max_grad_norm: f64,

    /// Multiply the learning rate by the size of a step, so that a rate that was found for single images suits larger
    /// batches.
    #[schemars(extend("x-other-names" = ["scale_lr", "learning_rate_scaler"]))]
    pub learning_rate_scale: LearningRateScale,

    /// Steps in a row that may be skipped because a loss or gradient is not finite: the weights stay as they are, the images are
    /// named, and the run goes on. One more ends it. A run whose last steps were skipped is done where a batch after them has a finite
    /// loss. 0: the first one ends it. Where the trained weights are not finite themselves, the first one ends it too, and no image is
    /// named.
    /// What loss scaling skips (`precision.compute = "fp16"`) is not counted.
    pub max_skipped_steps: u64,

    /// Processor threads. Absent: as many as there are cores for this process. Bits of a run depend on it.
    pub threads: Option<u32>,
}

/// What the learning rate is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateScale {
    /// By nothing.
    None,
    /// By `data.batch_size`.
    BatchSize,
    /// By `train.gradient_accumulation_steps`.
    Accumulation,
    /// By both, and by `train.world_size`, as diffusers' `--scale_lr` does.
    Both,
}

impl LearningRateScale {
    /// The number.
    pub fn factor(self, batch_size: usize, train: &TrainSection) -> f64 {
        let (batch, accumulation) = (batch_size as f64, train.gradient_accumulation_steps as f64);
        match self {
            LearningRateScale::None => 1.0,
            LearningRateScale::BatchSize => batch,
            LearningRateScale::Accumulation => accumulation,
            LearningRateScale::Both => batch * accumulation * train.ranks() as f64,
        }
    }
}

impl Default for TrainSection {
    fn default() -> Self {
        TrainSection {
            max_steps: None,
            max_epochs: None,
            max_text_encoder_steps: None,
            max_text_encoder_epochs: None,
            gradient_accumulation_steps: 1,
            world_size: None,
            gradient_checkpointing: GradientCheckpointing::None,
            fused_backward: false,
            max_grad_norm: 1.0,
            learning_rate_scale: LearningRateScale::None,
            max_skipped_steps: 10,
            threads: None,
        }
    }
}

impl TrainSection {
    /// The largest gradient norm, when gradients are clipped at all.
    pub fn clip_norm(&self) -> Option<f64> {
        (self.max_grad_norm > 0.0).then_some(self.max_grad_norm)
    }

    /// Whether the text encoder has learned enough when `step` optimizer steps and `epoch` epochs are complete.
    pub fn text_encoder_is_done(&self, step: u64, epoch: u64) -> bool {
        self.max_text_encoder_steps.is_some_and(|limit| step >= limit)
            || self.max_text_encoder_epochs.is_some_and(|limit| epoch >= limit)
    }

    /// Why gradients cannot be freed at once where they are to be accumulated, and the way out; asked again when the number of ranks is
    /// known.
    pub fn fused_backward_refused(&self) -> Option<(&'static str, &'static str)> {
        let accumulates = self.gradient_accumulation_steps.saturating_mul(self.ranks()) > 1;
        (self.fused_backward && accumulates).then_some((
            "`train.fused_backward` frees each gradient at once, so nothing can be accumulated, over batches or over ranks",
            "set `train.gradient_accumulation_steps = 1`, train on one rank, and `data.batch_size` to what fits",
        ))
    }

    /// For how many ranks the batch size is meant; where nobody said so, one.
    pub fn ranks(&self) -> u64 {
        self.world_size.unwrap_or(1).max(1)
    }

    /// How many batches the optimizer steps of an epoch of `batches_per_epoch` take, and how many the last of them: none goes on into the
    /// next epoch.
    pub fn batches_of_steps(&self, batches_per_epoch: u64) -> (u64, u64) {
        let batches = batches_per_epoch.max(1);
        let each = self.gradient_accumulation_steps.clamp(1, batches);
        match batches % each {
            0 => (each, each),
            left => (each, left),
        }
    }

    /// Optimizer steps of an epoch of `batches_per_epoch` batches; the last one may hold fewer batches.
    pub fn steps_per_epoch(&self, batches_per_epoch: u64) -> u64 {
        batches_per_epoch.div_ceil(self.gradient_accumulation_steps.max(1))
    }
}
