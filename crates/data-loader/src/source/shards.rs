//! The files that a subset's path stands for: one file, a pattern, or the files of a kind in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use sdtrain_recipe::{Subset, is_pattern};

use super::image_folder::is_image;
use super::metadata::has_ending;
use super::walk::{Files, files_below};
use crate::DataError;

/// A pattern that stands for more files than this is a slip.
const MOST_FILES: usize = 100_000;

/// Whether the path is a file or pattern with this ending, or a folder that holds such files and no images.
pub(super) fn recognises(subset: &Subset, ending: &str) -> bool {
    if subset.metadata_file.is_some() {
        return false;
    }
    if !subset.path.is_dir() {
        return has_ending(&subset.path, ending);
    }
    let mut found = false;
    for entry in fs::read_dir(&subset.path).into_iter().flatten().filter_map(Result::ok) {
        let file = entry.path();
        if is_image(&file) {
            return false;
        }
        found |= has_ending(&file, ending);
    }
    found
}

/// The files with this ending, sorted, and what to say about them.
pub(super) fn files_of(subset: &Subset, ending: &str) -> Result<(Vec<PathBuf>, Vec<String>), DataError> {
    let path = &subset.path;
    if is_pattern(path) {
        return Ok((of_pattern(path)?, Vec::new()));
    }
    if path.is_file() {
        return Ok((vec![path.clone()], Vec::new()));
    }
    let files = reachable(files_below(path, subset.recursive)?, |file| has_ending(file, ending))?;
    if files.is_empty() {
        return Err(DataError::source_file(path, None, format!("holds no `.{ending}` file")));
    }
    let notes = several_splits(path, &files);
    Ok((files, notes))
}

/// Images that were held back for testing are not trained on unnoticed.
fn several_splits(folder: &Path, files: &[PathBuf]) -> Vec<String> {
    let is_of = |split: &str| {
        files.iter().any(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(split).is_some_and(|rest| rest.starts_with(['-', '_', '.']))
        })
    };
    let splits: Vec<&str> =
        ["train", "test", "validation", "valid", "val"].into_iter().filter(|split| is_of(split)).collect();
    match splits.len() {
        0 | 1 => Vec::new(),
        _ => vec![format!(
            "all of `{}` is trained on: {}; name one part with a pattern, such as `path = \"…/train-*\"`",
            folder.display(),
            splits.join(", ")
        )],
    }
}

fn of_pattern(pattern: &Path) -> Result<Vec<PathBuf>, DataError> {
    let text = pattern.to_string_lossy();
    let names = expanded(&text).map_err(|reason| DataError::source_file(pattern, None, reason))?;
    let mut files = Vec::new();
    for name in names {
        let path = Path::new(&name);
        match path.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|name| name.contains('*')) {
            Some(wanted) => files.extend(matching(path.parent().unwrap_or(Path::new("")), &wanted)?),
            None => files.push(path.to_owned()),
        }
    }
    let missing: Vec<&PathBuf> = files.iter().filter(|file| !file.is_file()).collect();
    if let Some(first) = missing.first() {
        let reason =
            format!("{} of its {} files do not exist, the first is `{}`", missing.len(), files.len(), first.display());
        return Err(DataError::source_file(pattern, None, reason));
    }
    if files.is_empty() {
        return Err(DataError::source_file(pattern, None, "fits no file"));
    }
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    files.dedup();
    Ok(files)
}

/// The files in `folder` whose name fits one with stars.
fn matching(folder: &Path, wanted: &str) -> Result<Vec<PathBuf>, DataError> {
    let is_wanted = |file: &Path| file.file_name().is_some_and(|name| fits(&name.to_string_lossy(), wanted));
    reachable(files_below(folder, false)?, is_wanted)
}

/// Those of the files that are wanted; an error for each that is there and cannot be opened.
fn reachable(files: Files, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, DataError> {
    let lost = files.unreachable.into_iter().filter(|entry| is_wanted(&entry.path));
    DataError::all(lost.map(|entry| DataError::source_file(&entry.path, None, entry.reason)).collect())?;
    Ok(files.regular.into_iter().filter(|file| is_wanted(file)).collect())
}

/// Whether a name fits one in which a star stands for anything.
fn fits(name: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            let Some(at) = rest.find(middle) else { return false };
            rest = &rest[at + middle.len()..];
        }
    }
    last.map_or(rest.is_empty(), |last: &str| rest.ends_with(last))
}

/// The names that a pattern with braces stands for: `{000..123}` counts, `{a,b}` lists.
pub(super) fn expanded(pattern: &str) -> Result<Vec<String>, String> {
    let braces = pattern.find('{').and_then(|open| Some((open, open + pattern[open..].find('}')?)));
    let Some((open, close)) = braces else {
        return Ok(vec![pattern.to_owned()]);
    };
    let choices = choices(&pattern[open + 1..close])?;
    let rests = expanded(&pattern[close + 1..])?;
    if choices.len().saturating_mul(rests.len()) > MOST_FILES {
        return Err(format!("stands for more than {MOST_FILES} files"));
    }
    let start = &pattern[..open];
    Ok(choices.iter().flat_map(|choice| rests.iter().map(move |rest| format!("{start}{choice}{rest}"))).collect())
}

fn choices(inside: &str) -> Result<Vec<String>, String> {
    let Some((first, last)) = inside.split_once("..") else {
        return Ok(inside.split(',').map(|choice| choice.trim().to_owned()).collect());
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{{{inside}}}` does not count up"));
    let (from, to) = (number(first)?, number(last)?);
    if from > to {
        return Err(format!("`{{{inside}}}` does not count up"));
    }
    if to - from >= MOST_FILES {
        return Err(format!("stands for more than {MOST_FILES} files"));
    }
    Ok((from..=to).map(|number| format!("{number:0width$}", width = first.len())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_count_and_list() {
        assert_eq!(expanded("a-{08..11}.tar").unwrap(), ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
        assert_eq!(expanded("{b,a}/{1..2}").unwrap(), ["b/1", "b/2", "a/1", "a/2"]);
        for slip in ["{3..1}", "{a..b}", "{1..99999999}", "{1..1000}{1..1000}"] {
            assert!(expanded(slip).is_err(), "{slip}");
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (name, wanted) in [("train-0.parquet", "train-*.parquet"), ("abcb", "a*b"), ("ab", "a**b"), ("x", "*")] {
            assert!(fits(name, wanted), "{name} {wanted}");
        }
        for (name, wanted) in [("test-0.parquet", "train-*.parquet"), ("a", "a*a"), ("abc", "a*b"), ("ab", "a")] {
            assert!(!fits(name, wanted), "{name} {wanted}");
        }
    }
}
