//! Looks variables up, and remembers what was made of them.

use std::str::FromStr;

use crate::{Contradiction, Mistake, Reason};

/// One reading of a process's variables.
pub(crate) struct Reading<'a> {
    variables: &'a dyn Fn(&str) -> Option<String>,
    reasons: Vec<Reason>,
    mistakes: Vec<Mistake>,
    hint: Option<String>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(variables: &'a dyn Fn(&str) -> Option<String>) -> Reading<'a> {
        Reading { variables, reasons: Vec::new(), mistakes: Vec::new(), hint: None }
    }

    /// What a variable is set to. An empty one counts as not set, as manifests and scripts leave them.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        (self.variables)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// The first of these that is set.
    pub(crate) fn first_set(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.is_set(name))
    }

    /// A number; anything else is refused, and counts as not set.
    pub(crate) fn number(&mut self, name: &str) -> Option<usize> {
        self.parsed(name, "is not a whole number from 0 on")
    }

    /// A number of processes or nodes.
    pub(crate) fn count(&mut self, name: &str) -> Option<usize> {
        let number = self.parsed(name, "is not a whole number from 1 on")?;
        if number == 0 {
            self.refuse(name, "must be at least 1");
            return None;
        }
        Some(number)
    }

    pub(crate) fn port(&mut self, name: &str) -> Option<u16> {
        let port = self.parsed(name, "is not a port, a number from 1 to 65535")?;
        if port == 0 {
            self.refuse(name, "is not a port, a number from 1 to 65535");
            return None;
        }
        Some(port)
    }

    /// A value of any type; one that cannot be read is refused with `why`.
    pub(crate) fn parsed<T: FromStr>(&mut self, name: &str, why: &str) -> Option<T> {
        let value = self.text(name)?.parse().ok();
        if value.is_none() {
            self.refuse(name, why);
        }
        value
    }

    /// What was made of a variable that is set; nothing of one that is not.
    pub(crate) fn note(&mut self, name: &str, meaning: impl Into<String>) {
        if let Some(value) = self.text(name) {
            self.reasons.push(Reason { variable: name.to_owned(), value, meaning: meaning.into() });
        }
    }

    pub(crate) fn refuse(&mut self, name: &str, why: impl Into<String>) {
        let mistake = Mistake { variable: name.to_owned(), value: self.text(name), why: why.into() };
        if !self.mistakes.iter().any(|known| known.variable == name) {
            self.mistakes.push(mistake);
        }
    }

    /// The way out for what is refused; the first one counts.
    pub(crate) fn hint(&mut self, hint: &str) {
        self.hint.get_or_insert_with(|| hint.to_owned());
    }

    /// The reasons, unless something was refused.
    pub(crate) fn finish(self) -> Result<Vec<Reason>, Contradiction> {
        if self.mistakes.is_empty() {
            return Ok(self.reasons);
        }
        let hint = self.hint.unwrap_or_else(|| {
            "`sdtrain env` shows what is recognised; for a single process `unset` these variables".to_owned()
        });
        Err(Contradiction { mistakes: self.mistakes, hint })
    }
}
