//! Every sampler's whole loop in every spacing, with recorded noise for those that draw it.

use std::cell::Cell;

use sdtrain_diffusion::{SchedulerConfig, sampler};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::fixture::{Fixture, assert_close};

/// The stand-in for a network of the recorded loops.
pub fn model(sample: &Tensor, timestep: f64) -> Tensor {
    sample * 0.3 + 0.2 * (timestep / 1000.0).cos() + sample.tanh() * 0.05
}

/// Runs one recorded loop with the sampler that the case names and returns the largest relative difference.
fn replay(fixture: &Fixture, name: &str, case: &Value) -> f64 {
    let config = SchedulerConfig::from_json(&case["config"].to_string()).expect("a configuration of diffusers");
    let steps = case["steps"].as_u64().expect("a number of steps") as usize;
    let sampler_name = case["sampler"].as_str().expect("a name").parse().expect("a sampler");
    let mut sampler = sampler::build(sampler_name, &config, steps).unwrap_or_else(|error| panic!("{name}: {error}"));
    let output = |part: &str| fixture.find(&format!("output.{name}.{part}"));

    let timesteps = sampler.timesteps().to_vec();
    let expected = output("timesteps").expect("every case has its timesteps");
    assert_eq!(timesteps.len(), expected.size()[0] as usize, "{name}: number of timesteps");
    for (i, found) in timesteps.iter().enumerate() {
        let expected = expected.double_value(&[i as i64]);
        // Whole ones are exact; others went through a logarithm that numpy rounds in its own way.
        let tolerance = if expected.fract() == 0.0 { 0.0 } else { 2e-4 };
        assert!((found - expected).abs() <= tolerance, "{name}: timestep {found} instead of {expected}");
    }
    if let Some(sigmas) = output("sigmas").filter(|_| !sampler.sigmas().is_empty()) {
        assert_close(&format!("{name}: sigmas"), &Tensor::from_slice(sampler.sigmas()), sigmas, 1e-6);
    }

    let noise = fixture.find(&format!("input.{name}.noise"));
    let mut sample = fixture.tensor(&format!("input.{name}.start")).shallow_clone();
    let (inputs, steps) = (output("inputs").expect("recorded"), output("steps").expect("recorded"));
    let mut largest = 0f64;
    for (step_index, timestep) in timesteps.into_iter().enumerate() {
        let i = step_index as i64;
        let input = sampler.scale_model_input(&sample, step_index);
        // 1e-5: fp32 after up to 39 calls, against a recording in fp64.
        largest = largest.max(assert_close(&format!("{name}: input {i}"), &input, &inputs.get(i), 1e-5));
        let drawn = Cell::new(0);
        let mut draw = |shape: &[i64]| {
            drawn.set(drawn.get() + 1);
            let recorded = noise.unwrap_or_else(|| panic!("{name} draws noise at step {i}, diffusers does not")).get(i);
            assert_eq!(recorded.size(), shape);
            recorded
        };
        sample = sampler.step(&model(&input, timestep), step_index, &sample, &mut draw);
        if let Some(noise) = noise {
            let recorded = noise.get(i).abs().max().double_value(&[]) > 0.0;
            assert_eq!(drawn.get() == 1, recorded, "{name}: draws at step {i}");
        }
        largest = largest.max(assert_close(&format!("{name}: step {i}"), &sample, &steps.get(i), 1e-5));
    }
    assert_eq!(sample.kind(), Kind::Float);
    largest
}

fn replay_all(file: &'static str, at_least: usize) {
    let fixture = Fixture::open(file);
    let mut replayed = 0;
    for (name, case) in fixture.config.as_object().expect("cases by name") {
        // DDIM's noise is an argument of diffusers' `step` that no configuration can set.
        if case["config"].get("eta").is_some() {
            continue;
        }
        println!("{name}: {:.1e}", replay(&fixture, name, case));
        replayed += 1;
    }
    assert!(replayed >= at_least, "only {replayed} loops replayed");
}

#[test]
fn every_sampler_steps_as_diffusers_does() {
    replay_all("samplers.safetensors", 10);
}

#[test]
fn settings_of_a_folders_own_scheduler_are_followed() {
    replay_all("samplers_more.safetensors", 1);
}

#[test]
fn every_form_of_dpm_solver_steps_as_in_diffusers() {
    replay_all("dpm_solver_forms.safetensors", 1);
}
