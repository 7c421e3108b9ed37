//! What can go wrong with an adapter.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No layer of the model matches the targets.
    #[error("`lora.targets` matches no layer of the model: {}", .0.join(", "))]
    NoTargets(Vec<String>),
    /// A file has tensors for layers that the model lacks, or of other sizes.
    #[error("`{file}` does not fit the model: {reason}")]
    DoesNotFit {
        /// The adapter's file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A form of file that cannot hold an adapter.
    #[error("the adapter of `{layer}` cannot be written: {reason}")]
    NoPlace {
        /// The layer's full path.
        layer: String,
        /// Why.
        reason: String,
    },
    /// A tensor that cannot be read.
    #[error(transparent)]
    Model(#[from] sdtrain_model::Error),
    /// A problem of the file format.
    #[error(transparent)]
    StateDict(#[from] sdtrain_state_dict::Error),
    /// A problem inside libtorch.
    #[error(transparent)]
    Torch(#[from] sdtrain_torch::Error),
}

impl Error {
    /// The way out, where there is one to point at.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoTargets(_) => {
                Some("patterns are matched against paths such as `unet.mid_block.attentions.0.proj_in`".into())
            }
            Error::DoesNotFit { .. } => Some("it was probably made for another base model".into()),
            Error::NoPlace { .. } => Some("set `lora.format` to the other form".into()),
            Error::StateDict(error) => error.hint(),
            Error::Model(_) | Error::Torch(_) => None,
        }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        Error::Torch(error.into())
    }
}
