//! Folders named `N_token class` in one folder, as kohya's trainer has it: each is a subset with N repeats and these class tokens.

use std::collections::BTreeMap;

use sdtrain_recipe::{DataConfig, ExtraImages, SourceFormat, Subset};

use super::SOURCES;
use super::image_folder::is_image;
use super::walk::{folders_in, no_folder};
use crate::DataError;

/// More repeats than this in a folder's name are a year or a serial number, unless `format` says that they are repeats.
const MOST_REPEATS: u32 = 999;

/// More repeats than this are a slip in any case: an epoch would have no end.
const MOST_REPEATS_EVER: f64 = 100_000.0;

/// The configuration with each folder of such folders replaced by the subsets it stands for, and what to say about it.
pub(crate) fn expand(config: &DataConfig) -> Result<(DataConfig, Vec<String>), DataError> {
    let mut subsets = Vec::with_capacity(config.subsets.len());
    let mut notes = Vec::new();
    let mut errors = Vec::new();
    for subset in &config.subsets {
        let expanded = match subset.format {
            SourceFormat::Dreambooth => of_parent(subset, &mut notes).map(Some),
            SourceFormat::Auto => Ok(of_recognised(subset, &mut notes)),
            _ => Ok(None),
        };
        match expanded {
            Ok(Some(several)) => subsets.extend(several),
            Ok(None) => subsets.push(subset.clone()),
            Err(error) => errors.push(error),
        }
    }
    DataError::all(errors)?;
    let is_divided = |subset: &&Subset| subset.weight.is_some() && !config.subsets.contains(subset);
    if let Some(subset) = subsets.iter().find(is_divided) {
        let reason = "is named for its repeats, and cannot have a `weight` besides".to_owned();
        let hint = "remove `weight`, or set `format = \"folder\"` to read all folders as one".to_owned();
        return Err(DataError::source_file(&subset.path, None, reason).with_hint(hint));
    }
    Ok((DataConfig { subsets, ..config.clone() }, notes))
}

/// The subsets, if every folder in this one is named in the way and there is no image beside them.
fn of_recognised(subset: &Subset, notes: &mut Vec<String>) -> Option<Vec<Subset>> {
    let folders = folders_in(&subset.path);
    let all_named = folders.iter().all(|name| parts_of(name).is_some_and(|(repeats, _)| repeats <= MOST_REPEATS));
    let other = |kind: &&super::SourceKind| kind.format != SourceFormat::Folder && (kind.recognises)(subset);
    if folders.is_empty() || !all_named || subset.metadata_file.is_some() || SOURCES.iter().any(|kind| other(&kind)) {
        return None;
    }
    let files = std::fs::read_dir(&subset.path).ok()?;
    if files.filter_map(Result::ok).any(|entry| is_image(&entry.path())) {
        return None;
    }
    let subsets = of_folders(subset, &folders);
    let repeats: Vec<String> =
        folders.iter().zip(&subsets).map(|(name, subset)| format!("`{name}` × {}", subset.repeats)).collect();
    const SHOWN: usize = 8;
    let more = if repeats.len() > SHOWN { ", …" } else { "" };
    notes.push(format!(
        "the folders in `{}` are read as subsets with the repeats in their names: {}{more}; \
         `format = \"folder\"` reads them as one",
        subset.path.display(),
        repeats[..repeats.len().min(SHOWN)].join(", ")
    ));
    Some(subsets)
}

/// The subsets of a folder that is said to consist of such folders; others in it are left out with a note.
fn of_parent(subset: &Subset, notes: &mut Vec<String>) -> Result<Vec<Subset>, DataError> {
    if !subset.path.is_dir() {
        return Err(no_folder(&subset.path));
    }
    let (named, others): (Vec<String>, Vec<String>) =
        folders_in(&subset.path).into_iter().partition(|name| parts_of(name).is_some());
    if named.is_empty() {
        let reason = match others.first() {
            Some(first) => format!("none of its {} folders is named `N_token class`; one is `{first}`", others.len()),
            None => "has no folders".to_owned(),
        };
        let hint = "name them `10_token class` for 10 repeats, or set `format = \"folder\"`".to_owned();
        return Err(DataError::source_file(&subset.path, None, reason).with_hint(hint));
    }
    let too_often = named.iter().find(|name| {
        parts_of(name).is_some_and(|(repeats, _)| f64::from(repeats) * subset.repeats > MOST_REPEATS_EVER)
    });
    if let Some(name) = too_often {
        let reason = format!("its name asks for more than {MOST_REPEATS_EVER} repeats");
        let hint = "the number in front of the first `_` is how often each image is seen in an epoch".to_owned();
        return Err(DataError::source_file(&subset.path.join(name), None, reason).with_hint(hint));
    }
    for name in others {
        notes.push(format!(
            "`{}` is left out: its name has no number of repeats in front",
            subset.path.join(name).display()
        ));
    }
    Ok(of_folders(subset, &named))
}

