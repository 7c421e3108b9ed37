//! A derived JSON schema, read the way the linter and the manual ask.

use schemars::JsonSchema;
use serde_json::{Map, Value as Json};

/// The schema of a whole configuration.
pub(crate) struct Schema {
    root: Json,
}

/// What a value may be.
pub(crate) enum Shape<'a> {
    /// A table with known keys.
    Table(Table<'a>),
    /// A table whose `tag` key chooses its other keys.
    Tagged {
        tag: &'a str,
        choices: Vec<Choice<'a>>,
    },
    /// A table with free keys, each with such a value.
    Map(&'a Json),
    /// One of some words.
    Words(Vec<Word<'a>>),
    /// A list of such values, with a smallest and largest length.
    List {
        items: Option<&'a Json>,
        min: usize,
        max: usize,
    },
    Text,
    Boolean,
    /// A whole number in a range.
    Integer {
        min: i64,
        max: i64,
    },
    Number,
    /// One of several shapes that are told apart by the kind of value.
    OneOf(Vec<&'a Json>),
    Anything,
}

/// A table with known keys.
pub(crate) struct Table<'a> {
    pub properties: Option<&'a Map<String, Json>>,
    pub required: Vec<&'a str>,
    pub open: bool,
}

/// One choice of a tagged table.
pub(crate) struct Choice<'a> {
    pub name: &'a str,
    pub description: &'a str,
    pub table: Table<'a>,
}

/// One word that a value may be.
pub(crate) struct Word<'a> {
    pub name: &'a str,
    pub description: &'a str,
}

impl Schema {
    pub fn of<T: JsonSchema>() -> Schema {
        Schema { root: schemars::schema_for!(T).to_value() }
    }

    pub fn root(&self) -> &Json {
        &self.root
    }

    /// The schema behind references, and without the alternative of being absent.
    pub fn resolve<'a>(&'a self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        loop {
            if let Some(name) = schema.get("$ref").and_then(Json::as_str) {
                let target = name.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
                match target {
                    Some(target) => schema = target,
                    None => return schema,
                }
                continue;
            }
            let alternatives = alternatives(schema);
            if alternatives.len() == 1 && alternatives_with_null(schema).len() == 2 {
                schema = alternatives[0];
                continue;
            }
            return schema;
        }
    }

    /// What a value of this schema may be.
    pub fn shape<'a>(&'a self, schema: &'a Json) -> Shape<'a> {
        let schema = self.resolve(schema);
        let alternatives = alternatives(schema);
        if !alternatives.is_empty() {
            return self.shape_of_alternatives(alternatives);
        }
        if let Some(words) = words_of(schema) {
            return Shape::Words(words);
        }
        match type_of(schema) {
            Some("object") => shape_of_object(schema),
            Some("array") => Shape::List {
                items: schema.get("items"),
                min: length(schema, "minItems").unwrap_or(0),
                max: length(schema, "maxItems").unwrap_or(usize::MAX),
            },
            Some("string") => Shape::Text,
            Some("boolean") => Shape::Boolean,
            Some("integer") => integer_range(schema),
            Some("number") => Shape::Number,
            _ => Shape::Anything,
        }
    }

    fn shape_of_alternatives<'a>(&'a self, alternatives: Vec<&'a Json>) -> Shape<'a> {
        let resolved: Vec<&Json> = alternatives.iter().map(|alternative| self.resolve(alternative)).collect();
        let words: Option<Vec<Vec<Word<'_>>>> = resolved.iter().map(|alternative| words_of(alternative)).collect();
        if let Some(words) = words {
            return Shape::Words(words.into_iter().flatten().collect());
        }
        if let Some((tag, choices)) = tagged_choices(&resolved) {
            return Shape::Tagged { tag, choices };
        }
        Shape::OneOf(resolved)
    }

    /// Every setting below the root, to find where a misplaced key belongs.
    pub fn all_keys(&self) -> Vec<KnownKey> {
        let mut keys = Vec::new();
        self.collect_keys(&self.root, "", &mut keys);
        // The choices of a tagged table share keys.
        keys.sort_by(|a, b| a.path.cmp(&b.path));
        keys.dedup_by(|a, b| a.path == b.path);
        keys
    }

    fn collect_keys(&self, schema: &Json, prefix: &str, keys: &mut Vec<KnownKey>) {
        let tables = match self.shape(schema) {
            Shape::Table(table) => vec![table],
            Shape::Tagged { choices, .. } => choices.into_iter().map(|choice| choice.table).collect(),
            Shape::List { items: Some(items), .. } => return self.collect_keys(items, prefix, keys),
            _ => return,
        };
        for (key, property) in tables.iter().filter_map(|table| table.properties).flatten() {
            let path = join(prefix, key);
            self.collect_keys(property, &path, keys);
            let names = property.get(OTHER_NAMES).and_then(Json::as_array).into_iter().flatten();
            let other_names = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
            let refused_names = property.get(REFUSED_NAMES).and_then(Json::as_object).into_iter().flatten();
            let refused_names =
                refused_names.filter_map(|(name, reason)| Some((name.clone(), reason.as_str()?.to_owned()))).collect();
            keys.push(KnownKey { path, other_names, refused_names });
        }
    }
}

