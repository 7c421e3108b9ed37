//! The figures of a base model and its products, and the files they are kept in.

use crate::error::Result;
use crate::metric::Column;
use crate::table;
use sdtrain_checkpoint::replace_file;
use sdtrain_checkpoint::vfs::RealVfs;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};
use std::path::Path;

/// The name of the base model's row.
pub const BASE: &str = "base";

/// One row a model; all have the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// What was measured.
    pub columns: Vec<Column>,
    /// The base, then each product.
    pub rows: Vec<Row>,
    /// What the figures depend on besides the models.
    pub settings: Map<String, Value>,
}

/// The figures of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// [`BASE`] or a product's file name.
    pub name: String,
    /// One for each column; NaN where the model makes numbers that are not finite.
    pub figures: Vec<f64>,
}

impl Evaluation {
    /// The figure `key` of the row `name`.
    pub fn figure(&self, name: &str, key: &str) -> Option<f64> {
        let column = self.columns.iter().position(|column| column.key == key)?;
        let row = self.rows.iter().find(|row| row.name == name)?;
        row.figures.get(column).copied()
    }

    /// Aligned text for a terminal.
    pub fn table(&self) -> String {
        table::text(&self.columns, &self.rows)
    }

    /// `{"settings": {…}, "rows": [{"name": "base", "loss": 0.1, …}, …]}`; a figure that is not finite is `null`.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("names and numbers can be written");
        text.push('\n');
        text
    }

    /// A header and one line a row; a figure that is not finite is left out.
    pub fn to_csv(&self) -> String {
        let header = std::iter::once("name").chain(self.columns.iter().map(|column| column.key.as_str()));
        let mut lines = vec![header.map(csv_field).collect::<Vec<_>>().join(",")];
        for Row { name, figures } in &self.rows {
            let figures =
                figures.iter().map(|figure| if figure.is_finite() { figure.to_string() } else { String::new() });
            lines.push(std::iter::once(csv_field(name)).chain(figures).collect::<Vec<_>>().join(","));
        }
        lines.join("\n") + "\n"
    }

    /// Writes `evaluation.json` and `evaluation.csv` into `folder`, in place of older ones.
    pub fn write(&self, folder: &Path) -> Result<()> {
        replace_file(&RealVfs, &folder.join("evaluation.json"), self.to_json().as_bytes())?;
        replace_file(&RealVfs, &folder.join("evaluation.csv"), self.to_csv().as_bytes())?;
        Ok(())
    }
}

impl Serialize for Evaluation {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let rows: Vec<NamedFigures> =
            self.rows.iter().map(|row| NamedFigures { columns: &self.columns, row }).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("settings", &self.settings)?;
        map.serialize_entry("rows", &rows)?;
        map.end()
    }
}

/// A row with the columns' names.
struct NamedFigures<'a> {
    columns: &'a [Column],
    row: &'a Row,
}

impl Serialize for NamedFigures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.row.name)?;
        for (column, figure) in self.columns.iter().zip(&self.row.figures) {
            map.serialize_entry(&column.key, figure)?;
        }
        map.end()
    }
}

/// In quotes where it would not be one field otherwise (RFC 4180).
fn csv_field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::metric::Form;

    pub(crate) fn example() -> Evaluation {
        let column = |key: &str, group: &str, title: &str, form| Column {
            key: key.into(),
            group: group.into(),
            title: title.into(),
            form,
        };
        Evaluation {
            columns: vec![
                column("loss", "loss on held-out images, by timestep", "mean", Form::Loss),
                column("loss_band_0", "loss on held-out images, by timestep", "0–999", Form::Loss),
                column("object", "right in 32 pictures", "object", Form::Share),
            ],
            rows: vec![
                Row { name: BASE.into(), figures: vec![0.25, 0.5, 0.03125] },
                Row { name: "cat, \"the\" one.safetensors".into(), figures: vec![0.125, f64::NAN, 1.0] },
            ],
            settings: Map::from_iter([("held_out_images".to_string(), Value::from(24))]),
        }
    }

    #[test]
    fn a_figure_is_found_by_row_and_key() {
        assert_eq!(example().figure(BASE, "loss_band_0"), Some(0.5));
        assert_eq!(example().figure(BASE, "style"), None);
        assert_eq!(example().figure("dog.safetensors", "loss"), None);
    }

    #[test]
    fn json_names_every_figure_and_has_null_for_what_is_not_finite() {
        let parsed: Value = serde_json::from_str(&example().to_json()).unwrap();
        let expected = serde_json::json!({
            "settings": {"held_out_images": 24},
            "rows": [
                {"name": "base", "loss": 0.25, "loss_band_0": 0.5, "object": 0.03125},
                {"name": "cat, \"the\" one.safetensors", "loss": 0.125, "loss_band_0": null, "object": 1.0},
            ],
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn csv_has_a_header_and_quotes_odd_names() {
        let expected =
            "name,loss,loss_band_0,object\nbase,0.25,0.5,0.03125\n\"cat, \"\"the\"\" one.safetensors\",0.125,,1\n";
        assert_eq!(example().to_csv(), expected);
    }

    #[test]
    fn files_replace_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("evaluation.json"), "old").unwrap();
        example().write(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("evaluation.json"), read("evaluation.csv")), (example().to_json(), example().to_csv()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
