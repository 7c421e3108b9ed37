//! Noise schedules, noisy latents, velocity, SNR and min-SNR weights against diffusers'.

use sdtrain_diffusion::{NoiseSchedule, PredictionType, SchedulerConfig, loss};
use tch::{Device, Kind, Tensor};

use crate::fixture::{Fixture, assert_close};

#[test]
fn schedules_and_what_follows_from_them_are_those_of_diffusers() {
    let fixture = Fixture::open("noise_schedule.safetensors");
    let gamma = fixture.config["min_snr_gamma"].as_f64().expect("a number");
    let (timesteps, noise) = (fixture.tensor("input.timesteps"), fixture.tensor("input.noise"));
    let latents = fixture.tensor("input.sample");
    let all_timesteps = Tensor::arange(1000, (Kind::Int64, Device::Cpu));
    for (name, arguments) in fixture.config["schedules"].as_object().expect("schedules by name") {
        let config = SchedulerConfig::from_json(&arguments.to_string()).expect("a configuration of diffusers");
        let schedule = NoiseSchedule::new(&config).expect("a valid schedule");
        let rescaled = SchedulerConfig { rescale_betas_zero_snr: Some(true), ..config };
        let rescaled = NoiseSchedule::new(&rescaled).expect("a valid schedule");
        for (name, schedule) in [(name.clone(), schedule), (format!("{name}.zero_snr"), rescaled)] {
            let mut report = vec![name.clone()];
            let mut compare = |part: &str, found: &Tensor, tolerance: f64| {
                if let Some(expected) = fixture.find(&format!("output.{name}.{part}")) {
                    let difference = assert_close(&format!("{name}: {part}"), found, expected, tolerance);
                    report.push(format!("{part} {difference:.1e}"));
                }
            };
            // The same operations in the same precision: equal but for the last bit. With zero terminal SNR the last betas are quotients of
            // differences thirty times smaller than what they are taken from, and libtorch does not round alike on every processor.
            let rescaled = name.ends_with("zero_snr");
            compare("betas", schedule.betas(), if rescaled { 5e-6 } else { 1e-6 });
            compare("alphas_cumprod", schedule.alphas_cumprod(), 1e-6);
            // The same last bit is many times larger in what is made of `1 - alphas_cumprod` at the first timesteps, so that is compared for the
            // reference's betas.
            let schedule = if rescaled { of_betas(fixture.tensor(&format!("output.{name}.betas"))) } else { schedule };
            compare("add_noise", &schedule.add_noise(latents, noise, timesteps), 1e-6);
            compare("velocity", &schedule.velocity(latents, noise, timesteps), 1e-6);
            compare("snr", &schedule.snr(&all_timesteps), 1e-6);
            let weights = |prediction_type| loss::min_snr(&schedule.snr(&all_timesteps), prediction_type, gamma);
            compare("min_snr_epsilon", &weights(PredictionType::Epsilon), 1e-6);
            compare("min_snr_v_prediction", &weights(PredictionType::VPrediction), 1e-6);
            println!("{}", report.join(", "));
            assert!(report.len() >= 7, "{report:?}");
        }
    }
}

/// The schedule that these betas make, without rescaling.
fn of_betas(betas: &Tensor) -> NoiseSchedule {
    let trained_betas = Some(Vec::<f64>::try_from(betas.to_kind(Kind::Double)).expect("a line of numbers"));
    NoiseSchedule::new(&SchedulerConfig { trained_betas, ..Default::default() }).expect("a valid schedule")
}

#[test]
fn rescaling_later_is_the_same_as_rescaling_at_once() {
    let config = SchedulerConfig::stable_diffusion();
    let at_once = SchedulerConfig { rescale_betas_zero_snr: Some(true), ..config.clone() };
    let later =
        NoiseSchedule::new(&config).expect("a valid schedule").with_zero_terminal_snr().expect("it has many timesteps");
    let at_once = NoiseSchedule::new(&at_once).expect("a valid schedule");
    assert_eq!(later.host_alphas_cumprod(), at_once.host_alphas_cumprod());
}
