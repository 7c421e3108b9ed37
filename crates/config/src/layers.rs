//! A file that describes several documents: what they have in common, and a list of tables with what each has of its own.

use std::path::Path;

use crate::document::Document;
use crate::extends::{EXTENDS, read_with_bases};
use crate::overrides::{self, Setting};
use crate::problem::{Problem, Problems};
use crate::suggest::listed;
use crate::tree::{Node, NodeValue};

/// What a file describes.
#[derive(Debug, Clone)]
pub struct Layers {
    /// What all have in common; the only document of a file without a list.
    pub base: Document,
    /// One document for each table of the list, in order.
    pub layers: Vec<Layer>,
}

/// One of several documents of a file.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The `name` of its table.
    pub name: String,
    /// The common part with its own on top. Nearest to the command line is an override for it alone, then come one for all, its
    /// table, the common part, and the files that this extends.
    pub whole: Document,
    /// What it says itself.
    pub own: OwnKeys,
}

/// Which keys one of several documents sets itself: in its table, or by an override for it alone.
#[derive(Debug, Clone)]
pub struct OwnKeys {
    table: Node,
    settings: Vec<Setting>,
    /// The whole document: an override can take away what the table says.
    whole: Node,
}

impl OwnKeys {
    /// Whether the document itself says something about this key.
    pub fn has(&self, key: &str) -> bool {
        let segments: Vec<&str> = key.split('.').collect();
        let is_own =
            self.table.find(&segments).is_some() || self.settings.iter().any(|setting| setting.says(&segments));
        is_own && self.whole.find(&segments).is_some()
    }
}

/// The key of a table that names it.
const NAME: &str = "name";

impl Layers {
    /// Reads a file, the files it extends, and the overrides of the command line on top. Each table of the list at `key` lies over
    /// what is common, overrides lie over both; one of `KEY.NAME.…` is for the document of that name alone.
    pub fn load(path: &Path, key: &str, arguments: &[String]) -> Result<Layers, Problems> {
        let mut base = read_with_bases(path).map_err(|problems| Problems(problems).sorted())?;
        let (own, common): (Vec<&String>, Vec<&String>) =
            arguments.iter().partition(|argument| below(key, argument).is_some());
        let mut layers = match &mut base.value {
            NodeValue::Table(entries) => entries.remove(key).map_or(Ok(Vec::new()), |list| tables_of(key, list))?,
            _ => Vec::new(),
        };
        if !layers.is_empty() {
            // Whatever a table says is nearer than what is common, also where both are in one file; and an override for one
            // document nearer than one for all.
            base.move_away(2);
        }
        let mut problems = Vec::new();
        for argument in own {
            problems.extend(apply_own(key, argument, &mut layers).err());
        }
        let mut over = |root: Node, arguments: &[&String]| {
            arguments.iter().fold(root, |root, argument| match overrides::apply(&root, argument) {
                Ok(changed) => changed,
                Err(problem) => {
                    // What is wrong with an override is so over every layer.
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                    root
                }
            })
        };
        let documents = layers.into_iter().map(|OwnPart { name, node, arguments }| {
            let settings = arguments.iter().filter_map(|argument| overrides::read(argument).ok()).collect();
            let arguments: Vec<&String> = arguments.iter().collect();
            let mut whole = over(base.clone().merged_with(node.clone()), &common);
            whole.move_overrides_away();
            // Onto the whole alone: a list that they change an entry of may be in the common part.
            let whole = over(whole, &arguments);
            let own = OwnKeys { table: node, settings, whole: whole.clone() };
            Layer { name, whole: Document::new(whole), own }
        });
        let layers = documents.collect();
        let base = Document::new(over(base, &common));
        match problems.is_empty() {
            true => Ok(Layers { base, layers }),
            false => Err(Problems(problems)),
        }
    }
}

/// A table of the list, and the overrides that are for it alone.
struct OwnPart {
    name: String,
    node: Node,
    arguments: Vec<String>,
}

/// What stands behind `key.` in an override, or behind `key` itself.
fn below<'a>(key: &str, argument: &'a str) -> Option<&'a str> {
    let rest = argument.trim_start().strip_prefix(key)?;
    rest.starts_with(['.', '=', ' ']).then_some(rest)
}

fn apply_own(key: &str, argument: &str, layers: &mut [OwnPart]) -> Result<(), Problem> {
    let hint = format!("write `--set {key}.NAME.train.max_steps=200` for one, `--set train.max_steps=200` for all");
    let parts = below(key, argument).and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.split_once('.'));
    let Some((name, rest)) = parts.filter(|(name, _)| !name.contains('=')) else {
        return Err(Problem::new(format!("`--set {argument}` does not say what it changes")).hint(hint));
    };
    let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
    let Some(layer) = layers.iter_mut().find(|layer| layer.name == name.trim()) else {
        let known = match names.is_empty() {
            true => format!("the file has no `[[{key}]]`"),
            false => format!("there is {}", listed(names.iter().map(String::as_str))),
        };
        return Err(Problem::new(format!("`--set {argument}`: there is no `{key}.{name}`")).hint(known));
    };
    if rest.split(['.', '=']).next().is_some_and(|first| first.trim() == NAME) {
        return Err(Problem::new(format!("`--set {argument}`: names stay as they are")));
    }
    layer.arguments.push(rest.to_owned());
    Ok(())
}

/// The tables of a list, each without its name.
fn tables_of(key: &str, list: Node) -> Result<Vec<OwnPart>, Problems> {
    let wrong = |node: &Node, message: String| node.origin.problem(message);
    let NodeValue::List(elements) = list.value else {
        let problem = wrong(&list, format!("`{key}` must be a list of tables")).hint(format!("write `[[{key}]]`"));
        return Err(problem.into());
    };
    let (mut layers, mut problems): (Vec<OwnPart>, Vec<Problem>) = Default::default();
    for (index, mut node) in elements.into_iter().enumerate() {
        let place = format!("{key}.{index}");
        let NodeValue::Table(entries) = &mut node.value else {
            problems.push(wrong(&node, format!("`{place}` must be a table")));
            continue;
        };
        let Some(name) = entries.remove(NAME) else {
            problems
                .push(wrong(&node, format!("missing key `{place}.{NAME}`")).hint("it names the folder of the results"));
            continue;
        };
        let text = name.to_value().as_str().unwrap_or_default().to_owned();
        let is_plain = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
        if text.is_empty() || !text.chars().all(is_plain) {
            let message = format!("`{place}.{NAME}` must be made of letters, digits, `-` and `_`");
            problems.push(wrong(&name, message));
        } else if layers.iter().any(|layer| layer.name == text) {
            problems.push(wrong(&name, format!("`{place}.{NAME}`: there is a `{text}` already")));
        }
        for refused in [EXTENDS, key].into_iter().filter_map(|refused| Some((refused, entries.get(refused)?))) {
            let (refused, there) = refused;
            let message = format!("`{place}.{refused}`: `{refused}` stands above `[[{key}]]`");
            problems.push(wrong(there, message));
        }
        node.set_distance(2);
        layers.push(OwnPart { name: text, node, arguments: Vec::new() });
    }
    match problems.is_empty() {
        true => Ok(layers),
        false => Err(Problems(problems).sorted()),
    }
}
