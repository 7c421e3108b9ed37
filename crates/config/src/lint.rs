//! Holds a tree of values against a schema and reports everything that does not fit, each with its place.
//!
//! serde alone stops at the first mistake, and loses the line inside tables that a `type` key chooses.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use toml::Value;

use crate::document::Fault;
use crate::extends::EXTENDS;
use crate::schema::{Choice, KnownKey, Schema, Shape, Table, join};
use crate::suggest::{listed, nearest};
use crate::tree::{Node, NodeValue};

/// Everything in `root` that does not fit; `root` is left without it, and with the default `type` where a table
/// that needs one does not say.
pub(crate) fn lint(schema: &Schema, root: &mut Node) -> Vec<Fault> {
    let mut linter = Linter { schema, all_keys: schema.all_keys(), faults: Vec::new() };
    linter.fits(schema.root(), root, "");
    let mut faults = linter.faults;
    faults.sort_by(|a, b| a.problem.place().cmp(&b.problem.place()));
    faults
}

struct Linter<'a> {
    schema: &'a Schema,
    all_keys: Vec<KnownKey>,
    faults: Vec<Fault>,
}

impl Linter<'_> {
    /// Whether the value can stay.
    fn fits(&mut self, schema: &Json, node: &mut Node, key: &str) -> bool {
        match self.schema.shape(schema) {
            Shape::Table(table) => self.fits_table(&table, node, key, None),
            Shape::Tagged { tag, choices } => self.fits_tagged(schema, tag, &choices, node, key),
            Shape::Map(values) => self.fits_map(values, node, key),
            Shape::List { items, min, max } => self.fits_list(items, min, max, node, key),
            Shape::Words(words) => {
                let names: Vec<&str> = words.iter().map(|word| word.name).collect();
                self.fits_words(&names, node, key)
            }
            Shape::OneOf(alternatives) => self.fits_one_of(&alternatives, node, key),
            Shape::Integer { min, max } => self.fits_integer(min, max, node, key),
            Shape::Number => match &node.value {
                NodeValue::Leaf(Value::Integer(_)) => true,
                NodeValue::Leaf(Value::Float(number)) if number.is_finite() => true,
                _ => self.wrong_kind(node, key, "a number"),
            },
            Shape::Text => match &node.value {
                NodeValue::Leaf(Value::String(_)) => true,
                _ => self.wrong_kind(node, key, "text"),
            },
            Shape::Boolean => match &node.value {
                NodeValue::Leaf(Value::Boolean(_)) => true,
                _ => self.wrong_kind(node, key, "`true` or `false`"),
            },
            Shape::Anything => true,
        }
    }

    /// `chosen` is the tag and its value in a table that a tag chooses.
    fn fits_table(&mut self, table: &Table<'_>, node: &mut Node, key: &str, chosen: Option<(&str, &str)>) -> bool {
        let origin = node.origin.clone();
        let NodeValue::Table(entries) = &mut node.value else {
            self.wrong_kind(node, key, "a table");
            self.hint_last(format!("write a section `[{key}]`"));
            return false;
        };
        if let Some(properties) = table.properties {
            entries.retain(|name, entry| {
                let path = join(key, name);
                match properties.get(name) {
                    Some(property) => self.fits(property, entry, &path),
                    None if table.open => true,
                    None => {
                        let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                        self.unknown_key(entry, &path, name, &known, chosen);
                        false
                    }
                }
            });
        }
        for required in &table.required {
            let path = join(key, required);
            let refused =
                self.faults.iter().any(|fault| fault.key == path || fault.key.starts_with(&format!("{path}.")));
            if entries.contains_key(*required) || refused {
                continue;
            }
            let property = table.properties.and_then(|properties| properties.get(*required));
            let is_table = property
                .is_some_and(|property| matches!(self.schema.shape(property), Shape::Table(_) | Shape::Tagged { .. }));
            let (message, hint) = match is_table {
                true => (format!("missing section `[{path}]`"), property.and_then(|property| self.needs(property))),
                false => (format!("missing key `{path}`"), property.and_then(first_sentence)),
            };
            let mut problem = origin.problem(message);
            problem.hint = hint;
            self.faults.push(Fault { key: path, problem });
        }
        true
    }

    fn fits_tagged(&mut self, schema: &Json, tag: &str, choices: &[Choice<'_>], node: &mut Node, key: &str) -> bool {
        let names: Vec<&str> = choices.iter().map(|choice| choice.name).collect();
        let NodeValue::Table(entries) = &mut node.value else {
            self.wrong_kind(node, key, "a table");
            let example = names.first().copied().unwrap_or_default();
            self.hint_last(format!("write a section `[{key}]` with `{tag} = \"{example}\"`"));
            return false;
        };
        let default = schema.get("default").and_then(|table| table.get(tag)).and_then(Json::as_str);
        if let (None, Some(default)) = (entries.get(tag), default) {
            let value = NodeValue::Leaf(Value::String(default.to_owned()));
            entries.insert(tag.to_owned(), Node { origin: node.origin.clone(), value });
        }
        let path = join(key, tag);
        let Some(entry) = entries.get(tag) else {
            let problem = node.origin.problem(format!("missing key `{path}`")).hint(format!("it is {}", listed(names)));
            self.faults.push(Fault { key: path, problem });
            return false;
        };
        if !self.fits_words(&names, &entry.clone(), &path) {
            return false;
        }
        let name = entry.to_value().as_str().map(str::to_owned).unwrap_or_default();
        let Some(choice) = choices.iter().find(|choice| choice.name == name) else {
            return false;
        };
        self.fits_table(&choice.table, node, key, Some((tag, choice.name)))
    }

    fn fits_map(&mut self, values: &Json, node: &mut Node, key: &str) -> bool {
        let NodeValue::Table(entries) = &mut node.value else {
            return self.wrong_kind(node, key, "a table");
        };
        entries.retain(|name, entry| self.fits(values, entry, &join(key, name)));
        true
    }

    fn fits_list(&mut self, items: Option<&Json>, min: usize, max: usize, node: &mut Node, key: &str) -> bool {
        let NodeValue::List(elements) = &mut node.value else {
            let tables = items.is_some_and(|items| matches!(self.schema.shape(items), Shape::Table(_)));
            if tables && matches!(node.value, NodeValue::Table(_)) {
                let message = format!("`{key}` must be a list of tables, not one table");
                let problem = node.origin.problem(message).hint(format!("write `[[{key}]]`"));
                self.faults.push(Fault { key: key.to_owned(), problem });
                return false;
            }
            return self.wrong_kind(node, key, "a list");
        };
        let count = elements.len();
        if count < min || count > max {
            let wanted = match (min, max) {
                (min, max) if min == max => format!("{min} entries"),
                (min, usize::MAX) => format!("at least {min} entries"),
                (0, max) => format!("at most {max} entries"),
                (min, max) => format!("{min} to {max} entries"),
            };
            let problem = node.origin.problem(format!("`{key}` must have {wanted}, not {count}"));
            self.faults.push(Fault { key: key.to_owned(), problem });
            return false;
        }
        let Some(items) = items else { return true };
        let mut all_fit = true;
        for (index, element) in elements.iter_mut().enumerate() {
            all_fit &= self.fits(items, element, &join(key, &index.to_string()));
        }
        all_fit
    }

    fn fits_words(&mut self, names: &[&str], node: &Node, key: &str) -> bool {
        let given = node.to_value();
        if given.as_str().is_some_and(|given| names.contains(&given)) {
            return true;
        }
        let wanted = listed(names.iter().copied());
        let message = format!("`{key}` must be {wanted}, not {}", described(node));
        let mut problem = node.origin.problem(message);
        problem.hint = given
            .as_str()
            .and_then(|given| nearest(given, names.iter().copied()))
            .map(|name| format!("did you mean `{name}`?"));
        self.faults.push(Fault { key: key.to_owned(), problem });
        false
    }

    fn fits_one_of(&mut self, alternatives: &[&Json], node: &mut Node, key: &str) -> bool {
        for alternative in alternatives {
            if self.is_of_kind(alternative, node) {
                return self.fits(alternative, node, key);
            }
        }
        let wanted: Vec<&str> = alternatives.iter().map(|alternative| self.kind_in_words(alternative)).collect();
        self.wrong_kind(node, key, &wanted.join(" or "))
    }

    fn fits_integer(&mut self, min: i64, max: i64, node: &Node, key: &str) -> bool {
        let message = match node.value {
            NodeValue::Leaf(Value::Integer(number)) if number < min => {
                format!("`{key}` must be at least {min}, not {number}")
            }
            NodeValue::Leaf(Value::Integer(number)) if number > max => {
                format!("`{key}` must be at most {max}, not {number}")
            }
            NodeValue::Leaf(Value::Integer(_)) => return true,
            _ => return self.wrong_kind(node, key, "a whole number"),
        };
        let problem = node.origin.problem(message);
        self.faults.push(Fault { key: key.to_owned(), problem });
        false
    }

    fn is_of_kind(&self, schema: &Json, node: &Node) -> bool {
        matches!(
            (self.schema.shape(schema), &node.value),
            (Shape::Table(_) | Shape::Tagged { .. } | Shape::Map(_), NodeValue::Table(_))
                | (Shape::List { .. }, NodeValue::List(_))
                | (Shape::Words(_) | Shape::Text, NodeValue::Leaf(Value::String(_)))
                | (Shape::Boolean, NodeValue::Leaf(Value::Boolean(_)))
                | (Shape::Integer { .. }, NodeValue::Leaf(Value::Integer(_)))
                | (Shape::Number, NodeValue::Leaf(Value::Integer(_) | Value::Float(_)))
                | (Shape::Anything, _)
        )
    }

    fn kind_in_words(&self, schema: &Json) -> &'static str {
        match self.schema.shape(schema) {
            Shape::Table(_) | Shape::Tagged { .. } | Shape::Map(_) => "a table",
            Shape::List { .. } => "a list",
            Shape::Words(_) => "a known word",
            Shape::Text => "text",
            Shape::Boolean => "`true` or `false`",
            Shape::Integer { .. } => "a whole number",
            Shape::Number => "a number",
            Shape::OneOf(_) | Shape::Anything => "a value",
        }
    }

    fn wrong_kind(&mut self, node: &Node, key: &str, wanted: &str) -> bool {
        let what = match key {
            "" => "the configuration".to_owned(),
            _ => format!("`{key}`"),
        };
        let message = format!("{what} must be {wanted}, not {}", described(node));
        let mut problem = node.origin.problem(message);
        problem.hint = kind_hint(node, wanted);
        self.faults.push(Fault { key: key.to_owned(), problem });
        false
    }

    fn hint_last(&mut self, hint: String) {
        if let Some(fault) = self.faults.last_mut() {
            fault.problem.hint = Some(hint);
        }
    }

    /// What a section cannot do without.
    fn needs(&self, property: &Json) -> Option<String> {
        match self.schema.shape(property) {
            Shape::Table(table) if !table.required.is_empty() => {
                let keys: Vec<String> = table.required.iter().map(|key| format!("`{key}`")).collect();
                Some(format!("it needs {}", keys.join(", ")))
            }
            _ => None,
        }
    }

    fn unknown_key(&mut self, node: &Node, path: &str, name: &str, known: &[&str], chosen: Option<(&str, &str)>) {
        let message = match chosen {
            Some((tag, choice)) => format!("unknown key `{path}` with `{tag} = \"{choice}\"`"),
            None => format!("unknown key `{path}`"),
        };
        let hint = way_to_key(&self.all_keys, path, name, known);
        let problem = node.origin.problem(message).hint(hint);
        self.faults.push(Fault { key: path.to_owned(), problem });
    }
}

