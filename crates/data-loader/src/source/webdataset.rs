//! WebDataset: tar files in which the entries of one name, but for their endings, are one example.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sdtrain_recipe::{SourceFormat, Subset};
use serde_json::Value;

use super::columns::{self, ExtraColumn};
use super::image_folder::{EXTENSIONS, is_image, is_unread_image, unread_images};
use super::metadata::listed;
use super::tar::{self, Member, Tar};
use super::{Container, ExampleSource, ImageLocation, Listing, SourceCaption, SourceExample, SourceKind, shards};
use crate::caption::sidecar;
use crate::{DataError, ImageProblem};

const ENDING: &str = "tar";
/// Endings of entries that hold a caption and nothing else, after the one that `caption_extension` names.
const TEXT_ENDINGS: [&str; 2] = ["txt", "caption"];
/// No `.json` entry is larger.
const LARGEST_JSON: u64 = 1 << 20;

pub(super) const KIND: SourceKind = SourceKind {
    format: SourceFormat::Webdataset,
    recognises: |subset| shards::recognises(subset, ENDING),
    open: |subset| Box::new(Webdataset { subset: subset.clone() }),
};

/// Tar files of images and captions. An entry's name up to the first dot of its last part is the example's, as WebDataset has it,
/// and the rest is the ending.
pub struct Webdataset {
    subset: Subset,
}

impl ExampleSource for Webdataset {
    fn list(&self) -> Result<Listing, DataError> {
        let (files, warnings) = shards::files_of(&self.subset, ENDING)?;
        let mut reading = Reading::new(&self.subset);
        reading.listing.warnings = warnings;
        let mut errors = Vec::new();
        for file in &files {
            match tar::index(file) {
                Ok(index) => reading.take(file, index),
                Err(reason) => errors.push(DataError::source_file(file, None, reason)),
            }
        }
        DataError::all(errors)?;
        reading.into_listing()
    }
}

/// Entries that belong to no example and may have been meant to.
#[derive(Default)]
struct LeftOut {
    /// Names without an ending, which could be anything.
    without_ending: Vec<PathBuf>,
    /// Images of a name that has one already.
    second_images: Vec<PathBuf>,
    /// Images of kinds that are not read.
    unread: Vec<PathBuf>,
}

impl LeftOut {
    fn in_words(&self) -> Vec<String> {
        let several = |entries: &[PathBuf], what: &str| {
            let first = entries.first()?;
            Some(format!("{} entries {what}, and are left out; the first is `{}`", entries.len(), first.display()))
        };
        let second = "are images beside another one of their name (`image_column` says which counts)";
        let all = [
            several(&self.without_ending, "have no ending that says what they are"),
            several(&self.second_images, second),
            unread_images(&self.unread),
        ];
        all.into_iter().flatten().collect()
    }
}

/// What the tar files of a subset hold, as far as they were looked at.
struct Reading<'a> {
    subset: &'a Subset,
    extra_columns: Vec<ExtraColumn<'a>>,
    /// Endings of entries that may be captions, for each source of captions; the first that is there counts.
    text_endings: Vec<Vec<&'a str>>,
    /// Endings and keys that were found.
    columns: BTreeSet<String>,
    left: LeftOut,
    listing: Listing,
}

impl<'a> Reading<'a> {
    fn new(subset: &'a Subset) -> Self {
        Reading {
            subset,
            extra_columns: columns::extra_columns(subset),
            text_endings: text_endings(subset),
            columns: BTreeSet::new(),
            left: LeftOut::default(),
            listing: Listing::default(),
        }
    }

