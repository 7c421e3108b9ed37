//! How processes ended, and what the launcher ends with for it.

use std::fmt;

use nix::sys::signal::Signal;

use crate::ExitCode;

/// The end of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub rank: usize,
    pub pid: u32,
    pub how: How,
}

/// Whether a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} (process {}) ", self.rank, self.pid)?;
        match self.how {
            How::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(formatter, "was ended by {signal}"),
                Err(_) => write!(formatter, "was ended by signal {number}"),
            },
            How::Code(code) => match ExitCode::of_number(code) {
                Some(known) => write!(formatter, "ended with exit code {code}: {}", known.meaning()),
                None => write!(formatter, "ended with exit code {code}"),
            },
        }
    }
}

impl How {
    /// The exit code that stands for it. That of a process which a signal ended is the one of whoever misses it.
    pub fn code(self) -> ExitCode {
        match self {
            How::Code(code) => ExitCode::of_number(code).unwrap_or(ExitCode::Internal),
            How::Signal(_) => ExitCode::Rank,
        }
    }
}

/// What has become of all processes of one start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Those that failed before the launcher stopped the others, in the order in which they ended.
    pub failures: Vec<End>,
    /// At least one was stopped and has saved.
    pub was_stopped: bool,
    /// Whoever called the launcher has asked for a stop.
    pub stop_was_asked: bool,
}

impl Outcome {
    /// The failure that tells most: the first one, unless it only says that another rank failed.
    pub fn cause(&self) -> Option<&End> {
        self.failures.iter().find(|end| end.how.code() != ExitCode::Rank).or(self.failures.first())
    }

    pub fn exit_code(&self) -> ExitCode {
        match self.cause() {
            Some(end) => end.how.code(),
            None if self.was_stopped => ExitCode::Stopped,
            None => ExitCode::Done,
        }
    }

    /// Whether another start could end better.
    pub fn is_worth_a_restart(&self) -> bool {
        let code = self.exit_code();
        // What was wrong is wrong again: keys, data, files, numbers out of bounds, memory and disk that do not suffice, a folder that
        // is another's, our faults.
        let is_final = matches!(
            code,
            ExitCode::Configuration
                | ExitCode::Data
                | ExitCode::Model
                | ExitCode::NonFinite
                | ExitCode::DeviceMemory
                | ExitCode::Storage
                | ExitCode::FolderInUse
                | ExitCode::Internal
                | ExitCode::Interrupted
        );
        !self.failures.is_empty() && !self.stop_was_asked && !is_final
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(hows: &[How]) -> Outcome {
        let end = |(rank, &how): (usize, &How)| End { rank, pid: 100, how };
        Outcome { failures: hows.iter().enumerate().map(end).collect(), ..Outcome::default() }
    }

    #[test]
    fn the_first_failure_counts_unless_it_only_speaks_of_another() {
        const KILLED: How = How::Signal(9);
        for (hows, code, rank) in [
            (&[How::Code(5), How::Code(8)][..], ExitCode::NonFinite, 0),
            (&[How::Code(8), How::Code(5), How::Code(3)], ExitCode::NonFinite, 1),
            (&[KILLED, How::Code(8)], ExitCode::Rank, 0),
            (&[KILLED, How::Code(8), How::Code(6)], ExitCode::DeviceMemory, 2),
            (&[How::Code(8), How::Code(8)], ExitCode::Rank, 0),
            (&[How::Code(101)], ExitCode::Internal, 0),
        ] {
            let outcome = outcome(hows);
            assert_eq!((outcome.exit_code(), outcome.cause().map(|end| end.rank)), (code, Some(rank)), "{hows:?}");
        }
        let stopped = Outcome { was_stopped: true, ..Outcome::default() };
        assert_eq!((Outcome::default().exit_code(), stopped.exit_code()), (ExitCode::Done, ExitCode::Stopped));
    }

    #[test]
    fn only_what_may_go_better_is_started_again() {
        assert!(outcome(&[How::Signal(9)]).is_worth_a_restart() && outcome(&[How::Code(8)]).is_worth_a_restart());
        assert!(!outcome(&[]).is_worth_a_restart());
        for code in [2, 3, 4, 5, 6, 7, 9, 70] {
            assert!(!outcome(&[How::Code(code)]).is_worth_a_restart(), "{code}");
        }
        let asked = Outcome { stop_was_asked: true, ..outcome(&[How::Signal(9)]) };
        assert!(!asked.is_worth_a_restart());
    }

    #[test]
    fn an_end_says_who_and_how() {
        let end = |how| End { rank: 3, pid: 77, how }.to_string();
        assert_eq!(end(How::Signal(11)), "rank 3 (process 77) was ended by SIGSEGV");
        assert_eq!(end(How::Signal(40)), "rank 3 (process 77) was ended by signal 40");
        assert_eq!(end(How::Code(5)), "rank 3 (process 77) ended with exit code 5: numbers that are not finite");
        assert_eq!(end(How::Code(101)), "rank 3 (process 77) ended with exit code 101");
    }
}
