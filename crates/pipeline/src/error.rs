//! What can go wrong while a picture is made.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The picture's sides do not fit the model.
    #[error("pictures of {width} × {height} pixels cannot be made: both sides must be multiples of {step}")]
    Size {
        /// Asked for.
        width: u32,
        /// Asked for.
        height: u32,
        /// What the VAE needs.
        step: usize,
    },
    /// A picture to start from, or its mask, is not of the size that is asked for.
    #[error("the {what} is {} × {} pixels, and a picture of {} × {} is asked for", found.0, found.1, wanted.0, wanted.1)]
    InitSize {
        /// Which of them.
        what: &'static str,
        /// Its width and height.
        found: (u32, u32),
        /// Width and height that are asked for.
        wanted: (u32, u32),
    },
    /// A strength that is none.
    #[error("the strength must be greater than 0 and at most 1, not {strength}")]
    Strength {
        /// Asked for.
        strength: f64,
    },
    /// So little of the steps is to be walked that none is left.
    #[error("with a strength of {strength} none of {steps} steps is left")]
    NoStep {
        /// Asked for.
        steps: usize,
        /// Asked for.
        strength: f64,
    },
    /// A mask that covers nothing.
    #[error("the mask leaves nothing to paint: {reason}")]
    NothingMasked {
        /// Why not.
        reason: &'static str,
    },
    /// A model that goes on from pictures, without one.
    #[error("the {family} goes on from a picture and makes none of noise alone")]
    NeedsPicture {
        /// Which.
        family: &'static str,
    },
    /// A UNet for inpainting without a mask for its picture.
    #[error("the model is made for inpainting: a picture to start from needs a mask")]
    NeedsMask,
    /// The model made numbers that are no picture.
    #[error("the picture of seed {seed} is not finite: the model overflowed in this precision")]
    NotFinite {
        /// The picture's seed.
        seed: u64,
    },
    /// Whoever asked for the picture does not want it any more.
    #[error("the picture was broken off")]
    BrokenOff,
    /// A picture cannot be written.
    #[error("cannot write `{}`: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A picture cannot be read.
    #[error("cannot read `{}`: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A problem of the sampler.
    #[error(transparent)]
    Sampler(#[from] sdtrain_diffusion::Error),
    /// A problem of the model.
    #[error(transparent)]
    Model(#[from] sdtrain_model::Error),
    /// A problem inside libtorch.
    #[error(transparent)]
    Torch(#[from] sdtrain_torch::Error),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        Error::Torch(error.into())
    }
}
