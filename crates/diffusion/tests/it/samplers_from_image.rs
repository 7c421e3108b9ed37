//! Every sampler entered in the middle of its schedule, as image-to-image does it.

use sdtrain_diffusion::{SchedulerConfig, sampler};
use tch::Tensor;

use crate::fixture::{Fixture, assert_close};
use crate::samplers::model;

#[test]
fn every_sampler_starts_from_an_image_as_in_diffusers() {
    let fixture = Fixture::open("samplers_from_image.safetensors");
    let cases = fixture.config.as_object().expect("cases by name");
    for (name, case) in cases {
        let config = SchedulerConfig::from_json(&case["config"].to_string()).expect("a configuration of diffusers");
        let number = |key: &str| case[key].as_u64().expect("a number") as usize;
        let sampler_name = case["sampler"].as_str().expect("a name").parse().expect("a sampler");
        let mut sampler = sampler::build(sampler_name, &config, number("steps")).expect("a supported configuration");
        let input = |part: &str| fixture.tensor(&format!("input.{name}.{part}"));
        let output = |part: &str| fixture.tensor(&format!("output.{name}.{part}"));

        let begin = number("begin");
        assert_eq!(begin % sampler.calls_per_step(), 0, "{name}: a start between two calls of one step");
        let mut sample = sampler.add_noise(input("latents"), input("first_noise"), begin);
        let mut largest = assert_close(&format!("{name}: noisy"), &sample, output("noisy"), 1e-6);
        let timesteps = sampler.timesteps()[begin..].to_vec();
        assert_eq!(timesteps.len(), output("steps").size()[0] as usize, "{name}: number of calls");
        for (row, timestep) in timesteps.into_iter().enumerate() {
            let (step_index, i) = (begin + row, row as i64);
            let scaled = sampler.scale_model_input(&sample, step_index);
            // 1e-5: fp32 on both sides.
            assert_close(&format!("{name}: input {i}"), &scaled, &output("inputs").get(i), 1e-5);
            let mut draw = |_: &[i64]| -> Tensor { input("noise").get(i) };
            sample = sampler.step(&model(&scaled, timestep), step_index, &sample, &mut draw);
            largest = largest.max(assert_close(&format!("{name}: step {i}"), &sample, &output("steps").get(i), 1e-5));
        }
        println!("{name}: {largest:.1e}");
    }
    assert!(cases.len() >= 10, "only {} loops replayed", cases.len());
}
