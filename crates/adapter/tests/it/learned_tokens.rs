//! Learned words: the files of diffusers and kohya, the same text states as diffusers', and nothing but their vectors trained.

use crate::{FP32, tiny_model};
use sdtrain_adapter::{
    WordNaming, add_to_lora_file, new_word, read_bundled_words, read_learned_words, write_learned_words,
};
use sdtrain_model::{LearnedWord, PromptReading};
use sdtrain_recipe::LearnedTokenConfig;
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_tokenizer::Tokenizer;
use sdtrain_torch_test_support::{Golden, assert_equal, assert_near, fixture_folder};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

fn words(file: &str, name: Option<&str>) -> Vec<LearnedWord> {
    let file = SafetensorsFile::open(fixture_folder().join(file)).expect("a fixture");
    read_learned_words(&file, name).unwrap_or_else(|error| panic!("{error}"))
}

fn texts(golden: &Golden) -> Vec<String> {
    serde_json::from_str(golden.metadata("texts")).expect("a list of texts")
}

/// One word of random vectors.
fn word(word: &str, vectors: i64) -> LearnedWord {
    LearnedWord { word: word.into(), vectors: vec![Tensor::randn([vectors, 32], (Kind::Float, Device::Cpu))] }
}

#[test]
fn text_states_match_diffusers_after_load_textual_inversion() {
    let golden = Golden::open("textual_inversion.safetensors");
    let model = tiny_model();
    let plain = model.encode_prompts(&texts(&golden), &PromptReading::default()).expect("prompts").hidden_states;
    model.add_words(words("embedding_diffusers.safetensors", None)).expect("it fits");
    model.add_words(words("embedding_kohya.safetensors", Some("snorp"))).expect("it fits");
    assert_eq!(model.learned_words(), [("<cat>".to_string(), 2), ("snorp".to_string(), 3)]);
    let reading = PromptReading::default();
    let ids = model.tokenize(&texts(&golden), &reading).expect("prompts").0[0].ids.squeeze_dim(1);
    assert_equal("ids", &ids, &golden.tensor("output.ids"));
    let states = model.encode_prompts(&texts(&golden), &reading).expect("prompts").hidden_states;
    assert_near("states", &states, &golden.tensor("output.states"), FP32);
    // Prompts without the words have the very states that they had.
    assert_equal("no word", &states.narrow(0, 3, 2), &plain.narrow(0, 3, 2));
    model.remove_words();
    let again = model.encode_prompts(&texts(&golden), &reading).expect("prompts").hidden_states;
    assert_equal("without the words", &again, &plain);
}

#[test]
fn nothing_but_the_vectors_gets_a_gradient() {
    let model = tiny_model();
    let table = model.text_encoders[0].network.token_embedding().copy();
    let learned = word("<cat>", 2);
    let vectors = learned.vectors[0].set_requires_grad(true);
    model.add_words(vec![learned, word("snorp", 1)]).expect("it fits");
    let prompts = model.tokenize(&["a <cat> on a table".to_string()], &PromptReading::default()).expect("a prompt");
    model.text_states(&prompts, &PromptReading::default(), false).hidden_states.square().mean(Kind::Float).backward();
    assert!(vectors.grad().abs().min().double_value(&[]) > 0.0, "every number of both vectors");
    for (name, parameter) in model.text_encoders[0].network.parameters().iter() {
        assert!(!parameter.grad().defined(), "{name} has a gradient");
    }
    assert_equal("the embedding table", model.text_encoders[0].network.token_embedding(), &table);
}

#[test]
fn gradient_checkpointing_gives_the_same_gradient() {
    let gradients = [false, true].map(|checkpointing| {
        let model = tiny_model();
        let vectors = Tensor::arange(64i64, (Kind::Float, Device::Cpu)).reshape([2, 32]).sin().set_requires_grad(true);
        model
            .add_words(vec![LearnedWord { word: "<cat>".into(), vectors: vec![vectors.shallow_clone()] }])
            .expect("it fits");
        let prompts = model.tokenize(&["a <cat>".to_string()], &PromptReading::default()).expect("a prompt");
        model
            .text_states(&prompts, &PromptReading::default(), checkpointing)
            .hidden_states
            .square()
            .mean(Kind::Float)
            .backward();
        vectors.grad()
    });
    assert_equal("gradient", &gradients[0], &gradients[1]);
}

