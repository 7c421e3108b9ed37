//! Noise options, timestep distributions, losses, weights and masks against their formulas in double precision.

use sdtrain_diffusion::{NoiseSchedule, PredictionType, SchedulerConfig, loss, noise, timesteps};
use sdtrain_recipe::{LossConfig, TimestepsConfig};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::fixture::{Fixture, assert_close};

/// A section as the fixture has it, without what only its script reads.
fn section<T: DeserializeOwned>(value: &Value) -> T {
    let keys = value.as_object().expect("a table").iter().filter(|(name, _)| !name.starts_with('_'));
    let keys = keys.map(|(name, value)| (name.clone(), value.clone())).collect();
    serde_json::from_value(Value::Object(keys)).expect("a section of a configuration")
}

/// Stable Diffusion's schedule, and it rescaled; with what their names end in.
fn schedules() -> [(&'static str, NoiseSchedule); 2] {
    let plain = NoiseSchedule::new(&SchedulerConfig::stable_diffusion()).expect("a valid schedule");
    let rescaled = plain.with_zero_terminal_snr().expect("it has many timesteps");
    [("", plain), (".zero_snr", rescaled)]
}

#[test]
fn losses_and_their_gradients_are_those_of_the_formulas() {
    let fixture = Fixture::open("objective.safetensors");
    let (timesteps, target) = (fixture.tensor("input.timesteps"), fixture.tensor("input.target"));
    let mask = loss::latent_mask(fixture.tensor("input.pixel_mask"), 6, 5);
    assert_close("mask", &mask, fixture.tensor("output.mask"), 1e-6); // sums of 64 numbers
    for (name, value) in fixture.config["losses"].as_object().expect("losses by name") {
        let config: LossConfig = section(value);
        let mask = (value["_mask"] == true).then_some(&mask);
        for (suffix, schedule) in schedules() {
            let prediction = fixture.tensor("input.prediction").copy().set_requires_grad(true);
            let losses = loss::example_losses(&config, &schedule, &prediction, target, timesteps, mask);
            losses.sum(Kind::Float).backward();
            let name = format!("{name}{suffix}");
            // fp32: ᾱ near 1 is known to 5 digits after it is taken from 1, which σ at timestep 0 and its c then carry.
            assert_close(&name, &losses.detach(), fixture.tensor(&format!("output.loss.{name}")), 3e-6);
            let gradient = fixture.tensor(&format!("output.gradient.{name}"));
            assert_close(&format!("gradient of {name}"), &prediction.grad(), gradient, 1e-5);
        }
    }
}

#[test]
fn weights_are_those_of_the_formulas_with_either_snr() {
    let fixture = Fixture::open("objective.safetensors");
    let all = Tensor::arange(1000, (Kind::Int64, tch::Device::Cpu));
    let [(_, plain), (_, rescaled)] = schedules();
    let mut compared = 0;
    for (name, value) in fixture.config["weights"].as_object().expect("weights by name") {
        for prediction_type in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample] {
            let mut compare = |schedule: &NoiseSchedule, before: bool, suffix: &str| {
                let named = format!("{}.{name}{suffix}", prediction_type.name());
                let Some(expected) = fixture.find(&format!("output.weight.{named}")) else { return };
                let config = LossConfig { snr_before_rescaling: before, ..section(value) };
                let found = loss::weights(&config, schedule, prediction_type, &all).expect("something is weighed");
                // Relative to each weight: fp32 knows the SNR of the first timesteps, where ᾱ is nearly 1, to 4 digits.
                let found = found.to_kind(Kind::Double) / expected.to_kind(Kind::Double).clamp_min(1e-30);
                let found = found.where_self(&expected.gt(0.0), &expected.to_kind(Kind::Double).ones_like());
                assert_close(&named, &found, &found.ones_like(), 2e-4);
                compared += 1;
            };
            compare(&plain, false, "");
            compare(&rescaled, false, ".zero_snr");
            compare(&rescaled, true, "");
        }
    }
    assert_eq!(compared, 13 + 7 + 13);
}

