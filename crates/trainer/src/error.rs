//! What can go wrong in a run.

use std::path::PathBuf;

/// An error of a run; each kind has its own exit code in the command line program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something in the configuration cannot be done.
    #[error("{message}")]
    Config {
        /// What, with the key.
        message: String,
        /// The way out.
        hint: Option<String>,
    },
    /// The images or captions.
    #[error(transparent)]
    Data(#[from] sdtrain_data_loader::DataError),
    /// The model's files.
    #[error(transparent)]
    Model(#[from] sdtrain_model::Error),
    /// An adapter file.
    #[error(transparent)]
    Adapter(#[from] sdtrain_adapter::Error),
    /// Sampling.
    #[error(transparent)]
    Pipeline(#[from] sdtrain_pipeline::Error),
    /// Evaluating.
    #[error(transparent)]
    Evaluate(#[from] sdtrain_evaluate::Error),
    /// The scheduler's configuration.
    #[error(transparent)]
    Scheduler(#[from] sdtrain_diffusion::Error),
    /// A file of tensors.
    #[error(transparent)]
    StateDict(#[from] sdtrain_state_dict::Error),
    /// Latents and text states, and the folder that keeps them.
    #[error(transparent)]
    Features(#[from] sdtrain_features::Error),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] sdtrain_checkpoint::Error),
    /// A checkpoint that cannot be continued from.
    #[error("cannot continue from `{}`: {reason}", checkpoint.display())]
    CannotContinue {
        /// Its folder.
        checkpoint: PathBuf,
        /// Why not.
        reason: String,
    },
    /// libtorch.
    #[error(transparent)]
    Torch(#[from] sdtrain_torch::Error),
    /// The loss or a gradient is not a number any more.
    #[error("the loss or gradient of step {step} is not finite (batch of {})", .images.join(", "))]
    NotFinite {
        /// The optimizer step.
        step: u64,
        /// What it was trained on.
        images: Vec<String>,
    },
    /// Training has driven the weights out of all bounds.
    #[error("the weights after step {step} are not finite")]
    WeightsNotFinite {
        /// The optimizer step.
        step: u64,
    },
    /// The product's format has no room for a weight.
    #[error(
        "{count} weights are too large for fp16, which ends at 65504, and would be infinite in the product (first: `{first}`)"
    )]
    DoesNotFit {
        /// How many.
        count: u64,
        /// The first tensor that holds one.
        first: String,
    },
    /// A file or folder of the run.
    #[error("`{}`: {reason}", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The output folder was deleted or moved while the run went on, and another run has written there since.
    #[error("`{}` holds another run by now, which was begun after this run's folder was deleted or moved", folder.display())]
    TakenOver {
        /// The output folder.
        folder: PathBuf,
    },
    /// The ranks of a run cannot go on together.
    #[error("{0}")]
    Rank(String),
    /// The ranks of a run would not compute the same.
    #[error("the ranks of this run would not compute the same:{table}")]
    RanksDiffer {
        /// What differs, a line for each value, with the ranks that have it.
        table: String,
    },
    /// The output folder, or the checkpoint that was named, belongs to a run of another configuration.
    #[error("`{}` holds a run of another configuration; these keys differ: {}", folder.display(), keys.join(", "))]
    OtherRun {
        /// It.
        folder: PathBuf,
        /// Dotted keys.
        keys: Vec<String>,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        Error::Torch(error.into())
    }
}

impl Error {
    /// A file-system error at `path`.
    pub fn storage(path: impl Into<PathBuf>, error: impl std::fmt::Display) -> Error {
        Error::Storage { path: path.into(), reason: error.to_string() }
    }
}
