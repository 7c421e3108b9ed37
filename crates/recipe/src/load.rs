//! From a file to a configuration that can be run: read, complete, check; and back to text.

use std::path::{Path, PathBuf};

use sdtrain_config::{Document, Fault, Parsed, Problems};

use crate::check::check;
use crate::kohya::{self, KohyaFile};
use crate::sample_prompt::take_over_lines;
use crate::{HubName, ModelLocation, Picture, TrainConfig, is_address};

/// A checked configuration with the document it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Complete and checked; every path in it is absolute.
    pub config: TrainConfig,
    /// Knows where each value was written, for later messages about one.
    pub document: Document,
}

impl TrainConfig {
    /// Reads and checks a configuration file with the command line's `key=value` overrides on top.
    /// No model or image is opened; every problem is in the one error.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded, Problems> {
        let Parsed { value, faults } = TrainConfig::load_what_fits(path, overrides)?;
        match value {
            Some(loaded) if faults.is_empty() => Ok(loaded),
            _ => Err(Problems(faults.into_iter().map(|fault| fault.problem).collect())),
        }
    }

    /// The same for a caller that wants to look at the rest although something is wrong: what is faulty has its default.
    /// Only a file that is no TOML leads to an error.
    pub fn load_what_fits(path: &Path, overrides: &[String]) -> Result<Parsed<Loaded>, Problems> {
        let document = Document::load(path, overrides)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(TrainConfig::from_document(document, &name))
    }

    /// Completes and checks a document that is already read; `default_name` is used when it has no `name`.
    pub fn from_document(document: Document, default_name: &str) -> Parsed<Loaded> {
        let mut parsed = document.parse_what_fits::<TrainConfig>();
        if let Some(config) = &mut parsed.value {
            config.extends = None;
            if config.name.is_empty() && !document.has("name") {
                config.name = default_name.to_owned();
            }
            keep_nearer_twin(config, &document);
            make_paths_absolute(config, &document);
        }
        for fault in parsed.faults.iter_mut().filter(|fault| fault.key == "datasets") {
            fault.problem.hint = Some(
                "a dataset file of kohya's scripts is named in a configuration: `[data]` with `kohya_config = \"FILE\"`"
                    .to_owned(),
            );
        }
        if parsed.value.as_ref().is_some_and(|config| !config.stages.is_empty()) {
            let message = "this file describes several runs, its stages, and one is asked for";
            let hint = "the configuration of a stage is `config.toml` in its folder, `outputs/NAME/STAGE`";
            let problem = document.problem("stages", message).hint(hint);
            parsed.faults.push(Fault { key: "stages".to_owned(), problem });
        }
        take_over_lines(&mut parsed, &document);
        let kohya = take_over_kohya(&mut parsed, &document);
        let found = check(&parsed, &document, kohya.as_ref());
        parsed.faults.extend(found);
        parsed.faults.sort_by(|a, b| a.problem.place().cmp(&b.problem.place()));
        Parsed { value: parsed.value.map(|config| Loaded { config, document }), faults: parsed.faults }
    }

    /// The pictures that `[samples]` asks for, in order.
    pub fn sample_pictures(&self) -> Vec<Picture> {
        self.samples.pictures(self.data.resolution)
    }

    /// The configuration as a file that runs again.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every number of a configuration fits TOML's range")
    }

    /// Dotted keys in which two configurations differ.
    pub fn differing_keys(&self, other: &TrainConfig) -> Vec<String> {
        let table = |config: &TrainConfig| {
            toml::Value::try_from(config).expect("every number of a configuration fits TOML's range")
        };
        let mut keys = Vec::new();
        collect_differences(Some(&table(self)), Some(&table(other)), "", &mut keys);
        keys
    }
}

/// Reads the file that `data.kohya_config` names in the place of the key; what is wrong in it is a fault of that key.
fn take_over_kohya(parsed: &mut Parsed<TrainConfig>, document: &Document) -> Option<KohyaFile> {
    let path = parsed.value.as_mut()?.data.kohya_config.take()?;
    let fault = |problem| Fault { key: "data.kohya_config".to_owned(), problem };
    if document.has("data.subsets") {
        let message = "`data.kohya_config` and `data.subsets` are both set";
        let problem = document.problem("data.kohya_config", message).hint("keep the one that is meant");
        parsed.faults.push(fault(problem));
        return None;
    }
    if !path.is_file() {
        let what = if path.exists() { "is a folder, not a file" } else { "does not exist" };
        let message = format!("`data.kohya_config`: `{}` {what}", path.display());
        parsed.faults.push(fault(document.problem("data.kohya_config", message)));
        return None;
    }
    let data = &mut parsed.value.as_mut()?.data;
    let (file, problems) = kohya::apply(data, &path, |key| document.has(key));
    parsed.faults.extend(problems.into_iter().map(fault));
    file
}