#[test]
fn where_the_snr_is_zero_so_is_the_weight_of_a_velocity() {
    let [_, (_, rescaled)] = schedules();
    let last = Tensor::from_slice(&[999i64]);
    let weight = |config: LossConfig| {
        let weights = loss::weights(&config, &rescaled, PredictionType::VPrediction, &last).expect("a weight");
        weights.double_value(&[0])
    };
    assert_eq!(weight(LossConfig { min_snr_gamma: Some(5.0), ..LossConfig::default() }), 0.0);
    assert_eq!(weight(LossConfig { scale_v_pred_loss_like_noise_pred: true, ..LossConfig::default() }), 0.0);
    assert_eq!(weight(LossConfig { debiased_estimation: true, ..LossConfig::default() }), 1.0);
    assert_eq!(weight(LossConfig { p2_gamma: Some(1.0), ..LossConfig::default() }), 0.5);
}

#[test]
fn nothing_weighed_is_no_tensor() {
    let [(_, plain), _] = schedules();
    let timesteps = Tensor::from_slice(&[5i64]);
    assert!(loss::weights(&LossConfig::default(), &plain, PredictionType::Epsilon, &timesteps).is_none());
}

#[test]
fn noise_options_are_those_of_the_formulas() {
    let fixture = Fixture::open("objective.safetensors");
    let (base, latents) = (fixture.tensor("input.noise"), fixture.tensor("input.latents"));
    let strengths = |strength: f64| Tensor::full([2, 1, 1, 1], strength, (Kind::Float, tch::Device::Cpu));
    for (name, strength, scale) in [("growing", 0.1, 0.3), ("shrinking", 0.2, -0.25)] {
        let strengths = noise::adaptive_strengths(&strengths(strength), scale, latents);
        let found = noise::offset(base, &strengths, fixture.tensor("input.offset_draw"));
        assert_close(name, &found, fixture.tensor(&format!("output.offset.{name}")), 1e-6); // fp32, few operations
    }
    let found = noise::perturbed(base, &strengths(0.15), fixture.tensor("input.second_draw"));
    assert_close("perturbed", &found, fixture.tensor("output.perturbed"), 1e-6);

    let ratios = Vec::<f64>::try_from(fixture.tensor("input.ratios").to_kind(Kind::Double)).expect("a vector");
    let sizes = noise::level_sizes(12, 9, &ratios);
    let levels: Vec<Tensor> =
        (0..sizes.len()).map(|level| fixture.tensor(&format!("input.level.{level}")).copy()).collect();
    assert!(fixture.find(&format!("input.level.{}", sizes.len())).is_none(), "{sizes:?}");
    for (level, size) in levels.iter().zip(&sizes) {
        assert_eq!(level.size()[2..], [size.0, size.1]);
    }
    let sum = noise::pyramid(base, &levels, 0.4);
    for (name, over_batch) in [("example", false), ("batch", true)] {
        let found = noise::normalised(&sum, over_batch);
        assert_close(name, &found, fixture.tensor(&format!("output.multires.{name}")), 2e-6);
    }
}

#[test]
fn timesteps_have_the_probabilities_of_the_formulas() {
    let fixture = Fixture::open("objective.safetensors");
    for (name, value) in fixture.config["timesteps"].as_object().expect("distributions by name") {
        let config: TimestepsConfig = section(value);
        let range = timesteps::TimestepSampler::new(&config, 1000).range();
        let weights = timesteps::weights(&config.distribution, range);
        let weights = Tensor::from_slice(&weights);
        let found = &weights / weights.sum(Kind::Double);
        // fp64; differences of neighbouring values of the normal distribution.
        assert_close(name, &found, fixture.tensor(&format!("output.timesteps.{name}")), 1e-9);
    }
}
