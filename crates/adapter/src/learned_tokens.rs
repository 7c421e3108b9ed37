//! Learned words (textual inversion, Gal et al. 2022, arXiv:2208.01618): made from a configuration, read from files, written.

use crate::error::{Error, Result};
use sdtrain_model::{LearnedWord, StableDiffusion, TensorReader, read_weight};
use sdtrain_random::{Purpose, Stream, key_of};
use sdtrain_recipe::LearnedTokenConfig;
use sdtrain_state_dict::maps::textual_inversion::{NAME_KEY, OF_TWO, UNNAMED, WordEntry, bundle_names, entries};
use sdtrain_state_dict::{FromReader, Joined, Reader, open_file, write_source};
use sdtrain_tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The words of a file, f32 on the host. A word that the file does not name is called `name`, or like the file without its
/// ending; with one word in the file `name` is what it is called in any case.
///
/// # Errors
/// Where the file holds no words, or such that cannot be used, and where `name` is given for several.
pub fn read_learned_words(reader: &dyn Reader, name: Option<&str>) -> Result<Vec<LearnedWord>> {
    let unusable = |reason: String| Error::NoWords { file: reader.path().display().to_string(), reason };
    let entries = entries(reader).map_err(unusable)?;
    if let (Some(name), true) = (name, entries.len() > 1) {
        let words: Vec<String> = entries.iter().filter_map(|entry| entry.word.clone()).collect();
        let reason = format!("holds {} words ({}), which cannot all be called `{name}`", words.len(), words.join(", "));
        return Err(unusable(reason));
    }
    let stem = || reader.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let read = |entry: WordEntry| {
        let WordEntry { word, tensors, vectors, widths } = entry;
        let word = name.map(str::to_string).or(word).unwrap_or_else(stem);
        let read = |(tensor, width): (&String, usize)| -> Result<Tensor> {
            let values = read_weight(reader, tensor, Kind::Float, Device::Cpu)?;
            Ok(values.f_reshape([vectors as i64, width as i64])?)
        };
        Ok(LearnedWord { word, vectors: tensors.iter().zip(widths).map(read).collect::<Result<_>>()? })
    };
    entries.into_iter().map(read).collect()
}

/// The words that a LoRA brings along under `bundle_emb.`; none for other files.
pub fn read_bundled_words(reader: &dyn Reader) -> Result<Vec<LearnedWord>> {
    let is_bundle = |name: &&str| name.starts_with(sdtrain_state_dict::maps::textual_inversion::BUNDLE_PREFIX);
    match reader.names().iter().any(is_bundle) {
        true => read_learned_words(reader, None),
        false => Ok(Vec::new()),
    }
}

/// The words in the form that a model on `device` takes.
pub fn on_device(words: Vec<LearnedWord>, device: Device) -> Vec<LearnedWord> {
    let moved = |vectors: &Tensor| vectors.to_device(device);
    let word = |LearnedWord { word, vectors }| LearnedWord { word, vectors: vectors.iter().map(moved).collect() };
    words.into_iter().map(word).collect()
}

/// How a file names the tensor of a word. Words of two text encoders have the names that every program reads, whatever is chosen:
/// `clip_l` and `clip_g`, of several words as LoRAs bring them along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordNaming {
    /// By the word, as diffusers; any number of words.
    Word,
    /// `emb_params`, as kohya's scripts; the metadata's `name` says which word. For one word.
    EmbParams,
}

/// Writes words to one file, in `kind`.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_learned_words(
    path: &Path,
    words: &[LearnedWord],
    naming: WordNaming,
    kind: Kind,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut metadata = metadata.clone();
    if let [only] = words {
        metadata.insert(NAME_KEY.to_string(), only.word.clone());
    }
    let spoken: Vec<&str> = words.iter().map(|word| word.word.as_str()).collect();
    metadata.insert("modelspec.trigger_phrase".to_string(), spoken.join(", "));
    let names = |word: &LearnedWord| -> Vec<String> {
        match (naming, word.vectors.len(), words.len()) {
            (WordNaming::EmbParams, 1, 1) => vec![UNNAMED.to_string()],
            (_, 1, _) => vec![word.word.clone()],
            (_, _, 1) => OF_TWO.map(str::to_string).to_vec(),
            (_, encoders, _) => bundle_names(&word.word, encoders),
        }
    };
    let tensors = named_tensors(words, names);
    let reader = TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind));
    Ok(write_source(path, &reader, &metadata)?)
}

