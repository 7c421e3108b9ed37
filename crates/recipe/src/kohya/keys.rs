//! Every key of kohya's dataset file: where it may stand, what it holds, and what becomes of it.

use toml::Value;

/// Where a key may stand. What stands further out holds for everything within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// `[general]` and `[[datasets]]`.
    Dataset,
    /// `[general]`, `[[datasets]]` and `[[datasets.subsets]]`.
    Everywhere,
    /// `[[datasets.subsets]]` only.
    Subset,
}

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Whole,
    Number,
    Text,
    Path,
    /// A number, two of them, or either as text.
    Resolution,
    /// Two numbers.
    Pair,
    Table,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// Our key of the same name, or the one that lists this name in `x-other-names`. Where there is none the key is refused,
    /// unless it switches nothing on.
    Ours,
    /// It only says how kohya's scripts store something; the training is the same without.
    NoEffect,
    /// Refused unless it switches nothing on: why, and what to do instead.
    Refused(&'static str, &'static str),
}

/// A key of the file.
#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub level: Level,
    pub kind: Kind,
    pub fate: Fate,
}

const fn ours(name: &'static str, level: Level, kind: Kind) -> Key {
    Key { name, level, kind, fate: Fate::Ours }
}

const fn refused(name: &'static str, level: Level, kind: Kind, why: &'static str, instead: &'static str) -> Key {
    Key { name, level, kind, fate: Fate::Refused(why, instead) }
}

const SPLIT: &str = "validation images are chosen once for the whole run, so that none of them is trained on";

/// All keys that kohya's schema knows.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    ours("batch_size", Level::Dataset, Kind::Whole),
    ours("resolution", Level::Dataset, Kind::Resolution),
    ours("enable_bucket", Level::Dataset, Kind::Boolean),
    ours("min_bucket_reso", Level::Dataset, Kind::Whole),
    ours("max_bucket_reso", Level::Dataset, Kind::Whole),
    ours("bucket_reso_steps", Level::Dataset, Kind::Whole),
    ours("bucket_no_upscale", Level::Dataset, Kind::Boolean),
    refused("network_multiplier", Level::Dataset, Kind::Number,
        "the strength of a LoRA is not changed for some images", "leave it at 1.0; images count more with `num_repeats`"),
    refused("validation_split", Level::Dataset, Kind::Number, SPLIT, "set `split` in the section `[validation]`"),
    refused("validation_seed", Level::Dataset, Kind::Whole, SPLIT, "the run's `seed` chooses them"),
    ours("resize_interpolation", Level::Everywhere, Kind::Text),

    ours("num_repeats", Level::Everywhere, Kind::Whole),
    ours("shuffle_caption", Level::Everywhere, Kind::Boolean),
    ours("caption_separator", Level::Everywhere, Kind::Text),
    ours("keep_tokens", Level::Everywhere, Kind::Whole),
    ours("keep_tokens_separator", Level::Everywhere, Kind::Text),
    ours("secondary_separator", Level::Everywhere, Kind::Text),
    ours("enable_wildcard", Level::Everywhere, Kind::Boolean),
    ours("caption_prefix", Level::Everywhere, Kind::Text),
    ours("caption_suffix", Level::Everywhere, Kind::Text),
    ours("caption_dropout_rate", Level::Everywhere, Kind::Number),
    ours("caption_dropout_every_n_epochs", Level::Everywhere, Kind::Whole),
    ours("caption_tag_dropout_rate", Level::Everywhere, Kind::Number),
    ours("token_warmup_min", Level::Everywhere, Kind::Whole),
    ours("token_warmup_step", Level::Everywhere, Kind::Number),
    ours("color_aug", Level::Everywhere, Kind::Boolean),
    ours("flip_aug", Level::Everywhere, Kind::Boolean),
    ours("random_crop", Level::Everywhere, Kind::Boolean),
    refused("face_crop_aug_range", Level::Everywhere, Kind::Pair,
        "images are not cut around faces", "cut them beforehand, or set `random_crop = true`"),
    refused("custom_attributes", Level::Everywhere, Kind::Table,
        "only scripts of one's own read it", "remove it"),

    ours("caption_extension", Level::Everywhere, Kind::Text),
    ours("class_tokens", Level::Everywhere, Kind::Text),
    Key { name: "cache_info", level: Level::Everywhere, kind: Kind::Boolean, fate: Fate::NoEffect },
    ours("image_dir", Level::Subset, Kind::Path),
    ours("metadata_file", Level::Subset, Kind::Path),
    refused("conditioning_data_dir", Level::Subset, Kind::Path,
        "it holds masks or control images, and only the scripts' command line says which",
        "write the subsets as `[[data.subsets]]` in the configuration; masks are `extra_images` with `column = \"mask\"`"),
    ours("is_reg", Level::Subset, Kind::Boolean),
    ours("alpha_mask", Level::Subset, Kind::Boolean),
];

