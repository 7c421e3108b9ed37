//! The learning rates of a run's parameter groups, before any schedule.

use crate::error::{Error, Result};
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::TrainConfig;

/// `groups` with `train.learning_rate_scale` in their rates. An error where the optimizer finds one rate for all
/// parameters and the groups differ in theirs.
pub(crate) fn of_run(config: &TrainConfig, mut groups: Vec<ParamGroup>) -> Result<Vec<ParamGroup>> {
    let scale = config.learning_rate_scale();
    groups.iter_mut().for_each(|group| group.learning_rate *= scale);
    let mut rates = groups.iter().filter(|group| group.learning_rate != 0.0).map(|group| group.learning_rate);
    let first = rates.next();
    if config.optimizer.settings().finds_its_rate() && rates.any(|rate| Some(rate) != first) {
        let name = config.optimizer.name();
        let message = format!("`{name}` finds one rate for all that is trained, but parts have rates of their own");
        let hint = "leave their rates out, or set them to 0 to leave those parts as they are";
        return Err(Error::Config { message, hint: Some(hint.into()) });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_recipe::{LearningRateScale, OptimizerConfig, ProdigyConfig};

    fn groups(rates: [f64; 2]) -> Vec<ParamGroup> {
        let group = |learning_rate| ParamGroup { name: "unet".into(), learning_rate, parameters: Vec::new() };
        rates.map(group).into()
    }

    #[test]
    fn the_rate_grows_with_the_images_of_a_step() {
        let mut config = TrainConfig::default();
        config.data.batch_size = 4;
        config.train.gradient_accumulation_steps = 2;
        for (scale, expected) in [
            (LearningRateScale::None, 1e-4),
            (LearningRateScale::BatchSize, 4e-4),
            (LearningRateScale::Accumulation, 2e-4),
            (LearningRateScale::Both, 8e-4),
        ] {
            config.train.learning_rate_scale = scale;
            let scaled = of_run(&config, groups([1e-4, 0.0])).expect("any rates do");
            assert_eq!(scaled.iter().map(|group| group.learning_rate).collect::<Vec<_>>(), [expected, 0.0]);
        }
    }

    #[test]
    fn an_optimizer_that_finds_its_rate_takes_one_for_all() {
        let optimizer = OptimizerConfig::Prodigy(ProdigyConfig::default());
        let config = TrainConfig { optimizer, ..TrainConfig::default() };
        assert!(of_run(&config, groups([1.0, 0.0])).is_ok());
        let error = of_run(&config, groups([1.0, 0.5])).expect_err("they differ");
        assert!(error.to_string().contains("`prodigy` finds one rate"), "{error}");
    }
}