#[test]
fn vectors_in_fp32_beside_a_table_in_bf16_are_not_rounded_before_the_sum() {
    let folder = fixture_folder().join("tiny_sd1").display().to_string();
    let model =
        sdtrain_model::load(&folder, &sdtrain_model::LoadOptions::new(Device::Cpu, Kind::BFloat16)).expect("a fixture");
    let reading = PromptReading::default();
    let prompts = ["poster, a table".to_string()];
    let plain = model.encode_prompts(&prompts, &reading).expect("a prompt").hidden_states;
    model.add_words(vec![word("<cat>", 1)]).expect("it fits");
    // To the bit: bf16 numbers are added in fp32 and rounded once, with and without words.
    assert_equal(
        "a prompt without the word",
        &model.encode_prompts(&prompts, &reading).expect("a prompt").hidden_states,
        &plain,
    );
}

#[test]
fn files_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let metadata = BTreeMap::from([("ss_steps".to_string(), "7".to_string())]);
    let two = [word("<cat>", 2), word("snorp", 1)];
    for (name, naming, words) in [
        ("word", WordNaming::Word, &two[..1]),
        ("emb_params", WordNaming::EmbParams, &two[..1]),
        ("both", WordNaming::Word, &two[..]),
        ("both in kohya's form", WordNaming::EmbParams, &two[..]),
    ] {
        let path = folder.path().join(format!("{name}.safetensors"));
        write_learned_words(&path, words, naming, Kind::Float, &metadata).expect("there is room");
        let file = SafetensorsFile::open(&path).expect("it was written");
        let read = read_learned_words(&file, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.len(), words.len(), "{name}");
        for (read, written) in read.iter().zip(words) {
            assert_eq!(read.word, written.word, "{name}");
            assert_equal(name, &read.vectors[0], &written.vectors[0]);
        }
        assert_eq!(file.metadata()["ss_steps"], "7");
    }
    let both = SafetensorsFile::open(folder.path().join("both.safetensors")).expect("it was written");
    let error = read_learned_words(&both, Some("dog")).expect_err("there are two").to_string();
    assert!(error.contains("holds 2 words (<cat>, snorp)"), "{error}");
}

#[test]
fn a_file_without_a_name_is_called_as_it_is_told_or_like_itself() {
    assert_eq!(words("embedding_kohya.safetensors", None)[0].word, "embedding_kohya");
    assert_eq!(words("embedding_kohya.safetensors", Some("x"))[0].word, "x");
    assert_eq!(words("embedding_diffusers.safetensors", Some("x"))[0].word, "x");
}

#[test]
fn one_vector_may_come_without_its_dimension_and_under_onetrainers_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let vector = Tensor::arange(32i64, (Kind::Float, Device::Cpu));
    for name in ["emp_params", "clip_l", "<cat>"] {
        let path = folder.path().join("dog.safetensors");
        let reader = sdtrain_model::TensorReader::new([(name.to_string(), &vector)], None);
        sdtrain_state_dict::write_source(&path, &reader, &BTreeMap::new()).expect("there is room");
        let read = read_learned_words(&SafetensorsFile::open(&path).expect("it was written"), None).expect("a word");
        assert_eq!(read[0].word, if name == "<cat>" { "<cat>" } else { "dog" });
        assert_equal(name, &read[0].vectors[0], &vector.unsqueeze(0));
    }
}

#[test]
fn words_of_two_text_encoders_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("words.safetensors");
    let of_both = |name: &str, vectors: i64| {
        let random = |width: i64| Tensor::randn([vectors, width], (Kind::Float, Device::Cpu));
        LearnedWord { word: name.into(), vectors: vec![random(8), random(12)] }
    };
    let two = [of_both("<cat>", 2), of_both("snorp", 1)];
    for words in [&two[..1], &two[..]] {
        write_learned_words(&path, words, WordNaming::Word, Kind::Float, &BTreeMap::new()).expect("there is room");
        let file = SafetensorsFile::open(&path).expect("it was written");
        let read = read_learned_words(&file, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.len(), words.len());
        for (read, written) in read.iter().zip(words) {
            assert_eq!((&read.word, &read.vectors), (&written.word, &written.vectors));
        }
        if words.len() == 1 {
            assert_eq!(file.names(), ["clip_g", "clip_l"], "what every program reads");
        }
    }
}

