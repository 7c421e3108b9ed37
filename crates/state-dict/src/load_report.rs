//! What does not fit when a file's tensors meet a model's parameters: all of it in one message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::dtype::Dtype;
use crate::error::{Error, Result, shown};
use crate::family::Family;
use crate::reader::{Reader, TensorInfo};
use crate::recognise::{FileKind, recognise};

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
    /// What the tensors are by themselves, in words, where something does not fit and they are those of another family or network.
    pub better_fit: Option<String>,
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
            better_fit: None,
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
        if !report.is_clean() {
            report.better_fit = better_fit(parameters, reader);
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
            better_fit: None,
        };
        for (network, report) in networks {
            let named = |name: String| format!("{network}/{name}");
            all.missing.extend(report.missing.into_iter().map(|(name, shape)| (named(name), shape)));
            all.unexpected.extend(report.unexpected.into_iter().map(named));
            let wrong_shape = report.wrong_shape.into_iter();
            all.wrong_shape.extend(wrong_shape.map(|(name, wanted, found)| (named(name), wanted, found)));
            all.better_fit = all.better_fit.or(report.better_fit);
        }
        all
    }

    /// Whether everything fits.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty()
    }

    /// The report as an error unless everything fits.
    pub fn into_result(self) -> Result<()> {
        if self.is_clean() { Ok(()) } else { Err(Error::Mismatch(Box::new(self))) }
    }

    /// Whether a `config.json` says what was asked for: that of a folder, or beside a file in one.
    fn has_config(&self) -> bool {
        self.path.is_dir() || self.path.with_file_name("config.json").is_file()
    }

    /// The width of the text states that some of the file's attention reads, where it is not the one that is wanted.
    fn other_text_width(&self) -> Option<usize> {
        let of_text = |name: &str| name.ends_with("attn2.to_k.weight");
        let (_, wanted, found) = self.wrong_shape.iter().find(|(name, ..)| of_text(name))?;
        found.get(1).copied().filter(|width| wanted.get(1) != Some(width))
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let better_fit = self.better_fit.clone().or_else(|| reads_text(self.other_text_width()?));
        if better_fit.is_some() {
            return better_fit;
        }
        if !self.wrong_shape.is_empty() && self.missing.is_empty() && self.unexpected.is_empty() {
            let reason = match self.has_config() {
                true => "the `config.json` belongs to another model",
                false => {
                    "the file is of another model; a diffusers folder of it says its sizes, as a single file does not"
                }
            };
            return Some(format!("the names fit but not the sizes: {reason}"));
        }
        if !self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty() {
            return Some("the file may be incomplete or belong to another kind of model".to_string());
        }
        None
    }
}

/// What the tensors of `reader` are, in words, where the `wanted` parameters are of something else.
fn better_fit(wanted: &BTreeMap<String, Vec<usize>>, reader: &dyn Reader) -> Option<String> {
    let found = told(&recognise(reader))?;
    (told(&recognise(&Wanted::new(wanted))).as_ref() != Some(&found)).then_some(found)
}

/// What tells the network of one family from that of another; none of a size that no family has.
fn told(kind: &FileKind) -> Option<String> {
    match *kind {
        FileKind::DiffusersUnet { cross_attention_dim: Some(width), .. } => reads_text(width),
        FileKind::ControlNet { family: Some(family), .. } => {
            Some(format!("the file fits the {} family better", family.title()))
        }
        FileKind::ClipText { hidden_size: Some(width) } => {
            let whose = match Family::of_text_width(width)? {
                // SDXL's second text encoder is the refiner's only one.
                Family::SdxlRefiner => "the second one of SDXL and the refiner's have".to_owned(),
                family => format!("a model of the {} family has it", family.title()),
            };
            Some(format!("the file is a {kind} whose states have {width} numbers, as {whose}"))
        }
        FileKind::BertText { hidden_size: Some(width) } => {
            Some(format!("the file is a {kind} whose states have {width} numbers, as Taiyi and its fine-tunes have it"))
        }
        _ => None,
    }
}

/// The family of a UNet that reads text states of `width`, in words.
fn reads_text(width: usize) -> Option<String> {
    let family = Family::of_text_width(width)?.title();
    Some(format!("the file fits the {family} family better: it reads text states of {width} numbers"))
}

/// Parameters as if they were in a file.
struct Wanted {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl Wanted {
    fn new(parameters: &BTreeMap<String, Vec<usize>>) -> Wanted {
        let info = |shape: &Vec<usize>| TensorInfo { dtype: Dtype::F32, shape: shape.clone() };
        let tensors = parameters.iter().map(|(name, shape)| (name.clone(), info(shape))).collect();
        Wanted { tensors, metadata: BTreeMap::new() }
    }
}

impl Reader for Wanted {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        Err(Error::NoSuchTensor { path: self.path().to_path_buf(), tensor: shown(name) })
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        Path::new("parameters")
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
