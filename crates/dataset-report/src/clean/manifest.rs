//! What was moved, as JSON lines: first where from, then one file a line.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::moving::rename_new;
use crate::Error;

/// The form of manifests that is written.
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Version of the form; its name also says what kind of file this is.
    sdtrain_clean: u32,
    /// Where the files come from: absolute, or seen from the manifest's folder.
    folder: String,
    /// How many lines follow.
    files: usize,
}

/// Any other line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The file, below both folders.
    pub file: String,
    /// Of an image: why it was moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Of another file: the image that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
}

/// A manifest that was read.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Where the files come from.
    pub folder: PathBuf,
    /// Where they were moved to: the manifest's own folder.
    pub to: PathBuf,
    pub entries: Vec<Entry>,
}

/// Writes the manifest of these files, which all lie below one folder, into the folder that they go to; whole or not at all.
pub(super) fn write(entries: &[Entry], folder: &Path, to: &Path) -> Result<PathBuf, Error> {
    let header = Header { sdtrain_clean: VERSION, folder: as_seen_from(folder, to)?, files: entries.len() };
    let mut text = json_line(&header);
    entries.iter().for_each(|entry| text += &json_line(entry));

    fs::create_dir_all(to).map_err(|error| Error::storage(to, &error))?;
    let draft = to.join(format!(".manifest-{}.draft", std::process::id()));
    write_durably(&draft, &text).map_err(|error| Error::storage(&draft, &error))?;
    for number in 1.. {
        let path = to.join(format!("manifest-{number:04}.jsonl"));
        match rename_new(&draft, &path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::storage(&path, &error)),
            Ok(()) => {
                let synced = File::open(to).and_then(|folder| folder.sync_all());
                return synced.map(|()| path).map_err(|error| Error::storage(to, &error));
            }
        }
    }
    unreachable!("numbers do not run out")
}

fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Reads a manifest; every path of it lies below its folder.
pub(super) fn read(path: &Path) -> Result<Manifest, Error> {
    let wrong = |reason: String| Error::Manifest { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| Error::storage(path, &error))?;
    let mut lines = BufReader::new(file).lines();
    let first =
        lines.next().ok_or_else(|| wrong("it is empty".to_owned()))?.map_err(|error| wrong(error.to_string()))?;
    let header: Header = serde_json::from_str(&first).map_err(|error| wrong(format!("line 1: {error}")))?;
    if header.sdtrain_clean != VERSION {
        return Err(wrong(format!("it has version {}, this program reads {VERSION}", header.sdtrain_clean)));
    }
    let mut entries = Vec::new();
    for (index, line) in lines.enumerate() {
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let number = index + 2;
        let entry: Entry = serde_json::from_str(&line).map_err(|error| wrong(format!("line {number}: {error}")))?;
        let mut components = Path::new(&entry.file).components().peekable();
        if components.peek().is_none() || !components.all(|part| matches!(part, Component::Normal(_))) {
            return Err(wrong(format!("line {number}: `{}` is no path below the folder", entry.file)));
        }
        entries.push(entry);
    }
    if entries.len() != header.files {
        return Err(wrong(format!("it lists {} files and says it has {}", entries.len(), header.files)));
    }
    let own = fs::canonicalize(path).map_err(|error| Error::storage(path, &error))?;
    let to = own.parent().unwrap_or(Path::new("/")).to_owned();
    let folder = to.join(&header.folder);
    let folder = fs::canonicalize(&folder).map_err(|error| Error::storage(&folder, &error))?;
    Ok(Manifest { folder, to, entries })
}

fn json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers are always JSON") + "\n"
}

/// `../images` where the two lie side by side, so that both can be moved together; else the absolute path.
fn as_seen_from(folder: &Path, to: &Path) -> Result<String, Error> {
    let not_text = || Error::Target { path: to.to_owned(), reason: format!("`{}` is not UTF-8", folder.display()) };
    let beside = folder.parent().is_some() && folder.parent() == to.parent();
    let shown = match folder.file_name() {
        Some(name) if beside => Path::new("..").join(name),
        _ => folder.to_owned(),
    };
    shown.to_str().map(str::to_owned).ok_or_else(not_text)
}