#[test]
fn files_for_other_models_and_without_words_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let [vectors, more, cube] = [zeros(&[1, 32]), zeros(&[2, 32]), zeros(&[2, 2, 2])];
    let cases: &[(&[(&str, &Tensor)], &str)] = &[
        (&[("clip_l", &vectors), ("clip_g", &more)], "holds no learned words"),
        (&[("clip_l", &vectors), ("clip_g_out", &vectors)], "behind the text encoder"),
        (&[("emp_params", &vectors), ("emp_params_out", &vectors)], "behind the text encoder"),
        (&[("weight", &cube)], "holds no learned words"),
        (&[("bundle_emb..string_to_param.*", &vectors)], "is no word's"),
    ];
    for (tensors, reason) in cases {
        let path = folder.path().join("x.safetensors");
        let named = tensors.iter().map(|(name, tensor)| (name.to_string(), *tensor));
        let reader = sdtrain_model::TensorReader::new(named, None);
        sdtrain_state_dict::write_source(&path, &reader, &BTreeMap::new()).expect("there is room");
        let error = read_learned_words(&SafetensorsFile::open(&path).expect("it was written"), None).expect_err(reason);
        assert!(error.to_string().contains(reason), "{error}");
    }
    for wrong in [vec![zeros(&[1, 16])], vec![zeros(&[1, 32]), zeros(&[1, 12])], Vec::new()] {
        let wrong = LearnedWord { word: "<cat>".into(), vectors: wrong };
        let error = tiny_model().add_words(vec![wrong]).expect_err("it does not fit").to_string();
        assert!(error.contains("has vectors of 32 numbers"), "{error}");
    }
}

#[test]
fn a_lora_brings_its_words_along() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lora.safetensors");
    std::fs::copy(fixture_folder().join("lora_kohya.safetensors"), &path).expect("there is room");
    let before = SafetensorsFile::open(&path).expect("a fixture");
    assert!(read_bundled_words(&before).expect("there are none").is_empty());
    let (count, metadata) = (before.names().len(), before.metadata().clone());
    drop(before);
    let two = [word("<cat>", 2), word("snorp", 1)];
    add_to_lora_file(&path, &two, Kind::Float).expect("there is room");
    let file = SafetensorsFile::open(&path).expect("it was written");
    assert!(file.info("bundle_emb.<cat>.string_to_param.*").is_some(), "the web interface's name");
    assert_eq!((file.names().len(), file.metadata()), (count + 2, &metadata));
    let read = read_bundled_words(&file).expect("two words");
    read.iter()
        .zip(&two)
        .for_each(|(read, written)| assert_equal(&written.word, &read.vectors[0], &written.vectors[0]));
    // And its adapters are read as without them.
    crate::attached(&file, &tiny_model());
}

#[test]
fn new_words_begin_as_the_configuration_says() {
    let model = tiny_model();
    let table = model.text_encoders[0].network.token_embedding();
    let row = |text: &str| table.get(model.tokenizer().tokens(text)[0]);
    let config = |vectors, words: Option<&str>| LearnedTokenConfig {
        word: "<cat>".into(),
        vectors: Some(vectors),
        initial_words: words.map(str::to_string),
        initial: None,
    };
    let repeated = new_word(&config(3, Some("red bottle")), 1, &model).expect("two words").vectors.remove(0);
    for (index, text) in ["red", "bottle", "red"].into_iter().enumerate() {
        assert_equal(text, &repeated.get(index as i64), &row(text));
    }
    let _ = tch::no_grad(|| repeated.shallow_clone().zero_());
    assert!(row("red").abs().max().double_value(&[]) > 0.0, "they are copies");
    let drawn = new_word(&config(4, None), 1, &model).expect("none are needed").vectors.remove(0);
    let spread = |tensor: &Tensor| tensor.std(false).double_value(&[]);
    assert!((spread(&drawn) / spread(table) - 1.0).abs() < 0.3, "{} {}", spread(&drawn), spread(table));
    assert_equal("the same draw", &new_word(&config(4, None), 1, &model).expect("as before").vectors[0], &drawn);
    assert!(!new_word(&config(4, None), 2, &model).expect("as before").vectors[0].equal(&drawn));
    let from_file = |vectors| {
        let initial = Some(fixture_folder().join("embedding_kohya.safetensors"));
        new_word(&LearnedTokenConfig { initial, vectors, initial_words: None, word: "<cat>".into() }, 1, &model)
    };
    assert_equal(
        "of the file",
        &from_file(None).expect("it fits").vectors[0],
        &words("embedding_kohya.safetensors", None)[0].vectors[0],
    );
    let error = from_file(Some(2)).expect_err("the file has three").to_string();
    assert!(error.contains("has 3 vectors for `<cat>`, but `vectors` is 2"), "{error}");
}
