//! What does not fit when a file's tensors meet a model's parameters: all of it in one message.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, shown};
use crate::family::Family;
use crate::reader::Reader;

/// How many names of each kind the message shows.
const SHOWN: usize = 10;

/// The difference between the parameters of a model and the tensors of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// The file or folder.
    pub path: PathBuf,
    /// Parameters that the file lacks, with the shape they would need.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Tensors that the model does not have.
    pub unexpected: Vec<String>,
    /// Tensors of another shape: name, wanted, found.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl LoadReport {
    /// Compares the model's parameters with the file's tensors. Tensors for which `ignored` is true may be absent
    /// or present.
    pub fn compare(
        parameters: &BTreeMap<String, Vec<usize>>,
        reader: &dyn Reader,
        ignored: impl Fn(&str) -> bool,
    ) -> LoadReport {
        let mut report = LoadReport {
            path: reader.path().to_path_buf(),
            missing: Vec::new(),
            unexpected: Vec::new(),
            wrong_shape: Vec::new(),
        };
        for (name, shape) in parameters {
            match reader.info(name) {
                Some(info) if info.shape == *shape => {}
                Some(info) => report.wrong_shape.push((name.clone(), shape.clone(), info.shape.clone())),
                None if ignored(name) => {}
                None => report.missing.push((name.clone(), shape.clone())),
            }
        }
        for name in reader.names() {
            if !parameters.contains_key(name) && !ignored(name) {
                report.unexpected.push(name.to_string());
            }
        }
        report
    }

    /// The same for a network of a model, whose files may hold what no network is made of.
    pub fn of_network(parameters: &BTreeMap<String, Vec<usize>>, reader: &dyn Reader) -> LoadReport {
        // Whole CLIPs have a projection, which a text encoder without one leaves where it is.
        let is_left = |name: &str| name.starts_with("text_projection.") && !parameters.contains_key(name);
        LoadReport::compare(parameters, reader, |name| name.ends_with("position_ids") || is_left(name))
    }

    /// The reports of the networks of the model at `path` as one, in which the names of tensors begin with that of their network.
    pub fn of_model<'n>(path: &Path, networks: impl IntoIterator<Item = (&'n str, LoadReport)>) -> LoadReport {
        let mut all = LoadReport {
            path: path.to_path_buf(),
            missing: Vec::new(),
            unexpected: Vec::new(),
            wrong_shape: Vec::new(),
        };
        for (network, report) in networks {
            let named = |name: String| format!("{network}/{name}");
            all.missing.extend(report.missing.into_iter().map(|(name, shape)| (named(name), shape)));
            all.unexpected.extend(report.unexpected.into_iter().map(named));
            let wrong_shape = report.wrong_shape.into_iter();
            all.wrong_shape.extend(wrong_shape.map(|(name, wanted, found)| (named(name), wanted, found)));
        }
        all
    }

    /// Whether everything fits.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty()
    }

    /// The report as an error unless everything fits.
    pub fn into_result(self) -> Result<()> {
        if self.is_clean() { Ok(()) } else { Err(Error::Mismatch(self)) }
    }

    /// The width of the text states that the file's attention reads, where it is not the one that is wanted.
    fn other_text_width(&self) -> Option<usize> {
        let of_text = |name: &str| name.ends_with("attn2.to_k.weight");
        let (_, wanted, found) = self.wrong_shape.iter().find(|(name, ..)| of_text(name))?;
        found.get(1).copied().filter(|width| wanted.get(1) != Some(width))
    }

    pub(crate) fn hint(&self) -> Option<String> {
        if let Some((width, family)) =
            self.other_text_width().and_then(|width| Some((width, Family::of_text_width(width)?)))
        {
            return Some(format!(
                "the file fits the {} family better: it reads text states of {width} numbers",
                family.title()
            ));
        }
        if !self.wrong_shape.is_empty() && self.missing.is_empty() && self.unexpected.is_empty() {
            return Some("the names fit but not the sizes: the `config.json` belongs to another model".to_string());
        }
        if !self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty() {
            return Some("the file may be incomplete or belong to another kind of model".to_string());
        }
        None
    }
}

/// Parameter names and shapes in the form that [`LoadReport::compare`] takes.
pub fn parameters_of(reader: &dyn Reader) -> BTreeMap<String, Vec<usize>> {
    let shape = |name: &str| reader.info(name).expect("a listed tensor has its info").shape.clone();
    reader.names().into_iter().map(|name| (name.to_string(), shape(name))).collect()
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not fit the model: ", Shown(&self.path))?;
        let mut counts = Vec::new();
        for (count, what) in [
            (self.missing.len(), "missing"),
            (self.unexpected.len(), "unexpected"),
            (self.wrong_shape.len(), "of the wrong shape"),
        ] {
            if count > 0 {
                counts.push(format!("{count} {what}"));
            }
        }
        write!(f, "{}", counts.join(", "))?;
        let missing = self.missing.iter().map(|(name, shape)| format!("{} {shape:?}", shown(name)));
        let unexpected = self.unexpected.iter().map(|name| shown(name));
        let wrong_shape = self
            .wrong_shape
            .iter()
            .map(|(name, wanted, found)| format!("{} is {found:?}, not {wanted:?}", shown(name)));
        list(f, "missing", missing)?;
        list(f, "unexpected", unexpected)?;
        list(f, "wrong shape", wrong_shape)
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, lines: impl ExactSizeIterator<Item = String>) -> fmt::Result {
    let count = lines.len();
    for line in lines.take(SHOWN) {
        write!(f, "\n  {title}: {line}")?;
    }
    match count.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n  {title}: … and {more} more"),
    }
}

struct Shown<'p>(&'p Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0.display())
    }
}
