//! What can go wrong in an evaluation.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is nothing an evaluation can measure.
    #[error("`{}` is {kind}; only whole models, LoRA files and learned words can be evaluated, and VAEs with `method = \"vae\"`", path.display())]
    NoProduct {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: String,
    },
    /// The held-out images.
    #[error(transparent)]
    Data(#[from] sdtrain_data_loader::DataError),
    /// Encoding the held-out images.
    #[error(transparent)]
    Features(#[from] sdtrain_features::Error),
    /// A model's files.
    #[error(transparent)]
    Model(#[from] sdtrain_model::Error),
    /// An adapter file.
    #[error(transparent)]
    Adapter(#[from] sdtrain_adapter::Error),
    /// Sampling.
    #[error(transparent)]
    Pipeline(#[from] sdtrain_pipeline::Error),
    /// The scheduler's configuration.
    #[error(transparent)]
    Scheduler(#[from] sdtrain_diffusion::Error),
    /// A file of tensors.
    #[error(transparent)]
    StateDict(#[from] sdtrain_state_dict::Error),
    /// libtorch.
    #[error(transparent)]
    Torch(#[from] sdtrain_torch::Error),
    /// The files of an evaluation.
    #[error(transparent)]
    Storage(#[from] sdtrain_checkpoint::Error),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The way out, where there is one to point at.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Data(error) => error.hint(),
            Error::Features(error) => error.hint(),
            Error::Adapter(error) => error.hint(),
            Error::Scheduler(error) => error.hint(),
            Error::StateDict(error) => error.hint(),
            Error::NoProduct { .. } | Error::Model(_) | Error::Pipeline(_) | Error::Torch(_) | Error::Storage(_) => {
                None
            }
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        Error::Torch(error.into())
    }
}
