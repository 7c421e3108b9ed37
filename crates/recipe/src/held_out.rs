//! How the images of `validation.path` are read: as those of the first training folder, where they are laid out alike.

use std::path::Path;

use crate::{ExtraImages, SourceFormat, Subset, TrainConfig};

impl TrainConfig {
    /// How the images at `path` are held out: captioned as the first training folder's, without what belongs to that folder
    /// alone and with nothing random about the images. Where both are stored alike, columns, caption files and masks are looked
    /// for under the same names. Held-out captions are read without chance, whatever stands here.
    pub fn held_out_subset(&self, path: &Path) -> Subset {
        let first = self.data.subsets.first().cloned().unwrap_or_default();
        let plain = Subset::default();
        let kind = Kind::of(path);
        let is_alike = kind == Kind::of(first.metadata_file.as_deref().unwrap_or(&first.path));
        let belongs = |extra: &ExtraImages| match kind {
            // Masks in a folder of their own are those of the training images.
            Kind::Images => extra.path.is_none(),
            Kind::KohyaTable => false,
            Kind::Table | Kind::Parquet | Kind::Tar => extra.source_column.is_some(),
        };
        Subset {
            path: path.to_owned(),
            format: if is_alike && path.is_file() { first.format } else { SourceFormat::Auto },
            recursive: plain.recursive,
            metadata_file: plain.metadata_file,
            image_column: first.image_column.filter(|_| is_alike),
            caption_column: first.caption_column.filter(|_| is_alike),
            captions: if is_alike { first.captions } else { plain.captions },
            conditioning_image_column: plain.conditioning_image_column,
            repeats: plain.repeats,
            weight: plain.weight,
            is_regularization: plain.is_regularization,
            loss_weight: plain.loss_weight,
            loss_weight_column: plain.loss_weight_column,
            resolution: plain.resolution,
            batch_size: plain.batch_size,
            bucketing: plain.bucketing,
            flip: plain.flip,
            random_crop: plain.random_crop,
            crop_unscaled: plain.crop_unscaled,
            color_augmentation: plain.color_augmentation,
            extra_images: first.extra_images.into_iter().filter(|extra| is_alike && belongs(extra)).collect(),
            ..first
        }
    }
}

/// How images are stored, as far as names show it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Images,
    Table,
    KohyaTable,
    Parquet,
    Tar,
}

impl Kind {
    /// Of a folder by what lies in it, of a file or pattern by its ending.
    fn of(path: &Path) -> Kind {
        if !path.is_dir() {
            return Kind::by_ending(path).unwrap_or(Kind::Images);
        }
        if ["metadata.jsonl", "metadata.csv"].iter().any(|table| path.join(table).is_file()) {
            return Kind::Table;
        }
        let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        let kinds = entries.filter_map(|entry| Kind::by_ending(&entry.path()));
        kinds.into_iter().find(|kind| matches!(kind, Kind::Parquet | Kind::Tar)).unwrap_or(Kind::Images)
    }

    fn by_ending(path: &Path) -> Option<Kind> {
        Some(match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "csv" => Kind::Table,
            "json" => Kind::KohyaTable,
            "parquet" => Kind::Parquet,
            "tar" => Kind::Tar,
            _ => return None,
        })
    }
}