/// Writes the LoRA file at `path` anew, with words that it brings along (`bundle_emb`).
///
/// # Errors
/// Where the file cannot be read or written.
pub fn add_to_lora_file(path: &Path, words: &[LearnedWord], kind: Kind) -> Result<()> {
    let tensors = named_tensors(words, |word| bundle_names(&word.word, word.vectors.len()));
    let added = TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind));
    let parts: Vec<Box<dyn Reader>> = vec![open_file(path)?, Box::new(added)];
    let joined = Joined::new(path, parts)?;
    let metadata = joined.metadata().clone();
    Ok(write_source(path, &FromReader(&joined), &metadata)?)
}

/// The vectors of `words`, each under the name that `names` has for its text encoder.
fn named_tensors(words: &[LearnedWord], names: impl Fn(&LearnedWord) -> Vec<String>) -> Vec<(String, Tensor)> {
    let of_word = |word: &LearnedWord| -> Vec<(String, Tensor)> {
        names(word).into_iter().zip(word.vectors.iter().map(Tensor::detach)).collect()
    };
    words.iter().flat_map(of_word).collect()
}

/// The first vectors of a word that is to be learned, for each text encoder: f32 leaves on the model's device.
///
/// With `initial`, those of that file; with `initial_words`, the vocabulary's vectors of these words, over and over or cut off
/// where the word has more or fewer; without either, drawn with the vocabulary's spread: a pure function of `seed` and the word.
///
/// # Errors
/// Where the file does not fit the model, and where the words are none.
pub fn new_word(config: &LearnedTokenConfig, seed: u64, model: &StableDiffusion) -> Result<LearnedWord> {
    let word = config.word.clone();
    if let Some(path) = &config.initial {
        let vectors = from_file(path, config, model)?;
        return Ok(LearnedWord { word, vectors: vectors.iter().map(|own| own.to_device(model.device)).collect() });
    }
    let count = i64::from(config.vectors.unwrap_or(1));
    let mut stream = Stream::new(seed, Purpose::Init, 2, key_of(&word));
    let mut vectors = Vec::new();
    for encoder in &model.text_encoders {
        let table = encoder.network.token_embedding();
        let width = table.size()[1];
        let own = match &config.initial_words {
            Some(words) => {
                let ids = encoder.tokenizer.tokens(words);
                if ids.is_empty() {
                    return Err(Error::NoInitialWords { word });
                }
                let ids: Vec<i64> = (0..count as usize).map(|index| ids[index % ids.len()]).collect();
                table.f_index_select(0, &Tensor::from_slice(&ids).to_device(table.device()))?.to_kind(Kind::Float)
            }
            None => {
                let spread = table.to_kind(Kind::Float).std(false).double_value(&[]);
                let values: Vec<f32> = (0..count * width).map(|_| stream.normal_f32() * spread as f32).collect();
                Tensor::f_from_slice(&values)?.f_reshape([count, width])?
            }
        };
        vectors.push(own.to_device(model.device).copy());
    }
    Ok(LearnedWord { word, vectors })
}

/// The word's vectors in a file: the only ones, or those under its name.
fn from_file(path: &Path, config: &LearnedTokenConfig, model: &StableDiffusion) -> Result<Vec<Tensor>> {
    let file = open_file(path)?;
    let mut words = read_learned_words(&file, None)?;
    let unusable = |reason: String| Error::NoWords { file: path.display().to_string(), reason };
    if words.len() > 1 {
        words.retain(|found| found.word == config.word);
    }
    let Some(found) = words.pop() else {
        return Err(unusable(format!("holds several words, but not `{}`", config.word)));
    };
    let count = found.count();
    let widths: Vec<i64> = found.vectors.iter().map(|vectors| vectors.size()[1]).collect();
    let own: Vec<i64> = model.text_encoders.iter().map(|encoder| encoder.network.config().hidden_size()).collect();
    if widths != own {
        let said = |widths: &[i64]| widths.iter().map(i64::to_string).collect::<Vec<_>>().join(" and ");
        let (found, own) = (said(&widths), said(&own));
        return Err(unusable(format!("has vectors of {found} numbers; this model's text encoder has {own}")));
    }
    match config.vectors {
        Some(wanted) if wanted as usize != count => {
            Err(unusable(format!("has {count} vectors for `{}`, but `vectors` is {wanted}", config.word)))
        }
        _ => Ok(found.vectors),
    }
}
