//! What is set and never comes into force, or cannot be meant, told before a run begins.

use sdtrain_recipe::{LearningRateScale, OptimizerConfig, TrainConfig, TrainSection};

use super::millions;
use crate::trained::Trained;

/// Warnings of a run of `total_steps` that trains `trained`; those that the run itself gives are not among them.
pub(super) fn warnings(config: &TrainConfig, trained: Trained, total_steps: u64) -> Vec<String> {
    let mut warnings = config.length_warnings(total_steps);
    warnings.extend(config.decay_warning());
    warnings.extend(config.own_rate_warning());
    warnings.extend(whole_state(config, trained));
    warnings
}

/// Where no epoch, of `most` batches at most, has as many as a step is to take.
pub(super) fn unreached_batches(train: &TrainSection, most: u64) -> Option<String> {
    let asked = train.gradient_accumulation_steps;
    let (reached, _) = train.batches_of_steps(most);
    let scaled = match train.learning_rate_scale {
        LearningRateScale::Accumulation | LearningRateScale::Both => {
            "; `train.learning_rate_scale` counts those that are asked for"
        }
        LearningRateScale::None | LearningRateScale::BatchSize => "",
    };
    (reached < asked).then(|| {
        format!(
            "`train.gradient_accumulation_steps` = {asked}: a step ends with its epoch, and no epoch has more than {reached} {}, which is \
             what every step takes; more `repeats` make epochs longer{scaled}",
            if reached == 1 { "batch" } else { "batches" }
        )
    })
}

/// Where 8-bit AdamW finds next to nothing that is large enough for it.
fn whole_state(config: &TrainConfig, trained: Trained) -> Option<String> {
    // Two means in fp32 take 8 bytes a parameter, those in 8 bits a little over 2. Adapters are counted as one matrix, so that a part of a
    // byte may be missing.
    const NEARLY_ALL_OF_FP32: f64 = 7.9;
    let OptimizerConfig::AdamW8bit(settings) = &config.optimizer else { return None };
    let each = trained.state_bytes as f64 / trained.parameters.max(1) as f64;
    (each > NEARLY_ALL_OF_FP32).then(|| {
        format!(
            "`optimizer.min_8bit_size` = {}: of {} parameters next to none are in tensors so large, and `adamw_8bit` keeps its state in \
             fp32",
            settings.min_8bit_size,
            millions(trained.parameters)
        )
    })
}

#[cfg(test)]
mod tests {
    use sdtrain_recipe::AdamW8bitConfig;

    use super::*;

    #[test]
    fn a_step_that_no_epoch_has_the_batches_for_is_said() {
        let said = |steps, most| {
            unreached_batches(&TrainSection { gradient_accumulation_steps: steps, ..TrainSection::default() }, most)
        };
        let text = said(100, 6).expect("six are fewer");
        assert!(text.contains("= 100: ") && text.contains("no epoch has more than 6 batches"), "{text}");
        assert_eq!((said(6, 6), said(4, 6), said(1, 1)), (None, None, None));
        let train = TrainSection {
            gradient_accumulation_steps: 2,
            learning_rate_scale: LearningRateScale::Both,
            ..TrainSection::default()
        };
        let text = unreached_batches(&train, 1).expect("one is fewer");
        assert!(text.contains("more than 1 batch,") && text.contains("`train.learning_rate_scale`"), "{text}");
    }

    #[test]
    fn a_state_that_stays_in_fp32_is_said() {
        let said = |min_8bit_size, state_bytes| {
            let optimizer = OptimizerConfig::AdamW8bit(AdamW8bitConfig { min_8bit_size, ..AdamW8bitConfig::default() });
            let trained = Trained { parameters: 3_000_000, state_bytes, ..Trained::default() };
            warnings(&TrainConfig { optimizer, ..TrainConfig::default() }, trained, 1000)
        };
        assert!(
            matches!(&said(100_000_000, 24_000_000)[..], [text] if text.contains("= 100000000: of 3.0 M parameters"))
        );
        assert_eq!(said(4096, 6_100_000), [""; 0]);
        let trained = Trained { parameters: 3_000_000, state_bytes: 24_000_000, ..Trained::default() };
        assert_eq!(warnings(&TrainConfig::default(), trained, 1000), [""; 0], "AdamW keeps it so");
    }
}
