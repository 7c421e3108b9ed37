//! Prompts longer than a window and prompts with weights: the same states as kohya's way of reading them in transformers.

use crate::FP32;
use sdtrain_model::{EncoderTokens, LoadOptions, PromptReading, StableDiffusion, TokenizedPrompts, load};
use sdtrain_tokenizer::Tokenizer;
use sdtrain_torch_test_support::{Golden, assert_near, difference, fixture_folder};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn tiny_model() -> StableDiffusion {
    tiny("tiny_sd1")
}

fn tiny(name: &str) -> StableDiffusion {
    let folder = fixture_folder().join(name);
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
fn both_encoders_of_sdxl_read_a_long_prompt_window_by_window() {
    const WINDOWS: i64 = 3;
    let model = tiny("tiny_sdxl");
    let reading = PromptReading { max_token_length: Some(225), ..PromptReading::default() };
    // Numbers, so that no window is like another.
    let prompt: String = (0..120).map(|number| format!("house {number}, ")).collect();
    assert!(model.tokenizer().token_count(&prompt) > 225, "it fills every window");
    let prompts = [prompt];
    let TokenizedPrompts(of_encoders) = model.tokenize(&prompts, &reading).expect("a prompt");
    let states = model.encode_prompts(&prompts, &reading).expect("a prompt");
    let pooled = states.pooled.expect("the second encoder projects");
    let widths: Vec<i64> = model.text_encoders.iter().map(|encoder| encoder.network.config().hidden_size()).collect();
    assert_eq!(widths.len(), 2);
    // The marks stand there once.
    assert_eq!(states.hidden_states.size(), [1, 225 + 2, widths.iter().sum::<i64>()]);

    let mut first_column = 0;
    for ((encoder, EncoderTokens { ids, .. }), width) in model.text_encoders.iter().zip(&of_encoders).zip(widths) {
        let name = encoder.name;
        assert_eq!(ids.size(), [1, WINDOWS, 77], "{name}");
        assert!(!ids.select(1, 0).equal(&ids.select(1, 1)) && !ids.select(1, 1).equal(&ids.select(1, 2)), "{name}");
        let (end, layer) = (encoder.tokenizer.eos(), model.text_layer(&reading));
        let encode = |window: i64| encoder.network.encode(&ids.select(1, window), end, Kind::Float, layer, false);
        let alone: Vec<(Tensor, Option<Tensor>)> = (0..WINDOWS).map(encode).collect();
        // Of the first window all but its end mark, of the last all but its start mark, of that between them neither.
        let parts = [alone[0].0.narrow(1, 0, 76), alone[1].0.narrow(1, 1, 75), alone[2].0.narrow(1, 1, 76)];
        let own = states.hidden_states.narrow(2, first_column, width);
        assert_near(name, &own, &Tensor::cat(&parts, 1), FP32);
        first_column += width;

        let vectors: Vec<&Tensor> = alone.iter().filter_map(|(_, vector)| vector.as_ref()).collect();
        if let [first, second, _] = vectors[..] {
            assert_near(&format!("{name}: pooled"), &pooled, first, FP32);
            assert!(difference(&pooled, second).0 > 1e-3, "the windows have vectors of their own");
        }
        assert_eq!(vectors.len(), if name == "text_encoder_2" { 3 } else { 0 }, "{name}");
    }
    // The same as where no further window is read.
    let of_one = model.encode_prompts(&prompts, &PromptReading::default()).expect("a prompt").pooled;
    assert_near("pooled of one window", &pooled, &of_one.expect("the second encoder projects"), FP32);
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
