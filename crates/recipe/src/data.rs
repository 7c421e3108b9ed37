//! `[data]`: where images and captions are, and how they become batches.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clean::CleanConfig;
use crate::{AlphaConfig, ColorAugmentation, ExtraImages, ResizeKernel, ResizeMode, SourceFormat};

/// The images and captions to learn, and how they become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Size of the training images in pixels: one number for a square, or `[width, height]`. With bucketing, the area
    /// that every bucket keeps to. Typical: 512 for SD1.5, 96 for the built-in base. A subset may have its own.
    pub resolution: Resolution,

    /// Images a batch. With `train.gradient_accumulation_steps` an optimizer step sees that many batches. A subset may have its
    /// own.
    #[schemars(extend("x-other-names" = ["train_batch_size"]))]
    pub batch_size: usize,

    /// Folders of images; each `[[data.subsets]]` has its own settings.
    #[schemars(extend("x-other-names" = ["datasets"]))]
    pub subsets: Vec<Subset>,

    /// Dataset file of kohya's sd-scripts, TOML or JSON (`[general]`, `[[datasets]]`, `[[datasets.subsets]]`) to take subsets, sizes and
    /// buckets from, in place of `subsets`; several datasets may differ in them. It is read as those scripts read it, with their defaults; what it does not say about
    /// resolution, batch size and buckets may be written in `[data]`. Relative paths in it start at the current folder, or at the
    /// file's own folder where the current one has no such path. A key that cannot be honoured is refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-other-names" = ["dataset_config"]))]
    pub kohya_config: Option<PathBuf>,

    /// Aspect-ratio buckets: images keep their shape instead of being cut to one. A subset may have its own.
    pub bucketing: BucketingConfig,

    /// How images, and the masks and other images that belong to them, get the shape of their bucket. Typical: `"crop"`; `"squeeze"`
    /// for recipes that resize every image to a square without keeping its shape.
    pub resize: ResizeMode,

    /// How images are scaled to their bucket; a subset may have its own.
    #[schemars(extend("x-other-names" = ["resize_interpolation", "image_interpolation_mode"]))]
    pub resize_kernel: ResizeKernel,

    /// What is shown where an image is transparent.
    pub alpha: AlphaConfig,

    /// What captions must be like.
    pub caption: CaptionConfig,

    /// Encode every image once, before the first step, and keep the latents in memory, or in `cache_dir`; the autoencoder is
    /// then not needed in a step. Crops and colours must not be random then. Not used by `method = "vae"`.
    #[schemars(extend("x-refused-names" = {
        "vae_batch_size": "images are encoded one at a time, so that the latents of one do not depend on the others",
        "skip_cache_check": "a cache is read by the content of the images, and everything read from it is checked"
    }))]
    pub cache_latents: bool,

    /// Folder that keeps the latents of the images, and with `cache_text_encoder_outputs` the text encoder's outputs, from one run
    /// to the next, made where it does not exist; several runs may share one, also at the same time. What is kept of an image is
    /// a distribution in each place, so that latents are still drawn anew each time. An entry is found by the image's content,
    /// its size and crop, and the autoencoder, or by the caption's tokens, how they are read, and the text encoder: what changed
    /// is encoded again, and what is no longer used stays until it is deleted. `sdtrain dataset cache` fills it ahead, and with
    /// `--prune` takes out what is not used. Absent: all is kept in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-other-names" = ["cache_latents_to_disk", "cache_dir_vae"]))]
    pub cache_dir: Option<PathBuf>,

    /// Run every caption of the run through the text encoder once, before the first step, and keep what it makes of them in
    /// memory, or in `cache_dir`; the text encoder is then not needed in a step. Shuffled and dropped captions are no hindrance:
    /// all that the run will see are known beforehand. Where there are too many, `caption_variants` of a subset bounds them. The
    /// text encoder must not be trained. Off: captions are encoded when they are first seen, and the last few thousand are
    /// kept. Typical: on where captions recur.
    #[schemars(extend("x-other-names" = ["cache_text_encoder_outputs_to_disk", "cache_text_embeddings"]))]
    pub cache_text_encoder_outputs: bool,

    /// Threads that read and scale images ahead of the training. 0: none, images are read in the step itself.
    #[schemars(extend("x-other-names" = ["max_data_loader_n_workers", "dataloader_num_workers"]))]
    pub workers: usize,

    /// What happens to the images of a bucket that do not fill a batch at the end of an epoch.
    pub leftovers: Leftovers,

    /// Folder for files that subsets name by address. What was fetched stays there and is not fetched again, even if the server has
    /// another one by then: delete it for that. Absent: `sdtrain/downloads` in the user's cache folder (`$XDG_CACHE_HOME`, or
    /// `~/.cache`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_dir: Option<PathBuf>,

    /// What `sdtrain dataset clean` takes out.
    pub clean: CleanConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            resolution: Resolution::Square(512),
            batch_size: 1,
            subsets: Vec::new(),
            kohya_config: None,
            bucketing: BucketingConfig::default(),
            resize: ResizeMode::Crop,
            resize_kernel: ResizeKernel::Auto,
            alpha: AlphaConfig::default(),
            caption: CaptionConfig::default(),
            cache_latents: true,
            cache_dir: None,
            cache_text_encoder_outputs: false,
            workers: 2,
            leftovers: Leftovers::ShortBatch,
            download_dir: None,
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

