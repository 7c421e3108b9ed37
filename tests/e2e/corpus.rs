//! What the corpus of bad images (`crates/cli/tests/bad_input`) is made of, for a program that reads them: their files alone.

use std::path::Path;

/// How the corpus judges a file; what it says about it is judged there.
#[derive(Clone, Debug)]
pub enum Verdict {
    Accepted(&'static str),
    LeftOut(&'static str),
    LeftOutWhenRead(&'static str),
}

impl Verdict {
    /// A part of what is said about the file.
    pub fn words(&self) -> &'static str {
        let (Verdict::Accepted(words) | Verdict::LeftOut(words) | Verdict::LeftOutWhenRead(words)) = self;
        words
    }
}

/// A bad image, or an odd one.
pub struct Case {
    pub name: String,
    pub verdict: Verdict,
    /// Name and bytes; none where it is more than bytes.
    pub file: Option<(String, Vec<u8>)>,
}

impl Case {
    pub fn new(name: impl Into<String>, verdict: Verdict) -> Case {
        Case { name: name.into(), verdict, file: None }
    }

    pub fn image(self, name: &str, bytes: impl Into<Vec<u8>>) -> Case {
        Case { file: Some((name.to_owned(), bytes.into())), ..self }
    }

    /// Files with holes are too long to be copied about.
    pub fn prepare(self, _: fn(&Path)) -> Case {
        Case { file: None, ..self }
    }
}
