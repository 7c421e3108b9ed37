//! The manual of all options and the schema for editors, generated from the section structs.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::field_order::declared_fields;
use crate::schema::{Choice, Schema, Shape, Table, Word, description, join};

/// The manual of every option in Markdown: one table a section, with type, default and meaning of each key.
pub fn option_reference<T: DeserializeOwned + JsonSchema>() -> String {
    let schema = Schema::of::<T>();
    let mut manual = Manual { schema: &schema, order: declared_fields::<T>, text: String::new() };
    manual.table_at("", schema.root(), "## Above all sections");
    manual.text
}

/// The JSON schema of a configuration, for editors that complete and check TOML files.
pub fn json_schema<T: JsonSchema>() -> String {
    let schema = schemars::schema_for!(T).to_value();
    format!("{schema:#}\n")
}

struct Manual<'a> {
    schema: &'a Schema,
    order: fn(&[&str]) -> Option<&'static [&'static str]>,
    text: String,
}

/// A section that stands in a table of keys and is written after it.
struct Section<'a> {
    path: String,
    schema: &'a Json,
    heading: String,
}

impl<'a> Manual<'a> {
    fn table_at(&mut self, path: &str, schema: &'a Json, heading: &str) {
        self.line(heading);
        self.line("");
        // What the key is for, then what its struct says of itself.
        let mut about = vec![description(schema), description(self.schema.resolve(schema))];
        about.dedup();
        for text in about.into_iter().filter(|text| !text.is_empty()) {
            self.line(&flowing(text));
            self.line("");
        }
        let sections = match self.schema.shape(schema) {
            Shape::Table(table) => self.keys(path, &table),
            Shape::Tagged { tag, choices } => {
                let default = schema.get("default").and_then(|table| table.get(tag)).and_then(Json::as_str);
                self.choices(path, tag, &choices, default);
                Vec::new()
            }
            _ => Vec::new(),
        };
        for section in sections {
            self.table_at(&section.path, section.schema, &section.heading);
        }
    }

    fn choices(&mut self, path: &str, tag: &str, choices: &[Choice<'a>], default: Option<&str>) {
        for choice in choices {
            let is_default = if default == Some(choice.name) { " (the default)" } else { "" };
            self.line(&format!("### `[{path}]` with `{tag} = \"{}\"`{is_default}", choice.name));
            self.line("");
            if !choice.description.is_empty() {
                self.line(&flowing(choice.description));
                self.line("");
            }
            for section in self.keys(path, &choice.table) {
                self.table_at(&section.path, section.schema, &section.heading);
            }
        }
    }

    /// Writes one row a key, and returns the keys that are sections of their own.
    fn keys(&mut self, path: &str, table: &Table<'a>) -> Vec<Section<'a>> {
        let Some(properties) = table.properties else { return Vec::new() };
        let segments: Vec<&str> = path.split('.').filter(|segment| !segment.is_empty()).collect();
        let declared = (self.order)(&segments).unwrap_or_default();
        let place = |name: &str| declared.iter().position(|field| *field == name).unwrap_or(usize::MAX);
        let mut entries: Vec<(&'a String, &'a Json)> = properties.iter().collect();
        entries.sort_by_key(|(name, _)| place(name));

        let mut sections = Vec::new();
        let mut rows = Vec::new();
        for (name, property) in entries {
            if property.get("const").is_some() {
                continue;
            }
            let path = join(path, name);
            let level = if path.contains('.') { "###" } else { "##" };
            match self.schema.shape(property) {
                Shape::Table(_) | Shape::Tagged { .. } => {
                    let heading = format!("{level} `[{path}]`");
                    sections.push(Section { path, schema: property, heading });
                }
                Shape::List { items: Some(items), .. } if matches!(self.schema.shape(items), Shape::Table(_)) => {
                    let heading = format!("{level} `[[{path}]]`");
                    sections.push(Section { path, schema: items, heading });
                }
                _ => rows.push(self.row(name, property, table)),
            }
        }
        if !rows.is_empty() {
            self.line("| key | type | default | meaning |");
            self.line("|---|---|---|---|");
            for row in rows {
                self.line(&row);
            }
            self.line("");
        }
        sections
    }

    fn row(&self, name: &str, property: &Json, table: &Table<'_>) -> String {
        let default = match property.get("default") {
            _ if table.required.contains(&name) => "required".to_owned(),
            None | Some(Json::Null) => "–".to_owned(),
            Some(Json::String(text)) if text.is_empty() => "–".to_owned(),
            Some(default) => format!("`{}`", as_toml(default)),
        };
        let mut meaning = flowing(description(property));
        match self.schema.shape(property) {
            Shape::Words(words) => meaning.push_str(&meanings(&words)),
            Shape::OneOf(alternatives) => {
                for alternative in alternatives {
                    if let Shape::Words(words) = self.schema.shape(alternative) {
                        meaning.push_str(&meanings(&words));
                    }
                }
            }
            _ => {}
        }
        let cells = [format!("`{name}`"), self.type_in_words(property), default, meaning];
        format!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
    }

    fn type_in_words(&self, property: &Json) -> String {
        match self.schema.shape(property) {
            Shape::Text => "text".to_owned(),
            Shape::Boolean => "true or false".to_owned(),
            Shape::Integer { .. } => "whole number".to_owned(),
            Shape::Number => "number".to_owned(),
            Shape::Words(words) => {
                let names: Vec<String> = words.iter().map(|word| format!("`\"{}\"`", word.name)).collect();
                names.join(", ")
            }
            Shape::List { items, min, max } => {
                let items = items.map_or_else(|| "value".to_owned(), |items| self.type_in_words(items));
                match min == max {
                    true => format!("list of {min}: {items}"),
                    false => format!("list: {items}"),
                }
            }
            Shape::OneOf(alternatives) => {
                let kinds: Vec<String> =
                    alternatives.iter().map(|alternative| self.type_in_words(alternative)).collect();
                kinds.join(", or ")
            }
            Shape::Map(_) | Shape::Table(_) | Shape::Tagged { .. } => "table".to_owned(),
            Shape::Anything => "value".to_owned(),
        }
    }

    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{line}");
    }
}

fn meanings(words: &[Word<'_>]) -> String {
    words
        .iter()
        .filter(|word| !word.description.is_empty())
        .map(|word| format!(" `\"{}\"`: {}", word.name, flowing(word.description)))
        .collect()
}

/// Doc comments are broken into lines for the source's width only.
fn flowing(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("<br>")
}

fn as_toml(value: &Json) -> String {
    match value {
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:?}"),
            _ => number.to_string(),
        },
        Json::Array(values) => {
            let values: Vec<String> = values.iter().map(as_toml).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}
