//! Every sampler of the reference traces: timesteps, noise levels, and where the deterministic ones arrive.

use sdtrain_diffusion::{Sampler, SchedulerClass, SchedulerConfig, sampler};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::fixture::{assert_close, folder};
use crate::samplers::model;

fn reference() -> serde_json::Map<String, Value> {
    let path = folder().join("schedulers_reference.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    let is_supported =
        |case: &Value| case["class"].as_str().is_some_and(|class| SchedulerClass::from_name(class).is_ok());
    cases.as_object().expect("cases by name").clone().into_iter().filter(|(_, case)| is_supported(case)).collect()
}

fn build(case: &Value) -> Box<dyn Sampler> {
    let mut config = case["config"].clone();
    config["_class_name"] = case["class"].clone();
    let config = SchedulerConfig::from_json(&config.to_string()).expect("a configuration of diffusers");
    let steps = case["steps"].as_u64().expect("a number of steps") as usize;
    sampler::from_class(&config, steps).expect("a supported class")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

#[test]
fn the_reference_has_every_sampler_that_is_offered() {
    let classes: Vec<String> =
        reference().values().map(|case| case["class"].as_str().unwrap_or_default().to_owned()).collect();
    for class in SchedulerClass::ALL {
        assert!(classes.iter().any(|name| name == class.name()), "{}", class.name());
    }
}

#[test]
fn timesteps_and_noise_levels_are_those_of_diffusers() {
    for (name, case) in reference() {
        let sampler = build(&case);
        let timesteps = numbers(&case["timesteps"]);
        assert_eq!(sampler.timesteps().len(), timesteps.len(), "{name}");
        for (found, expected) in sampler.timesteps().iter().zip(timesteps) {
            // Whole ones are exact; others went through a logarithm that numpy rounds in its own way.
            let tolerance = if expected.fract() == 0.0 { 0.0 } else { 2e-4 };
            assert!((found - expected).abs() <= tolerance, "{name}: timestep {found} instead of {expected}");
        }
        if let Some(sigmas) = case.get("sigmas") {
            let expected = Tensor::from_slice(&numbers(sigmas));
            assert_close(&format!("{name}: sigmas"), &Tensor::from_slice(sampler.sigmas()), &expected, 1e-7);
        }
        let init_noise_sigma = case["init_noise_sigma"].as_f64().expect("a number");
        assert!((sampler.init_noise_sigma() - init_noise_sigma).abs() <= 1e-6 * init_noise_sigma, "{name}");
    }
}

#[test]
fn deterministic_samplers_arrive_where_diffusers_does() {
    let mut compared = 0;
    for (name, case) in reference() {
        let Some(last) = case.get("final") else { continue };
        let mut sampler = build(&case);
        let start = (Tensor::arange(16, (Kind::Double, Device::Cpu)) * 0.7).sin().to_kind(Kind::Float);
        let mut sample = start.view([1, 1, 4, 4]) * sampler.init_noise_sigma();
        for (step_index, timestep) in sampler.timesteps().to_vec().into_iter().enumerate() {
            let prediction = model(&sampler.scale_model_input(&sample, step_index), timestep);
            let mut noise = |_: &[i64]| panic!("{name} is deterministic");
            sample = sampler.step(&prediction, step_index, &sample, &mut noise);
        }
        let expected = Tensor::from_slice(&numbers(last)).view([1, 1, 4, 4]);
        // 1e-5 as it stands, not of the largest value: fp32, 20 steps.
        let largest = expected.abs().max().double_value(&[]);
        let difference = assert_close(&name, &sample, &expected, 1e-5 / largest);
        println!("{name}: {:.1e}", difference * largest);
        compared += 1;
    }
    assert!(compared >= 14, "only {compared} traces compared");
}
