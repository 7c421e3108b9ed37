//! Columns of tables: which one is the image, which the caption, and how a cell becomes a caption or a path.

use std::path::{Component, Path, PathBuf};

use sdtrain_recipe::{CONDITIONING_IMAGE, MASK_COLUMN, Subset};
use serde_json::Value;

use super::SourceCaption;
use crate::caption::sidecar;

/// One row of a table, by column.
pub(super) type Row = serde_json::Map<String, Value>;

/// Usual names of the column that names an image file.
pub(super) const IMAGE_FILE_COLUMNS: &[&str] = &["file_name", "image", "image_path", "path"];

/// Usual names of the caption's column.
pub(super) const CAPTION_COLUMNS: &[&str] = &["text", "caption", "prompt"];

/// The cell of the column that was asked for, or of the first usual one. Hugging Face's image folders call a column of files
/// `NAME_file_name` in the table and `NAME` afterwards; both are found.
pub(super) fn cell<'a>(row: &'a Row, asked: Option<&str>, usual: &[&str]) -> Option<&'a Value> {
    match asked {
        Some(column) => row.get(column).or_else(|| row.get(&format!("{column}_file_name"))),
        None => usual.iter().find_map(|column| row.get(*column)),
    }
}

/// A cell as a caption with all its lines; a list becomes the lines of one caption. None for a cell that is empty (`null`).
pub(super) fn caption_of(value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => checked(text).map(Some),
        Value::Array(values) => {
            let mut lines = Vec::new();
            for value in values {
                match value {
                    Value::String(text) if text.trim().is_empty() => {}
                    Value::String(text) => lines.push(text.trim()),
                    Value::Null => {}
                    other => return Err(format!("holds {}, not text", described(other))),
                }
            }
            checked(&lines.join("\n")).map(Some)
        }
        other => Err(format!("is {}, not text", described(other))),
    }
}

/// The captions of a row: of the column that was asked for or of a usual one, or of each of several. None from an empty cell.
pub(super) fn captions_of(row: &Row, subset: &Subset) -> Result<Vec<SourceCaption>, String> {
    let mut captions = Vec::with_capacity(1);
    let cells: Vec<Option<&Value>> = match subset.captions.as_slice() {
        [] => vec![cell(row, subset.caption_column.as_deref(), CAPTION_COLUMNS)],
        several => several.iter().map(|caption| caption.column.as_ref().and_then(|column| row.get(column))).collect(),
    };
    for (source, value) in cells.into_iter().enumerate() {
        if let Some(text) = value.map_or(Ok(None), caption_of)? {
            captions.push(SourceCaption { source, text });
        }
    }
    Ok(captions)
}

/// The keys of a subset that name columns of captions, with the columns.
pub(super) fn caption_columns(subset: &Subset) -> impl Iterator<Item = (&'static str, &str)> {
    let several = subset.captions.iter().filter_map(|caption| Some(("captions", caption.column.as_deref()?)));
    subset.caption_column.iter().map(|column| ("caption_column", column.as_str())).chain(several)
}

/// A column of images that belong to the images.
pub(super) struct ExtraColumn<'a> {
    /// The key of the subset that asks for it.
    pub key: &'static str,
    /// What its images are to a run.
    pub name: &'a str,
    /// What it is called where it lies.
    pub column: &'a str,
}

impl ExtraColumn<'_> {
    /// Whether an image may be without one: a mask is, and is then trained whole.
    pub fn may_be_absent(&self) -> bool {
        self.name == MASK_COLUMN
    }
}

/// The columns of further images that a subset asks for.
pub(super) fn extra_columns(subset: &Subset) -> Vec<ExtraColumn<'_>> {
    let conditioning = subset.conditioning_image_column.iter();
    let conditioning =
        conditioning.map(|column| ExtraColumn { key: "conditioning_image_column", name: CONDITIONING_IMAGE, column });
    let named = subset.extra_images.iter().filter_map(|extra| {
        let column = extra.source_column.as_deref()?;
        Some(ExtraColumn { key: "extra_images", name: &extra.column, column })
    });
    conditioning.chain(named).collect()
}

/// Whether a cell holds nothing; CSV has it as text.
pub(super) fn is_empty(cell: &Value) -> bool {
    matches!(cell, Value::Null) || cell.as_str().is_some_and(|text| text.trim().is_empty())
}

