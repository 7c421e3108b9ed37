//! Names of keys that stand somewhere as text.

use schemars::JsonSchema;
use serde_json::Value as Json;

use crate::lint::way_to_key;
use crate::schema::{Schema, Shape, Table};

/// The way out where a configuration has no key or section of this dotted name, as for an unknown key in a file; none where it has one.
/// A list has a name as a whole, and none for what lies in it.
pub fn hint_for_key<T: JsonSchema>(key: &str) -> Option<String> {
    let schema = Schema::of::<T>();
    let mut found = vec![schema.root()];
    // How much of the name is a key, in bytes.
    let mut end = 0;
    for name in key.split('.') {
        if found.iter().any(|&one| has_free_keys(&schema, one)) {
            return None;
        }
        let tables = found.iter().flat_map(|&one| tables_in(&schema, one));
        let properties: Vec<(&str, &Json)> = tables
            .filter_map(|table| table.properties)
            .flatten()
            .map(|(name, property)| (name.as_str(), property))
            .collect();
        if properties.is_empty() {
            return Some(format!("there is nothing below `{}`, which is named as a whole", &key[..end]));
        }
        // The choices of a tagged table may share a key.
        found = properties.iter().filter(|(own, _)| *own == name).map(|(_, property)| *property).collect();
        // The dot before all but the first, too.
        end += name.len() + usize::from(end > 0);
        if found.is_empty() {
            let known: Vec<&str> = properties.iter().map(|(own, _)| *own).collect();
            return Some(way_to_key(&schema.all_keys(), &key[..end], name, &known));
        }
    }
    None
}

/// The tables that a value of this schema may be.
fn tables_in<'a>(schema: &'a Schema, one: &'a Json) -> Vec<Table<'a>> {
    match schema.shape(one) {
        Shape::Table(table) => vec![table],
        Shape::Tagged { choices, .. } => choices.into_iter().map(|choice| choice.table).collect(),
        Shape::OneOf(alternatives) => alternatives.into_iter().flat_map(|other| tables_in(schema, other)).collect(),
        _ => Vec::new(),
    }
}

/// Whether a value of this schema may be a table that takes any key.
fn has_free_keys(schema: &Schema, one: &Json) -> bool {
    match schema.shape(one) {
        Shape::Map(_) | Shape::Anything => true,
        Shape::OneOf(alternatives) => alternatives.into_iter().any(|other| has_free_keys(schema, other)),
        _ => false,
    }
}
