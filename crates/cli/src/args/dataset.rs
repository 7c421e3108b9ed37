//! Arguments of `sdtrain dataset`: inspect, clean, cache.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use sdtrain_recipe::{Duplicates, MissingDpi};

use super::{ConfigArgs, DeviceName};

/// Arguments of `sdtrain dataset`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct DatasetArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DatasetCommand,
}

/// What can be done with a folder of images.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum DatasetCommand {
    /// Say what images, captions, buckets and copies there are, and what a run would leave out
    Inspect(DatasetInspectArgs),
    /// Take out images that a training is better without: shows them, moves them with --apply, never deletes
    Clean(DatasetCleanArgs),
    /// Encode the images of a configuration, and with `data.cache_text_encoder_outputs` its captions, ahead of its run, into
    /// `data.cache_dir`
    Cache(DatasetCacheArgs),
}

/// Arguments of `sdtrain dataset cache`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct DatasetCacheArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,

    /// Take latents that kohya's scripts left beside the images (`NAME_0512x0768_sd.npz`, `NAME.npz`) where their sizes and crop
    /// are those of the image here. Such a file holds one draw: there is no randomness left in it. It does not say which
    /// autoencoder made it: give this option only where it was the one of the configuration
    #[arg(long)]
    pub import_npz: bool,

    /// Afterwards delete the entries that this configuration does not use and that are more than an hour old
    #[arg(long)]
    pub prune: bool,

    /// With `--prune`: another configuration that uses the same folder, whose entries stay; can be repeated
    #[arg(long, value_name = "FILE", requires = "prune")]
    pub keep_for: Vec<PathBuf>,

    /// Where to compute
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: DeviceName,
}

/// Arguments of `sdtrain dataset inspect`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct DatasetInspectArgs {
    /// Folder of images and captions
    #[arg(value_name = "FOLDER", required_unless_present = "config", conflicts_with = "config")]
    pub folder: Option<PathBuf>,

    /// Configuration whose `[data]` is looked at
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Change one key of the configuration; can be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,

    /// Read headers only: faster, but without copies, sharpness and files that are broken inside
    #[arg(long)]
    pub quick: bool,

    /// Answer in JSON
    #[arg(long)]
    pub json: bool,

    /// Write a page with pictures and charts to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of `sdtrain dataset clean`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct DatasetCleanArgs {
    /// Folder of images and captions
    #[arg(value_name = "FOLDER", required_unless_present_any = ["config", "undo"], conflicts_with = "config")]
    pub folder: Option<PathBuf>,

    /// Configuration whose `[data]` is cleaned as its `[data.clean]` says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Change one key of the configuration; can be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,

    /// Move the images; without it they are only shown
    #[arg(long)]
    pub apply: bool,

    /// Folder that they go to [default: FOLDER-removed, beside the data]
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,

    /// Move everything back that a manifest names
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["folder", "config", "apply", "to"])]
    pub undo: Option<PathBuf>,

    /// Answer in JSON
    #[arg(long)]
    pub json: bool,

    /// The rules.
    #[command(flatten)]
    pub options: CleanOptions,
}

/// The keys of `[data.clean]` as options; they win over the configuration.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Rules (0 switches one off)")]
pub struct CleanOptions {
    /// Shorter side in pixels [default: 512]
    #[arg(long, value_name = "PIXELS")]
    pub min_side: Option<u32>,

    /// Longer side in pixels [default: 1024]
    #[arg(long, value_name = "PIXELS")]
    pub max_side: Option<u32>,

    /// Kilobytes of the file for each pixel [default: 0.0005]
    #[arg(long, value_name = "NUMBER")]
    pub min_kilobytes_per_pixel: Option<f64>,

    /// Bytes of a kilobyte: 1024 or 1000 [default: 1024]
    #[arg(long, value_name = "BYTES")]
    pub kilobyte: Option<u32>,

    /// Dots an inch [default: 96]
    #[arg(long, value_name = "NUMBER")]
    pub min_dpi: Option<f64>,

    /// What happens to images that state no dots an inch [default: keep]
    #[arg(long, value_name = "keep|drop")]
    pub missing_dpi: Option<MissingDpiOption>,

    /// How many times the shorter side the longer one may be [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub max_aspect: Option<f64>,

    /// Variance of the Laplacian; less is blurred [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub min_sharpness: Option<f64>,

    /// Which copies of an image are taken out [default: near]
    #[arg(long, value_name = "keep|exact|near")]
    pub duplicates: Option<DuplicatesOption>,

    /// Differing bits of 64 up to which two images are nearly the same [default: 4]
    #[arg(long, value_name = "BITS")]
    pub duplicate_distance: Option<u32>,

    /// Take out images that cannot be decoded [default: true]
    #[arg(long, value_name = "true|false")]
    pub broken: Option<bool>,
}

/// `--missing-dpi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MissingDpiOption {
    /// They stay
    Keep,
    /// They are taken out
    Drop,
}

impl From<MissingDpiOption> for MissingDpi {
    fn from(option: MissingDpiOption) -> MissingDpi {
        match option {
            MissingDpiOption::Keep => MissingDpi::Keep,
            MissingDpiOption::Drop => MissingDpi::Drop,
        }
    }
}

/// `--duplicates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DuplicatesOption {
    /// None
    Keep,
    /// Files with the same bytes
    Exact,
    /// Those, and images that look the same
    Near,
}

impl From<DuplicatesOption> for Duplicates {
    fn from(option: DuplicatesOption) -> Duplicates {
        match option {
            DuplicatesOption::Keep => Duplicates::Keep,
            DuplicatesOption::Exact => Duplicates::Exact,
            DuplicatesOption::Near => Duplicates::Near,
        }
    }
}
