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

/// Whether a path is an address on the network, which cannot be read.
pub fn is_address(path: &std::path::Path) -> bool {
    let text = path.to_string_lossy();
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '-')
    })
}

/// Whether a path stands for several files: `shard-{000..123}.tar`, `{cats,dogs}.parquet`, `train-*.parquet`.
pub fn is_pattern(path: &std::path::Path) -> bool {
    let text = path.to_string_lossy();
    let has_braces = text.find('{').is_some_and(|open| text[open..].contains('}'));
    let name_has_star = path.file_name().is_some_and(|name| name.to_string_lossy().contains('*'));
    (has_braces || name_has_star) && !path.exists()
}
