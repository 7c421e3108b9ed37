//! Whether the masks, control images and the like are there for all images, and fit them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sdtrain_recipe::{AlphaConfig, DataConfig, MASK_COLUMN};

use crate::buckets::Size;
use crate::scan::{Image, of_subset};
use crate::source::SourceExample;
use crate::{DataError, image};

/// Makes sure that everything that belongs to an image can be opened and has its shape.
pub(crate) fn look_at(example: &SourceExample, size: Size) -> Result<(), String> {
    for (column, location) in &example.extra_images {
        let path = location.path().display();
        let extra = image::look(location).map_err(|reason| format!("its `{column}` image `{path}` {reason}"))?.size;
        if !same_shape(extra, size) {
            return Err(format!(
                "its `{column}` image `{path}` has {} × {} pixels, another shape than its own {} × {}",
                extra.0, extra.1, size.0, size.1
            ));
        }
    }
    Ok(())
}

/// Decodes everything that belongs to an image, as a run does when it comes to it; or why that cannot be.
pub(crate) fn decode(example: &SourceExample, alpha: &AlphaConfig) -> Result<(), String> {
    for (column, location) in &example.extra_images {
        let decoded = match column == MASK_COLUMN {
            true => image::decode_mask(location).map(drop),
            false => image::decode(location, alpha).map(drop),
        };
        decoded.map_err(|reason| format!("its `{column}` image `{}` {reason}", location.path().display()))?;
    }
    Ok(())
}

/// Of how many images something in each column belongs to them.
pub(crate) fn counts<'a>(columns: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for column in columns {
        *counts.entry(column.clone()).or_default() += 1;
    }
    counts
}

/// Whether one is the other, scaled: up to rounding to whole pixels on either side.
fn same_shape(a: Size, b: Size) -> bool {
    let scale = b.0 as f64 / a.0 as f64;
    (a.1 as f64 * scale - b.1 as f64).abs() <= 1.0 + scale.max(1.0 / scale)
}

/// Columns that some or all images lack. A mask may be absent from some: those are trained whole.
pub(crate) fn missing(config: &DataConfig, images: &[Image]) -> Vec<DataError> {
    let mut errors = Vec::new();
    let columns: BTreeSet<&String> = images.iter().flat_map(|image| image.extra_images.keys()).collect();
    for column in columns.into_iter().filter(|column| *column != MASK_COLUMN) {
        let without = images.iter().filter(|image| !image.extra_images.contains_key(column));
        let hint = format!("every image needs one, in all subsets: add them, or leave out the column `{column}`");
        errors.extend(error(column, without, images.len(), hint));
    }
    for (index, subset) in config.subsets.iter().enumerate() {
        let own = of_subset(images, index);
        for extra in &subset.extra_images {
            let column = &extra.column;
            // Where only some have one, the rule above is what they break.
            if own.iter().any(|image| image.extra_images.contains_key(column)) {
                continue;
            }
            let reported =
                |error: &DataError| matches!(error, DataError::MissingExtraImages { column: c, .. } if c == column);
            if errors.iter().any(reported) {
                continue;
            }
            let folder = extra.path.as_ref().unwrap_or(&subset.path);
            let hint = match &extra.source_column {
                Some(source) => format!("`{source}` is empty for every image of `{}`", subset.path.display()),
                None => format!("that of `NAME.jpg` is looked for as `{}/NAME{}.png`", folder.display(), extra.suffix),
            };
            errors.extend(error(column, own.iter(), own.len(), hint));
        }
    }
    errors
}

fn error<'a>(column: &str, without: impl Iterator<Item = &'a Image>, found: usize, hint: String) -> Option<DataError> {
    let mut without = without.peekable();
    let first = without.peek()?.location.path().to_owned();
    Some(DataError::MissingExtraImages { column: column.to_owned(), missing: without.count(), found, first, hint })
}

/// Masks that only some images have, and files that belong to no image.
pub(crate) fn warnings(config: &DataConfig, images: &[Image], without_image: &[PathBuf]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, subset) in config.subsets.iter().enumerate() {
        if !subset.extra_images.iter().any(|extra| extra.column == MASK_COLUMN) {
            continue;
        }
        let own = of_subset(images, index).iter();
        let mut whole = own.filter(|image| !image.extra_images.contains_key(MASK_COLUMN)).peekable();
        if let Some(first) = whole.peek().map(|image| image.location.path().display().to_string()) {
            warnings.push(format!(
                "{} images of `{}` have no mask and are trained whole (with `inpainting.masks = \"files\"`: covered whole), the \
                 first is `{first}`",
                whole.count(),
                subset.path.display()
            ));
        }
    }
    if let Some(first) = without_image.first() {
        warnings.push(format!(
            "{} masks, control images and the like belong to no image, the first is `{}`",
            without_image.len(),
            first.display()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_no_other_shape() {
        assert!(same_shape((512, 341), (1536, 1024)));
        assert!(same_shape((1536, 1024), (512, 341)));
        assert!(same_shape((64, 48), (64, 48)));
        assert!(!same_shape((64, 64), (64, 48)));
        assert!(!same_shape((1024, 1536), (1536, 1024)));
    }
}
