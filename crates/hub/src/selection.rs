//! Which files of a repository are needed: those that describe the networks, and of each network's weights the form that would be read.

use std::collections::BTreeSet;
use std::path::Path;

use sdtrain_recipe::HubName;
use sdtrain_state_dict::maps::text_places::FOLDERS;
use sdtrain_state_dict::{Weights, read_json, shard_names, weights_among};
use sdtrain_tokenizer::TOKENIZER_FILES;
use serde_json::Value as Json;

/// Lists the networks of a diffusers model.
const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
/// What the weights of a UNet or VAE are called, and those of a text encoder.
const DIFFUSION_STEM: &str = "diffusion_pytorch_model";
const TEXT_STEM: &str = "model";
/// Of these every tokenizer has all of one line.
const VOCABULARIES: [&[&str]; 4] =
    [&["tokenizer.json"], &["vocab.json", "merges.txt"], &["vocab.txt"], &["spiece.model"]];
/// What the variants that are read where none is named have in their names.
const USUAL_VARIANTS: [&str; 2] = [".fp16", ".non_ema"];
/// How many names a message lists.
const MOST_NAMES: usize = 8;

/// What is wanted of a repository. A name with the path of a file in it stands for that file, whatever is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A diffusers model.
    Model {
        /// Which variant of its weights: `fp16`. None for those without one in their name, or what there is.
        variant: Option<String>,
        /// Whether weights count at all; what is drawn at random needs none.
        weights: bool,
    },
    /// A diffusers VAE, which lies at the top of the repository or in the folder that is named.
    Vae,
    /// A text encoder, in the repository or the folder that is named, or in `text_encoder` there, as diffusers has it.
    TextEncoder {
        /// Whether weights count at all; what is drawn at random needs none.
        weights: bool,
        /// Whether its tokenizer counts, which lies beside it, or in `tokenizer`.
        tokenizer: bool,
    },
    /// A tokenizer, in the repository or the folder that is named.
    Tokenizer,
    /// One file, which the name must say.
    File,
}

/// Files by name, from the hub's list or from a folder.
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    /// Those of them that lead down from a folder, and can be written.
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Names {
        // They become names of files and parts of messages.
        let is_odd = |letter: char| letter == '\\' || letter.is_control();
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(is_odd);
        Names(names.into_iter().filter(|name| name.split('/').all(is_plain)).collect())
    }

    /// Those of a folder of the cache.
    pub(crate) fn in_folder(folder: &Path) -> Names {
        let mut found = BTreeSet::new();
        walk(folder, "", &mut found);
        Names(found)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Names of models in one file, for a message.
    fn single_files(&self) -> Vec<&str> {
        let is_model = |name: &&str| [".safetensors", ".ckpt"].iter().any(|ending| name.ends_with(ending));
        self.0.iter().map(String::as_str).filter(|name| !name.contains('/')).filter(is_model).take(MOST_NAMES).collect()
    }
}

fn walk(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
        // What a link of the cache leads to counts, and that it is there.
        if path.is_file() {
            found.insert(name);
        } else if path.is_dir() {
            walk(&path, &format!("{name}/"), found);
        }
    }
}

/// Weights that are wanted: the folder of a network with a slash behind it, or nothing, and what its files are called.
struct Network {
    folder: String,
    stem: &'static str,
}

impl Network {
    /// In which variants its weights are among the files, in a message's words.
    fn variants(&self, names: &Names) -> Vec<String> {
        let stems = [self.stem, "pytorch_model"].map(|stem| format!("{}{stem}", self.folder));
        let variant = |name: &String| {
            let rest = stems.iter().find_map(|stem| name.strip_prefix(stem))?;
            let is_whole = [".safetensors", ".bin"].iter().find_map(|ending| rest.strip_suffix(ending));
            let index = || {
                let (before, behind) = rest.strip_suffix(".json")?.split_once(".index")?;
                let before = [".safetensors", ".bin"].iter().find_map(|ending| before.strip_suffix(ending))?;
                Some(if before.is_empty() { behind } else { before })
            };
            // Shards are known by their list.
            match is_whole.filter(|rest| !rest.contains("-of-")).or_else(index)? {
                "" => Some("plain ones".to_owned()),
                variant => variant.strip_prefix('.').map(|variant| format!("`{variant}`")),
            }
        };
        let found: BTreeSet<String> = names.0.iter().filter_map(variant).collect();
        found.into_iter().take(MOST_NAMES).collect()
    }
}

