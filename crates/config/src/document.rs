//! A merged configuration in which every value knows where it was written.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::extends::{merge_bases, read_text, read_with_bases};
use crate::json::parse_json_file;
use crate::lint::lint;
use crate::overrides;
use crate::problem::{Problem, Problems};
use crate::schema::Schema;
use crate::tree::{Node, parse_file};

/// A merged configuration in which every value knows where it was written.
#[derive(Debug, Clone)]
pub struct Document {
    root: Node,
    table: toml::Table,
}

/// What could be read, and what is wrong with the rest.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The configuration without its faulty values; absent when it cannot do without them.
    pub value: Option<T>,
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
}

impl<T> Parsed<T> {
    /// Whether something at this dotted key, or in the table of that name, is faulty: what else is said about it may be
    /// the fault's consequence.
    pub fn is_faulty(&self, key: &str) -> bool {
        self.faults
            .iter()
            .any(|fault| fault.key == key || fault.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }
}

/// A problem with the dotted key it is about.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Dotted key, with numbers for entries of lists.
    pub key: String,
    /// What is wrong there.
    pub problem: Problem,
}

impl Document {
    /// Reads a file, the files it extends, and the overrides of the command line on top.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Document, Problems> {
        let mut root = read_with_bases(path).map_err(|problems| Problems(problems).sorted())?;
        let mut problems = Vec::new();
        for argument in overrides {
            match overrides::apply(&root, argument) {
                Ok(changed) => root = changed,
                Err(problem) => problems.push(problem),
            }
        }
        match problems.is_empty() {
            true => Ok(Document::new(root)),
            false => Err(Problems(problems)),
        }
    }

    /// Reads a JSON file, which extends nothing.
    pub fn load_json(path: &Path) -> Result<Document, Problems> {
        let text = read_text(path).map_err(|problem| Problems(vec![problem]))?;
        parse_json_file(&text, path).map(Document::new).map_err(|problems| Problems(problems).sorted())
    }

    /// Reads text as if it were the file `name`.
    pub fn from_str(text: &str, name: &Path) -> Result<Document, Problems> {
        let mut chain = vec![name.to_owned()];
        parse_file(text, name, chain.len())
            .and_then(|node| merge_bases(node, name, &mut chain))
            .map(Document::new)
            .map_err(|problems| Problems(problems).sorted())
    }

    pub(crate) fn new(root: Node) -> Document {
        let table = match root.to_value() {
            toml::Value::Table(table) => table,
            _ => toml::Table::new(),
        };
        Document { root, table }
    }

    /// The typed configuration, or everything that is wrong with it.
    pub fn parse<T: DeserializeOwned + JsonSchema>(&self) -> Result<T, Problems> {
        let parsed = self.parse_what_fits::<T>();
        match parsed.value {
            Some(value) if parsed.faults.is_empty() => Ok(value),
            _ => Err(Problems(parsed.faults.into_iter().map(|fault| fault.problem).collect())),
        }
    }

    /// The typed configuration with defaults in the place of what is wrong, so that checks across keys can add to the list.
    pub fn parse_what_fits<T: DeserializeOwned + JsonSchema>(&self) -> Parsed<T> {
        let schema = Schema::of::<T>();
        let mut root = self.root.clone();
        let mut faults = lint(&schema, &mut root);
        let value = match T::deserialize(root.to_value()) {
            Ok(value) => Some(value),
            Err(error) if faults.is_empty() => {
                let message = error.to_string().trim().replace('\n', ", ");
                faults.push(Fault { key: String::new(), problem: self.problem("", message) });
                None
            }
            Err(_) => None,
        };
        Parsed { value, faults }
    }

    /// A problem with a dotted key (`data.subsets.0.path`), at the line where it, or else the nearest table around it, is written.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        self.root.nearest(key).origin.problem(message.into())
    }

    /// Folder that a relative path in this key is relative to: that of the file in which it is written, or the current
    /// folder for an override.
    pub fn folder_of(&self, key: &str) -> PathBuf {
        self.root.nearest(key).origin.folder()
    }

    /// Whether a file or an override says something about this key.
    pub fn has(&self, key: &str) -> bool {
        let segments: Vec<&str> = key.split('.').collect();
        self.root.find(&segments).is_some()
    }

    /// How far from the command line a key is written: 0 by an override, 1 in the file itself, 2 in a file it extends, and so
    /// on, and more in between where a file has layers. Absent: nowhere. Of two keys that exclude each other the nearer one is meant.
    pub fn distance(&self, key: &str) -> Option<usize> {
        self.has(key).then(|| self.root.nearest(key).origin.distance)
    }

    /// The merged configuration as plain TOML.
    pub fn table(&self) -> &toml::Table {
        &self.table
    }
}
