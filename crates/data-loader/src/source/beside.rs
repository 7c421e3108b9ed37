//! Images that belong to the images of a folder: beside them with another name, or in a folder of their own.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sdtrain_recipe::ExtraImages;

use super::ImageLocation;
use super::image_folder::is_image;
use super::walk::files_below;
use crate::DataError;

/// The images that belong to those of one folder.
pub(super) struct Beside {
    root: PathBuf,
    columns: Vec<Column>,
    all: BTreeSet<PathBuf>,
    /// What to say about files that could not be the one of their image.
    warnings: Vec<String>,
}

/// All of one kind.
struct Column {
    name: String,
    /// By the path below the folder without suffix and ending.
    files: BTreeMap<PathBuf, PathBuf>,
    /// Further files of the same name, with another ending, and the one that counts.
    doubled: Vec<(PathBuf, PathBuf)>,
    used: BTreeSet<PathBuf>,
}

impl Beside {
    /// Finds them; `files` is everything below `root`, sorted. `recursive` says whether that holds the folders within.
    pub fn find(root: &Path, columns: &[ExtraImages], files: &[PathBuf], recursive: bool) -> Result<Beside, DataError> {
        let columns = columns.iter().map(|config| {
            let own;
            let (folder, files) = match &config.path {
                None => (root, files),
                Some(folder) => {
                    own = files_below(folder, recursive)?.regular;
                    (folder.as_path(), own.as_slice())
                }
            };
            let mut of_column: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
            let mut doubled = Vec::new();
            for file in files.iter().filter(|file| is_image(file)) {
                let stem = file.strip_prefix(folder).unwrap_or(file).with_extension("");
                if let Some(stem) = without_suffix(&stem, &config.suffix) {
                    match of_column.entry(stem) {
                        Entry::Vacant(free) => drop(free.insert(file.clone())),
                        Entry::Occupied(first) => doubled.push((file.clone(), first.get().clone())),
                    }
                }
            }
            Ok(Column { name: config.column.clone(), files: of_column, doubled, used: BTreeSet::new() })
        });
        let columns: Vec<Column> = columns.collect::<Result<_, DataError>>()?;
        let doubled = |column: &'_ Column| column.doubled.iter().map(|(file, _)| file.clone()).collect::<Vec<_>>();
        let all = columns.iter().flat_map(|column| column.files.values().cloned().chain(doubled(column))).collect();
        let warnings = columns.iter().filter_map(Column::warning).collect();
        Ok(Beside { root: root.to_owned(), columns, all, warnings })
    }

    /// Whether a file below the folder is not an image to train on but belongs to one.
    pub fn is_one(&self, file: &Path) -> bool {
        self.all.contains(file)
    }

    /// Those of one image, by column.
    pub fn of(&mut self, image: &Path) -> BTreeMap<String, ImageLocation> {
        let stem = image.strip_prefix(&self.root).unwrap_or(image).with_extension("");
        let mut found = BTreeMap::new();
        for column in &mut self.columns {
            if let Some(file) = column.files.get(&stem) {
                column.used.insert(stem.clone());
                found.insert(column.name.clone(), ImageLocation::file(file.clone()));
            }
        }
        found
    }

    /// What to say about those that are left out.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Those that no image was asked for.
    pub fn unused(&self) -> Vec<PathBuf> {
        let unused = |column: &Column| -> Vec<PathBuf> {
            column.files.iter().filter(|(stem, _)| !column.used.contains(*stem)).map(|(_, file)| file.clone()).collect()
        };
        self.columns.iter().flat_map(unused).collect()
    }
}

impl Column {
    fn warning(&self) -> Option<String> {
        let (file, first) = self.doubled.first()?;
        Some(format!(
            "{} `{}` images are left out, since another file is that of the same image: `{}` beside `{}`, for instance",
            self.doubled.len(),
            self.name,
            file.display(),
            first.display()
        ))
    }
}

/// The path whose name ends in the suffix, without it; names are compared as text.
fn without_suffix(stem: &Path, suffix: &str) -> Option<PathBuf> {
    let name = stem.file_name()?;
    if suffix.is_empty() {
        return Some(stem.to_owned());
    }
    let short = name.to_str()?.strip_suffix(suffix)?;
    (!short.is_empty()).then(|| stem.with_file_name(short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_taken_off_the_name_alone() {
        let stem = |text: &str, suffix: &str| without_suffix(Path::new(text), suffix);
        assert_eq!(stem("a-mask/b-mask", "-mask"), Some(PathBuf::from("a-mask/b")));
        assert_eq!(stem("a/b", "-mask"), None);
        assert_eq!(stem("a/-mask", "-mask"), None);
        assert_eq!(stem("a/b", ""), Some(PathBuf::from("a/b")));
    }
}
