//! `--set optimizer.learning_rate=1e-5`: single values from the command line, on top of every file.

use std::sync::Arc;

use crate::problem::Problem;
use crate::tree::{Node, NodeValue, Origin, Source, parse_override_value};

/// A `key=value` of the command line, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    segments: Vec<String>,
    value: Node,
    origin: Origin,
}

impl Setting {
    /// Whether it says something about a key, given by its segments: about it, about something in it, or about what it lies in.
    pub fn says(&self, key: &[&str]) -> bool {
        let is_on_the_way = self.segments.iter().zip(key).all(|(mine, asked)| mine == asked);
        is_on_the_way && self.value.find(key.get(self.segments.len()..).unwrap_or_default()).is_some()
    }
}

/// Puts one `key=value` on top of the tree.
pub(crate) fn apply(root: &Node, argument: &str) -> Result<Node, Problem> {
    let Setting { segments, value, origin } = read(argument)?;
    placed(root, &segments, value, &origin)
}

/// Takes one `key=value` apart.
pub(crate) fn read(argument: &str) -> Result<Setting, Problem> {
    let argument: Arc<str> = Arc::from(argument);
    let Some((key, value)) = argument.split_once('=') else {
        return Err(Problem::new(format!("`--set {argument}` has no `=`")).hint("write `--set train.max_steps=200`"));
    };
    let segments: Vec<String> = key.trim().split('.').map(|segment| segment.trim().to_owned()).collect();
    if segments.iter().any(String::is_empty) {
        return Err(Problem::new(format!("`--set {argument}` has no complete key before `=`"))
            .hint("write `--set train.max_steps=200`"));
    }
    let origin = Origin { source: Source::Override(argument.clone()), line: None, distance: 0 };
    let value = parse_override_value(value, &argument)?;
    Ok(Setting { segments, value, origin })
}

/// `node` with `value` at the place that `segments` name.
fn placed(node: &Node, segments: &[String], value: Node, origin: &Origin) -> Result<Node, Problem> {
    let Some((segment, rest)) = segments.split_first() else {
        // A table on top of a table adds to it, as in a file that extends another.
        return Ok(node.clone().merged_with(value));
    };
    let mut node = node.clone();
    match &mut node.value {
        NodeValue::Leaf(_) => {
            return Err(origin.problem(format!("there is nothing below a plain value, so no `{segment}`")));
        }
        NodeValue::List(elements) => {
            let count = elements.len();
            let index = segment.parse::<usize>().ok().filter(|&index| index <= count);
            let Some(index) = index else {
                let message = format!("the list has {count} entries, so there is no entry `{segment}`");
                return Err(origin.problem(message).hint("entries are counted from 0"));
            };
            match elements.get_mut(index) {
                Some(element) => *element = placed(element, rest, value, origin)?,
                None => elements.push(fresh(rest, value, origin)?),
            }
        }
        NodeValue::Table(entries) => match entries.get_mut(segment) {
            Some(entry) if rest.is_empty() && *segment == "type" => {
                let changes = entry.to_value() != value.to_value();
                *entry = value;
                if changes {
                    // The settings of another type do not fit this one; what the command line says beside it is meant for it, whichever
                    // comes first.
                    let is_meant = |entry: &Node| matches!(entry.origin.source, Source::Override(_));
                    entries.retain(|key, entry| key == "type" || is_meant(entry));
                }
            }
            Some(entry) => *entry = placed(entry, rest, value, origin)?,
            None => {
                entries.insert(segment.clone(), fresh(rest, value, origin)?);
            }
        },
    }
    Ok(node)
}

/// `value` below tables, or lists where a segment is `0`, that do not exist yet.
fn fresh(segments: &[String], value: Node, origin: &Origin) -> Result<Node, Problem> {
    let Some((segment, rest)) = segments.split_first() else {
        return Ok(value);
    };
    let inner = fresh(rest, value, origin)?;
    if segment.parse::<usize>().is_ok() {
        if *segment != "0" {
            let message = format!("the list has 0 entries, so there is no entry `{segment}`");
            return Err(origin.problem(message).hint("entries are counted from 0"));
        }
        return Ok(Node { origin: origin.clone(), value: NodeValue::List(vec![inner]) });
    }
    let mut table = Node::empty_table(origin.clone());
    if let NodeValue::Table(entries) = &mut table.value {
        entries.insert(segment.clone(), inner);
    }
    Ok(table)
}