    fn take(&mut self, shard: &Path, index: tar::Index) {
        self.listing.warnings.extend(index.notes.iter().map(|note| format!("`{}` {note}", shard.display())));
        for (name, reason) in index.rejected {
            let path = shard.join(name.trim_start_matches('/'));
            match is_image(&path) || name.starts_with("byte ") {
                true => self.listing.rejected.push(ImageProblem { path, reason }),
                false => self.listing.warnings.push(format!("`{}` is left out: {reason}", path.display())),
            }
        }
        let spans = index.members.iter().map(|member| (member.start, member.length)).collect();
        let container: Arc<dyn Container> = Arc::new(Tar { path: shard.to_owned(), spans });
        let mut examples: BTreeMap<&str, BTreeMap<String, (u64, &Member)>> = BTreeMap::new();
        for (number, member) in index.members.iter().enumerate() {
            let Some((key, ending)) = key_and_ending(&member.name) else {
                if !is_hidden(&member.name) {
                    self.left.without_ending.push(shard.join(&member.name));
                }
                continue;
            };
            if !self.columns.contains(&ending) {
                self.columns.insert(ending.clone());
            }
            let entries = examples.entry(key).or_default();
            match entries.entry(ending) {
                Entry::Vacant(free) => {
                    free.insert((number as u64, member));
                }
                Entry::Occupied(_) => {
                    let path = shard.join(&member.name);
                    let reason = "the name is there twice; the first one counts".to_owned();
                    match is_image(&path) {
                        true => self.listing.rejected.push(ImageProblem { path, reason }),
                        false => self.listing.broken_captions.push(ImageProblem { path, reason }),
                    }
                }
            }
        }
        for entries in examples.values() {
            self.note_left_out(shard, entries);
            self.take_example(shard, &container, entries);
        }
    }

    /// Images of one example that are neither its image nor asked for.
    fn note_left_out(&mut self, shard: &Path, entries: &BTreeMap<String, (u64, &Member)>) {
        let name = |(_, member): &(u64, &Member)| shard.join(&member.name);
        let is_unread = |ending: &str| is_unread_image(Path::new("a").with_extension(ending).as_path());
        self.left.unread.extend(entries.iter().filter(|(ending, _)| is_unread(ending)).map(|(_, entry)| name(entry)));
        if self.subset.image_column.is_none() {
            // Whether a key of the configuration names this ending.
            let is_asked_for = |ending: &str| self.extra_columns.iter().any(|extra| extra.column == ending);
            let images = EXTENSIONS.iter().filter(|ending| !is_asked_for(ending));
            self.left.second_images.extend(images.filter_map(|ending| entries.get(*ending)).skip(1).map(name));
        }
    }

    fn take_example(
        &mut self,
        shard: &Path,
        container: &Arc<dyn Container>,
        entries: &BTreeMap<String, (u64, &Member)>,
    ) {
        let location = |(number, member): &(u64, &Member)| {
            ImageLocation::part(shard.join(&member.name), container.clone(), *number)
        };
        let image = match &self.subset.image_column {
            Some(ending) => entries.get(ending),
            None => EXTENSIONS.iter().find_map(|ending| entries.get(*ending)),
        };
        let Some(image) = image.map(location) else {
            let may_be_caption = |ending: &str| self.text_endings.iter().flatten().any(|text| *text == ending);
            let texts = entries.iter().filter(|(ending, _)| *ending == "json" || may_be_caption(ending));
            self.listing.captions_without_image.extend(texts.map(|(_, (_, member))| shard.join(&member.name)));
            return;
        };
        let mut extra_images = BTreeMap::new();
        for extra in &self.extra_columns {
            let ending = extra.column;
            let Some(entry) = entries.get(ending) else {
                if extra.may_be_absent() {
                    continue;
                }
                let reason = format!("has no entry with the ending `.{ending}` beside it");
                self.listing.rejected.push(ImageProblem { path: image.path().to_owned(), reason });
                return;
            };
            extra_images.insert(extra.name.to_owned(), location(entry));
        }
        let captions = self.captions_of(shard, entries).unwrap_or_else(|problem| {
            self.listing.broken_captions.push(problem);
            Vec::new()
        });
        self.listing.examples.push(SourceExample { image, captions, extra_images });
    }

