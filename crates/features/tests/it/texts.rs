//! States of texts in memory and in a folder.

use crate::sample::{config, entries, images, model, model_in, tiny};
use sdtrain_features::{DiskTexts, Error, TextCache};
use sdtrain_model::{PromptReading, StableDiffusion};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use tch::{Kind, Tensor};

const TEXTS: [&str; 4] = ["poster, a red bottle", "a (red:1.3) bottle", "", "poster,  a red bottle"];

fn texts() -> BTreeSet<String> {
    TEXTS.iter().map(|text| (*text).to_owned()).collect()
}

/// Fills the cache; how many texts were encoded.
fn filled(model: &StableDiffusion, folder: &Path, reading: PromptReading, cached: bool) -> (TextCache, usize) {
    let mut made = 0;
    let cache = TextCache::fill(model, texts(), reading, &config(folder, cached), &mut |done, _| made = done);
    (cache.expect("an encoder and room"), made)
}

fn states(cache: &mut TextCache, model: &StableDiffusion) -> Tensor {
    cache.encode(model, &TEXTS.map(str::to_owned)).expect("an encoder").hidden_states
}

#[test]
fn states_are_the_same_to_the_bit_wherever_they_are_kept() {
    let readings = [
        PromptReading::default(),
        PromptReading { clip_skip: Some(2), ..PromptReading::default() },
        PromptReading { max_token_length: Some(150), ..PromptReading::default() },
        PromptReading { weights: true, ..PromptReading::default() },
    ];
    let folder = images(1);
    for compute in [Kind::Float, Kind::BFloat16] {
        let model = model_in(compute);
        for reading in readings {
            let expected: Vec<Tensor> = TEXTS
                .iter()
                .map(|text| model.encode_prompts(&[(*text).to_owned()], &reading).unwrap().hidden_states)
                .collect();
            let expected = Tensor::cat(&expected, 0);
            let mut recent = TextCache::of_recent(reading);
            let (mut memory, _) = filled(&model, folder.path(), reading, false);
            let (mut fresh, made) = filled(&model, folder.path(), reading, true);
            let (mut read, again) = filled(&model, folder.path(), reading, true);
            // Two of the texts are the same tokens.
            assert_eq!((made, again), (3, 0), "{reading:?}");
            for cache in [&mut recent, &mut memory, &mut fresh, &mut read] {
                let found = states(cache, &model);
                assert_eq!(found.kind(), compute);
                assert!(found.equal(&expected), "{reading:?} in {compute:?}");
            }
            assert_eq!([&recent, &memory, &fresh].map(TextCache::is_complete), [false, true, true]);
        }
    }
    // Each way of reading, and each number format, has entries of its own.
    assert_eq!(entries(folder.path(), "texts").len(), 3 * 4 * 2);
}

#[test]
fn the_vectors_of_sdxl_are_the_same_to_the_bit_wherever_they_are_kept() {
    let readings = [
        PromptReading::default(),
        // SDXL's own layer is the last but one.
        PromptReading { clip_skip: Some(1), ..PromptReading::default() },
        PromptReading { max_token_length: Some(150), ..PromptReading::default() },
        PromptReading { weights: true, ..PromptReading::default() },
    ];
    let folder = images(1);
    for compute in [Kind::Float, Kind::BFloat16] {
        let model = tiny("tiny_sdxl", compute);
        for reading in readings {
            let alone = TEXTS.map(|text| model.encode_prompts(&[text.to_owned()], &reading).expect("two encoders"));
            let vectors = alone.each_ref().map(|text| text.pooled.as_ref().expect("the second encoder projects"));
            let hidden_states = Tensor::cat(&alone.each_ref().map(|text| &text.hidden_states), 0);
            let vectors = Tensor::cat(&vectors, 0);
            assert!(!vectors.get(0).equal(&vectors.get(2)), "each text has a vector of its own");
            let mut recent = TextCache::of_recent(reading);
            let (mut memory, _) = filled(&model, folder.path(), reading, false);
            let (mut fresh, made) = filled(&model, folder.path(), reading, true);
            let (mut read, again) = filled(&model, folder.path(), reading, true);
            // Two of the texts are the same tokens.
            assert_eq!((made, again), (3, 0), "{reading:?}");
            for cache in [&mut recent, &mut memory, &mut fresh, &mut read] {
                let found = cache.encode(&model, &TEXTS.map(str::to_owned)).expect("two encoders");
                let found_vectors = found.pooled.expect("they are kept with the states");
                assert_eq!((found_vectors.size(), found_vectors.kind()), (vectors.size(), vectors.kind()));
                assert!(found_vectors.equal(&vectors), "{reading:?} in {compute:?}");
                assert!(found.hidden_states.equal(&hidden_states), "{reading:?} in {compute:?}");
            }
        }
    }
    assert_eq!(entries(folder.path(), "texts").len(), 3 * 4 * 2);
}