/// The one of the `custom_attributes` that kohya's own scripts read, where it is set: its name, why it is refused, and what to do
/// instead.
pub(super) fn known_attribute(key: &Key, value: &Value) -> Option<(&'static str, &'static str, &'static str)> {
    let name = "diff_output_preservation";
    let attributes = (key.name == "custom_attributes").then(|| value.as_table())??;
    let is_on = attributes.get(name).is_some_and(|value| value.as_bool() != Some(false));
    is_on.then_some((
        name,
        "what the untrained model answers is kept for the whole run, not for some folders",
        "remove it, and set `method = \"dreambooth\"` with `prior = \"base_prediction\"` and `class_prompt` in `[dreambooth]`",
    ))
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// Whether this value is what the scripts do without the key.
    pub fn is_neutral(&self, value: &Value) -> bool {
        match value {
            Value::Boolean(on) => !on,
            Value::String(text) => text.is_empty(),
            Value::Table(table) => table.values().all(|value| value.as_bool() == Some(false)),
            Value::Integer(number) => *number == self.neutral_number() as i64,
            Value::Float(number) => *number == self.neutral_number(),
            Value::Array(_) | Value::Datetime(_) => false,
        }
    }

    fn neutral_number(&self) -> f64 {
        match self.name {
            "network_multiplier" | "token_warmup_min" => 1.0,
            _ => 0.0,
        }
    }
}

impl Kind {
    /// Whether the value is of this kind.
    pub fn fits(self, value: &Value) -> bool {
        let is_number = |value: &Value| matches!(value, Value::Integer(_) | Value::Float(_));
        match self {
            Kind::Boolean => value.is_bool(),
            Kind::Whole => value.is_integer(),
            Kind::Number => is_number(value),
            Kind::Text | Kind::Path => value.is_str(),
            Kind::Resolution => resolution(value).is_some(),
            Kind::Pair => value.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(is_number)),
            Kind::Table => value.is_table(),
        }
    }

    /// For a message.
    pub fn in_words(self) -> &'static str {
        match self {
            Kind::Boolean => "`true` or `false`",
            Kind::Whole => "a whole number",
            Kind::Number => "a number",
            Kind::Text | Kind::Path => "text",
            Kind::Resolution => "a number or `[width, height]`",
            Kind::Pair => "a list of two numbers",
            Kind::Table => "a table",
        }
    }
}

/// Our form of a value that kohya writes in another way, if it is such a one.
pub(super) fn translated(key: &Key, value: &Value) -> Option<Value> {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    match (key.name, value) {
        ("caption_extension", Value::String(ending)) if !ending.starts_with('.') => text(&format!(".{ending}")),
        // The defaults of our section are what the switch does.
        ("color_aug", Value::Boolean(true)) => Some(Value::Table(toml::Table::new())),
        ("resize_interpolation", Value::String(name)) => match name.as_str() {
            "linear" => text("bilinear"),
            "cubic" => text("bicubic"),
            _ => None,
        },
        _ => None,
    }
}

/// Our form of `512`, `[512, 768]`, `"512"` and `"512,768"`.
pub(super) fn resolution(value: &Value) -> Option<Value> {
    let number = |value: &Value| match value {
        Value::Integer(number) => Some(Value::Integer(*number)),
        Value::String(text) => text.trim().parse().ok().map(Value::Integer),
        _ => None,
    };
    match value {
        Value::Integer(_) => number(value),
        Value::String(text) if text.contains(',') => {
            resolution(&Value::Array(text.split(',').map(|side| Value::String(side.to_owned())).collect()))
        }
        Value::String(_) => number(value),
        Value::Array(sides) if sides.len() == 1 => number(&sides[0]),
        Value::Array(sides) if sides.len() == 2 => sides.iter().map(number).collect::<Option<_>>().map(Value::Array),
        _ => None,
    }
}