fn of_folders(subset: &Subset, names: &[String]) -> Vec<Subset> {
    let parts: BTreeMap<&String, (u32, String)> =
        names.iter().filter_map(|name| Some((name, parts_of(name)?))).collect();
    parts
        .into_iter()
        .map(|(name, (repeats, class_tokens))| Subset {
            path: subset.path.join(name),
            extra_images: subset.extra_images.iter().map(|extra| within(extra, name)).collect(),
            format: SourceFormat::Folder,
            repeats: subset.repeats * f64::from(repeats),
            class_tokens: subset.class_tokens.clone().or(Some(class_tokens)),
            ..subset.clone()
        })
        .collect()
}

/// The masks and the like of one of the folders: those in the folder of the same name, where theirs has such folders as well.
fn within(extra: &ExtraImages, name: &str) -> ExtraImages {
    let same = extra.path.as_ref().map(|path| path.join(name)).filter(|folder| folder.is_dir());
    ExtraImages { path: same.or_else(|| extra.path.clone()), ..extra.clone() }
}

/// `10_sks dog`: 10 repeats of "sks dog". A folder that is repeated 0 times is not named in this way.
fn parts_of(name: &str) -> Option<(u32, String)> {
    let (repeats, class_tokens) = name.split_once('_')?;
    let repeats = repeats.parse().ok().filter(|repeats| *repeats > 0)?;
    Some((repeats, class_tokens.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[&str]) -> (tempfile::TempDir, DataConfig) {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let subset = Subset { path: folder.path().to_owned(), ..Subset::default() };
        (folder, DataConfig { subsets: vec![subset], ..DataConfig::default() })
    }

    fn expanded(config: &DataConfig) -> Vec<(String, f64, Option<String>)> {
        let (config, _) = expand(config).unwrap();
        let shown = |subset: Subset| {
            (subset.path.file_name().unwrap().to_str().unwrap().to_owned(), subset.repeats, subset.class_tokens)
        };
        config.subsets.into_iter().map(shown).collect()
    }

    #[test]
    fn each_folder_is_a_subset_with_the_repeats_of_its_name() {
        let (_folder, mut config) = folder_with(&["2_a_b c/a.png", "10_dog/b.png", "notes.txt"]);
        let (two, ten) = (("2_a_b c", 2.0, "a_b c"), ("10_dog", 10.0, "dog"));
        let owned = |(name, repeats, class): (&str, f64, &str)| (name.to_owned(), repeats, Some(class.to_owned()));
        assert_eq!(expanded(&config), [owned(ten), owned(two)]);
        assert!(expand(&config).unwrap().1[0].contains("`10_dog` × 10, `2_a_b c` × 2"));
        config.subsets[0].repeats = 3.0;
        config.subsets[0].class_tokens = Some("cat".to_owned());
        assert_eq!(expanded(&config), [owned(("10_dog", 30.0, "cat")), owned(("2_a_b c", 6.0, "cat"))]);
        config.subsets[0].weight = Some(1.0);
        assert!(expand(&config).unwrap_err().to_string().contains("cannot have a `weight` besides"));
        config.subsets[0].format = SourceFormat::Folder;
        assert_eq!(expand(&config).unwrap().0, config);
    }

    #[test]
    fn other_folders_are_what_they_were() {
        for files in [&["10_dog/a.png", "b.png"][..], &["10_dog/a.png", "cat/b.png"], &["2024_dog/a.png"], &["a.png"]] {
            let (_folder, config) = folder_with(files);
            assert_eq!(expand(&config).unwrap(), (config, Vec::new()), "{files:?}");
        }
    }

    #[test]
    fn a_folder_without_a_number_is_named() {
        let (folder, mut config) = folder_with(&["2024_dog/a.png", "0_cat/b.png", "log/c.png"]);
        config.subsets[0].format = SourceFormat::Dreambooth;
        assert_eq!(expanded(&config), [("2024_dog".to_owned(), 2024.0, Some("dog".to_owned()))]);
        let notes = expand(&config).unwrap().1;
        assert_eq!(notes.len(), 2);
        assert!(notes[1].contains(&format!("`{}` is left out", folder.path().join("log").display())), "{notes:?}");
        std::fs::remove_dir_all(folder.path().join("2024_dog")).unwrap();
        let error = expand(&config).unwrap_err();
        assert!(error.to_string().contains("none of its 2 folders is named `N_token class`"), "{error}");
        assert!(error.hint().unwrap().contains("10_token class"));
    }
}