#[test]
fn a_text_whose_states_are_not_finite_is_named() {
    /// The fixture's last two tokens are those of beginning and end: all that an empty text consists of.
    const WORDS: i64 = 598;
    let (folder, model, reading) = (images(1), model(), PromptReading::default());
    let parameters = model.text_encoders[0].network.parameters();
    let (_, table) = parameters.iter().find(|(name, _)| name.ends_with("token_embedding.weight")).expect("it has one");
    let _ = tch::no_grad(|| table.narrow(0, 0, WORDS).fill_(f64::NAN));
    let named = |error: Option<Error>| match error {
        Some(error @ Error::StatesNotFinite { .. }) => {
            assert!(error.hint().is_some_and(|hint| hint.contains("`precision.compute`")));
            error.to_string()
        }
        other => panic!("{other:?}"),
    };
    let mut recent = TextCache::of_recent(reading);
    recent.encode(&model, &[String::new()]).expect("it consists of no word");
    let said = named(recent.encode(&model, &["".to_owned(), TEXTS[0].to_owned()]).err());
    assert_eq!(said, format!("the text encoder's states of `{}` are not finite", TEXTS[0]));
    for cached in [false, true] {
        let config = config(folder.path(), cached);
        let said = named(TextCache::fill(&model, texts(), reading, &config, &mut |_, _| {}).err());
        assert!(TEXTS.iter().any(|text| !text.is_empty() && said.contains(&format!("`{text}`"))), "{said}");
    }
    assert!(entries(folder.path(), "texts").len() < 2, "what is not finite is not kept");
}

#[test]
fn another_text_encoder_is_a_miss() {
    let (folder, model, reading) = (images(1), model(), PromptReading::default());
    assert_eq!(filled(&model, folder.path(), reading, true).1, 3);
    let (_, weight) = model.text_encoders[0].network.parameters().iter().last().expect("it has weights");
    let _ = tch::no_grad(|| weight.shallow_clone().fill_(0.5));
    let (mut cache, made) = filled(&model, folder.path(), reading, true);
    assert_eq!(made, 3);
    let expected = model.encode_prompts(&[TEXTS[0].to_owned()], &reading).unwrap().hidden_states;
    assert!(states(&mut cache, &model).get(0).equal(&expected.get(0)));
}

#[test]
fn what_is_damaged_deleted_or_new_is_made_in_the_midst_of_a_run() {
    let (folder, model, reading) = (images(1), model(), PromptReading::default());
    let (mut cache, _) = filled(&model, folder.path(), reading, true);
    let expected = states(&mut cache, &model);
    let files = entries(folder.path(), "texts");
    let whole = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &whole[..whole.len() - 1]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    assert!(states(&mut cache, &model).equal(&expected));
    assert_eq!((entries(folder.path(), "texts"), fs::read(&files[0]).unwrap()), (files, whole));
    let new = cache.encode(&model, &["something else".to_owned()]).unwrap().hidden_states;
    assert!(new.equal(&model.encode_prompts(&["something else".to_owned()], &reading).unwrap().hidden_states));
    assert_eq!(entries(folder.path(), "texts").len(), 4);
}

#[test]
fn only_the_entries_of_other_texts_are_pruned() {
    let (folder, model, reading) = (images(1), model(), PromptReading::default());
    filled(&model, folder.path(), reading, true);
    for file in entries(folder.path(), "texts") {
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
        fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    let one = BTreeSet::from([TEXTS[0].to_owned()]);
    let (disk, survey) = DiskTexts::open(&folder.path().join("cache"), &model, &one, reading).unwrap();
    assert_eq!((survey.hits, survey.missing.len()), (1, 0));
    let kept: HashSet<_> = disk.names().collect();
    assert_eq!(disk.folder().prune(&kept).unwrap().entries, 2);
    assert_eq!(entries(folder.path(), "texts"), [disk.folder().path(kept.iter().next().unwrap())]);
}
