//! The names under which files keep learned words (textual inversion).
//!
//! | written by | names |
//! |---|---|
//! | diffusers | the word itself; its files hold one |
//! | kohya's scripts, AUTOMATIC1111 | `emb_params`; the file's name is the word |
//! | AUTOMATIC1111, as a `.pt` | `string_to_param.*`; the pickle's `name` is the word |
//! | the code of the paper, as a `.pt` | `string_to_param.<word>` |
//! | OneTrainer | `emp_params` |
//! | a LoRA that brings its words along | `bundle_emb.<word>.string_to_param.*` |
//! | for the two text encoders of SDXL | `clip_l` and `clip_g`, alone or behind `bundle_emb.<word>.` |

use std::collections::BTreeSet;

use crate::reader::Reader;

/// What the names of bundled words begin with.
pub const BUNDLE_PREFIX: &str = "bundle_emb.";
/// What they end with, for the first text encoder and for the second.
const BUNDLE_ENDS: [&[&str]; 2] = [&[".string_to_param.*", ".clip_l"], &[".clip_g"]];
/// The names of a word of two text encoders.
pub const OF_TWO: [&str; 2] = ["clip_l", "clip_g"];
/// The only name in files that are called like their word.
pub const UNNAMED: &str = "emb_params";
/// What names in a `.pt` file begin with, which holds its words in a dictionary of a dictionary.
pub const OF_PICKLE: &str = "string_to_param.";
/// What stands there for a word that is said elsewhere.
const ANY_WORD: &str = "*";
/// The metadata key of AUTOMATIC1111's files that holds the word.
pub const NAME_KEY: &str = "name";

/// The tensors of one learned word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordEntry {
    /// The word; none in a file that is called like it.
    pub word: Option<String>,
    /// Their names, one for each text encoder.
    pub tensors: Vec<String>,
    /// How many vectors the word has.
    pub vectors: usize,
    /// How many numbers a vector has, for each text encoder.
    pub widths: Vec<usize>,
}

/// The learned words of a file, in the order of their tensors' names.
///
/// # Errors
/// Why the file's words cannot be used, or that it holds none.
pub fn entries(reader: &dyn Reader) -> Result<Vec<WordEntry>, String> {
    let names = reader.names();
    let is = |name: &str| names.contains(&name);
    if let Some(name) =
        names.iter().find(|name| ["emb_params_out", "emp_params_out", "clip_l_out", "clip_g_out"].contains(name))
    {
        return Err(format!("has vectors that are added behind the text encoder (`{name}`); these are not supported"));
    }
    let bundled: BTreeSet<String> = names
        .iter()
        .filter(|name| name.starts_with(BUNDLE_PREFIX))
        .map(|name| bundled_word(name).map(|(word, _)| word))
        .collect::<Result<_, _>>()?;
    let of_file = || reader.metadata().get(NAME_KEY).filter(|name| !name.is_empty()).cloned();
    let known = [UNNAMED, "emp_params"].into_iter().find(|name| is(name));
    let of_pickle: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(OF_PICKLE)).collect();
    let named: Vec<(Option<String>, Vec<String>)> = if !bundled.is_empty() {
        bundled.into_iter().map(|word| (Some(word.clone()), bundle_tensors(&word, is))).collect()
    } else if let Some(known) = known {
        vec![(of_file(), vec![known.to_string()])]
    } else if !of_pickle.is_empty() {
        let word = |key: &str| {
            let own = (key != ANY_WORD).then(|| key.to_string());
            if of_pickle.len() == 1 { of_file().or(own) } else { own }
        };
        of_pickle.iter().map(|&key| (word(key), vec![format!("{OF_PICKLE}{key}")])).collect()
    } else if is(OF_TWO[0]) || is(OF_TWO[1]) {
        vec![(of_file(), OF_TWO.into_iter().filter(|name| is(name)).map(str::to_string).collect())]
    } else {
        names.iter().map(|name| (Some((*name).to_string()), vec![(*name).to_string()])).collect()
    };
    let entries: Option<Vec<WordEntry>> =
        named.into_iter().map(|(word, tensors)| entry(reader, word, tensors)).collect();
    let entries = entries.filter(|entries| {
        let widths = entries.first().map(|entry| &entry.widths);
        widths.is_some() && entries.iter().all(|entry| Some(&entry.widths) == widths)
    });
    entries.ok_or_else(|| "holds no learned words".to_string())
}

/// The tensors of a bundled word that are there, the first text encoder's first.
fn bundle_tensors(word: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let name = |end: &&str| format!("{BUNDLE_PREFIX}{word}{end}");
    BUNDLE_ENDS.iter().filter_map(|ends| ends.iter().map(name).find(|name| is_there(name))).collect()
}

/// The words that a LoRA file brings along, none for other files; a bundle that cannot be read as words is called by its tensors.
pub fn bundled_words(reader: &dyn Reader) -> Vec<String> {
    let bundled = reader.names().into_iter().filter(|name| name.starts_with(BUNDLE_PREFIX));
    let mut words: Vec<String> =
        bundled.map(|name| bundled_word(name).map_or_else(|_| name.to_string(), |(word, _)| word)).collect();
    words.dedup();
    words
}

/// The names of a bundled word with vectors for so many text encoders.
pub fn bundle_names(word: &str, text_encoders: usize) -> Vec<String> {
    match text_encoders {
        0 | 1 => vec![format!("{BUNDLE_PREFIX}{word}{}", BUNDLE_ENDS[0][0])],
        _ => OF_TWO.iter().map(|name| format!("{BUNDLE_PREFIX}{word}.{name}")).collect(),
    }
}

/// The word of a bundled tensor, and which text encoder it is for.
fn bundled_word(name: &str) -> Result<(String, usize), String> {
    let inside = name.strip_prefix(BUNDLE_PREFIX).unwrap_or_default();
    let of_encoder = BUNDLE_ENDS.iter().enumerate();
    let mut ends = of_encoder.flat_map(|(encoder, ends)| ends.iter().map(move |end| (encoder, *end)));
    let found = ends.find_map(|(encoder, end)| Some((inside.strip_suffix(end)?.to_string(), encoder)));
    let word = found.filter(|(word, _)| !word.is_empty());
    word.ok_or_else(|| format!("has the bundled tensor `{name}`, which is no word's"))
}

/// Of each text encoder `[vectors, width]`, or `[width]` for one vector, in floating point, all of them as many vectors.
fn entry(reader: &dyn Reader, word: Option<String>, tensors: Vec<String>) -> Option<WordEntry> {
    let sizes = tensors.iter().map(|tensor| {
        let info = reader.info(tensor)?;
        let (vectors, width) = match info.shape[..] {
            [width] => (1, width),
            [vectors, width] => (vectors, width),
            _ => return None,
        };
        (info.dtype.is_float() && vectors > 0 && width > 0).then_some((vectors, width))
    });
    let sizes: Vec<(usize, usize)> = sizes.collect::<Option<_>>()?;
    let vectors = sizes.first()?.0;
    let widths = sizes.iter().map(|(_, width)| *width).collect();
    sizes.iter().all(|size| size.0 == vectors).then_some(WordEntry { word, tensors, vectors, widths })
}