/// What is wanted of a repository, as far as it is known.
pub(crate) struct Selection<'w> {
    wanted: &'w Wanted,
    /// The file that is named.
    file: Option<String>,
    /// In front of every name, with a slash behind it.
    base: String,
    /// Folders of a text encoder and of its tokenizer, with a slash behind them, or nothing.
    text_folders: (&'static str, &'static str),
}

impl<'w> Selection<'w> {
    /// Of what `name` says, among the files that there are.
    ///
    /// # Errors
    /// What the repository has none of, in a message's words, and a hint.
    pub(crate) fn new(
        name: &HubName,
        wanted: &'w Wanted,
        names: &Names,
    ) -> Result<Selection<'w>, (String, Option<String>)> {
        let base = name.path.as_ref().map_or(String::new(), |path| format!("{path}/"));
        let file = name.path.clone().filter(|path| names.contains(path));
        // As `text_encoder_folders` of state-dict has it.
        let text_folders = match names.contains(&format!("{base}text_encoder/config.json")) {
            true => ("text_encoder/", "tokenizer/"),
            false => ("", ""),
        };
        let selection = Selection { wanted, file, base, text_folders };
        if let Some(file) = &selection.file {
            return match wanted {
                Wanted::TextEncoder { .. } | Wanted::Tokenizer => {
                    Err((format!("folder `{file}`"), Some("it is a file there: name the folder it lies in".to_owned())))
                }
                _ => Ok(selection),
            };
        }
        let files = names.single_files();
        let listed =
            || (!files.is_empty()).then(|| format!("it holds {}: name one as `{name}/FILE`", files.join(", ")));
        let has = |file: &str| names.contains(&format!("{}{file}", selection.base));
        match wanted {
            Wanted::Model { .. } if has(INDEX) => Ok(selection),
            Wanted::Vae if has("config.json") => Ok(selection),
            Wanted::TextEncoder { .. } if has(&format!("{}config.json", text_folders.0)) => Ok(selection),
            Wanted::Tokenizer if has_vocabulary(&selection.base, names) => Ok(selection),
            Wanted::Tokenizer if has_vocabulary(&selection.within("tokenizer/"), names) => {
                let hint = format!("the one of the model in it is `{}`", inside(name, "tokenizer"));
                Err(("tokenizer at its top".to_owned(), Some(hint)))
            }
            Wanted::Tokenizer => match &name.path {
                Some(path) => Err((format!("tokenizer in `{path}`"), None)),
                None => Err(("tokenizer".to_owned(), None)),
            },
            Wanted::Vae if has("vae/config.json") => {
                Err(("VAE at its top".to_owned(), Some(format!("the one of the model in it is `{name}/vae`"))))
            }
            _ => match &name.path {
                Some(path) => Err((format!("file `{path}`"), listed())),
                None => {
                    let described_by = match wanted {
                        Wanted::Vae | Wanted::TextEncoder { .. } => "config.json",
                        _ => INDEX,
                    };
                    Err((format!("`{described_by}`"), listed()))
                }
            },
        }
    }

    /// The file from which the others follow; it is small.
    pub(crate) fn index(&self) -> Option<String> {
        (self.file.is_none() && matches!(self.wanted, Wanted::Model { .. })).then(|| self.within(INDEX))
    }

    /// The small files, once the index lies in `snapshot`: configurations, tokenizers, lists of shards.
    pub(crate) fn small(&self, names: &Names, snapshot: &Path) -> Vec<String> {
        if self.file.is_some() {
            return Vec::new();
        }
        let index = self.read_index(snapshot);
        let networks = self.networks(&index);
        let mut wanted: Vec<String> = networks.iter().map(|network| format!("{}config.json", network.folder)).collect();
        wanted.extend(self.index());
        if matches!(self.wanted, Wanted::Model { .. }) {
            wanted.push(self.within(SCHEDULER));
        }
        let tokenizers = self.tokenizers(&index);
        wanted.extend(tokenizers.iter().flat_map(|folder| TOKENIZER_FILES.map(|name| format!("{folder}{name}"))));
        for network in networks {
            if let Some(Weights::Sharded { index }) = self.weights_of(&network, names) {
                wanted.push(format!("{}{index}", network.folder));
            }
        }
        wanted.retain(|name| names.contains(name));
        wanted
    }

    /// The files of weights, once the small ones lie in `snapshot`.
    ///
    /// # Errors
    /// Names the list of shards that is wrong.
    pub(crate) fn weights(&self, names: &Names, snapshot: &Path) -> Result<Vec<String>, sdtrain_state_dict::Error> {
        if let Some(file) = &self.file {
            return Ok(vec![file.clone()]);
        }
        let mut wanted = Vec::new();
        for network in self.networks(&self.read_index(snapshot)) {
            let folder = &network.folder;
            match self.weights_of(&network, names) {
                Some(Weights::Whole(name)) => wanted.push(format!("{folder}{name}")),
                Some(Weights::Sharded { index }) => {
                    let shards = shard_names(&snapshot.join(format!("{folder}{index}")))?;
                    wanted.extend(shards.into_iter().map(|name| format!("{folder}{name}")));
                }
                // [`Selection::lacks`] says so of a variant, and of the rest whoever reads the folder.
                None => {}
            }
        }
        Ok(wanted)
    }

    /// Of a variant that is named the first network that has none, in a message's words, and a hint.
    pub(crate) fn lacks(&self, names: &Names, snapshot: &Path) -> Option<(String, String)> {
        let Wanted::Model { variant: Some(variant), weights: true } = self.wanted else { return None };
        if self.file.is_some() {
            return None;
        }
        let networks = self.networks(&self.read_index(snapshot));
        let network = networks.iter().find(|network| self.weights_of(network, names).is_none())?;
        let folder = network.folder.trim_end_matches('/');
        let found = network.variants(names);
        let hint = match found.is_empty() {
            true => "it has no weights there at all".to_owned(),
            false => {
                let found = found.join(", ");
                format!("there it has {found}: set `model.variant` to what all networks have, or leave it out")
            }
        };
        Some((format!("weights of the variant `{variant}` in `{folder}`"), hint))
    }

    /// Whether one file is named.
    pub(crate) fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether no variant is named, and what would be read of a network is one.
    fn has_variants_alone(&self, names: &Names, snapshot: &Path) -> bool {
        let means_plain =
            matches!(self.wanted, Wanted::Model { variant: None, .. } | Wanted::Vae | Wanted::TextEncoder { .. });
        if self.file.is_some() || !means_plain || !self.has_weights() {
            return false;
        }
        let is_variant = |weights: Weights| {
            let (Weights::Whole(name) | Weights::Sharded { index: name }) = weights;
            USUAL_VARIANTS.iter().any(|variant| name.contains(variant))
        };
        let networks = self.networks(&self.read_index(snapshot));
        networks.iter().filter_map(|network| self.weights_of(network, names)).any(is_variant)
    }

    /// Whether `snapshot`, which holds files of these names, is all that is needed.
    fn is_complete(&self, names: &Names, snapshot: &Path) -> bool {
        if self.file.is_some() {
            return true;
        }
        let index = self.read_index(snapshot);
        let is_described = self.networks(&index).iter().all(|network| {
            names.contains(&format!("{}config.json", network.folder))
                && (!self.has_weights() || self.weights_of(network, names).is_some())
        });
        let has_scheduler = !matches!(self.wanted, Wanted::Model { .. }) || names.contains(&self.within(SCHEDULER));
        let has_rest = has_scheduler && self.tokenizers(&index).iter().all(|folder| has_vocabulary(folder, names));
        let has_shards = || self.weights(names, snapshot).is_ok_and(|all| all.iter().all(|name| names.contains(name)));
        is_described && has_rest && (!self.has_weights() || has_shards())
    }

    /// Whether weights are wanted at all.
    pub(crate) fn has_weights(&self) -> bool {
        let is_described_alone = matches!(
            self.wanted,
            Wanted::Model { weights: false, .. } | Wanted::TextEncoder { weights: false, .. } | Wanted::Tokenizer
        );
        self.file.is_some() || !is_described_alone
    }

    fn read_index(&self, snapshot: &Path) -> Json {
        self.index().and_then(|index| read_json(&snapshot.join(index)).ok()).unwrap_or_default()
    }

    fn within(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    fn networks(&self, index: &Json) -> Vec<Network> {
        let network = |folder: &str, stem| Network { folder: self.within(folder), stem };
        match self.wanted {
            Wanted::Model { .. } => {
                let text = FOLDERS.iter().filter(|place| has_component(index, place.network));
                let text = text.map(|place| network(&format!("{}/", place.network), TEXT_STEM));
                ["unet/", "vae/"].map(|folder| network(folder, DIFFUSION_STEM)).into_iter().chain(text).collect()
            }
            Wanted::Vae => vec![network("", DIFFUSION_STEM)],
            Wanted::TextEncoder { .. } => vec![network(self.text_folders.0, TEXT_STEM)],
            Wanted::Tokenizer | Wanted::File => Vec::new(),
        }
    }

    /// Folders of tokenizers, with a slash behind them, or nothing.
    fn tokenizers(&self, index: &Json) -> Vec<String> {
        match self.wanted {
            Wanted::Model { .. } => {
                let text = FOLDERS.iter().filter(|place| has_component(index, place.network));
                text.map(|place| self.within(&format!("{}/", place.tokenizer))).collect()
            }
            Wanted::TextEncoder { tokenizer: true, .. } => vec![self.within(self.text_folders.1)],
            Wanted::Tokenizer => vec![self.base.clone()],
            Wanted::TextEncoder { tokenizer: false, .. } | Wanted::Vae | Wanted::File => Vec::new(),
        }
    }

    fn weights_of(&self, network: &Network, names: &Names) -> Option<Weights> {
        let variant = match self.wanted {
            Wanted::Model { variant, .. } => variant.as_deref(),
            _ => None,
        };
        weights_among(network.stem, variant, |name| names.contains(&format!("{}{name}", network.folder)))
    }
}

