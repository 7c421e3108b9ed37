//! Why a single image is better taken out: one function for each key of `[data.clean]`, and the table of them.

use sdtrain_recipe::{CleanConfig, MissingDpi};

use crate::survey::ImageFacts;

/// One rule.
pub struct Filter {
    /// Its key in `[data.clean]`.
    pub key: &'static str,
    /// Why the image fails it, or nothing.
    pub reason: fn(&ImageFacts, &CleanConfig) -> Option<String>,
}

/// Every rule that looks at one image by itself; all of them are asked, so that an image is named with all its reasons.
pub const FILTERS: &[Filter] = &[
    Filter { key: "broken", reason: broken },
    Filter { key: "min_side", reason: min_side },
    Filter { key: "max_side", reason: max_side },
    Filter { key: "max_aspect", reason: max_aspect },
    Filter { key: "min_kilobytes_per_pixel", reason: min_kilobytes_per_pixel },
    Filter { key: "min_dpi", reason: min_dpi },
    Filter { key: "min_sharpness", reason: min_sharpness },
];

fn broken(image: &ImageFacts, clean: &CleanConfig) -> Option<String> {
    image.problem.clone().filter(|_| clean.broken)
}

fn min_side(image: &ImageFacts, clean: &CleanConfig) -> Option<String> {
    let (width, height) = image.size?;
    let is_short = width.min(height) < clean.min_side as usize;
    is_short.then(|| format!("{width} × {height} pixels: a side under {}", clean.min_side))
}

fn max_side(image: &ImageFacts, clean: &CleanConfig) -> Option<String> {
    let (width, height) = image.size?;
    let is_long = clean.max_side > 0 && width.max(height) > clean.max_side as usize;
    is_long.then(|| format!("{width} × {height} pixels: a side over {}", clean.max_side))
}

fn max_aspect(image: &ImageFacts, clean: &CleanConfig) -> Option<String> {
    let (width, height) = image.size?;
    let aspect = width.max(height) as f64 / width.min(height).max(1) as f64;
    let is_narrow = clean.max_aspect > 0.0 && aspect > clean.max_aspect;
    is_narrow
        .then(|| format!("{width} × {height} pixels: {aspect:.2} times as long as wide, over {}", clean.max_aspect))
}

fn min_kilobytes_per_pixel(image: &ImageFacts, clean: &CleanConfig) -> Option<String> {
    image.size?;
    let ratio = image.bytes as f64 / f64::from(clean.kilobyte) / image.pixels() as f64;
    let is_little = ratio < clean.min_kilobytes_per_pixel;
    is_little.then(|| format!("{ratio:.6} kB a pixel, under {}", clean.min_kilobytes_per_pixel))
}

fn min_dpi(image: &ImageFacts, clean: &CleanConfig) -> Option<String> {
    image.size?;
    match image.dpi {
        Some(dpi) => (dpi < clean.min_dpi).then(|| format!("{dpi} dots an inch, under {}", clean.min_dpi)),
        None if clean.min_dpi > 0.0 && clean.missing_dpi == MissingDpi::Drop => {
            Some("states no dots an inch".to_owned())
        }
        None => None,
    }
}

fn min_sharpness(image: &ImageFacts, clean: &CleanConfig) -> Option<String> {
    let sharpness = image.look.as_ref()?.sharpness;
    (sharpness < clean.min_sharpness).then(|| format!("sharpness {sharpness:.1}, under {}", clean.min_sharpness))
}

#[cfg(test)]
mod tests {
    use sdtrain_data_loader::ImageLocation;

    use super::*;

    /// An image that passes everything: 512 × 1024, 0.0005 kB a pixel, 96 dpi.
    fn good() -> ImageFacts {
        ImageFacts {
            location: ImageLocation::file("a.png".into()),
            subset: 0,
            relative: "a.png".into(),
            real: "a.png".into(),
            is_link: false,
            format: "PNG".to_owned(),
            bytes: 268_436,
            size: Some((512, 1024)),
            dpi: Some(96.0),
            content: None,
            look: None,
            problem: None,
            captions: Vec::new(),
            extra_columns: Vec::new(),
            extra_images: Vec::new(),
        }
    }

    fn failed(image: &ImageFacts, clean: &CleanConfig) -> Vec<&'static str> {
        FILTERS.iter().filter(|filter| (filter.reason)(image, clean).is_some()).map(|filter| filter.key).collect()
    }

    #[test]
    fn limits_are_what_still_stays() {
        let clean = CleanConfig::default();
        assert!(failed(&good(), &clean).is_empty());
        for (image, key) in [
            (ImageFacts { size: Some((511, 1024)), ..good() }, "min_side"),
            (ImageFacts { size: Some((1025, 512)), bytes: 400_000, ..good() }, "max_side"),
            (ImageFacts { bytes: 268_435, ..good() }, "min_kilobytes_per_pixel"),
            (ImageFacts { dpi: Some(95.9), ..good() }, "min_dpi"),
        ] {
            assert_eq!(failed(&image, &clean), [key]);
        }
    }

    #[test]
    fn each_limit_can_be_switched_off() {
        let off = CleanConfig {
            min_side: 0,
            max_side: 0,
            min_kilobytes_per_pixel: 0.0,
            min_dpi: 0.0,
            missing_dpi: MissingDpi::Drop,
            broken: false,
            ..CleanConfig::default()
        };
        for size in [(1, 1), (20_000, 3)] {
            let image = ImageFacts { size: Some(size), bytes: 1, dpi: Some(1.0), ..good() };
            assert!(failed(&image, &off).is_empty());
        }
        assert!(failed(&ImageFacts { dpi: None, ..good() }, &off).is_empty());
        assert!(failed(&ImageFacts { problem: Some("broken".to_owned()), ..good() }, &off).is_empty());
    }

    #[test]
    fn a_kilobyte_may_have_1000_bytes() {
        let image = ImageFacts { bytes: 262_144, ..good() };
        assert_eq!(failed(&image, &CleanConfig::default()), ["min_kilobytes_per_pixel"]);
        assert!(failed(&image, &CleanConfig { kilobyte: 1000, ..CleanConfig::default() }).is_empty());
    }

    #[test]
    fn images_that_state_no_dots_an_inch_stay_unless_told_otherwise() {
        let image = ImageFacts { dpi: None, ..good() };
        assert!(failed(&image, &CleanConfig::default()).is_empty());
        let drop = CleanConfig { missing_dpi: MissingDpi::Drop, ..CleanConfig::default() };
        assert_eq!(failed(&image, &drop), ["min_dpi"]);
    }

    #[test]
    fn aspect_counts_both_ways() {
        let clean = CleanConfig { max_aspect: 1.99, ..CleanConfig::default() };
        assert_eq!(failed(&good(), &clean), ["max_aspect"]);
        assert_eq!(failed(&ImageFacts { size: Some((1024, 512)), ..good() }, &clean), ["max_aspect"]);
        assert!(failed(&good(), &CleanConfig { max_aspect: 2.0, ..CleanConfig::default() }).is_empty());
    }

    #[test]
    fn a_broken_image_fails_for_that_alone() {
        let image = ImageFacts { problem: Some("is an empty file".to_owned()), size: None, bytes: 0, ..good() };
        assert_eq!(failed(&image, &CleanConfig::default()), ["broken"]);
    }
}