/// Schema keyword with the names that a key has in other programs.
const OTHER_NAMES: &str = "x-other-names";

/// Schema keyword with names of settings that other programs have and this one deliberately has not, each with the reason and
/// what to do instead; it stands at the key that comes nearest.
const REFUSED_NAMES: &str = "x-refused-names";

/// A setting somewhere in the configuration.
pub(crate) struct KnownKey {
    /// Dotted, without numbers for entries of lists.
    pub path: String,
    /// What other programs call it.
    pub other_names: Vec<String>,
    /// Names of what is not there on purpose, with the reason.
    pub refused_names: Vec<(String, String)>,
}

impl KnownKey {
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// `prefix.key`, or `key` at the root.
pub(crate) fn join(prefix: &str, key: &str) -> String {
    match prefix {
        "" => key.to_owned(),
        _ => format!("{prefix}.{key}"),
    }
}

pub(crate) fn description(schema: &Json) -> &str {
    schema.get("description").and_then(Json::as_str).unwrap_or_default()
}

fn alternatives_with_null(schema: &Json) -> Vec<&Json> {
    ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(*key).and_then(Json::as_array)).flatten().collect()
}

fn alternatives(schema: &Json) -> Vec<&Json> {
    let mut all = alternatives_with_null(schema);
    all.retain(|alternative| type_of(alternative) != Some("null"));
    all
}

/// The type that is not `null`.
fn type_of(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::String(name) => Some(name),
        Json::Array(names) => names.iter().filter_map(Json::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

fn words_of(schema: &Json) -> Option<Vec<Word<'_>>> {
    if let Some(name) = schema.get("const").and_then(Json::as_str) {
        return Some(vec![Word { name, description: description(schema) }]);
    }
    let names = schema.get("enum")?.as_array()?;
    let words = names.iter().filter_map(Json::as_str);
    Some(words.map(|name| Word { name, description: "" }).collect())
}

fn tagged_choices<'a>(alternatives: &[&'a Json]) -> Option<(&'a str, Vec<Choice<'a>>)> {
    let mut tag = None;
    let mut choices = Vec::new();
    for alternative in alternatives {
        let properties = alternative.get("properties")?.as_object()?;
        let (key, name) =
            properties.iter().find_map(|(key, property)| Some((key.as_str(), property.get("const")?.as_str()?)))?;
        if *tag.get_or_insert(key) != key {
            return None;
        }
        let table = match shape_of_object(alternative) {
            Shape::Table(table) => table,
            _ => return None,
        };
        choices.push(Choice { name, description: description(alternative), table });
    }
    Some((tag?, choices))
}

fn shape_of_object(schema: &Json) -> Shape<'_> {
    let properties = schema.get("properties").and_then(Json::as_object);
    let additional = schema.get("additionalProperties");
    match (properties, additional) {
        (None, Some(values)) if values.is_object() => Shape::Map(values),
        _ => Shape::Table(Table {
            properties,
            required: schema
                .get("required")
                .and_then(Json::as_array)
                .map(|keys| keys.iter().filter_map(Json::as_str).collect())
                .unwrap_or_default(),
            open: additional != Some(&Json::Bool(false)),
        }),
    }
}

fn integer_range(schema: &Json) -> Shape<'_> {
    let format = schema.get("format").and_then(Json::as_str).unwrap_or_default();
    let (lowest, highest) = match format {
        "uint8" => (0, i64::from(u8::MAX)),
        "uint16" => (0, i64::from(u16::MAX)),
        "uint32" => (0, i64::from(u32::MAX)),
        "uint64" | "uint" => (0, i64::MAX),
        "int8" => (i64::from(i8::MIN), i64::from(i8::MAX)),
        "int16" => (i64::from(i16::MIN), i64::from(i16::MAX)),
        "int32" => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    let bound = |key: &str| schema.get(key).and_then(Json::as_i64);
    Shape::Integer {
        min: bound("minimum").map_or(lowest, |bound| bound.max(lowest)),
        max: bound("maximum").map_or(highest, |bound| bound.min(highest)),
    }
}

fn length(schema: &Json, key: &str) -> Option<usize> {
    schema.get(key)?.as_u64()?.try_into().ok()
}
