//! What can go wrong while features are made, kept and read.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The images or captions.
    #[error(transparent)]
    Data(#[from] sdtrain_data_loader::DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] sdtrain_model::Error),
    /// The folder that keeps them.
    #[error(transparent)]
    Cache(#[from] sdtrain_feature_cache::Error),
    /// libtorch.
    #[error(transparent)]
    Torch(#[from] sdtrain_torch::Error),
    /// The autoencoder overflowed.
    #[error("the autoencoder's latents of `{}` are not finite", image.display())]
    LatentsNotFinite {
        /// The image.
        image: PathBuf,
    },
    /// The text encoder overflowed.
    #[error("the text encoder's states of `{text}` are not finite")]
    StatesNotFinite {
        /// The text.
        text: String,
    },
    /// A network that is not one.
    #[error("the {network} has no weights that encode")]
    NoEncoder {
        /// Which.
        network: &'static str,
    },
    /// An image that is no longer what it was.
    #[error("`{}` {reason}", path.display())]
    Image {
        /// Its file.
        path: PathBuf,
        /// What happened to it.
        reason: &'static str,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The way out, where there is one to point at.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Data(error) => error.hint(),
            Error::Cache(error) => error.hint(),
            Error::LatentsNotFinite { .. } => Some(
                "compute in `bf16` or `fp32` (`precision.compute`), or set `model.vae` to one that is made for `fp16`"
                    .to_owned(),
            ),
            Error::StatesNotFinite { .. } => Some("compute in `bf16` or `fp32` (`precision.compute`)".to_owned()),
            Error::NoEncoder { .. } => Some("set `model.path`, or `model.vae`, to a whole one".to_owned()),
            Error::Image { .. } => Some("leave the images alone while a run reads them, and start it again".to_owned()),
            Error::Model(_) | Error::Torch(_) => None,
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        Error::Torch(error.into())
    }
}
