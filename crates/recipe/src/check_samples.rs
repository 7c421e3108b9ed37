//! What the types cannot say about the pictures that are drawn during training.

use crate::check::Checker;
use crate::{SamplePrompt, TrainConfig};

impl Checker<'_> {
    /// The settings of `[samples]`, and those that single prompts have of their own.
    pub(crate) fn check_samples(&mut self, config: &TrainConfig) {
        let samples = &config.samples;
        self.at_least_one("samples.steps", Some(u64::from(samples.steps)));
        self.not_negative("samples.guidance", Some(samples.guidance));
        self.check_side("samples.width", samples.width);
        self.check_side("samples.height", samples.height);
        for (index, prompt) in samples.prompts.iter().enumerate() {
            let SamplePrompt::Settings(own) = prompt else { continue };
            let key = |name: &str| format!("samples.prompts.{index}.{name}");
            self.at_least_one(&key("steps"), own.steps.map(u64::from));
            self.not_negative(&key("guidance"), own.guidance);
            self.check_side(&key("width"), own.width);
            self.check_side(&key("height"), own.height);
        }
    }

    pub(crate) fn check_side(&mut self, key: &str, side: Option<u32>) {
        if let Some(side) = side.filter(|side| *side == 0 || side % 8 != 0) {
            let nearest = (side.max(8).saturating_add(4)) / 8 * 8;
            self.report(key, format!("`{key}` must be a multiple of 8, not {side}")).hint =
                Some(format!("the nearest is {nearest}"));
        }
    }
}
