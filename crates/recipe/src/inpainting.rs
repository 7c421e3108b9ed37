//! `[inpainting]`: what is covered of the images while a model learns to paint into pictures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MASK_COLUMN, ObjectiveKind, Subset, TrainConfig};

/// What is covered of the images while a model learns to paint into pictures; read when `method = "inpainting"`. The UNet is shown the
/// noisy latents of the whole image, the mask, and the latents of the image with grey where the mask is; it is asked for the whole image.
/// Its input has 9 channels: `sdtrain convert MODEL OUT --to diffusers --inpainting` makes one with 4 such a UNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InpaintingConfig {
    /// Where the masks come from.
    pub masks: MaskSource,

    /// What random masks are put together from.
    pub shapes: Vec<MaskShape>,

    /// Shapes of a random mask, at most: one to so many are drawn, each number equally often. No more than 100.
    pub max_shapes: u32,

    /// Smallest extent of a shape, as a share of the image's width or height.
    pub min_size: f64,

    /// Largest extent of a shape, as a share of the image's width or height.
    pub max_size: f64,

    /// How often a random mask covers the whole image, 0 to 1, so that the model does not forget how to draw from the prompt alone.
    /// Stable Diffusion's own models for inpainting were trained with 0.25.
    pub whole_probability: f64,
}

/// Where masks for inpainting come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskSource {
    /// They are drawn for each image and epoch. Masks that images have are loss masks, as with other methods.
    Random,
    /// Those that the images have, by `extra_images` with `column = "mask"`, or by `alpha_mask`: what is at least half white, or at least half
    /// opaque, is covered, and an image without a mask is covered whole. The loss looks at the whole image.
    Files,
}

/// A part of a random mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskShape {
    /// A rectangle along the image's sides.
    Rectangle,
    /// An ellipse along the image's sides.
    Ellipse,
    /// A line of one to four straight pieces in any direction, a quarter as thick as a piece is long.
    Stroke,
}

impl Default for InpaintingConfig {
    fn default() -> Self {
        InpaintingConfig {
            masks: MaskSource::Random,
            shapes: vec![MaskShape::Rectangle, MaskShape::Ellipse, MaskShape::Stroke],
            max_shapes: 3,
            min_size: 0.1,
            max_size: 0.6,
            whole_probability: 0.25,
        }
    }
}

impl Subset {
    /// Whether its images have masks.
    pub(crate) fn has_masks(&self) -> bool {
        self.alpha_mask || self.extra_images.iter().any(|extra| extra.column == MASK_COLUMN)
    }
}

impl TrainConfig {
    /// Whether the masks of images say what is painted, and not what the loss looks at.
    pub fn paints_by_files(&self) -> bool {
        self.objective_kind() == ObjectiveKind::Inpainting && self.inpainting.masks == MaskSource::Files
    }

    /// Why a UNet that takes in `channels` cannot be asked for what the run asks for, and the way out, if so.
    pub fn unet_input_refused(&self, channels: i64) -> Option<(String, String)> {
        let (path, method) = (&self.model.path, self.method.name());
        let takes_mask = channels == 9;
        let takes_picture = channels == 8;
        match self.objective_kind() {
            ObjectiveKind::Inpainting | ObjectiveKind::TextToImage | ObjectiveKind::Dreambooth if takes_picture => Some((
                format!(
                    "`{path}` is made for editing by instruction (InstructPix2Pix, 8 input channels), and no method trains that yet"
                ),
                "`sdtrain inspect` and `sdtrain convert` take it; to train, set `model.path` to a model with 4 input channels, or \
                 to one for inpainting with 9"
                    .to_owned(),
            )),
            ObjectiveKind::Inpainting if !takes_mask => Some((
                format!(
                    "`method = \"{method}\"` trains a UNet with 9 input channels, and that of `{path}` has {channels}"
                ),
                format!(
                    "`sdtrain convert {path} OUT --to diffusers --inpainting` makes one of it that draws the same at first; then set \
                     `model.path` to OUT"
                ),
            )),
            ObjectiveKind::TextToImage | ObjectiveKind::Dreambooth if takes_mask => Some((
                format!("`{path}` is made for inpainting, and `method = \"{method}\"` has no masks for it"),
                format!(
                    "set `method = \"inpainting\"` and `trainable = \"{}\"`, or take the model that it was made of",
                    self.trainable_kind().name()
                ),
            )),
            // The autoencoder is trained without the UNet.
            ObjectiveKind::Inpainting
            | ObjectiveKind::TextToImage
            | ObjectiveKind::Dreambooth
            | ObjectiveKind::Autoencoding => None,
        }
    }
}
