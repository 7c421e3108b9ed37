//! `[data]`: where images and captions are, and how they become batches.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clean::CleanConfig;

/// The images and captions to learn, and how they become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Size of the training images in pixels: one number for a square, or `[width, height]`. With bucketing, the area
    /// that every bucket keeps to. Typical: 512 for SD1.5, 96 for the built-in base.
    pub resolution: Resolution,

    /// Images a batch. With `train.gradient_accumulation_steps` an optimizer step sees that many batches.
    #[schemars(extend("x-other-names" = ["train_batch_size"]))]
    pub batch_size: usize,

    /// Folders of images; each `[[data.subsets]]` has its own settings.
    #[schemars(extend("x-other-names" = ["datasets"]))]
    pub subsets: Vec<Subset>,

    /// Aspect-ratio buckets: images keep their shape instead of being cut to one.
    pub bucketing: BucketingConfig,

    /// What captions must be like.
    pub caption: CaptionConfig,

    /// Encode every image once, before the first step, and keep the latents in memory; the autoencoder is then not needed in a
    /// step. Crops must not be random then. Not used by `method = "vae"`.
    pub cache_latents: bool,

    /// Threads that read and scale images ahead of the training. 0: none, images are read in the step itself.
    #[schemars(extend("x-other-names" = ["max_data_loader_n_workers", "dataloader_num_workers"]))]
    pub workers: usize,

    /// What happens to the images of a bucket that do not fill a batch.
    pub leftovers: Leftovers,

    /// What `sdtrain dataset clean` takes out.
    pub clean: CleanConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            resolution: Resolution::Square(512),
            batch_size: 1,
            subsets: Vec::new(),
            bucketing: BucketingConfig::default(),
            caption: CaptionConfig::default(),
            cache_latents: true,
            workers: 2,
            leftovers: Leftovers::ShortBatch,
            clean: CleanConfig::default(),
        }
    }
}

/// One number for a square, or width and height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Resolution {
    /// Width and height are the same.
    Square(u32),
    /// `[width, height]`.
    Size([u32; 2]),
}

impl Resolution {
    /// Width in pixels.
    pub fn width(self) -> u32 {
        match self {
            Resolution::Square(side) => side,
            Resolution::Size([width, _]) => width,
        }
    }

    /// Height in pixels.
    pub fn height(self) -> u32 {
        match self {
            Resolution::Square(side) => side,
            Resolution::Size([_, height]) => height,
        }
    }
}

/// One folder of images with its captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct Subset {
    /// Folder with the images; each has its caption in a file of the same name. Relative to the file it is written in.
    #[schemars(extend("x-other-names" = ["image_dir", "train_data_dir", "instance_data_dir"]))]
    pub path: PathBuf,

    /// How many times each image of this folder is seen in an epoch.
    #[schemars(extend("x-other-names" = ["num_repeats"]))]
    pub repeats: u32,

    /// Put the parts of a caption in another order each time it is seen; `keep_tokens` parts stay in front.
    pub shuffle_caption: bool,

    /// Parts of the caption that stay where they are when it is shuffled, counted from the front; the trigger word
    /// usually stands there. Typical: 1 with `shuffle_caption`.
    pub keep_tokens: u32,

    /// Ending of caption files.
    pub caption_extension: String,

    /// What separates the parts of a caption.
    pub caption_separator: String,

    /// How often an image is trained on the empty prompt instead of its caption, 0 to 1. It teaches the unconditional
    /// prediction that guidance needs. Typical: 0 for a LoRA, 0.1 for full training.
    pub caption_dropout_rate: f64,

    /// Text put in front of every caption, with one space.
    pub caption_prefix: Option<String>,

    /// Text put behind every caption, with one space.
    pub caption_suffix: Option<String>,

    /// Mirror images left to right half of the time. Not for text or faces that are not symmetric.
    #[schemars(extend("x-other-names" = ["flip_aug", "random_flip"]))]
    pub flip: bool,

    /// Cut at a random place instead of the centre where an image is larger than its bucket. Needs `data.cache_latents = false`.
    pub random_crop: bool,

    /// Caption of images that have no caption file. Absent: `data.caption.missing` says what happens.
    pub class_tokens: Option<String>,
}

impl Default for Subset {
    fn default() -> Self {
        Subset {
            path: PathBuf::new(),
            repeats: 1,
            shuffle_caption: false,
            keep_tokens: 0,
            caption_extension: ".txt".to_owned(),
            caption_separator: ",".to_owned(),
            caption_dropout_rate: 0.0,
            caption_prefix: None,
            caption_suffix: None,
            flip: false,
            random_crop: false,
            class_tokens: None,
        }
    }
}

/// Aspect-ratio buckets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BucketingConfig {
    /// Sort images into buckets by their shape. Off: every image is cut to `data.resolution`.
    #[schemars(extend("x-other-names" = ["enable_bucket"]))]
    pub enabled: bool,

    /// Shortest side of a bucket in pixels. Absent: half of the shorter side of `data.resolution`.
    #[schemars(extend("x-other-names" = ["min_bucket_reso"]))]
    pub min: Option<u32>,

    /// Longest side of a bucket in pixels. Absent: twice the longer side of `data.resolution`.
    #[schemars(extend("x-other-names" = ["max_bucket_reso"]))]
    pub max: Option<u32>,

    /// Bucket sides are multiples of this many pixels. Absent: what the model needs, 64 for SD1.5 at 512 pixels.
    #[schemars(extend("x-other-names" = ["bucket_reso_steps"]))]
    pub step: Option<u32>,

    /// Never enlarge an image: small ones get a bucket of their own size.
    #[schemars(extend("x-other-names" = ["bucket_no_upscale"]))]
    pub no_upscale: bool,
}

impl Default for BucketingConfig {
    fn default() -> Self {
        BucketingConfig { enabled: true, min: None, max: None, step: None, no_upscale: false }
    }
}

impl BucketingConfig {
    /// Shortest and longest bucket side in pixels at this resolution.
    pub fn side_range(&self, resolution: Resolution) -> (u32, u32) {
        let shorter = resolution.width().min(resolution.height());
        let longer = resolution.width().max(resolution.height());
        (self.min.unwrap_or((shorter / 2).max(1)), self.max.unwrap_or(longer.saturating_mul(2)))
    }
}

/// What captions must be like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionConfig {
    /// What happens to an image without a caption.
    pub missing: MissingCaption,
}

impl Default for CaptionConfig {
    fn default() -> Self {
        CaptionConfig { missing: MissingCaption::Error }
    }
}

/// What happens to an image without a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingCaption {
    /// The run does not start.
    Error,
    /// It is trained on the empty prompt.
    Empty,
}

/// What happens to the images of a bucket that do not fill a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Leftovers {
    /// They make a smaller batch.
    ShortBatch,
    /// They wait for the next epoch, whose order is another.
    Drop,
}