    /// The captions of an example: each in an entry of its own, or else under a key of the `.json` entry.
    fn captions_of(
        &mut self,
        shard: &Path,
        entries: &BTreeMap<String, (u64, &Member)>,
    ) -> Result<Vec<SourceCaption>, ImageProblem> {
        let mut captions = Vec::with_capacity(1);
        for (source, endings) in self.text_endings.iter().enumerate() {
            if let Some((_, member)) = endings.iter().find_map(|ending| entries.get(*ending)) {
                let text = read(shard, member, sidecar::LARGEST)
                    .and_then(|bytes| sidecar::decode(&bytes))
                    .and_then(|text| columns::checked(&text))
                    .map_err(|reason| ImageProblem { path: shard.join(&member.name), reason })?;
                captions.push(SourceCaption { source, text });
            }
        }
        let Some((_, member)) = entries.get("json").filter(|_| captions.len() < self.text_endings.len()) else {
            return Ok(captions);
        };
        let problem = |reason| ImageProblem { path: shard.join(&member.name), reason };
        let bytes = read(shard, member, LARGEST_JSON).map_err(problem)?;
        let row = match serde_json::from_slice(&bytes) {
            Ok(Value::Object(row)) => row,
            Ok(_) => return Err(problem("is JSON but no table".to_owned())),
            Err(error) => return Err(problem(format!("is no JSON: {error}"))),
        };
        for column in row.keys() {
            if !self.columns.contains(column) {
                self.columns.insert(column.clone());
            }
        }
        let of_row =
            columns::captions_of(&row, self.subset).map_err(|reason| problem(format!("its caption {reason}")))?;
        for caption in of_row {
            if captions.iter().all(|other| other.source != caption.source) {
                captions.push(caption);
            }
        }
        captions.sort_by_key(|caption| caption.source);
        Ok(captions)
    }

    fn into_listing(self) -> Result<Listing, DataError> {
        let Reading { subset, extra_columns, columns, left, mut listing, .. } = self;
        listing.warnings.extend(left.in_words());
        let image = subset.image_column.iter().map(|column| ("image_column", column.as_str()));
        let extra = extra_columns.iter().map(|extra| (extra.key, extra.column));
        for (key, column) in image.chain(extra).chain(columns::caption_columns(subset)) {
            if !columns.is_empty() && !columns.contains(column) {
                let reason = format!("has no entry that ends in `.{column}`, which `{key}` names");
                let hint = format!("there is {}", listed(&columns));
                return Err(DataError::source_file(&subset.path, None, reason).with_hint(hint));
            }
        }
        if listing.examples.is_empty() && listing.rejected.is_empty() {
            let reason = match columns.is_empty() {
                true => "holds no image".to_owned(),
                false => format!("holds no image; its entries end in {}", listed(&columns)),
            };
            return Err(DataError::source_file(&subset.path, None, reason));
        }
        listing.caption_hint = Some(format!(
            "set `caption_column` to the ending of the captions, or to a key of the `.json` entries: {}",
            listed(&columns)
        ));
        Ok(listing)
    }
}

fn text_endings(subset: &Subset) -> Vec<Vec<&str>> {
    match (subset.captions.as_slice(), &subset.caption_column) {
        ([], Some(column)) => vec![vec![column]],
        ([], None) => {
            let usual = [subset.caption_extension.trim_start_matches('.')];
            vec![usual.into_iter().chain(TEXT_ENDINGS).collect()]
        }
        (several, _) => several.iter().map(|caption| vec![caption.name().trim_start_matches('.')]).collect(),
    }
}

fn read(shard: &Path, member: &Member, largest: u64) -> Result<Vec<u8>, String> {
    if member.length > largest {
        return Err(format!("{} bytes are too many for a caption", member.length));
    }
    tar::read_span(shard, member.start, member.length).map_err(|e| e.to_string())
}

/// `in/0001.seg.PNG` is the entry `seg.png` of the example `in/0001`. Files whose name begins with a dot are not looked at.
fn key_and_ending(name: &str) -> Option<(&str, String)> {
    if is_hidden(name) {
        return None;
    }
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = last + name[last..].find('.')?;
    Some((&name[..dot], name[dot + 1..].to_ascii_lowercase()))
}

fn is_hidden(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::key_and_ending;

    #[test]
    fn the_first_dot_of_the_last_part_ends_the_key() {
        let key = |name| key_and_ending(name).map(|(key, ending)| (key.to_owned(), ending));
        assert_eq!(key("a.b/0001.seg.PNG"), Some(("a.b/0001".to_owned(), "seg.png".to_owned())));
        assert_eq!(key("a/._0001.png"), None);
        assert_eq!(key("a/readme"), None);
    }
}