/// Whether the files of `folder`, which has a slash behind it or is nothing, make a tokenizer.
fn has_vocabulary(folder: &str, names: &Names) -> bool {
    let is_there = |name: &&str| names.contains(&format!("{folder}{name}"));
    VOCABULARIES.iter().any(|files| files.iter().all(is_there))
}

/// The name of a folder in what is named.
fn inside(name: &HubName, folder: &str) -> HubName {
    let path = name.path.as_ref().map_or(folder.to_owned(), |path| format!("{path}/{folder}"));
    HubName { path: Some(path), ..name.clone() }
}

/// Whether a model has a component. Every one has the first text encoder, unless the index says that it has not.
fn has_component(index: &Json, name: &str) -> bool {
    match &index[name] {
        Json::Array(class) => class.get(1).is_some_and(Json::is_string),
        _ => name == FOLDERS[0].network,
    }
}

/// Whether everything that is wanted of a name is in the cache, by whomever it was fetched.
pub fn is_complete(name: &HubName, wanted: &Wanted, cache: &Path) -> bool {
    holds(name, wanted, cache, |selection, names, snapshot| selection.is_complete(names, snapshot))
}

/// Whether of what would be read something is a variant that was not named; there may be weights without one.
pub(crate) fn has_variants_alone(name: &HubName, wanted: &Wanted, cache: &Path) -> bool {
    holds(name, wanted, cache, |selection, names, snapshot| selection.has_variants_alone(names, snapshot))
}

fn holds(
    name: &HubName,
    wanted: &Wanted,
    cache: &Path,
    question: impl Fn(&Selection<'_>, &Names, &Path) -> bool,
) -> bool {
    let Some(snapshot) = name.snapshot(cache) else { return false };
    let names = Names::in_folder(&snapshot);
    Selection::new(name, wanted, &names).is_ok_and(|selection| question(&selection, &names, &snapshot))
}
