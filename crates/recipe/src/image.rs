//! How an image becomes pixels: scaling, transparency, changes of colour, and the images that belong to it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The column of masks among the extra images of a subset: what the loss looks at, or with `inpainting.masks = "files"` what is covered.
pub const MASK_COLUMN: &str = "mask";

/// Column of the second image that `conditioning_image_column` of a subset names.
pub const CONDITIONING_IMAGE: &str = "conditioning_image";

/// How an image is scaled. Where it shrinks every kernel widens with the scale, as in Pillow, so that nothing aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeKernel {
    /// `area` where the image shrinks and `lanczos` where it grows, as kohya's scripts do.
    Auto,
    /// Windowed sinc over 6 pixels; the sharpest, rings a little at edges.
    Lanczos,
    /// Cubic over 4 pixels (a = −0.5).
    Bicubic,
    /// Linear over 2 pixels.
    Bilinear,
    /// The average of the area that a pixel covers; enlarged, pixels become squares.
    Area,
    /// The nearest pixel, for pixel art.
    Nearest,
}

/// How an image gets the shape of its bucket, or of the resolution where buckets are off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// It is scaled until it covers the bucket, with its own shape, and what stands over is cut off.
    Crop,
    /// It is scaled to the bucket's width and height, each by a factor of its own: all of it is seen, and what is round may not be.
    Squeeze,
}

/// What is shown where an image is transparent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AlphaConfig {
    /// Colour that shows through, `[red, green, blue]` from 0 to 255. Typical: white, or the background of the other images.
    pub background: [u8; 3],

    /// Ignore transparency and show the colours that are stored under it, as kohya's scripts do. Many programs store black or
    /// noise there.
    pub ignore: bool,
}

impl Default for AlphaConfig {
    fn default() -> Self {
        AlphaConfig { background: [255; 3], ignore: false }
    }
}

/// Random changes of an image's colours, drawn anew each time it is seen. A strength of 0 leaves that property alone.
///
/// The defaults are near kohya's `color_aug`, which takes gamma of values from 0 to 255 and so also changes brightness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColorAugmentation {
    /// How often an image is changed, 0 to 1.
    pub probability: f64,

    /// How many properties are changed then.
    pub changes: ColorChanges,

    /// Largest turn of the hue either way, in degrees, up to 180.
    pub hue: f64,

    /// Largest change of the exponent of gamma either way: with 0.05 it lies between 0.95 and 1.05.
    pub gamma: f64,

    /// Largest change of saturation either way: with 0.2 it lies between 80 % and 120 %. 1 reaches grey.
    pub saturation: f64,

    /// Largest change of brightness either way, a factor as for saturation.
    pub brightness: f64,

    /// Largest change of contrast around the image's mean either way, a factor as for saturation.
    pub contrast: f64,
}

impl Default for ColorAugmentation {
    fn default() -> Self {
        ColorAugmentation {
            probability: 0.33,
            changes: ColorChanges::One,
            hue: 16.0,
            gamma: 0.05,
            saturation: 0.0,
            brightness: 0.0,
            contrast: 0.0,
        }
    }
}

/// How many properties a change of colours concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColorChanges {
    /// One of those whose strength is not 0, chosen anew each time.
    One,
    /// All of those whose strength is not 0.
    All,
}

/// Images that belong to the images of a subset, one each: masks, control images, pictures before an edit. They lie beside the
/// images of a folder (`suffix`), in a folder of their own (`path`), or in a column of a table, of Parquet files or of shards
/// (`source_column`). They are scaled, cut and mirrored exactly as their image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["column"]))]
pub struct ExtraImages {
    /// What they are. `mask`: the loss mask, whose red channel from 0 to 255 weighs the loss of each place from 0 to 1; an image
    /// without one is trained whole; with `inpainting.masks = "files"` it says what is covered, and an image without one is covered whole.
    /// Any other name: images for the method that asks for them by this name; every image needs one.
    pub column: String,

    /// Folder that holds them, with the same file names and folders within as `path` of the subset; the ending may be another.
    /// Absent: they lie beside their images, told apart by `suffix`.
    pub path: Option<PathBuf>,

    /// What their names have behind those of their images, in front of the ending: with `-masklabel`, the mask of `a.jpg` is
    /// `a-masklabel.png`.
    pub suffix: String,

    /// Column that names their files in a table, or holds them in Parquet files; for `"webdataset"` the ending of their entries, such
    /// as `mask.png`. Where a cell is empty or an entry absent the image has none.
    pub source_column: Option<String>,
}
