//! What can go wrong while a model is built, loaded or saved.

use sdtrain_state_dict::Dtype;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A `config.json` asks for something this network does not have, or sizes that do not fit.
    #[error("{0}")]
    Config(String),
    /// Tensors that the network needs are not in the file.
    #[error("`{}`: {} tensors are missing, the first are {}", path.display(), names.len(), listed(names))]
    MissingTensors {
        /// The file or folder.
        path: PathBuf,
        /// Their diffusers names.
        names: Vec<String>,
    },
    /// A file that is read again has become another.
    #[error("`{}` is another file than the one that was loaded: its `{name}` differs; put the old one back and start again", path.display())]
    Changed {
        /// The file or folder.
        path: PathBuf,
        /// The first tensor that differs, by its diffusers name.
        name: String,
    },
    /// A tensor has another shape than its `config.json` says.
    #[error("`{}`: tensor `{name}` has shape {found:?}; the configuration asks for {expected:?}", path.display())]
    WrongShape {
        /// The file or folder.
        path: PathBuf,
        /// Diffusers name.
        name: String,
        /// From the configuration.
        expected: Vec<i64>,
        /// In the file.
        found: Vec<i64>,
    },
    /// A tensor is stored in a dtype that no network uses.
    #[error("`{}`: tensor `{name}` is stored as {dtype:?}, which a network cannot use", path.display())]
    Dtype {
        /// The file or folder.
        path: PathBuf,
        /// Diffusers name.
        name: String,
        /// How it is stored.
        dtype: Dtype,
    },
    /// The checkpoint is of another kind than the one asked for.
    #[error("{0}")]
    Family(String),
    /// A problem of the file format.
    #[error(transparent)]
    StateDict(#[from] sdtrain_state_dict::Error),
    /// A problem of the tokenizer's files.
    #[error(transparent)]
    Tokenizer(#[from] sdtrain_tokenizer::Error),
    /// A problem of the scheduler's configuration.
    #[error(transparent)]
    Scheduler(#[from] sdtrain_diffusion::Error),
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

fn listed(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(5).map(|n| format!("`{n}`")).collect();
    first.join(", ")
}
