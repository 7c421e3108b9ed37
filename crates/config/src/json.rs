//! JSON files as the same tree as TOML files, for formats of others that may be either.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jsonc_parser::ast::Value as Json;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use toml::Value;

use crate::problem::Problem;
use crate::tree::{Lines, Node, NodeValue, Origin, Source};

/// Reads a whole file; comments and commas at the end of a list are no mistake.
pub(crate) fn parse_json_file(text: &str, path: &Path) -> Result<Node, Vec<Problem>> {
    let mut reader =
        TreeReader { source: Source::File(Arc::from(path)), lines: Lines::new(text), problems: Vec::new() };
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    let node = match parse_to_ast(text, &CollectOptions::default(), &options) {
        Ok(parsed) => parsed.value.map(|value| reader.node(&value)),
        Err(error) => {
            let problem = reader.origin(error.range().start).problem(error.kind().to_string());
            return Err(vec![problem.hint("the file is read as JSON because of its name")]);
        }
    };
    let whole = Origin { source: reader.source.clone(), line: None, distance: 1 };
    match node {
        Some(Node { value: NodeValue::Table(entries), .. }) if reader.problems.is_empty() => {
            Ok(Node { origin: whole, value: NodeValue::Table(entries) })
        }
        Some(_) if !reader.problems.is_empty() => Err(reader.problems),
        _ => Err(vec![whole.problem("it must hold one object: `{ … }`".to_owned())]),
    }
}

struct TreeReader {
    source: Source,
    lines: Lines,
    problems: Vec<Problem>,
}

impl TreeReader {
    fn origin(&self, start: usize) -> Origin {
        Origin { source: self.source.clone(), line: Some(self.lines.line_at(start)), distance: 1 }
    }

    fn node(&mut self, json: &Json<'_>) -> Node {
        let origin = self.origin(json.range().start);
        let value = match json {
            Json::StringLit(text) => NodeValue::Leaf(Value::String(text.value.to_string())),
            Json::BooleanLit(truth) => NodeValue::Leaf(Value::Boolean(truth.value)),
            Json::NumberLit(number) => NodeValue::Leaf(self.number(&origin, number.value)),
            Json::Array(list) => NodeValue::List(list.elements.iter().map(|element| self.node(element)).collect()),
            Json::Object(object) => {
                let mut entries = BTreeMap::new();
                for property in &object.properties {
                    let (name, at) = (property.name.as_str(), self.origin(property.range.start));
                    let mut node = self.node(&property.value);
                    if !matches!(node.value, NodeValue::Table(_)) {
                        node.origin = at.clone();
                    }
                    if entries.insert(name.to_owned(), node).is_some() {
                        self.problems.push(at.problem(format!("`{name}` is written twice")));
                    }
                }
                NodeValue::Table(entries)
            }
            Json::NullKeyword(_) => {
                let problem = origin.problem("`null` is no value here".to_owned());
                self.problems.push(problem.hint("leave the key out for its default"));
                NodeValue::Leaf(Value::Boolean(false))
            }
        };
        Node { origin, value }
    }

    fn number(&mut self, origin: &Origin, text: &str) -> Value {
        let whole = text.parse().map(Value::Integer);
        let number = whole.or_else(|_| text.parse().map(Value::Float));
        number.unwrap_or_else(|_| {
            self.problems.push(origin.problem(format!("the number {text} cannot be read")));
            Value::Integer(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(Option<usize>, String)> {
        let problems = parse_json_file(text, Path::new("data.json")).expect_err("it is wrong");
        problems.into_iter().map(|problem| (problem.line, problem.message)).collect()
    }

    #[test]
    fn values_are_those_of_toml_and_know_their_lines() {
        let text = "{\n  \"general\": {\"flip_aug\": true, \"rate\": 1e-1},\n  \"datasets\": [\n    {\"batch_size\": 4}\n  ]\n}";
        let node = parse_json_file(text, Path::new("data.json")).expect("right");
        let expected = "general = {flip_aug = true, rate = 0.1}\ndatasets = [{batch_size = 4}]";
        assert_eq!(node.to_value(), Value::Table(toml::from_str(expected).expect("right")));
        assert_eq!(node.nearest("general.rate").origin.line, Some(2));
        assert_eq!(node.nearest("datasets.0.batch_size").origin.line, Some(4));
    }

    #[test]
    fn what_is_no_configuration_is_refused_at_its_line() {
        assert_eq!(problems("{\"a\": null,\n\"a\": 1}").len(), 2);
        assert_eq!(problems("{\n\"a\": [1 2]\n}").first().and_then(|problem| problem.0), Some(2));
        assert_eq!(problems("[1]"), [(None, "it must hold one object: `{ … }`".to_owned())]);
        assert_eq!(problems(""), [(None, "it must hold one object: `{ … }`".to_owned())]);
    }
}