/// One set of images with its captions: a folder, a table, or files that hold many images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct Subset {
    /// Folder with the images, or a file that holds or names them; `format` says which. Several files of a kind are written
    /// as a pattern: `shard-{000..123}.tar`, `train-*.parquet`. Relative to the file it is written in. Tar and Parquet files may
    /// also be named by address, `https://HOST/shard-{000..123}.tar` or `s3://BUCKET/shard-{000..123}.tar`: each is fetched once
    /// into `data.download_dir` and then read there. S3 is asked with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`
    /// and `AWS_ENDPOINT_URL`, or without a signature where `AWS_SKIP_SIGNATURE=true`.
    #[schemars(extend("x-other-names" = ["image_dir", "train_data_dir", "instance_data_dir"]))]
    pub path: PathBuf,

    /// How images and captions are stored. `"auto"`, the default, finds it out.
    pub format: SourceFormat,

    /// Look into the folders within `path` too.
    pub recursive: bool,

    /// Table that names the images and their captions; names in it are relative to `path`. JSON Lines, CSV, or the JSON of
    /// kohya's tagging scripts. Absent: `metadata.jsonl` or `metadata.csv` in `path`, where `format` is `"metadata"`.
    #[schemars(extend("x-other-names" = ["in_json"]))]
    pub metadata_file: Option<PathBuf>,

    /// Column that holds the image, or names its file; for `"webdataset"` the ending of its entry. Absent: the first of the
    /// usual names that is there (`file_name`, `image`, `jpg`, …).
    pub image_column: Option<String>,

    /// Column that holds the caption; for `"webdataset"` the ending of its entry, or a key of its `.json` entry. A list of
    /// captions becomes the lines of one. Absent: the first of `text`, `caption` and `prompt` that is there. An instruction
    /// such as "make it night" is a caption: name its column.
    #[schemars(extend("x-other-names" = ["edit_prompt_column"]))]
    pub caption_column: Option<String>,

    /// Column with a second image that belongs to the first: a control image, or the picture before an edit. It
    /// is known as `conditioning_image`; masks, and further images, are `extra_images` with a `source_column`. For
    /// `"webdataset"` the ending of its entry. Absent: there is none.
    #[schemars(extend("x-other-names" = ["original_image_column"]))]
    pub conditioning_image_column: Option<String>,

    /// How many times each image of this folder is seen in an epoch, as a whole number or a fraction. 2.5: all of them twice, and
    /// half of them once more; 0.3: three tenths of them. Whose turn it is changes from epoch to epoch so that it evens out:
    /// with 0.3 each image is seen exactly 3 times in 10 epochs. To leave the images out, leave the subset out.
    #[schemars(extend("x-other-names" = ["num_repeats"]))]
    pub repeats: f64,

    /// Share of this subset in an epoch, in proportion to the weights of the others: with 3 and 1, three quarters of the images
    /// of an epoch are from the first, however many either holds. The length of an epoch stays as `repeats` make it; it is only
    /// divided in another way, which is the same as setting fractional `repeats` that come to these shares. All subsets have one
    /// or none has. Absent: `repeats` alone count.
    #[schemars(extend("x-other-names" = ["dataset_weight", "sampling_weight"]))]
    pub weight: Option<f64>,

    /// These are images of the class, or of the style, that the model is to keep, beside those that it is to learn. As many
    /// of them are seen in an epoch as there are others, repeats counted, taken from the front: where they are fewer some are
    /// repeated once more, those that are not needed are not used. They go into the same batches as the others of their size.
    /// `loss.prior_loss_weight` says how much they count, and none of them is held out for validation.
    #[schemars(extend("x-other-names" = ["is_reg", "is_regularisation", "is_regularisation_data"]))]
    pub is_regularization: bool,

    /// What the loss of these images is multiplied by. Unlike `repeats` and `weight` it does not change how often they are seen. Those
    /// of regularization images are multiplied by `loss.prior_loss_weight` as well.
    #[schemars(extend("x-other-names" = ["loss_multiplier"]))]
    pub loss_weight: f64,

    /// Column of a table (`format = "metadata"`) with a number for each image, which `loss_weight` is multiplied by; 1 where the cell
    /// is empty. Absent: there is none.
    pub loss_weight_column: Option<String>,

    /// Size of these images in pixels. Absent: `data.resolution`. Subsets that differ in `resolution`, `batch_size` or
    /// `bucketing` never share a batch; the batches of all of them are shuffled together.
    pub resolution: Option<Resolution>,

    /// Images a batch of this subset. Absent: `data.batch_size`. Typical: fewer for a larger `resolution`.
    pub batch_size: Option<usize>,

    /// Aspect-ratio buckets of this subset, in place of all of `data.bucketing`. Absent: `data.bucketing`.
    pub bucketing: Option<BucketingConfig>,

    /// Put the parts of a caption in another order each time it is seen; `keep_tokens` parts stay in front.
    pub shuffle_caption: bool,

    /// Parts of the caption that stay where they are when it is shuffled, counted from the front; the trigger word
    /// usually stands there. They are not dropped by `caption_tag_dropout_rate` either. Typical: 1 with `shuffle_caption`.
    pub keep_tokens: u32,

    /// Mark in a caption: what stands before it stays in front, what stands behind a second one stays at the end, and only the
    /// parts in between are shuffled, dropped and warmed up; `keep_tokens` is then not looked at. Typical: `"|||"`. It is
    /// taken out of captions only where `shuffle_caption`, `caption_tag_dropout_rate` or `token_warmup_step` is set.
    pub keep_tokens_separator: Option<String>,

    /// Ending of caption files. Not used where `captions` lists several.
    pub caption_extension: String,

    /// What separates the parts of a caption. Parts that were shuffled, dropped or warmed up are put together again with a
    /// comma and a space, whatever this is.
    pub caption_separator: String,

    /// Text that becomes `caption_separator` once the parts of a caption have been shuffled: what it joins travels as one
    /// part. Typical: `";;;"`.
    pub secondary_separator: Option<String>,

    /// Choose anew each time an image is seen: one line of a caption of several lines, and one of `{red|green|{light|dark} blue}`.
    /// An empty choice is allowed; `{{` and `}}` stand for the braces themselves, but `}}` also ends two choices, one in the
    /// other. Off: captions are their first line, and braces are text.
    pub enable_wildcard: bool,

    /// How often an image is trained on the empty prompt instead of its caption, 0 to 1. It teaches the unconditional
    /// prediction that guidance needs. Typical: 0 for a LoRA, 0.1 for full training.
    #[schemars(extend("x-other-names" = ["proportion_empty_prompts"]))]
    pub caption_dropout_rate: f64,

    /// Every so many epochs, counted from 1, all images are trained on the empty prompt. 0: never.
    pub caption_dropout_every_n_epochs: u64,

    /// How often each part of a caption is left out, 0 to 1; those kept by `keep_tokens` or `keep_tokens_separator` never are.
    pub caption_tag_dropout_rate: f64,

    /// Parts of a caption, behind those that are kept, at the start of the warm-up of `token_warmup_step`.
    pub token_warmup_min: u32,

    /// Captions grow from `token_warmup_min` parts to all of them over this many optimizer steps; less than 1: over this part
    /// of the run. 0: they are whole from the start.
    pub token_warmup_step: f64,

    /// How many forms a caption has where it is shuffled, dropped in parts or has choices: each image goes through this many, in
    /// turn from epoch to epoch, instead of a new one at each visit. It bounds what `data.cache_text_encoder_outputs` has to
    /// encode. `token_warmup_step` and `caption_dropout_every_n_epochs` go on as they do without. Absent: a new one each time.
    /// Typical: 10.
    #[schemars(extend("x-other-names" = ["text_variations"]))]
    pub caption_variants: Option<u64>,

    /// Text put in front of every caption, with one space.
    pub caption_prefix: Option<String>,

    /// Text put behind every caption, with one space.
    pub caption_suffix: Option<String>,

    /// Mirror images left to right half of the time. Not for text or faces that are not symmetric.
    #[schemars(extend("x-other-names" = ["flip_aug", "random_flip"]))]
    pub flip: bool,

    /// Cut at a random place instead of the centre where an image is larger than its bucket. Needs `data.cache_latents = false`, and
    /// `data.resize = "crop"`.
    #[schemars(extend("x-refused-names" = {
        "face_crop_aug_range": "crops around faces are not made: cut the images before, or use `random_crop = true`"
    }))]
    pub random_crop: bool,

    /// With `random_crop`, and with buckets off: cut out of the image as it is, without scaling it to the resolution before. Images with
    /// a side shorter than the resolution's are left out by name. kohya's scripts do so, and a dataset file of theirs sets it.
    pub crop_unscaled: bool,

    /// Change colours at random each time an image is seen. Absent: never. Needs `data.cache_latents = false`.
    #[schemars(extend("x-other-names" = ["color_aug"]))]
    pub color_augmentation: Option<ColorAugmentation>,

    /// How the images of this folder are scaled. Absent: as `data.resize_kernel` says.
    #[schemars(extend("x-other-names" = ["resize_interpolation"]))]
    pub resize_kernel: Option<ResizeKernel>,

    /// Take the alpha channel as loss mask: what is transparent is not learned, what is half transparent half as much. Images
    /// without one are trained whole. `[loss]` says what is outside of the mask. With `inpainting.masks = "files"` it is no loss mask but
    /// says what is covered: what is at least half opaque.
    pub alpha_mask: bool,

    /// Masks, control images and the like, a list: `[[data.subsets.extra_images]]`.
    #[schemars(extend("x-other-names" = ["conditioning_data_dir", "control_path", "mask_path"]))]
    pub extra_images: Vec<ExtraImages>,

    /// Caption of images that have no caption file. Absent: `data.caption.missing` says what happens.
    #[schemars(extend("x-other-names" = ["instance_prompt", "class_prompt"]))]
    pub class_tokens: Option<String>,

    /// Several captions for an image, in files beside it or in columns of its table, Parquet file or shard, of which one is chosen
    /// each time the image is seen, as often as its `weight` says: long written descriptions beside short original ones, for
    /// instance. An image that lacks some of them chooses among the others. Absent: the one file that ends in
    /// `caption_extension`, or the one column that `caption_column` names.
    pub captions: Vec<CaptionFile>,
}

