//! The weights of one component of a diffusers folder: one file, shards with an index, or a variant of either.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::reader::{Joined, Reader};
use crate::torch_file::open_file;

/// Opens the weights in `folder` whose files are called `stem`: `diffusion_pytorch_model` for a UNet or VAE, `model`
/// for a text encoder. Full files are preferred over shards, and both over their `fp16` and `non_ema` variants;
/// with `variant` only that one counts.
pub fn open_component(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Box<dyn Reader>> {
    let files = component_files(folder, stem, variant)?;
    let is_whole = |file: &Path| {
        let name = file.file_name().unwrap_or_default();
        let names = |form: Form| variants(variant).iter().any(|variant| name == form.whole(variant).as_str());
        forms(stem).into_iter().any(names)
    };
    if let [file] = files.as_slice()
        && is_whole(file)
    {
        return open_file(file);
    }
    let shards = files.iter().map(open_file).collect::<Result<Vec<_>>>()?;
    let joined = Joined::new(folder, shards)?;
    if let Some(index) = find_index(folder, stem, variant) {
        check_index(&index, &joined)?;
    }
    Ok(Box::new(joined))
}

/// The files that `open_component` would read, in the order of their names.
pub fn component_files(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Vec<PathBuf>> {
    match weights_among(stem, variant, |name| folder.join(name).is_file()) {
        Some(Weights::Whole(name)) => Ok(vec![folder.join(name)]),
        Some(Weights::Sharded { index }) => shards_of(&folder.join(index)),
        None => {
            let wanted = wanted(stem, variant);
            Err(Error::NoWeights { folder: folder.to_path_buf(), wanted, hint: what_lies_there(folder) })
        }
    }
}

/// How the weights of a component lie in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// In the file of this name.
    Whole(String),
    /// In shards.
    Sharded {
        /// Name of the file that lists them.
        index: String,
    },
}

/// Which files [`open_component`] would read in a folder, wherever it is, of whose names `is_there` knows; none where it has no weights.
pub fn weights_among(stem: &str, variant: Option<&str>, is_there: impl Fn(&str) -> bool) -> Option<Weights> {
    let variants = variants(variant);
    for form in forms(stem) {
        for variant in &variants {
            let whole = form.whole(variant);
            if is_there(&whole) {
                return Some(Weights::Whole(whole));
            }
            if let Some(index) = form.indices(variant).into_iter().find(|index| is_there(index)) {
                return Some(Weights::Sharded { index });
            }
        }
    }
    None
}

/// What was looked for in vain, for a message.
fn wanted(stem: &str, variant: Option<&str>) -> Vec<String> {
    let variants = variants(variant);
    let of_form = |form: &Form| {
        let mut names: Vec<String> = variants.iter().map(|variant| form.whole(variant)).collect();
        names.push(form.indices(&variants[0])[0].clone());
        names
    };
    forms(stem).iter().flat_map(of_form).collect()
}

/// Where a text encoder and its tokenizer lie in `folder`: in a diffusers folder each in its own, else together, as transformers writes them.
pub fn text_encoder_folders(folder: &Path) -> (PathBuf, PathBuf) {
    match folder.join("text_encoder/config.json").is_file() {
        true => (folder.join("text_encoder"), folder.join("tokenizer")),
        false => (folder.to_path_buf(), folder.to_path_buf()),
    }
}

/// What stands behind the stem, in the order of preference.
fn variants(wanted: Option<&str>) -> Vec<String> {
    match wanted {
        Some(variant) => vec![format!(".{variant}")],
        None => ["", ".fp16", ".non_ema"].map(str::to_string).to_vec(),
    }
}

/// How files of weights are called.
struct Form<'s> {
    stem: &'s str,
    extension: &'static str,
}

/// safetensors before pickles, for which transformers has a name of its own.
fn forms(stem: &str) -> [Form<'_>; 2] {
    let pickled = if stem == "model" { "pytorch_model" } else { stem };
    [Form { stem, extension: "safetensors" }, Form { stem: pickled, extension: "bin" }]
}

impl Form<'_> {
    fn whole(&self, variant: &str) -> String {
        format!("{}{variant}.{}", self.stem, self.extension)
    }

    // Both libraries put the variant between `index` and `json`; older diffusers put it before the extension.
    fn indices(&self, variant: &str) -> [String; 2] {
        let Form { stem, extension } = self;
        [format!("{stem}.{extension}.index{variant}.json"), format!("{stem}{variant}.{extension}.index.json")]
    }
}

fn find_index(folder: &Path, stem: &str, variant: Option<&str>) -> Option<PathBuf> {
    let variants = variants(variant);
    let names = forms(stem)
        .into_iter()
        .flat_map(|form| variants.iter().flat_map(move |variant| form.indices(variant)).collect::<Vec<_>>());
    names.map(|name| folder.join(name)).find(|index| index.is_file())
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(path: &Path) -> Result<Index> {
    let text = fs::read(path).map_err(|source| Error::io("read", path, source))?;
    serde_json::from_slice(&text).map_err(|error| broken_index(path, format!("not a shard index: {error}")))
}

fn shards_of(index: &Path) -> Result<Vec<PathBuf>> {
    let folder = index.parent().unwrap_or(Path::new(""));
    let names = shard_names(index)?;
    if let Some(name) = names.iter().find(|name| !folder.join(name).is_file()) {
        return Err(broken_index(index, format!("the shard `{}` is missing", crate::error::shown(name))));
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// Names of the shards that an index lists, sorted; each is that of a file beside it.
///
/// # Errors
/// Where it cannot be read, lists nothing, or names what is not beside it.
pub fn shard_names(index: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = read_index(index)?.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(broken_index(index, "lists no tensors".to_string()));
    }
    for name in &names {
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
        if !plain {
            return Err(broken_index(
                index,
                format!("the shard `{}` is not a plain file name", crate::error::shown(name)),
            ));
        }
    }
    Ok(names)
}

fn check_index<R: Reader>(path: &Path, shards: &Joined<R>) -> Result<()> {
    let listed = read_index(path)?.weight_map;
    let absent: Vec<&String> = listed.keys().filter(|name| shards.info(name).is_none()).collect();
    match absent.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(broken_index(
            path,
            format!("{} listed tensors are in no shard, the first is `{}`", absent.len(), crate::error::shown(first)),
        )),
    }
}

fn broken_index(path: &Path, reason: String) -> Error {
    Error::BrokenIndex { path: path.to_path_buf(), reason }
}

fn what_lies_there(folder: &Path) -> Option<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Some("there is no such folder".to_string());
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.truncate(8);
    match names.is_empty() {
        true => Some("the folder is empty".to_string()),
        false => Some(format!("it holds {}", names.join(", "))),
    }
}
