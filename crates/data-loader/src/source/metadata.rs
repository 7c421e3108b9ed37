//! A table of images and captions, `metadata.jsonl` or `metadata.csv`, as Hugging Face's image folders have it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sdtrain_recipe::{SourceFormat, Subset};

use super::columns::{self, ExtraColumn, IMAGE_FILE_COLUMNS, Row};
use super::unnamed::{self, Place};
use super::walk::{Files, files_below};
use super::{ExampleSource, ImageLocation, Listing, SourceExample, SourceKind, sort_by_path, table};
use crate::{DataError, ImageProblem};

/// Names of tables that lie beside their images.
const TABLES: [&str; 2] = ["metadata.jsonl", "metadata.csv"];

pub(super) const KIND: SourceKind = SourceKind {
    format: SourceFormat::Metadata,
    recognises: |subset| match &subset.metadata_file {
        Some(file) => !has_ending(file, "json"),
        None if subset.path.is_dir() => TABLES.iter().any(|name| subset.path.join(name).is_file()),
        None => has_ending(&subset.path, "jsonl") || has_ending(&subset.path, "csv"),
    },
    open: |subset| Box::new(Metadata { subset: subset.clone() }),
};

/// Images named by one table, or by the tables in the folder and the folders within.
pub struct Metadata {
    subset: Subset,
}

impl ExampleSource for Metadata {
    fn list(&self) -> Result<Listing, DataError> {
        let Subset { path, metadata_file, recursive, .. } = &self.subset;
        let mut reading = Reading::new(&self.subset);
        if let Some(file) = metadata_file {
            let folder = if path.as_os_str().is_empty() { parent(file) } else { path };
            reading.read(file, folder)?;
            let place = if path.is_dir() { Place::Folder(path, *recursive) } else { Place::Around(file) };
            unnamed::note(place, &mut reading.listing);
        } else if !path.is_dir() {
            reading.read(path, parent(path))?;
            unnamed::note(Place::Around(path), &mut reading.listing);
        } else {
            let Files { regular: files, .. } = files_below(path, *recursive)?;
            for table in tables_among(&files)? {
                reading.read(table, parent(table))?;
            }
            unnamed::note_among(&files, &mut reading.listing);
        }
        reading.finish();
        reading.into_listing(path)
    }
}

/// The tables, at most one in each folder.
fn tables_among(files: &[PathBuf]) -> Result<Vec<&Path>, DataError> {
    let mut tables: BTreeMap<&Path, &Path> = BTreeMap::new();
    for file in files {
        if !file.file_name().is_some_and(|name| TABLES.iter().any(|table| name == *table)) {
            continue;
        }
        if let Some(other) = tables.insert(parent(file), file) {
            let reason = format!("lies beside `{}`, and only one of them can be meant", other.display());
            let hint = "name the right one as `metadata_file`".to_owned();
            return Err(DataError::source_file(file, None, reason).with_hint(hint));
        }
    }
    Ok(tables.into_values().collect())
}

struct Reading<'a> {
    subset: &'a Subset,
    extra_columns: Vec<ExtraColumn<'a>>,
    listing: Listing,
    columns: BTreeSet<String>,
    tables: Vec<PathBuf>,
}

impl<'a> Reading<'a> {
    fn new(subset: &'a Subset) -> Self {
        Reading {
            subset,
            extra_columns: columns::extra_columns(subset),
            listing: Listing::default(),
            columns: BTreeSet::new(),
            tables: Vec::new(),
        }
    }

    fn read(&mut self, table: &Path, folder: &Path) -> Result<(), DataError> {
        self.tables.push(table.to_owned());
        table::for_each_row(table, |line, row| {
            for column in row.keys() {
                if !self.columns.contains(column) {
                    self.columns.insert(column.clone());
                }
            }
            self.take(table, line, &row, folder)
        })
    }

