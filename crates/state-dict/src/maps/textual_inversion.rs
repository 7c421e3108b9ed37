//! The names under which files keep learned words (textual inversion).
//!
//! | written by | names |
//! |---|---|
//! | diffusers | the word itself; its files hold one |
//! | kohya's scripts, AUTOMATIC1111 | `emb_params`; the file's name is the word |
//! | OneTrainer | `emp_params` |
//! | a LoRA that brings its words along | `bundle_emb.<word>.string_to_param.*` |
//! | for SDXL | `clip_l` and `clip_g`, alone or behind `bundle_emb.<word>.` |

use crate::dtype::Dtype;
use crate::reader::Reader;

/// What the names of bundled words begin with.
pub const BUNDLE_PREFIX: &str = "bundle_emb.";
/// What they end with.
const BUNDLE_END: &str = ".string_to_param.*";
/// The only name in files that are called like their word.
pub const UNNAMED: &str = "emb_params";
/// The metadata key of AUTOMATIC1111's files that holds the word.
pub const NAME_KEY: &str = "name";

/// The tensor of one learned word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordEntry {
    /// The word; none in a file that is called like it.
    pub word: Option<String>,
    /// The tensor's name.
    pub tensor: String,
    /// How many vectors the word has.
    pub vectors: usize,
    /// How many numbers a vector has.
    pub width: usize,
}

/// The learned words of a file, in the order of their tensors' names.
///
/// # Errors
/// Why the file's words cannot be used, or that it holds none.
pub fn entries(reader: &dyn Reader) -> Result<Vec<WordEntry>, String> {
    let names = reader.names();
    let is = |name: &str| names.contains(&name);
    if names.iter().any(|name| name.ends_with("clip_g")) {
        return Err("holds words for SDXL, which has two text encoders".to_string());
    }
    if let Some(name) = names.iter().find(|name| ["emb_params_out", "emp_params_out", "clip_l_out"].contains(name)) {
        return Err(format!("has vectors that are added behind the text encoder (`{name}`); these are not supported"));
    }
    let bundled = names.iter().filter(|name| name.starts_with(BUNDLE_PREFIX)).copied().collect::<Vec<_>>();
    let known = [UNNAMED, "emp_params", "clip_l"].into_iter().find(|name| is(name));
    let named: Vec<(Option<String>, &str)> = if !bundled.is_empty() {
        bundled.iter().map(|name| Ok((Some(bundled_word(name)?), *name))).collect::<Result<_, String>>()?
    } else if let Some(known) = known {
        vec![(reader.metadata().get(NAME_KEY).filter(|name| !name.is_empty()).cloned(), known)]
    } else {
        names.iter().map(|name| (Some((*name).to_string()), *name)).collect()
    };
    let entries: Option<Vec<WordEntry>> = named.into_iter().map(|(word, tensor)| entry(reader, word, tensor)).collect();
    let entries = entries.filter(|entries| {
        let width = entries.first().map(|entry| entry.width);
        width.is_some() && entries.iter().all(|entry| Some(entry.width) == width)
    });
    entries.ok_or_else(|| "holds no learned words".to_string())
}

/// The words that a LoRA file brings along, none for other files; a bundle that cannot be read as words is called by its tensors.
pub fn bundled_words(reader: &dyn Reader) -> Vec<String> {
    let bundled = reader.names().into_iter().filter(|name| name.starts_with(BUNDLE_PREFIX));
    bundled.map(|name| bundled_word(name).unwrap_or_else(|_| name.to_string())).collect()
}

/// `bundle_emb.<word>.string_to_param.*`.
pub fn bundle_name(word: &str) -> String {
    format!("{BUNDLE_PREFIX}{word}{BUNDLE_END}")
}

fn bundled_word(name: &str) -> Result<String, String> {
    let word = name.strip_prefix(BUNDLE_PREFIX).and_then(|rest| rest.strip_suffix(BUNDLE_END));
    let word = word.filter(|word| !word.is_empty());
    word.map(str::to_string).ok_or_else(|| format!("has the bundled tensor `{name}`, which is no word's"))
}

/// `[vectors, width]`, or `[width]` for one vector, in floating point.
fn entry(reader: &dyn Reader, word: Option<String>, tensor: &str) -> Option<WordEntry> {
    let info = reader.info(tensor)?;
    let is_float = matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16);
    let (vectors, width) = match info.shape[..] {
        [width] => (1, width),
        [vectors, width] => (vectors, width),
        _ => return None,
    };
    (is_float && vectors > 0 && width > 0).then(|| WordEntry { word, tensor: tensor.to_string(), vectors, width })
}
