//! `format` of a subset: how its images and captions are stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the images and captions of a subset are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceFormat {
    /// Found out from what is there. `metadata_file` decides by its ending (`.json`: `kohya_metadata`, otherwise `metadata`), and
    /// so does a `path` that is a file or a pattern (`.tar`, `.parquet`, `.jsonl`, `.csv`, `.json`). A folder with `metadata.jsonl` or
    /// `metadata.csv` directly in it is `metadata`. One without images directly in it is `parquet` or `webdataset` if it holds such
    /// files directly, and `dreambooth` if every folder in it is named `N_…` with 1 to 999 for N. Any other folder is `folder`.
    Auto,
    /// A folder of image files, each with its caption in a file of the same name.
    Folder,
    /// A folder of folders named `N_token class`: each is a subset of its own with N repeats (times the `repeats` of this
    /// section) and `token class` as its `class_tokens`.
    Dreambooth,
    /// A table that names image files and their captions, as Hugging Face's image folders have it: JSON Lines or CSV.
    Metadata,
    /// What the tagging scripts around kohya's trainer write (`meta_cap.json`): `caption` and `tags` of each image by its name.
    KohyaMetadata,
    /// Parquet files that hold the images themselves, as Hugging Face's data sets do.
    Parquet,
    /// Tar files that hold images and captions as entries of the same name. Nothing is unpacked.
    Webdataset,
}

impl SourceFormat {
    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            SourceFormat::Auto => "auto",
            SourceFormat::Folder => "folder",
            SourceFormat::Dreambooth => "dreambooth",
            SourceFormat::Metadata => "metadata",
            SourceFormat::KohyaMetadata => "kohya_metadata",
            SourceFormat::Parquet => "parquet",
            SourceFormat::Webdataset => "webdataset",
        }
    }
}

/// Endings of single files that a subset's `path` may name.
pub const SOURCE_FILE_ENDINGS: [&str; 5] = ["tar", "parquet", "jsonl", "csv", "json"];

/// Endings of the files that may be named by address.
const FETCHED_ENDINGS: [&str; 2] = ["tar", "parquet"];

/// Whether a path is an address on the network.
pub fn is_address(path: &std::path::Path) -> bool {
    let text = path.to_string_lossy();
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '-')
    })
}

/// Why an address, or a pattern of addresses, cannot be fetched: what is wrong with it, and the way out.
pub fn address_mistake(path: &std::path::Path) -> Option<(&'static str, &'static str)> {
    let text = path.to_str()?;
    let (scheme, rest) = text.split_once("://")?;
    let (host, file) = rest.split_once('/').unwrap_or((rest, ""));
    if !["http", "https", "s3"].contains(&scheme) {
        return Some((
            "is an address of a kind that is not read",
            "`https://…`, `http://…` and `s3://…` are; download others first, for instance with \
             `hf download --repo-type dataset ORG/NAME`",
        ));
    }
    if host.contains('@') {
        return Some((
            "holds a name or a password, which would end up in logs and products",
            "over HTTP only what needs no password is read; for `s3://` set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`",
        ));
    }
    if file.contains(['?', '#']) {
        return Some((
            "goes on behind the name of the file",
            "leave out what begins with `?` or `#`; files in S3 that need a signature are read through `s3://BUCKET/…`",
        ));
    }
    if rest.contains('*') {
        return Some((
            "has a star, and what lies on a server cannot be listed",
            "name the files with braces: `shard-{000..123}.tar`",
        ));
    }
    // Braces may hold a slash.
    let is_odd = |segment: &str| segment.is_empty() || segment == "." || segment == ".." || segment.contains('\\');
    if host.is_empty() || file.split('/').any(is_odd) {
        return Some((
            "names no file",
            "an address is `https://HOST/FOLDER/FILE.tar` or `s3://BUCKET/FOLDER/FILE.tar`",
        ));
    }
    let ending = file.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    if !FETCHED_ENDINGS.contains(&ending.as_str()) {
        return Some((
            "is no tar or Parquet file",
            "images are fetched in shards that end in `.tar` (WebDataset) or `.parquet`; download other files first",
        ));
    }
    None
}

/// Whether a path stands for several files: `shard-{000..123}.tar`, `{cats,dogs}.parquet`, `train-*.parquet`.
pub fn is_pattern(path: &std::path::Path) -> bool {
    let text = path.to_string_lossy();
    let has_braces = text.find('{').is_some_and(|open| text[open..].contains('}'));
    let name_has_star = path.file_name().is_some_and(|name| name.to_string_lossy().contains('*'));
    (has_braces || name_has_star) && !path.exists()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::address_mistake;

    #[test]
    fn what_can_be_fetched_and_what_cannot() {
        let mistake = |address: &str| address_mistake(Path::new(address)).map(|(message, _)| message);
        for address in [
            "https://host/a/shard-{000..123}.tar",
            "http://127.0.0.1:8000/x.TAR",
            "s3://bucket/train-{0,1}.parquet",
            "a/path.tar",
        ] {
            assert_eq!(mistake(address), None, "{address}");
        }
        for (address, start) in [
            ("hf://datasets/x/y.tar", "is an address of a kind"),
            ("https://me:secret@host/x.tar", "holds a name"),
            ("https://host/x.tar?download=true", "goes on"),
            ("https://host/x-*.tar", "has a star"),
            ("https://host", "names no file"),
            ("https:///x.tar", "names no file"),
            ("https://host/a/../x.tar", "names no file"),
            ("https://host/a//x.tar", "names no file"),
            ("s3://bucket/folder/", "names no file"),
            ("https://host/x.zip", "is no tar"),
        ] {
            assert!(mistake(address).is_some_and(|message| message.starts_with(start)), "{address}");
        }
    }
}
