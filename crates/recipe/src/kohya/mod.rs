//! `data.kohya_config`: the dataset file of kohya's sd-scripts, TOML or JSON, read as those scripts read it.
//!
//! A value is looked up in the subset, its dataset, `[general]`, our own `[data]` (which stands where the scripts have their
//! command line), and last in the scripts' defaults. Which of our keys a key becomes is said by the names in our schema.

mod keys;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use sdtrain_config::{Document, Problem, nearest};
use toml::{Table, Value};

use crate::load::absolute_path;
use crate::{Batching, BucketingConfig, DataConfig, SourceFormat, Subset};
use keys::{Fate, KEYS, Key, Kind, Level};

/// A file that was read, to say of our keys where in it they come from.
#[derive(Debug)]
pub(crate) struct KohyaFile {
    document: Document,
    /// Its key for each of ours.
    origins: BTreeMap<String, String>,
}

impl KohyaFile {
    /// A problem with one of our keys at the line that it comes from; none for a key that does not.
    pub(crate) fn problem(&self, key: &str, message: &str) -> Option<Problem> {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return Some(self.document.problem(origin, message));
            }
            key = key.rsplit_once('.')?.0;
        }
    }
}

/// Puts what the file says into `data`. `is_written` says whether one of our own keys is written in our file.
pub(crate) fn apply(
    data: &mut DataConfig,
    path: &Path,
    is_written: impl Fn(&str) -> bool,
) -> (Option<KohyaFile>, Vec<Problem>) {
    // The scripts tell by the name too.
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let document = match if is_json { Document::load_json(path) } else { Document::load(path, &[]) } {
        Ok(document) => document,
        Err(problems) => return (None, problems.0),
    };
    let mut import = Import { document: &document, origins: BTreeMap::new(), problems: Vec::new() };
    import.check_written();
    if import.problems.is_empty() {
        let folder = path.parent().unwrap_or(Path::new(""));
        import.read(data, folder, &is_written);
    }
    let Import { origins, problems, .. } = import;
    (Some(KohyaFile { document, origins }), problems)
}

struct Import<'a> {
    document: &'a Document,
    origins: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

/// A table of the file with its dotted key.
type Place<'a> = (String, &'a Table);

impl<'a> Import<'a> {
    fn report(&mut self, key: &str, message: impl Into<String>) -> &mut Problem {
        self.problems.push(self.document.problem(key, message));
        self.problems.last_mut().expect("a problem was just added")
    }

