//! What a single argument may hold: files with a weight or a name, devices, what to resume, samplers and number formats.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use sdtrain_recipe::{FloatType, SamplerName};
use sdtrain_state_dict::Dtype;

/// `[WORD=]FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// What the word in the file is to be called.
    pub name: Option<String>,
    /// The file.
    pub path: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<NamedFile, String> {
        // A file whose own name has an equals sign in it comes first.
        let whole = Path::new(text);
        match text.split_once('=') {
            Some((name, path)) if !whole.exists() => match (name.is_empty(), path.is_empty()) {
                (false, false) => Ok(NamedFile { name: Some(name.to_owned()), path: PathBuf::from(path) }),
                _ => Err("it is `FILE` or `WORD=FILE`".to_owned()),
            },
            _ if text.is_empty() => Err("it is empty".to_owned()),
            _ => Ok(NamedFile { name: None, path: whole.to_owned() }),
        }
    }
}

/// What happens to an output folder that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resume {
    /// An unfinished run of the same configuration continues, and a finished one as far as its product is missed.
    #[default]
    Auto,
    /// The folder is moved aside and the run starts anew.
    Never,
    /// The run continues from this checkpoint.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Resume, String> {
        match text {
            "" => Err("it is empty".to_owned()),
            "auto" => Ok(Resume::Auto),
            "never" => Ok(Resume::Never),
            path => Ok(Resume::From(PathBuf::from(path))),
        }
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU where there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceName, String> {
        let number = match text {
            "auto" => return Ok(DeviceName::Auto),
            "cpu" => return Ok(DeviceName::Cpu),
            "cuda" => Some(0),
            other => other.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
        };
        number.map(DeviceName::Cuda).ok_or_else(|| "it is `auto`, `cpu` or `cuda:N`".to_owned())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Auto => formatter.write_str("auto"),
            DeviceName::Cpu => formatter.write_str("cpu"),
            DeviceName::Cuda(number) => write!(formatter, "cuda:{number}"),
        }
    }
}

/// A file and how strongly it counts: `FILE` or `FILE:WEIGHT`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedFile {
    /// The file.
    pub path: PathBuf,
    /// How strongly it counts; 1 when it is not given.
    pub weight: f64,
}

impl FromStr for WeightedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<WeightedFile, String> {
        let split = text.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
        let (path, weight) = split.unwrap_or((text, 1.0));
        match (path.is_empty(), weight.is_finite()) {
            (true, _) => Err("it names no file".to_owned()),
            (_, false) => Err("the weight is not a number".to_owned()),
            _ => Ok(WeightedFile { path: PathBuf::from(path), weight }),
        }
    }
}

pub(super) fn parse_side(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(side) if side > 0 && side.is_multiple_of(8) => Ok(side),
        _ => Err("it must be a positive multiple of 8".to_owned()),
    }
}

pub(super) fn sampler_parser() -> impl TypedValueParser<Value = SamplerName> {
    PossibleValuesParser::new(SamplerName::ALL.map(SamplerName::name)).try_map(|name| name.parse::<SamplerName>())
}

/// The formats that weights are written in: those that are computed in, and two of 8 bits.
pub(super) fn file_type_parser() -> impl TypedValueParser<Value = Dtype> {
    let mut known = FloatType::ALL.map(|float_type| (float_type.name(), dtype_of(float_type))).to_vec();
    known.extend([("fp8_e4m3", Dtype::F8E4m3), ("fp8_e5m2", Dtype::F8E5m2)]);
    by_name(known)
}

pub(super) fn float_type_parser() -> impl TypedValueParser<Value = FloatType> {
    by_name(FloatType::ALL.map(|float_type| (float_type.name(), float_type)).to_vec())
}

/// One of the `known` formats.
fn by_name<T: Copy + Send + Sync + 'static>(known: Vec<(&'static str, T)>) -> impl TypedValueParser<Value = T> {
    let names: Vec<&'static str> = known.iter().map(|(name, _)| *name).collect();
    PossibleValuesParser::new(names).map(move |name| {
        let found = known.iter().find(|(known, _)| *known == name);
        found.expect("only the names of known formats get this far").1
    })
}

/// What files call a format of a configuration.
pub(crate) fn dtype_of(float_type: FloatType) -> Dtype {
    match float_type {
        FloatType::Fp32 => Dtype::F32,
        FloatType::Bf16 => Dtype::Bf16,
        FloatType::Fp16 => Dtype::F16,
    }
}
