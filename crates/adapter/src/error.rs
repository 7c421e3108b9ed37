//! What can go wrong with an adapter.

use sdtrain_state_dict::{Family, FileKind};

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
        /// The family that its layers show it to be for.
        family: Option<Family>,
    },
    /// A file of something else.
    #[error("`{file}` is a {kind}, no adapter")]
    OtherKind {
        /// The file.
        file: String,
        /// What it is.
        kind: FileKind,
    },
    /// An adapter whose strength is no number.
    #[error("`{file}`: the adapter of `{layer}` has the alpha {alpha}, which is no number to scale it by")]
    NoScale {
        /// The adapter's file.
        file: String,
        /// The layer's full path.
        layer: String,
        /// NaN, or infinite.
        alpha: f64,
    },
    /// A file without learned words, or with such that cannot be used.
    #[error("`{file}` {reason}")]
    NoWords {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to begin a learned word with.
    #[error("`initial_words` of `{word}` are no words")]
    NoInitialWords {
        /// The learned word.
        word: String,
    },
    /// An adapter that is no plain LoRA, where only such can be told without the model.
    #[error("`{file}` is no plain LoRA: what its `{tensor}` changes depends on the model")]
    NeedsModel {
        /// The adapter's file.
        file: String,
        /// The first tensor that shows it.
        tensor: String,
    },
    /// A change that is not the product of two small matrices, where only such can be set one after the other.
    #[error("the change of `{0}` has no low rank, so that ranks cannot be set one after the other")]
    NotLowRank(String),
    /// A change of a bias, where only weights are changed.
    #[error("the bias of `{0}` changes, which a low-rank adapter has no place for")]
    ChangesBias(String),
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
            Error::DoesNotFit { family: Some(family), .. } => {
                Some(format!("it was made for a model of the {} family", family.title()))
            }
            Error::DoesNotFit { family: None, .. } => Some("it was probably made for another base model".into()),
            Error::OtherKind { kind: FileKind::TextualInversion { .. }, .. } => {
                Some("learned words are given with `--embedding`".into())
            }
            Error::OtherKind { .. } => None,
            Error::NoScale { .. } => {
                Some("the file is damaged, or its training went wrong; take an earlier one".into())
            }
            Error::NeedsModel { .. } => Some("name the model that it was trained on with `--model`".into()),
            Error::NotLowRank(_) => {
                Some("keep all of it with `--full-diff`, or set the rank of the result with `--rank`".into())
            }
            Error::ChangesBias(_) => Some("keep it with `--full-diff`, which writes whole differences".into()),
            Error::NoPlace { .. } => Some("set `lora.format` to the other form".into()),
            Error::StateDict(error) => error.hint(),
            Error::NoWords { .. } => None,
            Error::NoInitialWords { .. } => Some("name a thing that it is like, such as `cat`".into()),
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
