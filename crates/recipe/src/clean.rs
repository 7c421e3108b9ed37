//! `[data.clean]`: what `sdtrain dataset clean` takes out of a data set.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `sdtrain dataset clean` takes out of a data set. A training does not read this section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CleanConfig {
    /// Images whose shorter side has fewer pixels are taken out. 0: off.
    pub min_side: u32,

    /// Images whose longer side has more pixels are taken out. 0: off.
    pub max_side: u32,

    /// Images whose file has fewer kilobytes for each pixel are taken out: they were compressed until little was left.
    /// 0.0011 to 0.0015 is usual for JPEG photographs. 0: off.
    pub min_kilobytes_per_pixel: f64,

    /// Bytes of the kilobyte that `min_kilobytes_per_pixel` means: 1024 or 1000.
    pub kilobyte: u32,

    /// Images whose file states fewer dots an inch, across or down, are taken out. 0: off.
    pub min_dpi: f64,

    /// What happens to images whose file states no dots an inch, while `min_dpi` is not 0.
    pub missing_dpi: MissingDpi,

    /// Images whose longer side is more than this many times the shorter are taken out. Typical: 3. 0: off.
    pub max_aspect: f64,

    /// Images less sharp than this are taken out: the variance of the Laplacian of the grey image, which is first scaled
    /// down so that its longer side has at most 1024 pixels. Typical: 20 to 100, higher for photographs than for flat
    /// drawings. 0: off.
    pub min_sharpness: f64,

    /// Which copies of an image are taken out; the one with the most pixels stays.
    pub duplicates: Duplicates,

    /// How different two images may be and still count as nearly the same: differing bits of their 64-bit difference
    /// hashes, 0 to 16. Their colours must agree as well.
    pub duplicate_distance: u32,

    /// Images that cannot be decoded are taken out.
    pub broken: bool,
}

impl Default for CleanConfig {
    fn default() -> Self {
        CleanConfig {
            min_side: 512,
            max_side: 1024,
            min_kilobytes_per_pixel: 0.0005,
            kilobyte: 1024,
            min_dpi: 96.0,
            missing_dpi: MissingDpi::Keep,
            max_aspect: 0.0,
            min_sharpness: 0.0,
            duplicates: Duplicates::Near,
            duplicate_distance: 4,
            broken: true,
        }
    }
}

/// A value of the section that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanMistake {
    /// The key within the section.
    pub key: &'static str,
    /// What is wrong with it; follows the key.
    pub message: String,
    /// The way out.
    pub hint: Option<&'static str>,
}

impl CleanConfig {
    /// Every value out of range, however the values were given.
    pub fn mistakes(&self) -> Vec<CleanMistake> {
        let mut mistakes = Vec::new();
        let mut mistake = |key, message, hint| mistakes.push(CleanMistake { key, message, hint });
        for (key, value) in [
            ("min_kilobytes_per_pixel", self.min_kilobytes_per_pixel),
            ("min_dpi", self.min_dpi),
            ("max_aspect", self.max_aspect),
            ("min_sharpness", self.min_sharpness),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                mistake(key, format!("must be a number of at least 0, not {value}"), Some("0 switches it off"));
            }
        }
        if self.max_side > 0 && self.min_side > self.max_side {
            let message = format!("is {}, which is more than `max_side`, {}", self.min_side, self.max_side);
            mistake("min_side", message, Some("0 switches one of them off"));
        }
        if self.max_aspect > 0.0 && self.max_aspect < 1.0 {
            let hint = "it says how many times the shorter side the longer one may be";
            mistake("max_aspect", format!("must be 0 or at least 1, not {}", self.max_aspect), Some(hint));
        }
        if !matches!(self.kilobyte, 1000 | 1024) {
            mistake("kilobyte", format!("must be 1024 or 1000, not {}", self.kilobyte), None);
        }
        if self.duplicate_distance > MOST_DIFFERENT {
            let message = format!("must be at most {MOST_DIFFERENT}, not {}", self.duplicate_distance);
            mistake("duplicate_distance", message, Some("images that differ in more bits are not alike"));
        }
        mistakes
    }
}

/// Images that differ in more of the 64 bits of their hashes are never copies of each other.
const MOST_DIFFERENT: u32 = 16;

/// What happens to images whose file states no dots an inch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingDpi {
    /// They stay.
    Keep,
    /// They are taken out.
    Drop,
}

/// Which copies of an image are taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// None.
    Keep,
    /// Files with the same bytes.
    Exact,
    /// Those, and images that look the same: encoded anew, or at another size.
    Near,
}