/// A cell as the factor of a loss; CSV has it as text. None for a cell that is empty.
pub(super) fn weight_of(cell: Option<&Value>) -> Result<Option<f64>, String> {
    let weight = match cell {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(other) => return Err(format!("is {}, not a number", described(other))),
    };
    match weight {
        Some(weight) if weight.is_finite() && weight >= 0.0 => Ok(Some(weight)),
        Some(weight) => Err(format!("is {weight}; a loss is multiplied by 0 or more")),
        None => Err("is text, not a number".to_owned()),
    }
}

/// A caption as it may be used, without blanks around it.
pub(super) fn checked(text: &str) -> Result<String, String> {
    if text.len() as u64 > sidecar::LARGEST {
        return Err(format!("{} bytes are too many for a caption", text.len()));
    }
    if text.contains('\0') {
        return Err("holds a NUL character, so it is not text".to_owned());
    }
    Ok(text.trim().to_owned())
}

/// The file that a cell names, in `folder`; a table cannot lead anywhere else.
pub(super) fn file_in(folder: &Path, value: &Value) -> Result<PathBuf, String> {
    let Value::String(name) = value else {
        return Err(format!("is {}, not a file name", described(value)));
    };
    let path = Path::new(name);
    if name.is_empty() || name.contains('\0') {
        return Err("is no file name".to_owned());
    }
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => inside.push(part),
            Component::CurDir => {}
            _ => return Err(format!("`{name}` leads out of `{}`", folder.display())),
        }
    }
    Ok(folder.join(inside))
}

/// A cell that is not what it should be, as a message names it.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(truth) => format!("`{truth}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_captions_becomes_lines() {
        assert_eq!(caption_of(&json!([" a ", "", null, "b\n"])).unwrap().unwrap(), "a\nb");
        assert_eq!(caption_of(&json!(" a\nb \n")).unwrap().unwrap(), "a\nb");
        assert_eq!(caption_of(&json!(null)).unwrap(), None);
        assert_eq!(caption_of(&json!(7)).unwrap_err(), "is the number 7, not text");
        assert_eq!(caption_of(&json!([{}])).unwrap_err(), "holds a table, not text");
        assert!(caption_of(&json!("a\0")).unwrap_err().contains("NUL"));
        assert!(caption_of(&json!("a".repeat(70_000))).unwrap_err().contains("70000 bytes"));
    }

    #[test]
    fn a_weight_is_a_number_of_at_least_zero() {
        assert_eq!(weight_of(Some(&json!(0.5))), Ok(Some(0.5)));
        assert_eq!(weight_of(Some(&json!(" 2 "))), Ok(Some(2.0)));
        for empty in [None, Some(&json!(null)), Some(&json!(""))] {
            assert_eq!(weight_of(empty), Ok(None));
        }
        assert_eq!(weight_of(Some(&json!(-1))).unwrap_err(), "is -1; a loss is multiplied by 0 or more");
        assert_eq!(weight_of(Some(&json!("much"))).unwrap_err(), "is text, not a number");
        assert_eq!(weight_of(Some(&json!("nan"))).unwrap_err(), "is NaN; a loss is multiplied by 0 or more");
        assert_eq!(weight_of(Some(&json!(true))).unwrap_err(), "is `true`, not a number");
    }

    #[test]
    fn a_name_cannot_leave_its_folder() {
        let folder = Path::new("/data");
        assert_eq!(file_in(folder, &json!("./a/b.png")).unwrap(), Path::new("/data/a/b.png"));
        for name in ["/etc/passwd", "../a.png", "a/../../b.png", "", "a\0b"] {
            assert!(file_in(folder, &json!(name)).is_err(), "{name:?}");
        }
        assert_eq!(file_in(folder, &json!(["a"])).unwrap_err(), "is a list, not a file name");
    }

    #[test]
    fn the_column_asked_for_wins_over_the_usual_ones() {
        let row = json!({"text": 1, "caption": 2, "output_file_name": 3});
        let row = row.as_object().unwrap();
        assert_eq!(cell(row, None, CAPTION_COLUMNS), Some(&json!(1)));
        assert_eq!(cell(row, Some("caption"), CAPTION_COLUMNS), Some(&json!(2)));
        assert_eq!(cell(row, Some("output"), IMAGE_FILE_COLUMNS), Some(&json!(3)));
        assert_eq!(cell(row, Some("captoin"), CAPTION_COLUMNS), None);
    }
}
