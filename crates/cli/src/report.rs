//! An error as the user reads it: what, where, the way out, and the exit code it leads to.

use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use sdtrain_config::{Problem, Problems};
use sdtrain_data_loader::DataError;
use sdtrain_files::say_last;
use sdtrain_signals::{LAST_WORDS, end_at_once_with, has_been_asked_to_stop};

use crate::ExitCode;

/// So long the program waits until somebody takes why it failed, behind `| less` or Ctrl-S: that is said once, and the work is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a command ended without doing what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Every problem, in the order it is shown; empty when everything has been said already.
    pub problems: Problems,
    /// What the program ends with.
    pub code: ExitCode,
}

impl Failure {
    /// One problem.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Failure {
        Failure { problems: Problem::new(message).into(), code }
    }

    /// The same with a way out for its last problem.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        if let Some(problem) = self.problems.0.last_mut() {
            problem.hint = Some(hint.into());
        }
        self
    }

    /// The same with a way out, if there is one.
    pub fn maybe_hint(self, hint: Option<String>) -> Failure {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// Puts the problems of another failure behind these; the exit code stays.
    pub fn and(mut self, other: Failure) -> Failure {
        self.problems.0.extend(other.problems.0);
        self
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure { problems, code: ExitCode::Configuration }
    }
}

impl From<sdtrain_ranks::Contradiction> for Failure {
    fn from(contradiction: sdtrain_ranks::Contradiction) -> Failure {
        Failure::new(ExitCode::Configuration, contradiction.table()).hint(contradiction.hint)
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Failure {
        let problem = |error: &DataError| Problem { hint: error.hint(), ..Problem::new(error.to_string()) };
        let is_of_disk = error.each().iter().any(|error| matches!(error, DataError::Disk { .. }));
        let code = if is_of_disk { ExitCode::Storage } else { ExitCode::Data };
        Failure { problems: Problems(error.each().into_iter().map(problem).collect()), code }
    }
}

impl From<sdtrain_tokenizer::Error> for Failure {
    fn from(error: sdtrain_tokenizer::Error) -> Failure {
        let code = match error {
            sdtrain_tokenizer::Error::MaxTokenLength { .. } => ExitCode::Configuration,
            _ => ExitCode::Model,
        };
        Failure::new(code, error.to_string()).maybe_hint(error.hint())
    }
}

impl From<sdtrain_checkpoint::Error> for Failure {
    fn from(error: sdtrain_checkpoint::Error) -> Failure {
        let code = match (&error, error.storage_error()) {
            (sdtrain_checkpoint::Error::Locked { .. }, _) => ExitCode::FolderInUse,
            (_, Some(_)) => ExitCode::Storage,
            _ => ExitCode::Model,
        };
        let too_large = || {
            let is_it = error.storage_error()?.kind() == ErrorKind::FileTooLarge;
            let hint =
                "lift the limit on the size of files (`ulimit -f unlimited`), or choose another disk with `--output`";
            is_it.then(|| hint.to_owned())
        };
        Failure::new(code, error.to_string()).maybe_hint(error.hint().or_else(too_large))
    }
}

impl From<sdtrain_state_dict::Error> for Failure {
    fn from(error: sdtrain_state_dict::Error) -> Failure {
        let code = if error.is_storage() { ExitCode::Storage } else { ExitCode::Model };
        let hint = error.hint();
        Failure::new(code, error.to_string()).maybe_hint(hint)
    }
}

/// Writes what was asked for to stdout. A reader that has seen enough, as `head` does, is no mistake.
pub fn print_answer(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Runs a program's work and turns its outcome into the exit code, after showing what went wrong, once.
pub fn finish(work: impl FnOnce() -> Result<(), Failure>) -> std::process::ExitCode {
    let (code, words) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => (ExitCode::Done, String::new()),
        Ok(Err(failure)) => (failure.code, words_of(&failure)),
        // The panic has been shown already, with its place.
        Err(_) => (ExitCode::Internal, String::new()),
    };
    // Also where there are none: lines before them may not have been taken.
    say_last(&words, || patience_with(code));
    code.into()
}

/// A failure as it is shown; nothing where everything has been said already.
fn words_of(failure: &Failure) -> String {
    if failure.problems.0.is_empty() { String::new() } else { format!("{}\n", failure.problems) }
}

/// How long the end with `code` waits until the last words are taken. A failure is worth more than a moment, unless whoever asked the
/// program to stop waits for its end, or nobody could end the waiting.
fn patience_with(code: ExitCode) -> Duration {
    let has_failed = !matches!(code, ExitCode::Done | ExitCode::Stopped | ExitCode::Interrupted);
    match has_failed && !has_been_asked_to_stop() && end_at_once_with(code as i32).is_ok() {
        true => PATIENCE,
        false => LAST_WORDS,
    }
}