    fn general(&self) -> Option<Place<'a>> {
        Some(("general".to_owned(), self.document.table().get("general")?.as_table()?))
    }

    fn datasets(&self) -> Vec<Place<'a>> {
        tables(self.document.table(), "datasets", "")
    }

    /// Everything that is written: names, places, kinds, and what is refused.
    fn check_written(&mut self) {
        for (name, value) in self.document.table() {
            let fits = match name.as_str() {
                "general" => value.is_table(),
                "datasets" => is_list_of_tables(value),
                _ => {
                    let hint = match (keys::find(name), nearest(name, ["general", "datasets"])) {
                        (Some(_), _) => "it belongs into `[general]`".to_owned(),
                        (None, Some(near)) => format!("did you mean `{near}`?"),
                        (None, None) => "a dataset file has `[general]` and `[[datasets]]`".to_owned(),
                    };
                    self.report(name, format!("unknown key `{name}`")).hint = Some(hint);
                    continue;
                }
            };
            if !fits {
                let header = if name == "general" { "[general]" } else { "[[datasets]]" };
                self.report(name, format!("`{name}` must be written as `{header}`"));
            }
        }
        if let Some((place, table)) = self.general() {
            self.check_table(&place, table, false, false);
        }
        let datasets = self.datasets();
        if datasets.is_empty() && self.problems.is_empty() {
            self.report("", "there is no `[[datasets]]`").hint =
                Some("a dataset has one or more `[[datasets.subsets]]` with `image_dir`".to_owned());
        }
        for (place, table) in datasets {
            self.check_table(&place, table, true, false);
            match table.get("subsets") {
                Some(value) if !is_list_of_tables(value) => {
                    let key = format!("{place}.subsets");
                    self.report(&key, format!("`{key}` must be written as `[[datasets.subsets]]`"));
                }
                Some(Value::Array(subsets)) if !subsets.is_empty() => {}
                _ => {
                    self.report(&place, format!("`{place}` has no `[[datasets.subsets]]`"));
                }
            }
            for (place, table) in tables(table, "subsets", &place) {
                self.check_table(&place, table, false, true);
            }
        }
    }

    fn check_table(&mut self, place: &str, table: &Table, is_dataset: bool, is_subset: bool) {
        for (name, value) in table {
            if is_dataset && name == "subsets" {
                continue;
            }
            let path = format!("{place}.{name}");
            let Some(key) = keys::find(name) else {
                let near = nearest(name, KEYS.iter().map(|key| key.name));
                self.report(&path, format!("unknown key `{path}`")).hint =
                    Some(near.map_or("kohya's scripts know no such key".to_owned(), |near| {
                        format!("did you mean `{near}`?")
                    }));
                continue;
            };
            match key.level {
                Level::Dataset if is_subset => {
                    self.report(&path, format!("`{name}` holds for a whole dataset")).hint =
                        Some("write it into `[[datasets]]` or `[general]`".to_owned());
                }
                Level::Subset if !is_subset => {
                    self.report(&path, format!("`{name}` belongs into `[[datasets.subsets]]`"));
                }
                _ if !key.kind.fits(value) => {
                    self.report(&path, format!("`{path}` must be {}, not {value}", key.kind.in_words()));
                }
                _ => self.check_fate(&path, key, value),
            }
        }
    }

    fn check_fate(&mut self, path: &str, key: &Key, value: &Value) {
        if key.is_neutral(value) {
            return;
        }
        if let Some((attribute, why, instead)) = keys::known_attribute(key, value) {
            let path = format!("{path}.{attribute}");
            self.report(&path, format!("`{path}` is not supported: {why}")).hint = Some(instead.to_owned());
            return;
        }
        match key.fate {
            Fate::NoEffect => {}
            Fate::Ours if is_ours(key) => {}
            Fate::Ours => {
                let message = format!("`{path}` is not supported: sdtrain has no such setting");
                self.report(path, message).hint = Some("remove it, if the training can do without".to_owned());
            }
            Fate::Refused(why, instead) => {
                self.report(path, format!("`{path}` is not supported: {why}")).hint = Some(instead.to_owned());
            }
        }
    }

    fn read(&mut self, data: &mut DataConfig, folder: &Path, is_written: &impl Fn(&str) -> bool) {
        let general = self.general();
        let own = data.clone();
        let mut subsets: Vec<Subset> = Vec::new();
        for (number, (place, table)) in self.datasets().into_iter().enumerate() {
            let outer: Vec<Place<'_>> = [Some((place.clone(), table)), general.clone()].into_iter().flatten().collect();
            let first = subsets.len();
            let mut folders: Vec<PathBuf> = Vec::new();
            for (place, table) in tables(table, "subsets", &place) {
                let mut chain = vec![(place.clone(), table)];
                chain.extend(outer.iter().cloned());
                let Some(subset) = self.subset(&chain, subsets.len(), folder) else { continue };
                let named = subset.metadata_file.as_ref().unwrap_or(&subset.path);
                if folders.contains(named) {
                    let message = format!("`{}` is named twice in this dataset", named.display());
                    self.report(&place, message).hint = Some(
                        "kohya's scripts read only the first of them: remove the other, or raise `num_repeats`"
                            .to_owned(),
                    );
                }
                folders.push(named.clone());
                subsets.push(subset);
            }
            // What the first dataset says becomes that of `[data]`; subsets of others have their own where they differ from it.
            let sections: Vec<String> = match number {
                0 => vec!["data".to_owned()],
                _ => (first..subsets.len()).map(|index| format!("data.subsets.{index}")).collect(),
            };
            let settings = self.dataset_settings(&outer, &sections);
            let Some(batching) = self.batching(&place, &own, settings, is_written) else { continue };
            for subset in &mut subsets[first..] {
                // Without buckets the scripts scale only what goes into a cache, where random crops cannot come from.
                subset.crop_unscaled = subset.random_crop && !batching.bucketing.enabled;
            }
            if number == 0 {
                (data.resolution, data.batch_size) = (batching.resolution, batching.batch_size);
                data.bucketing = batching.bucketing;
                continue;
            }
            for subset in &mut subsets[first..] {
                subset.resolution = Some(batching.resolution).filter(|resolution| *resolution != data.resolution);
                subset.batch_size = Some(batching.batch_size).filter(|size| *size != data.batch_size);
                subset.bucketing = Some(batching.bucketing.clone()).filter(|bucketing| *bucketing != data.bucketing);
            }
        }
        data.subsets = subsets;
    }

    /// The keys of a dataset that are written, by kohya's name. `sections` are those of ours that they become.
    fn dataset_settings(&mut self, outer: &[Place<'_>], sections: &[String]) -> Table {
        let mut settings = Table::new();
        for key in KEYS.iter().filter(|key| key.level == Level::Dataset && is_ours(key)) {
            let Some((origin, value)) = written(outer, key.name) else { continue };
            if let Some(target) = target_in_data(key.name) {
                for section in sections {
                    self.origins.insert(format!("{section}.{target}"), origin.clone());
                }
            }
            let value = if key.kind == Kind::Resolution { keys::resolution(value) } else { Some(value.clone()) };
            settings.extend(value.map(|value| (key.name.to_owned(), value)));
        }
        settings
    }

    /// Size, batch and buckets of the dataset at `place`. Our own `[data]` stands in for what is not written, and kohya's
    /// default for what neither says.
    fn batching(
        &mut self,
        place: &str,
        own: &DataConfig,
        settings: Table,
        is_written: &impl Fn(&str) -> bool,
    ) -> Option<Batching> {
        let defaults: [(&str, Value); 5] = [
            ("batch_size", Value::Integer(1)),
            ("enable_bucket", Value::Boolean(false)),
            ("min_bucket_reso", Value::Integer(256)),
            ("max_bucket_reso", Value::Integer(1024)),
            ("bucket_reso_steps", Value::Integer(64)),
        ];
        let mut complete = settings;
        for (name, value) in defaults {
            let target = target_in_data(name).unwrap_or_default();
            if !complete.contains_key(name) && !is_written(&format!("data.{target}")) {
                complete.insert(name.to_owned(), value);
            }
        }
        if !complete.contains_key("resolution") && !is_written("data.resolution") {
            self.report(place, "`resolution` is not set").hint =
                Some("write it into `[general]` or `[[datasets]]`".to_owned());
        }
        let mut top = Table::new();
        let mut bucketing = Table::new();
        for (name, value) in complete {
            match target_in_data(&name) {
                Some(target) => match target.strip_prefix("bucketing.") {
                    Some(inner) => bucketing.insert(inner.to_owned(), value),
                    None => top.insert(target, value),
                },
                None => continue,
            };
        }
        let mut table = Value::try_from(own).ok()?.as_table()?.clone();
        if let Some(Value::Table(own)) = table.get_mut("bucketing") {
            own.extend(bucketing);
        }
        table.extend(top);
        match table.try_into::<DataConfig>() {
            Ok(changed) => Some(changed.own_batching()),
            Err(error) => {
                let message = error.message().trim().replace('\n', ", ");
                self.report(place, message);
                None
            }
        }
    }

    fn subset(&mut self, chain: &[Place<'_>], number: usize, folder: &Path) -> Option<Subset> {
        let place = &chain[0].0;
        self.origins.insert(format!("data.subsets.{number}"), place.clone());
        let mut table = Table::new();
        for key in KEYS.iter().filter(|key| key.level != Level::Dataset) {
            let Some((origin, value)) = written(chain, key.name) else { continue };
            let Some(target) = target_in_subset(key.name) else { continue };
            let value = match (key.kind, value) {
                (Kind::Path, Value::String(text)) => Value::String(located(text, folder)),
                _ => keys::translated(key, value).unwrap_or_else(|| value.clone()),
            };
            let fits = |value: &Value| {
                let alone: Table = [(target.clone(), value.clone())].into_iter().collect();
                alone.try_into::<Subset>().map(|_| ())
            };
            if let Err(error) = fits(&value) {
                // A switch that is a section of ours is off without it.
                if key.is_neutral(&value) {
                    continue;
                }
                let message = format!("`{origin}` is not supported: {}", error.message().trim().replace('\n', ", "));
                self.report(&origin, message);
                return None;
            }
            self.origins.insert(format!("data.subsets.{number}.{target}"), origin);
            table.insert(target, value);
        }
        let format = match (table.contains_key("metadata_file"), table.contains_key("path")) {
            (true, _) => SourceFormat::KohyaMetadata,
            (false, true) => SourceFormat::Folder,
            (false, false) => {
                self.report(place, format!("`{place}` has neither `image_dir` nor `metadata_file`"));
                return None;
            }
        };
        table.entry("caption_extension").or_insert_with(|| Value::String(".caption".to_owned()));
        let mut subset: Subset = table.try_into().ok()?;
        subset.format = format;
        subset.recursive = false;
        if subset.path.as_os_str().is_empty() {
            subset.path = subset.metadata_file.clone().unwrap_or_default();
        }
        Some(subset)
    }
}

/// The innermost place where a key is written, and its value.
fn written<'a>(chain: &[Place<'a>], name: &str) -> Option<(String, &'a Value)> {
    chain.iter().find_map(|(place, table)| Some((format!("{place}.{name}"), table.get(name)?)))
}