/// What was probably meant by the unknown key `path`, whose last part is `name`, where there are the keys `known`.
pub(crate) fn way_to_key(all_keys: &[KnownKey], path: &str, name: &str, known: &[&str]) -> String {
    let refused = all_keys.iter().flat_map(|key| &key.refused_names).find(|(refused, _)| refused == name);
    if let Some((_, reason)) = refused {
        return reason.clone();
    }
    let elsewhere: Vec<&KnownKey> = all_keys.iter().filter(|key| key.name() == name && key.path != path).collect();
    // Of several the outermost: what lies deeper is for those who looked for it.
    let renamed = all_keys
        .iter()
        .filter(|key| key.other_names.iter().any(|other| other == name))
        .min_by_key(|key| key.path.matches('.').count());
    let near = nearest(name, known.iter().copied());
    match (renamed, near, elsewhere.as_slice()) {
        (Some(key), _, _) => format!("it is called `{}` here", key.path),
        (None, Some(near), _) => format!("did you mean `{near}`?"),
        (None, None, [only]) => format!("did you mean `{}`?", only.path),
        (None, None, _) => format!("known here: {}", known_keys(known)),
    }
}

fn known_keys(known: &[&str]) -> String {
    let shown: BTreeMap<&str, ()> = known.iter().filter(|key| **key != EXTENDS).map(|key| (*key, ())).collect();
    shown.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

fn first_sentence(property: &Json) -> Option<String> {
    let text = crate::schema::description(property).replace('\n', " ");
    let sentence = text.split(". ").next()?.trim_end_matches('.').to_owned();
    (!sentence.is_empty()).then_some(sentence)
}

/// A value as a message names it.
fn described(node: &Node) -> String {
    match &node.value {
        NodeValue::Leaf(Value::String(text)) => format!("\"{text}\""),
        NodeValue::Leaf(Value::Datetime(moment)) => format!("the date {moment}"),
        NodeValue::Leaf(value) => value.to_string(),
        NodeValue::List(_) => "a list".to_owned(),
        NodeValue::Table(_) => "a table".to_owned(),
    }
}

fn kind_hint(node: &Node, wanted: &str) -> Option<String> {
    match (&node.value, wanted) {
        (NodeValue::Leaf(Value::String(text)), _)
            if wanted != "text" && text.parse::<f64>().is_ok_and(f64::is_finite) =>
        {
            Some("remove the quotes".to_owned())
        }
        (NodeValue::Leaf(Value::String(text)), "`true` or `false`") if text == "true" || text == "false" => {
            Some("remove the quotes".to_owned())
        }
        (NodeValue::Leaf(value), "text") if node.origin.is_override() => {
            Some(format!("quote it twice, once for the shell: '\"{value}\"'"))
        }
        (NodeValue::Leaf(value), "text") => Some(format!("put it in quotes: \"{value}\"")),
        (NodeValue::Leaf(value), "a list") => Some(format!("put it in brackets: [{value}]")),
        _ => None,
    }
}
