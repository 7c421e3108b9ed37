//! `meta_cap.json` and its like: captions and tags by image, as the tagging scripts around kohya's trainer write them.

use std::fmt;
use std::path::{Path, PathBuf};

use sdtrain_recipe::{SourceFormat, Subset};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::columns::{self, Row};
use super::image_folder::EXTENSIONS;
use super::metadata::has_ending;
use super::table::{self, without_place};
use super::unnamed::{self, Place};
use super::{ExampleSource, Listing, SourceExample, SourceKind, read_regular, sort_by_path};
use crate::{DataError, ImageProblem};

pub(super) const KIND: SourceKind = SourceKind {
    format: SourceFormat::KohyaMetadata,
    recognises: |subset| has_ending(table_of(subset), "json"),
    open: |subset| Box::new(KohyaMetadata { subset: subset.clone() }),
};

/// Images named by one JSON table: an object with a key for each image, or JSON Lines with `image_path`.
///
/// Names are absolute or relative to `path`, with or without their ending. `train_resolution` and `image_size` are not read:
/// sizes are taken from the images.
pub struct KohyaMetadata {
    subset: Subset,
}

impl ExampleSource for KohyaMetadata {
    fn list(&self) -> Result<Listing, DataError> {
        let table = table_of(&self.subset);
        let folder = match self.subset.path.is_dir() {
            true => self.subset.path.as_path(),
            false => table.parent().unwrap_or(Path::new("")),
        };
        let mut listing = Listing::default();
        if has_ending(table, "jsonl") {
            table::for_each_row(table, |_, row| match row.get("image_path") {
                Some(Value::String(name)) => {
                    self.take(name, &row, folder, &mut listing);
                    Ok(())
                }
                _ => Err("has no `image_path`".to_owned()),
            })?;
        } else {
            for (name, entry) in self.entries(table)? {
                match entry {
                    Value::Object(row) => self.take(&name, &row, folder, &mut listing),
                    other => listing.rejected.push(ImageProblem {
                        path: folder.join(&name),
                        reason: format!("its entry is {}, not a table with `caption`", columns::described(&other)),
                    }),
                }
            }
        }
        if listing.examples.is_empty() && listing.rejected.is_empty() {
            return Err(DataError::source_file(table, None, "names no image"));
        }
        sort_by_path(&mut listing.examples);
        let rejected = &mut listing.rejected;
        listing.examples.dedup_by(|later, earlier| {
            let same = later.image == earlier.image;
            if same {
                let reason = "is named by several entries; the first one counts".to_owned();
                rejected.push(ImageProblem { path: later.image.path().to_owned(), reason });
            }
            same
        });
        let place = match self.subset.path.is_dir() {
            true => Place::Folder(folder, self.subset.recursive),
            false => Place::Around(table),
        };
        unnamed::note(place, &mut listing);
        listing.caption_hint = Some("the entries have neither `caption` nor `tags`".to_owned());
        Ok(listing)
    }
}

impl KohyaMetadata {
    fn entries(&self, table: &Path) -> Result<Vec<(String, Value)>, DataError> {
        let text = read_regular(table).map_err(|e| DataError::source_file(table, None, e.to_string()))?;
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text);
        let entries = match text.trim_ascii_start().first() {
            Some(b'{') => serde_json::from_slice(text).map(|Entries(entries)| entries),
            _ => match serde_json::from_slice::<Value>(text) {
                Ok(other) => {
                    let other = columns::described(&other);
                    let reason = format!("is {other}, not a table with the names of images as keys");
                    return Err(DataError::source_file(table, None, reason));
                }
                Err(error) => Err(error),
            },
        };
        entries.map_err(|error| {
            DataError::source_file(table, Some(error.line()), format!("is no JSON: {}", without_place(&error)))
        })
    }

    fn take(&self, name: &str, row: &Row, folder: &Path, listing: &mut Listing) {
        let Some(image) = image_file(folder, name) else {
            let reason = "there is no such image, with any ending".to_owned();
            listing.rejected.push(ImageProblem { path: folder.join(name), reason });
            return;
        };
        let caption = match self.caption_of(row) {
            Ok(caption) => caption,
            Err(reason) => {
                listing.broken_captions.push(ImageProblem { path: image.clone(), reason });
                None
            }
        };
        listing.examples.push(SourceExample::of_file(image, caption));
    }

    /// The caption with the tags behind it: behind each of its lines, since any of them may be the one that is trained on.
    fn caption_of(&self, row: &Row) -> Result<Option<String>, String> {
        let text = |column: &str| match row.get(column) {
            None => Ok(None),
            Some(value) => columns::caption_of(value).map_err(|reason| format!("its `{column}` {reason}")),
        };
        let separator = &self.subset.caption_separator;
        let tags = text("tags")?.filter(|tags| !tags.is_empty()).map(|tags| tags.replace('\n', separator));
        let caption = text("caption")?;
        let lines = caption.as_deref().unwrap_or_default().lines().filter(|line| !line.trim().is_empty());
        match (&caption, tags) {
            (_, None) => Ok(caption),
            (Some(text), Some(tags)) if !text.is_empty() => {
                Ok(Some(lines.map(|line| format!("{line}{separator}{tags}")).collect::<Vec<_>>().join("\n")))
            }
            (_, Some(tags)) => Ok(Some(tags)),
        }
    }
}

/// A JSON object in which a name may stand twice; a map would keep the last of them and not tell.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

fn table_of(subset: &Subset) -> &Path {
    subset.metadata_file.as_deref().unwrap_or(&subset.path)
}

/// The image of this name: the file itself, or the first with one of the known endings.
fn image_file(folder: &Path, name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('\0') {
        return None;
    }
    let exact = folder.join(name);
    if exact.is_file() {
        return Some(exact);
    }
    let endings = EXTENSIONS.iter().flat_map(|ending| [(*ending).to_owned(), ending.to_ascii_uppercase()]);
    endings.map(|ending| PathBuf::from(format!("{}.{ending}", exact.display()))).find(|file| file.is_file())
}