fn is_list_of_tables(value: &Value) -> bool {
    value.as_array().is_some_and(|values| values.iter().all(Value::is_table))
}

fn tables<'a>(table: &'a Table, name: &str, place: &str) -> Vec<Place<'a>> {
    let prefix = if place.is_empty() { String::new() } else { format!("{place}.") };
    let values = table.get(name).and_then(Value::as_array).into_iter().flatten().enumerate();
    values.filter_map(|(number, value)| Some((format!("{prefix}{name}.{number}"), value.as_table()?))).collect()
}

/// kohya's scripts start relative paths at the current folder; a file that was moved with its images is found as well.
fn located(text: &str, folder: &Path) -> String {
    let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let here = absolute_path(Path::new(text), &current);
    let beside = absolute_path(Path::new(text), folder);
    let path = if !here.exists() && beside.exists() { beside } else { here };
    path.to_string_lossy().into_owned()
}

fn is_ours(key: &Key) -> bool {
    match key.level {
        Level::Dataset => target_in_data(key.name).is_some(),
        Level::Everywhere | Level::Subset => target_in_subset(key.name).is_some(),
    }
}

/// Our key below `data` for one of kohya's.
fn target_in_data(name: &str) -> Option<String> {
    named_in::<DataConfig>(name).or_else(|| named_in::<BucketingConfig>(name).map(|inner| format!("bucketing.{inner}")))
}

/// Our key in a subset for one of kohya's.
fn target_in_subset(name: &str) -> Option<String> {
    named_in::<Subset>(name)
}

/// The key of a section that has this name, or lists it among its names in other programs.
fn named_in<T: JsonSchema>(name: &str) -> Option<String> {
    let schema = schemars::schema_for!(T);
    let properties = schema.get("properties")?.as_object()?;
    if properties.contains_key(name) {
        return Some(name.to_owned());
    }
    let lists = |property: &serde_json::Value| {
        let others = property.get("x-other-names").and_then(|names| names.as_array());
        others.is_some_and(|others| others.iter().any(|other| other.as_str() == Some(name)))
    };
    properties.iter().find(|(_, property)| lists(property)).map(|(key, _)| key.clone())
}
