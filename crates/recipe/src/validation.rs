//! `[validation]`: measuring on images that are not trained on.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Every;

/// Measuring on images that are not trained on, with the same noise and timesteps every time; of `method = "vae"`, how far their
/// reconstructions are from them. Of a model for inpainting each image has one mask, the same every time and drawn as by the defaults of
/// `[inpainting]`: what is set there, and masks that the images have, change nothing here, so that runs can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationConfig {
    /// Folder with held-out images and captions, laid out as a training folder; or a table, Parquet or tar files, by name or by
    /// pattern (`…/validation-*.parquet`), as `path` of a subset. Where they are stored as those of the first subset, its columns,
    /// its `captions` and its masks hold for them, except for masks in a folder of their own. Relative to the file it is written in.
    /// Images that are trained on as well, under any name, are named in a warning.
    pub path: Option<PathBuf>,

    /// Part of the training images that is held out instead, 0 to 1, chosen by the seed. Files with the same bytes stay
    /// together, whatever they are called, so that no held-out image is trained on. A picture that was saved anew has other bytes
    /// and is another image; `sdtrain dataset inspect` names pictures that look alike.
    pub split: Option<f64>,

    /// Optimizer steps between two measurements. Absent or 0: none by steps.
    pub every_steps: Option<u64>,

    /// Epochs between two measurements. Absent or 0: none by epochs.
    pub every_epochs: Option<u64>,

    /// Parts of equal size into which timesteps are divided; each gets its own loss.
    pub timestep_bands: u32,

    /// Draws of noise and timestep for each image and band.
    pub repeats: u32,

    /// Run `sdtrain evaluate` as the last step of the run.
    pub evaluate_at_end: bool,

    /// Held-out captions that an evaluation draws to check what the pictures show, each once with the trigger word and
    /// once without. 0: none. A model for inpainting draws them with the whole picture covered.
    pub num_samples: u32,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        ValidationConfig {
            path: None,
            split: None,
            every_steps: None,
            every_epochs: None,
            timestep_bands: 4,
            repeats: 1,
            evaluate_at_end: true,
            num_samples: 32,
        }
    }
}

impl ValidationConfig {
    /// When measurements are due, besides the evaluation at the end.
    pub fn every(&self) -> Every {
        Every::new(self.every_steps, self.every_epochs)
    }

    /// Whether there are held-out images at all.
    pub fn is_on(&self) -> bool {
        self.path.is_some() || self.split.is_some_and(|split| split > 0.0)
    }
}