    /// An error is a fault of the table; an image that cannot be had is listed as rejected.
    fn take(&mut self, table: &Path, line: usize, row: &Row, folder: &Path) -> Result<(), String> {
        let asked = self.subset.image_column.as_deref();
        let Some(name) = columns::cell(row, asked, IMAGE_FILE_COLUMNS) else {
            let wanted = asked.map_or("file_name".to_owned(), str::to_owned);
            return Err(format!("names no image: there is no `{wanted}` among {}", listed(row.keys())));
        };
        let image = match columns::file_in(folder, name) {
            Ok(image) => image,
            Err(reason) => {
                let path = PathBuf::from(format!("{}:{line}", table.display()));
                self.listing.rejected.push(ImageProblem { path, reason });
                return Ok(());
            }
        };
        if let Some(column) = &self.subset.loss_weight_column
            && let Some(weight) =
                columns::weight_of(row.get(column)).map_err(|reason| format!("`{column}` {reason}"))?
        {
            self.listing.loss_weights.entry(image.clone()).or_insert(weight);
        }
        let mut extra_images = BTreeMap::new();
        for extra in &self.extra_columns {
            let column = extra.column;
            let file = match columns::cell(row, Some(column), &[]).filter(|cell| !columns::is_empty(cell)) {
                Some(value) => columns::file_in(folder, value).map_err(|reason| format!("`{column}` {reason}")),
                None if extra.may_be_absent() => continue,
                None => Err(format!("line {line} of its table has no `{column}`")),
            };
            match file {
                Ok(file) => extra_images.insert(extra.name.to_owned(), ImageLocation::file(file)),
                Err(reason) => {
                    self.listing.rejected.push(ImageProblem { path: image, reason });
                    return Ok(());
                }
            };
        }
        let captions = columns::captions_of(row, self.subset).unwrap_or_else(|reason| {
            self.listing.broken_captions.push(ImageProblem { path: image.clone(), reason });
            Vec::new()
        });
        self.listing.examples.push(SourceExample { image: ImageLocation::file(image), captions, extra_images });
        Ok(())
    }

    /// Brings the examples into their order; an image that is named twice is rejected the second time.
    fn finish(&mut self) {
        sort_by_path(&mut self.listing.examples);
        let rejected = &mut self.listing.rejected;
        self.listing.examples.dedup_by(|later, earlier| {
            let same = later.image.path() == earlier.image.path();
            if same {
                let reason = "is named by several rows; the first one counts".to_owned();
                rejected.push(ImageProblem { path: later.image.path().to_owned(), reason });
            }
            same
        });
    }

    fn into_listing(mut self, path: &Path) -> Result<Listing, DataError> {
        let weight = self.subset.loss_weight_column.iter().map(|column| ("loss_weight_column", column.as_str()));
        let extra = self.extra_columns.iter().map(|extra| (extra.key, extra.column));
        for (key, column) in columns::caption_columns(self.subset).chain(extra).chain(weight) {
            let known = |name: &String| name == column || *name == format!("{column}_file_name");
            if !self.columns.is_empty() && !self.columns.iter().any(known) {
                let table = self.tables.first().map_or(path, PathBuf::as_path);
                let reason = format!("has no column `{column}`, which `{key}` names");
                let hint = format!("its columns are {}", listed(&self.columns));
                return Err(DataError::source_file(table, None, reason).with_hint(hint));
            }
        }
        if self.listing.examples.is_empty() && self.listing.rejected.is_empty() {
            let table = self.tables.first().map_or(path, PathBuf::as_path);
            return Err(DataError::source_file(table, None, "names no image".to_owned()));
        }
        if self.subset.caption_column.is_none() && self.subset.captions.is_empty() {
            self.listing.caption_hint =
                Some(format!("set `caption_column` to one of the table's columns: {}", listed(&self.columns)));
        }
        Ok(self.listing)
    }
}

pub(super) fn has_ending(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(wanted))
}

fn parent(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
