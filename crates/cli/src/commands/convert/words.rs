//! Learned words (textual inversion) in the forms that programs keep them in.

use std::collections::BTreeMap;

use sdtrain_state_dict::maps::textual_inversion::{
    NAME_KEY, OF_TWO, UNNAMED, WordEntry, bundle_names, bundled_words, entries,
};
use sdtrain_state_dict::metadata::ModelSpec;
use sdtrain_state_dict::{Family, FileKind, FromReader, Reader, Renamed, recognise, write_source};

use super::{kept_metadata, left_out};
use crate::args::{ConvertArgs, Format};
use crate::{ExitCode, Failure};

/// Numbers beside the vectors that a pickle has: which token of the vocabulary stood for the word.
const TOKENS: &str = "string_to_token.";

/// Writes the words in `file`; what the result cannot hold, in words.
pub(super) fn convert(file: &dyn Reader, args: &ConvertArgs) -> Result<Vec<String>, Failure> {
    let path = file.path().display();
    let wrong = |message: String| Failure::new(ExitCode::Model, message);
    let kind = recognise(file);
    // A LoRA may bring words along.
    let is_bundle = !bundled_words(file).is_empty();
    if !is_bundle && !matches!(kind, FileKind::TextualInversion { .. }) {
        return Err(wrong(format!("`{path}` is a {kind}, not a textual inversion embedding")));
    }
    let entries = entries(file).map_err(|reason| wrong(format!("`{path}` {reason}")))?;
    // A file that does not say its word is called like it.
    let stem = || file.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let word_of = |entry: &WordEntry| entry.word.clone().unwrap_or_else(&stem);
    let mut places: BTreeMap<&str, (String, Vec<usize>)> = BTreeMap::new();
    for entry in &entries {
        let names = names(&word_of(entry), entry, entries.len(), args.to)
            .map_err(|(reason, hint)| wrong(format!("`{path}` {reason}")).hint(hint))?;
        for ((tensor, name), width) in entry.tensors.iter().zip(names).zip(&entry.widths) {
            places.insert(tensor, (name, vec![entry.vectors, *width]));
        }
    }
    // Those of a LoRA are of its adapters.
    let mut metadata = match kind {
        FileKind::TextualInversion { .. } => kept_metadata(file),
        _ => BTreeMap::new(),
    };
    metadata.insert("format".to_owned(), "pt".to_owned());
    match entries.as_slice() {
        [only] => drop(metadata.insert(NAME_KEY.to_owned(), word_of(only))),
        _ => drop(metadata.remove(NAME_KEY)),
    }
    // Several words under their own names are told by it alone.
    let family = entries.first().and_then(|entry| family_of(&entry.widths));
    if let Some(family) = family {
        let spec = ModelSpec::of_adapter(family, "textual-inversion", file.metadata(), &args.output);
        metadata.entry("modelspec.architecture".to_owned()).or_insert(spec.architecture);
    }
    let renamed = Renamed::new(file, |name, _| places.get(name).cloned())?;
    write_source(&args.output, &FromReader(&renamed), &metadata)?;
    let is_lost = |name: &&str| !places.contains_key(*name) && !name.starts_with(TOKENS);
    let lost: Vec<String> = file.names().into_iter().filter(is_lost).map(str::to_owned).collect();
    Ok(left_out::beside_words(&lost))
}

/// What the tensors of one of `count` words are called, one for each text encoder; or why they cannot be, and the way out.
fn names(
    word: &str,
    entry: &WordEntry,
    count: usize,
    format: Format,
) -> Result<Vec<String>, (&'static str, &'static str)> {
    let encoders = entry.tensors.len();
    match (format, encoders, count) {
        (Format::SdxlEmbedding, 1, _) => {
            Err(("has vectors for one text encoder, and SDXL has two", "`--to kohya-embedding` writes one"))
        }
        (Format::SdxlEmbedding, _, 1) => Ok(OF_TWO.map(str::to_owned).to_vec()),
        (Format::SdxlEmbedding, ..) => Ok(bundle_names(word, encoders)),
        (_, 2.., _) => Err(("has vectors for two text encoders", "`--to sdxl-embedding` has names for both")),
        (Format::KohyaEmbedding, _, 2..) => Err((
            "holds several words, and `emb_params` is one",
            "`--to diffusers-embedding` writes them by their names",
        )),
        (Format::KohyaEmbedding, ..) => Ok(vec![UNNAMED.to_owned()]),
        _ => Ok(vec![word.to_owned()]),
    }
}

/// The family whose text encoders have vectors of these widths.
fn family_of(widths: &[usize]) -> Option<Family> {
    match widths {
        [only] => Family::of_text_width(*only),
        _ => Some(Family::Sdxl),
    }
}
