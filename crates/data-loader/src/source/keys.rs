//! Keys of a subset that only some sources read: one that is set where nothing reads it would be dropped in silence.

use sdtrain_recipe::{SourceFormat, Subset};

use super::kind_of;
use crate::DataError;

use SourceFormat::{Folder, KohyaMetadata, Metadata, Parquet, Webdataset};

/// A key of a subset.
struct Key {
    name: &'static str,
    is_set: fn(&Subset) -> bool,
    /// The sources that read it.
    read_by: &'static [SourceFormat],
    /// What to do where none reads it.
    instead: &'static str,
}

const KEYS: &[Key] = &[
    Key {
        name: "metadata_file",
        is_set: |subset| subset.metadata_file.is_some(),
        read_by: &[Metadata, KohyaMetadata],
        instead: "leave `format` out, and the table is read",
    },
    Key {
        name: "image_column",
        is_set: |subset| subset.image_column.is_some(),
        read_by: &[Metadata, Parquet, Webdataset],
        instead: COLUMNS,
    },
    Key {
        name: "caption_column",
        is_set: |subset| subset.caption_column.is_some(),
        read_by: &[Metadata, Parquet, Webdataset],
        instead: COLUMNS,
    },
    Key {
        name: "conditioning_image_column",
        is_set: |subset| subset.conditioning_image_column.is_some(),
        read_by: &[Metadata, Parquet, Webdataset],
        instead: "images in files of their own that lie beside their images are `extra_images`",
    },
    Key {
        name: "loss_weight_column",
        is_set: |subset| subset.loss_weight_column.is_some(),
        read_by: &[Metadata],
        instead: "remove it, or name the table as `metadata_file`",
    },
    Key {
        name: "captions.extension",
        is_set: |subset| subset.captions.iter().any(|caption| caption.column.is_none()),
        read_by: &[Folder, Webdataset],
        instead: "captions in a table or in Parquet files are columns: `{ column = \"NAME\", weight = … }`",
    },
    Key {
        name: "captions.column",
        is_set: |subset| subset.captions.iter().any(|caption| caption.column.is_some()),
        read_by: &[Metadata, Parquet, Webdataset],
        instead: "captions in files beside their images have an ending: `{ extension = \".txt\", weight = … }`",
    },
    Key {
        name: "extra_images",
        is_set: |subset| subset.extra_images.iter().any(|extra| extra.source_column.is_none()),
        read_by: &[Folder],
        instead: "masks and other images in a table, Parquet file or shard are a column of it: set `source_column` in place of `path` \
                  and `suffix`; a loss mask may also be the transparency of its image, `alpha_mask = true`",
    },
    Key {
        name: "extra_images.source_column",
        is_set: |subset| subset.extra_images.iter().any(|extra| extra.source_column.is_some()),
        read_by: &[Metadata, Parquet, Webdataset],
        instead: "images beside those of a folder have a `suffix`, or a folder of their own, `path`",
    },
];

const COLUMNS: &str =
    "remove it, or name the table as `metadata_file`: only tables, Parquet files and shards have columns";

/// An error for each key that is set in vain.
pub(crate) fn unread(subset: &Subset) -> Vec<DataError> {
    let format = kind_of(subset).format;
    let in_vain = KEYS.iter().filter(|key| (key.is_set)(subset) && !key.read_by.contains(&format));
    let error = |key: &Key| {
        let reason = format!("has `{}`, which is not read where `format` is \"{}\"", key.name, format.name());
        DataError::source_file(&subset.path, None, reason).with_hint(key.instead.to_owned())
    };
    in_vain.map(error).collect()
}

#[cfg(test)]
mod tests {
    use sdtrain_recipe::{CaptionFile, ExtraImages};

    use super::*;

    #[test]
    fn each_key_is_read_by_its_sources_alone() {
        let text = || Some("x".to_owned());
        let all = |format| Subset {
            format,
            metadata_file: Some("x".into()),
            image_column: text(),
            caption_column: text(),
            conditioning_image_column: text(),
            loss_weight_column: text(),
            captions: vec![CaptionFile::default(), CaptionFile { column: text(), ..CaptionFile::default() }],
            extra_images: vec![ExtraImages::default(), ExtraImages { source_column: text(), ..ExtraImages::default() }],
            ..Subset::default()
        };
        let columns = [
            "image_column",
            "caption_column",
            "conditioning_image_column",
            "captions.column",
            "extra_images.source_column",
        ];
        for (format, read) in [
            (Folder, &["extra_images", "captions.extension"][..]),
            (Metadata, &[&columns[..], &["metadata_file", "loss_weight_column"]].concat()),
            (KohyaMetadata, &["metadata_file"]),
            (Parquet, &columns),
            (Webdataset, &[&columns[..], &["captions.extension"]].concat()),
        ] {
            let errors: Vec<String> = unread(&all(format)).iter().map(DataError::to_string).collect();
            for key in KEYS.iter().map(|key| key.name) {
                let is_named = errors.iter().any(|error| error.contains(&format!("`{key}`")));
                assert_eq!(is_named, !read.contains(&key), "{key} in {format:?}: {errors:?}");
            }
            assert!(unread(&Subset { format, ..Subset::default() }).is_empty());
        }
    }
}
