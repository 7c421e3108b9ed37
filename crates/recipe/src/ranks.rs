//! `[ranks]`: how several processes train together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TrainConfig;
use crate::check::Checker;
use crate::{ObjectiveKind, OptimizerConfig, Prior, TrainableKind};

/// How several processes, each with a device of its own, train together. Which there are, the launcher says (`sdtrain launch`, `torchrun`,
/// SLURM, Kubernetes); one process alone needs nothing of this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RanksConfig {
    /// How the gradients of all ranks are added up. A single process that a launcher has started goes this way as well where it is not
    /// `auto`, so that its cost can be measured.
    pub reducer: Reducer,

    /// Each rank keeps the optimizer's state of its share of the weights alone, and updates those (ZeRO-1): less memory for the same numbers.
    /// For `trainable = "full"`, and optimizers that look at one tensor at a time.
    #[schemars(extend("x-other-names" = ["zero_stage"]))]
    pub shard_optimizer: bool,

    /// After how many seconds without a sign of life, or without an end of its part of a step that others wait for, a rank is given up and
    /// the run ends (exit code 8). A step must be shorter.
    #[schemars(extend("x-other-names" = ["ddp_timeout"]))]
    pub timeout_seconds: f64,

    /// How many seconds the ranks wait for each other at the start: machines of a cluster come one after the other.
    pub start_timeout_seconds: f64,

    /// How many seconds the ranks wait for one that gives signs of life while it saves, draws, measures or encodes. By then it counts as
    /// hanging, is named, and the run ends.
    pub phase_timeout_seconds: f64,
}

/// How the gradients of all ranks are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reducer {
    /// `overlapped` for whole networks, `flat` for adapters and words, whose gradients are small.
    Auto,
    /// All at once, after the backward pass.
    Flat,
    /// In buckets while the backward pass goes on, as DistributedDataParallel does; `flat` where a pass may leave a parameter out or
    /// reach it twice (`lora.module_dropout`, the base's prediction as a prior with gradient checkpointing), with weights in bf16, whose
    /// sums are taken in fp32, and on GPUs without NCCL.
    Overlapped,
}

impl Default for RanksConfig {
    fn default() -> Self {
        RanksConfig {
            reducer: Reducer::Auto,
            shard_optimizer: false,
            timeout_seconds: 120.0,
            start_timeout_seconds: 600.0,
            phase_timeout_seconds: 7200.0,
        }
    }
}

impl TrainConfig {
    /// Whether gradients are added up while the backward pass goes on. That needs a gradient of each parameter, once in a pass.
    pub fn overlaps_reduction(&self) -> bool {
        // A second pass through the network recomputes its blocks for itself; a module that is dropped has no gradient.
        let twice = self.objective_kind() == ObjectiveKind::Dreambooth
            && self.dreambooth.prior == Prior::BasePrediction
            && self.train.gradient_checkpointing.is_on();
        let is_possible = !twice && self.lora.module_dropout == 0.0;
        match self.ranks.reducer {
            Reducer::Auto => is_possible && self.trainable_kind() == TrainableKind::Full && !self.ranks.shard_optimizer,
            Reducer::Flat => false,
            Reducer::Overlapped => is_possible,
        }
    }
}

impl Checker<'_> {
    pub(crate) fn check_ranks(&mut self, config: &TrainConfig) {
        let ranks = &config.ranks;
        for (key, seconds, suits) in [
            ("ranks.timeout_seconds", ranks.timeout_seconds, "120 suits steps of up to a minute"),
            ("ranks.start_timeout_seconds", ranks.start_timeout_seconds, "600 suits machines that come one by one"),
            ("ranks.phase_timeout_seconds", ranks.phase_timeout_seconds, "7200 suits pictures and caches of an hour"),
        ] {
            if !(1.0..=86400.0).contains(&seconds) {
                self.report(key, format!("`{key}` is 1 to 86400 (a day), not {seconds}")).hint = Some(suits.to_owned());
            }
        }
        self.at_least_one("train.world_size", config.train.world_size);
        if !ranks.shard_optimizer {
            return;
        }
        const KEY: &str = "ranks.shard_optimizer";
        let kind = config.trainable_kind();
        if kind != TrainableKind::Full {
            self.report(
                KEY,
                format!("`{KEY}` is for `trainable = \"full\"`: the optimizer's state of others is small"),
            )
            .hint = Some("leave it out".to_owned());
        }
        if ranks.reducer == Reducer::Overlapped {
            self.report(
                KEY,
                format!("`{KEY}` adds up each rank's share by itself, which `ranks.reducer = \"overlapped\"` does not"),
            )
            .hint = Some("leave `ranks.reducer` out".to_owned());
        }
        let refused = match config.optimizer {
            OptimizerConfig::Prodigy(_) | OptimizerConfig::DadaptAdam(_) => "finds its rate from all of them",
            OptimizerConfig::AdamWScheduleFree(_) => "exchanges all of them for every measurement",
            _ => return,
        };
        self.report(KEY, format!("`{KEY}` shares out tensors, and this optimizer {refused}")).hint =
            Some("take `adamw`, or leave the key out".to_owned());
    }
}
