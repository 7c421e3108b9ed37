//! What can be wrong with a scheduler configuration or a request for a sampler.

use std::path::PathBuf;

/// An error of this crate; the file it came from is named where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a scheduler configuration.
    #[error("{}{source}", place(path.as_ref()))]
    Parse {
        /// The file, if the text came from one.
        path: Option<PathBuf>,
        /// Where and why.
        source: serde_json::Error,
    },
    /// `_class_name` names a scheduler that is not offered.
    #[error("scheduler class `{class}` is not supported")]
    UnknownClass {
        /// The name found.
        class: String,
    },
    /// The configuration has no `_class_name`, and no sampler was named.
    #[error("the scheduler configuration has no `_class_name`")]
    NoClass,
    /// A key has a value that this program does not implement for the class.
    #[error("{class}: `{key} = {value}` is not supported")]
    Unsupported {
        /// The scheduler class.
        class: &'static str,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// More (or fewer) steps were asked for than the schedule has room for.
    #[error("{class} cannot take {steps} steps over {num_train_timesteps} training timesteps{reason}")]
    Steps {
        /// The scheduler class.
        class: &'static str,
        /// Steps asked for.
        steps: usize,
        /// Length of the training schedule.
        num_train_timesteps: usize,
        /// Why, beginning with a colon, or empty.
        reason: &'static str,
    },
    /// A schedule that cannot be computed with.
    #[error("the noise schedule is invalid: {0}")]
    Schedule(String),
}

fn place(path: Option<&PathBuf>) -> String {
    path.map(|path| format!("`{}`: ", path.display())).unwrap_or_default()
}

impl Error {
    /// The way out, where there is one to point at.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::UnknownClass { .. } | Error::NoClass => Some(format!(
                "supported classes: {}; or choose a sampler: {}",
                crate::SchedulerClass::ALL.map(|class| class.name()).join(", "),
                crate::sampler::names()
            )),
            Error::Unsupported { supported, .. } => Some((*supported).to_owned()),
            Error::Steps { .. } => Some("choose another number of steps".to_owned()),
            _ => None,
        }
    }
}