/// One of several captions of an image: a file beside it (`extension`), or a cell of a column (`column`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionFile {
    /// Ending of these caption files, such as `".long"` or `".tags.txt"`, beside the images of a folder or among the entries of a
    /// shard. One of `extension` and `column` is set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub extension: String,

    /// Column of the table or of the Parquet files that holds these captions; for `"webdataset"` the ending of its entry, or a key of
    /// its `.json` entry. A list of captions becomes the lines of one. Absent: `extension` says where they are.
    pub column: Option<String>,

    /// How often they are chosen, in proportion to the weights of the others: 95 and 5 are the same as 0.95 and 0.05.
    pub weight: f64,
}

impl Default for CaptionFile {
    fn default() -> Self {
        CaptionFile { extension: String::new(), column: None, weight: 1.0 }
    }
}

impl CaptionFile {
    /// What tells it from the others: its column, or the ending of its files.
    pub fn name(&self) -> &str {
        self.column.as_deref().unwrap_or(&self.extension)
    }
}

impl Default for Subset {
    fn default() -> Self {
        Subset {
            path: PathBuf::new(),
            format: SourceFormat::Auto,
            recursive: true,
            metadata_file: None,
            image_column: None,
            caption_column: None,
            conditioning_image_column: None,
            repeats: 1.0,
            weight: None,
            is_regularization: false,
            loss_weight: 1.0,
            loss_weight_column: None,
            resolution: None,
            batch_size: None,
            bucketing: None,
            shuffle_caption: false,
            keep_tokens: 0,
            keep_tokens_separator: None,
            caption_extension: ".txt".to_owned(),
            caption_separator: ",".to_owned(),
            secondary_separator: None,
            enable_wildcard: false,
            caption_dropout_rate: 0.0,
            caption_dropout_every_n_epochs: 0,
            caption_tag_dropout_rate: 0.0,
            token_warmup_min: 1,
            token_warmup_step: 0.0,
            caption_variants: None,
            caption_prefix: None,
            caption_suffix: None,
            flip: false,
            random_crop: false,
            crop_unscaled: false,
            color_augmentation: None,
            resize_kernel: None,
            alpha_mask: false,
            extra_images: Vec::new(),
            class_tokens: None,
            captions: Vec::new(),
        }
    }
}

