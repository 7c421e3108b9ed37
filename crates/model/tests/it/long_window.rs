//! BERT with the positions of its releases: a context of 512 tokens, read at once.

use crate::FP32;
use sdtrain_model::text_encoder::BertConfig;
use sdtrain_model::{
    EncoderTokens, LoadOptions, OtherTextEncoder, PromptReading, StableDiffusion, TokenizedPrompts, load,
};
use sdtrain_tokenizer::Tokenizer;
use sdtrain_torch_test_support::{assert_equal, assert_near, fixture_folder};
use std::fs;
use tch::{Device, Kind, Tensor};

/// What fits between the two marks of a window.
const INSIDE: usize = 510;

/// Taiyi's tiny model with another BERT in the place of its own, of 512 positions and random weights; its tokenizer says no length.
fn model() -> StableDiffusion {
    let taiyi = fixture_folder().join("tiny_taiyi");
    let place = tempfile::tempdir().expect("a temporary folder");
    let [network, tokenizer] = ["text_encoder", "tokenizer"].map(|part| place.path().join(part));
    fs::create_dir(&network).expect("a new folder");
    fs::create_dir(&tokenizer).expect("a new folder");
    let vocabulary = fs::read_to_string(taiyi.join("tokenizer/vocab.txt")).expect("a fixture");
    let config = BertConfig {
        vocab_size: vocabulary.lines().count() as i64,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        max_position_embeddings: 512,
        ..BertConfig::default()
    };
    fs::write(network.join("config.json"), config.to_json().to_string()).expect("there is room");
    fs::write(tokenizer.join("vocab.txt"), vocabulary).expect("there is room");
    let text_encoder = Some(OtherTextEncoder { folder: place.path().to_path_buf(), random: Some(7) });
    let options = LoadOptions { text_encoder, ..LoadOptions::new(Device::Cpu, Kind::Float) };
    load(&taiyi.display().to_string(), &options).expect("a fixture with another text encoder")
}

/// A prompt of so many tokens, each a Chinese character of the vocabulary.
fn prompt(tokens: usize) -> String {
    const CHARACTERS: [char; 11] = ['一', '三', '上', '下', '两', '个', '九', '五', '人', '光', '全'];
    (0..tokens).map(|number| CHARACTERS[(number * number + number / 7) % CHARACTERS.len()]).collect()
}

fn ids_of(model: &StableDiffusion, prompt: &str, reading: &PromptReading) -> Tensor {
    let TokenizedPrompts(mut of_encoders) = model.tokenize(&[prompt.to_string()], reading).expect("a prompt");
    let EncoderTokens { ids, weights: None } = of_encoders.remove(0) else { panic!("no weights are read") };
    ids
}

fn states_of(model: &StableDiffusion, prompt: &str, reading: &PromptReading) -> Tensor {
    model.encode_prompts(&[prompt.to_string()], reading).expect("a prompt").hidden_states
}

#[test]
fn several_hundred_tokens_are_read_in_one_window() {
    const TOKENS: usize = 400;
    let (model, reading) = (model(), PromptReading::default());
    assert_eq!((model.text_window(), model.text_states_shape(&reading).expect("a shape")), (512, [512, 16]));
    let long = prompt(TOKENS);
    let tokenizer = model.tokenizer();
    assert_eq!(tokenizer.token_count(&long), TOKENS);
    let ids = ids_of(&model, &long, &reading);
    let numbers = Vec::<i64>::try_from(ids.reshape([-1])).expect("whole numbers");
    let expected = [tokenizer.bos().expect("BERT has one")].into_iter().chain(tokenizer.tokens(&long));
    let expected = expected.chain([tokenizer.eos()]).chain(std::iter::repeat(tokenizer.pad())).take(512);
    assert_eq!(numbers, expected.collect::<Vec<_>>());

    let states = states_of(&model, &long, &reading);
    assert_eq!(states.size(), [1, 512, 16]);
    let network = &model.text_encoders[0].network;
    let (alone, vector) =
        network.encode(&ids.select(1, 0), tokenizer.eos(), Kind::Float, model.text_layer(&reading), false);
    assert!(vector.is_none());
    assert_equal("one window", &states, &alone);
    // Attention goes in both directions: the first state knows the last token, which would not be so if it were cut off.
    let other = long.chars().take(TOKENS - 1).chain(['全', '全']).collect::<String>();
    let first = |states: &Tensor| states.narrow(1, 0, 1);
    assert!(!first(&states_of(&model, &other, &reading)).equal(&first(&states)));
    // Every position has a vector of its own: equal tokens have other states.
    let padding = |place: i64| states.narrow(1, place, 1);
    assert!(!padding(450).equal(&padding(511)));
}

#[test]
fn what_is_behind_the_context_is_cut_off_or_read_in_further_windows() {
    let (model, reading) = (model(), PromptReading::default());
    let [whole, longer] = [INSIDE, INSIDE + 90].map(prompt);
    assert_equal("cut off", &ids_of(&model, &longer, &reading), &ids_of(&model, &whole, &reading));
    let length = |tokens| PromptReading { max_token_length: Some(tokens), ..PromptReading::default() };
    let one = states_of(&model, &whole, &reading);
    assert_equal("said", &states_of(&model, &whole, &length(INSIDE)), &one);
    let two = states_of(&model, &longer, &length(2 * INSIDE));
    assert_eq!(two.size(), [1, 2 * INSIDE as i64 + 2, 16]);
    // All but its end mark, which stands there once.
    assert_near("the first window", &two.narrow(1, 0, 511), &one.narrow(1, 0, 511), FP32);
    let error = model.encode_prompts(&[whole], &length(75)).expect_err("CLIP's length");
    assert!(error.to_string().contains("reads 510 at once"), "{error}");
}
