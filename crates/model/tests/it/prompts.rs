//! Prompts longer than a window and prompts with weights: the same states as kohya's way of reading them in transformers.

use crate::FP32;
use sdtrain_model::{LoadOptions, PromptReading, StableDiffusion, load};
use sdtrain_torch_test_support::{Golden, assert_near, fixture_folder};
use serde_json::Value;
use tch::{Device, Kind};

fn tiny_model() -> StableDiffusion {
    let folder = fixture_folder().join("tiny_sd1");
    load(&folder.display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).expect("a fixture")
}

fn reading(case: &Value) -> PromptReading {
    PromptReading {
        clip_skip: Some(case["clip_skip"].as_u64().expect("a number") as usize),
        max_token_length: case["max_token_length"].as_u64().map(|length| length as usize),
        weights: case["weights"].as_bool().expect("a switch"),
    }
}

#[test]
fn states_of_long_and_weighted_prompts_match() {
    let golden = Golden::open("long_prompts.safetensors");
    let cases = golden.config();
    let model = tiny_model();
    let cases = cases.as_object().expect("cases by name");
    assert_eq!(cases.len(), 7);
    for (name, case) in cases {
        let prompt = case["prompt"].as_str().expect("a text").to_string();
        let states = model.encode_prompts(&[prompt], &reading(case)).expect("a prompt").hidden_states;
        assert_near(name, &states.squeeze_dim(0), &golden.tensor(&format!("output.{name}")), FP32);
    }
}

#[test]
fn prompts_of_a_batch_do_not_see_each_other() {
    let model = tiny_model();
    let reading = PromptReading { max_token_length: Some(150), weights: true, ..PromptReading::default() };
    let prompts = ["a (red:1.5) house".to_string(), "blue sky, ".repeat(60), String::new()];
    let together = model.encode_prompts(&prompts, &reading).expect("prompts").hidden_states;
    assert_eq!(together.size(), [3, 152, model.text_encoders[0].network.config().hidden_size()]);
    for (index, prompt) in prompts.iter().enumerate() {
        let alone = model.encode_prompts(std::slice::from_ref(prompt), &reading).expect("a prompt").hidden_states;
        assert_near(prompt, &together.get(index as i64), &alone.squeeze_dim(0), FP32);
    }
}

#[test]
fn a_length_that_is_no_whole_number_of_windows_is_refused() {
    let model = tiny_model();
    for length in [0, 74, 77, 100, 151] {
        let reading = PromptReading { max_token_length: Some(length), ..PromptReading::default() };
        let error = model.encode_prompts(&["a".to_string()], &reading).expect_err("no such length");
        assert!(error.to_string().contains("reads 75 at once"), "{error}");
    }
}