impl Subset {
    /// Whether anything is done to single parts of a caption, so that it is taken apart and put together again.
    pub fn changes_caption_parts(&self) -> bool {
        self.shuffle_caption || self.token_warmup_step > 0.0 || self.caption_tag_dropout_rate > 0.0
    }

    /// Endings of the caption files of an image, with their dots, or the columns in their place; the place of one is the number of
    /// its source.
    pub fn caption_extensions(&self) -> Vec<String> {
        match self.captions.as_slice() {
            [] => vec![self.caption_extension.clone()],
            files => files.iter().map(|file| file.name().to_owned()).collect(),
        }
    }
}

/// Aspect-ratio buckets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BucketingConfig {
    /// Sort images into buckets by their shape. Off: every image is cut to the `resolution`.
    #[schemars(extend("x-other-names" = ["enable_bucket"]))]
    pub enabled: bool,

    /// Shortest side of a bucket in pixels. Absent: half of the shorter side of the `resolution`.
    #[schemars(extend("x-other-names" = ["min_bucket_reso"]))]
    pub min: Option<u32>,

    /// Longest side of a bucket in pixels. Absent: twice the longer side of the `resolution`.
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
    /// They wait for the next epoch and come first in it: every batch is full, and no image is seen more or less often than
    /// its `repeats` in the long run. An epoch may then have a batch more or less than the one before.
    Carry,
    /// They are left out of this epoch; in the next one, whose order is another, it is the turn of others.
    Drop,
}