/// Of two keys that exclude each other, an override wins over a file, and a file over the one it extends.
fn keep_nearer_twin(config: &mut TrainConfig, document: &Document) {
    let nearer = |a: &str, b: &str| match (document.distance(a), document.distance(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => std::cmp::Ordering::Equal,
    };
    match nearer("train.max_steps", "train.max_epochs") {
        std::cmp::Ordering::Less => config.train.max_epochs = None,
        std::cmp::Ordering::Greater => config.train.max_steps = None,
        std::cmp::Ordering::Equal => {}
    }
    match nearer("validation.path", "validation.split") {
        std::cmp::Ordering::Less => config.validation.split = None,
        std::cmp::Ordering::Greater => config.validation.path = None,
        std::cmp::Ordering::Equal => {}
    }
}

fn make_paths_absolute(config: &mut TrainConfig, document: &Document) {
    let absolute = |path: &Path, key: &str| absolute_path(path, &document.folder_of(key));
    if ModelLocation::is_file_path(&config.model.path) {
        let path = absolute(Path::new(&config.model.path), "model.path");
        config.model.path = path.to_string_lossy().into_owned();
    }
    for (index, subset) in config.data.subsets.iter_mut().enumerate() {
        if !subset.path.as_os_str().is_empty() && !is_address(&subset.path) {
            subset.path = absolute(&subset.path, &format!("data.subsets.{index}.path"));
        }
        if let Some(file) = &mut subset.metadata_file {
            *file = absolute(file, &format!("data.subsets.{index}.metadata_file"));
        }
        for (extra_index, extra) in subset.extra_images.iter_mut().enumerate() {
            if let Some(path) = &mut extra.path {
                *path = absolute(path, &format!("data.subsets.{index}.extra_images.{extra_index}.path"));
            }
        }
    }
    for (index, token) in config.textual_inversion.tokens.iter_mut().enumerate() {
        if let Some(file) = &mut token.initial {
            *file = absolute(file, &format!("textual_inversion.tokens.{index}.initial"));
        }
    }
    if let Some(folder) = config.data.cache_dir.as_mut().filter(|folder| !folder.as_os_str().is_empty()) {
        *folder = absolute(folder, "data.cache_dir");
    }
    for (index, fused) in config.model.fuse.iter_mut().enumerate() {
        if !fused.path.as_os_str().is_empty() && !HubName::is_at(&fused.path) {
            fused.path = absolute(&fused.path, &format!("model.fuse.{index}.path"));
        }
    }
    if let Some(path) = config.validation.path.as_mut().filter(|path| !is_address(path)) {
        *path = absolute(path, "validation.path");
    }
    let folders =
        [(&mut config.model.text_encoder, "model.text_encoder"), (&mut config.model.tokenizer, "model.tokenizer")];
    for (folder, key) in folders {
        let is_path = |folder: &&mut PathBuf| !folder.as_os_str().is_empty() && !HubName::is_at(folder);
        if let Some(folder) = folder.as_mut().filter(is_path) {
            *folder = absolute(folder, key);
        }
    }
    let inputs = [
        (&mut config.data.kohya_config, "data.kohya_config"),
        (&mut config.data.download_dir, "data.download_dir"),
        (&mut config.model.vae, "model.vae"),
        (&mut config.lora.initial, "lora.initial"),
        (&mut config.samples.prompts_file, "samples.prompts_file"),
        (&mut config.dreambooth.class_data_dir, "dreambooth.class_data_dir"),
        (&mut config.vae_objective.lpips, "vae_objective.lpips"),
        (&mut config.debug.trace_inputs, "debug.trace_inputs"),
    ];
    for (path, key) in inputs {
        // Those that can be on the hub are named so by `existing_or_on_hub` of the checks.
        if let Some(path) = path.as_mut().filter(|path| !HubName::is_at(path)) {
            *path = absolute(path, key);
        }
    }
    // A trace is a result, and results lie under the current folder.
    if let Some(trace) = &mut config.debug.trace {
        let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        *trace = absolute_path(trace, &current);
    }
}

/// `path` seen from `folder`, with `~` and `..` resolved where that keeps its meaning.
pub(crate) fn absolute_path(path: &Path, folder: &Path) -> PathBuf {
    let at_home = path.strip_prefix("~").ok().zip(std::env::home_dir());
    let joined = match at_home {
        Some((rest, home)) => home.join(rest),
        None => folder.join(path),
    };
    let joined = std::path::absolute(&joined).unwrap_or(joined);
    let mut short = PathBuf::new();
    for component in joined.components() {
        match component {
            std::path::Component::ParentDir => {
                short.pop();
            }
            other => short.push(other),
        }
    }
    // Behind a symbolic link `..` leads elsewhere than the text says.
    match (short.canonicalize(), joined.canonicalize()) {
        (Ok(short_target), Ok(target)) if short_target != target => joined,
        _ => short,
    }
}

fn collect_differences(a: Option<&toml::Value>, b: Option<&toml::Value>, key: &str, keys: &mut Vec<String>) {
    if a == b {
        return;
    }
    let (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) = (a, b) else {
        keys.push(key.to_owned());
        return;
    };
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        collect_differences(a.get(name), b.get(name), &path, keys);
    }
}
