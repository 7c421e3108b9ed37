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
    /// The model made numbers that are no picture.
    #[error("the picture of seed {seed} is not finite: the model overflowed in this precision")]
    NotFinite {
        /// The picture's seed.
        seed: u64,
    },
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
