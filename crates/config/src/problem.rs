//! What is wrong with a configuration, where, and the way out.

use std::fmt;
use std::path::PathBuf;

/// One mistake: what, where, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in; absent for a mistake on the command line.
    pub file: Option<PathBuf>,
    /// Line in that file, counted from 1; absent for something that is missing altogether.
    pub line: Option<usize>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake that is not in a file.
    pub fn new(message: impl Into<String>) -> Problem {
        Problem { file: None, line: None, message: message.into(), hint: None }
    }

    /// Its place in the order of files and lines; what has no line comes last.
    pub fn place(&self) -> impl Ord + use<'_> {
        (self.line.is_none(), &self.file, self.line)
    }

    /// The same with a way out.
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(formatter, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(formatter, "{line}:")?;
            }
            formatter.write_str(" ")?;
        }
        formatter.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(formatter, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Every mistake found in one reading, in the order of files and lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Sorts by file and line; what has no line comes last.
    pub fn sorted(mut self) -> Problems {
        self.0.sort_by(|a, b| a.place().cmp(&b.place()));
        self
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Problems {
        Problems(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "error: {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
