//! Learned words (textual inversion, Gal et al. 2022, arXiv:2208.01618): made from a configuration, read from files, written.

use crate::error::{Error, Result};
use sdtrain_model::{LearnedWord, StableDiffusion, TensorReader, read_tensor};
use sdtrain_random::{Purpose, Stream, key_of};
use sdtrain_recipe::LearnedTokenConfig;
use sdtrain_state_dict::maps::textual_inversion::{NAME_KEY, UNNAMED, WordEntry, bundle_name, entries};
use sdtrain_state_dict::{FromReader, Joined, Reader, SafetensorsFile, write_source};
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
        let WordEntry { word, tensor, vectors, width } = entry;
        let word = name.map(str::to_string).or(word).unwrap_or_else(stem);
        let values = read_tensor(reader, &tensor, Some(Kind::Float), Device::Cpu)?;
        Ok(LearnedWord { word, vectors: values.f_reshape([vectors as i64, width as i64])? })
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
    let moved = |LearnedWord { word, vectors }| LearnedWord { word, vectors: vectors.to_device(device) };
    words.into_iter().map(moved).collect()
}

/// How a file names the tensor of a word.
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
    let name = |word: &LearnedWord| match (naming, words.len()) {
        (WordNaming::EmbParams, 1) => UNNAMED.to_string(),
        _ => word.word.clone(),
    };
    let tensors: Vec<(String, Tensor)> = words.iter().map(|word| (name(word), word.vectors.detach())).collect();
    let reader = TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind));
    Ok(write_source(path, &reader, &metadata)?)
}

/// Writes the LoRA file at `path` anew, with words that it brings along (`bundle_emb`).
///
/// # Errors
/// Where the file cannot be read or written.
pub fn add_to_lora_file(path: &Path, words: &[LearnedWord], kind: Kind) -> Result<()> {
    let tensors: Vec<(String, Tensor)> =
        words.iter().map(|word| (bundle_name(&word.word), word.vectors.detach())).collect();
    let added = TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind));
    let parts: Vec<Box<dyn Reader>> = vec![Box::new(SafetensorsFile::open(path)?), Box::new(added)];
    let joined = Joined::new(path, parts)?;
    let metadata = joined.metadata().clone();
    Ok(write_source(path, &FromReader(&joined), &metadata)?)
}

/// The first vectors of a word that is to be learned: f32 leaves on the model's device.
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
        return Ok(LearnedWord { word, vectors: vectors.to_device(model.device) });
    }
    let table = model.text_encoder.token_embedding();
    let (count, width) = (i64::from(config.vectors.unwrap_or(1)), table.size()[1]);
    let vectors = match &config.initial_words {
        Some(words) => {
            let ids = model.tokenizer.tokens(words);
            if ids.is_empty() {
                return Err(Error::NoInitialWords { word });
            }
            let ids: Vec<i64> = (0..count as usize).map(|index| ids[index % ids.len()]).collect();
            table.f_index_select(0, &Tensor::from_slice(&ids).to_device(table.device()))?.to_kind(Kind::Float)
        }
        None => {
            let spread = table.to_kind(Kind::Float).std(false).double_value(&[]);
            let mut stream = Stream::new(seed, Purpose::Init, 2, key_of(&word));
            let values: Vec<f32> = (0..count * width).map(|_| stream.normal_f32() * spread as f32).collect();
            Tensor::f_from_slice(&values)?.f_reshape([count, width])?
        }
    };
    Ok(LearnedWord { word, vectors: vectors.to_device(model.device).copy() })
}

/// The word's vectors in a file: the only ones, or those under its name.
fn from_file(path: &Path, config: &LearnedTokenConfig, model: &StableDiffusion) -> Result<Tensor> {
    let file = SafetensorsFile::open(path)?;
    let mut words = read_learned_words(&file, None)?;
    let unusable = |reason: String| Error::NoWords { file: path.display().to_string(), reason };
    if words.len() > 1 {
        words.retain(|found| found.word == config.word);
    }
    let Some(LearnedWord { vectors, .. }) = words.pop() else {
        return Err(unusable(format!("holds several words, but not `{}`", config.word)));
    };
    let (count, width) = (vectors.size()[0], vectors.size()[1]);
    let own = model.text_encoder.config().hidden_size;
    if width != own {
        return Err(unusable(format!("has vectors of {width} numbers; this model's text encoder has {own}")));
    }
    match config.vectors {
        Some(wanted) if i64::from(wanted) != count => {
            Err(unusable(format!("has {count} vectors for `{}`, but `vectors` is {wanted}", config.word)))
        }
        _ => Ok(vectors),
    }
}
