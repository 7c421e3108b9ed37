//! Every command and flag, documented; what stands here is what `--help` says.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sdtrain_recipe::{Duplicates, FloatType, MissingDpi, SamplerName};

/// Fine-tunes Stable Diffusion models.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    name = "sdtrain",
    version,
    about = "Fine-tunes Stable Diffusion models",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "`sdtrain --config FILE` is short for `sdtrain train --config FILE`."
)]
pub struct Cli {
    /// What is asked for.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the arguments of the program, its own name first. `--help` and mistakes end the program here.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Cli {
        Cli::parse_from(with_command(args))
    }
}

/// Puts `train` where the first argument is one of its flags.
fn with_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const OWN_FLAGS: [&str; 2] = ["--help", "--version"];
    let mut args: Vec<OsString> = args.into_iter().collect();
    let first = args.get(1).and_then(|first| first.to_str()).unwrap_or_default();
    if first.starts_with("--") && !OWN_FLAGS.contains(&first) {
        args.insert(1, OsString::from("train"));
    }
    args
}

/// What the program can be asked to do.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Train as a configuration file says, then sample and evaluate
    Train(TrainArgs),
    /// Explain what a configuration would do, without training
    Check(CheckArgs),
    /// Draw pictures from a prompt
    Sample(SampleArgs),
    /// Measure the base model and saved products on held-out images
    Evaluate(EvaluateArgs),
    /// Say what a model, LoRA, embedding or output folder is
    Inspect(InspectArgs),
    /// Write a model or LoRA in another format
    Convert(ConvertArgs),
    /// Make adapters a part of a model, or several adapters one
    Merge(MergeArgs),
    /// Look at folders of images and captions, and clean them
    Dataset(DatasetArgs),
}

/// The configuration of a run.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Change one key of the configuration, as `train.max_steps=200`; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Arguments of `sdtrain train`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct TrainArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,

    /// Folder for everything the run leaves behind [default: outputs/NAME]
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,

    /// What to do with an output folder that exists: `auto` continues an unfinished run of the same configuration,
    /// `never` moves the folder to NAME.1 and starts anew, a path continues from that checkpoint
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    pub resume: Resume,

    /// Where to compute
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: DeviceName,
}

/// Arguments of `sdtrain check`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct CheckArgs {
    /// Configuration file (TOML)
    #[arg(value_name = "FILE", required_unless_present = "config")]
    pub file: Option<PathBuf>,

    /// The same, as other commands name it
    #[arg(long, value_name = "FILE", conflicts_with = "file", hide = true)]
    pub config: Option<PathBuf>,

    /// Change one key of the configuration, as `train.max_steps=200`; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl CheckArgs {
    /// The configuration, however it was named.
    pub fn config(&self) -> ConfigArgs {
        let file = self.file.as_ref().or(self.config.as_ref());
        ConfigArgs { config: file.cloned().unwrap_or_default(), set: self.set.clone() }
    }
}

/// Arguments of `sdtrain sample`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct SampleArgs {
    /// `builtin:poster-tiny`, a diffusers folder, or a `.safetensors` file
    #[arg(long, value_name = "MODEL")]
    pub model: String,

    /// What the pictures show
    #[arg(long)]
    pub prompt: String,

    /// What the pictures should not show
    #[arg(long, value_name = "PROMPT", default_value = "")]
    pub negative: String,

    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub steps: u32,

    /// How strongly the prompt is followed (classifier-free guidance); 1 is none
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    pub guidance: f64,

    /// Seed of the first picture; picture k has SEED + k
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Width in pixels [default: the size the model was trained at]
    #[arg(long, value_name = "PIXELS", value_parser = parse_side)]
    pub width: Option<u32>,

    /// Height in pixels [default: the size the model was trained at]
    #[arg(long, value_name = "PIXELS", value_parser = parse_side)]
    pub height: Option<u32>,

    /// Sampler [default: the model's own scheduler]
    #[arg(long, value_parser = sampler_parser())]
    pub sampler: Option<SamplerName>,

    /// Where to compute
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: DeviceName,

    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub num_images: u32,

    /// LoRA file, of kohya's or PEFT's form, with an optional weight; can be repeated
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    pub lora: Vec<WeightedFile>,

    /// File of learned words (textual inversion), which `--prompt` and `--negative` may then use; WORD= gives the one in it
    /// another name, or a file without one its name [default: the file's own]; can be repeated
    #[arg(long, value_name = "[WORD=]FILE")]
    pub embedding: Vec<NamedFile>,

    /// Another autoencoder than the model's own
    #[arg(long, value_name = "FILE")]
    pub vae: Option<PathBuf>,

    /// How many of the text encoder's last layers are skipped, 1 being none [default: as the model says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=48))]
    pub clip_skip: Option<u32>,

    /// How many tokens of a prompt are read: a multiple of 75, the text encoder's window [default: one window]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_token_length: Option<u32>,

    /// Read weights in the prompts: `(word:1.2)`
    #[arg(long)]
    pub prompt_weights: bool,

    /// Number format to compute in
    #[arg(long, default_value = "fp32", value_parser = float_type_parser())]
    pub dtype: FloatType,

    /// Folder for the pictures
    #[arg(long, value_name = "FOLDER")]
    pub output: PathBuf,
}

/// Arguments of `sdtrain evaluate`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct EvaluateArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,

    /// Product to measure beside the base model; can be repeated [default: those in the output folder]
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Vec<PathBuf>,

    /// Folder for `evaluation.json` and `evaluation.csv` [default: outputs/NAME]
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,

    /// Where to compute
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: DeviceName,
}

/// Arguments of `sdtrain inspect`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct InspectArgs {
    /// A `.safetensors` file, a diffusers folder, a run's output folder or one of its checkpoints
    #[arg(value_name = "FILE|FOLDER")]
    pub path: PathBuf,

    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sdtrain convert`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ConvertArgs {
    /// What to convert
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// Where to write the result
    #[arg(value_name = "OUT")]
    pub output: PathBuf,

    /// The format of the result
    #[arg(long, value_name = "FORMAT")]
    pub to: Format,
}

/// Arguments of `sdtrain merge`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct MergeArgs {
    /// Model that the adapters become a part of: `builtin:poster-tiny`, a diffusers folder, or a `.safetensors` file. With
    /// `--to kohya-lora` or `peft-lora` it is only looked up, for adapters whose change depends on it
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,

    /// Adapter file, of kohya's or PEFT's form, with an optional weight; can be repeated. The result's change is the sum of
    /// each weight times that adapter's change
    #[arg(long, value_name = "FILE[:WEIGHT]", required = true)]
    pub lora: Vec<WeightedFile>,

    /// Where to write the result
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,

    /// The format of the result [default: single-file with --model, else kohya-lora]
    #[arg(long, value_name = "FORMAT")]
    pub to: Option<Format>,

    /// Rank of a merged adapter: the nearest one of that rank is written, and how much of the change is lost is said. Without
    /// it the ranks of all adapters are added up, and nothing is lost
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rank: Option<u32>,

    /// The same for 3 × 3 convolutions [default: the rank]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub conv_rank: Option<u32>,

    /// Number format of the result; it is computed in fp32
    #[arg(long, default_value = "fp32", value_parser = float_type_parser())]
    pub dtype: FloatType,
}

impl MergeArgs {
    /// The format of the result.
    pub fn format(&self) -> Format {
        self.to.unwrap_or(if self.model.is_some() { Format::SingleFile } else { Format::KohyaLora })
    }
}

/// A format that files can be converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One file with the original Stable Diffusion names
    SingleFile,
    /// A diffusers folder
    Diffusers,
    /// A LoRA with the names of kohya's scripts
    KohyaLora,
    /// A LoRA with the names of PEFT and diffusers
    PeftLora,
}

/// Arguments of `sdtrain dataset`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct DatasetArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DatasetCommand,
}

/// What can be done with a folder of images.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum DatasetCommand {
    /// Say what images, captions, buckets and copies there are, and what a run would leave out
    Inspect(DatasetInspectArgs),
    /// Take out images that a training is better without: shows them, moves them with --apply, never deletes
    Clean(DatasetCleanArgs),
    /// Encode the images of a configuration, and with `data.cache_text_encoder_outputs` its captions, ahead of its run, into
    /// `data.cache_dir`
    Cache(DatasetCacheArgs),
}

/// Arguments of `sdtrain dataset cache`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct DatasetCacheArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,

    /// Take latents that kohya's scripts left beside the images (`NAME_0512x0768_sd.npz`, `NAME.npz`) where their sizes and crop
    /// are those of the image here. Such a file holds one draw: there is no randomness left in it. It does not say which
    /// autoencoder made it: give this option only where it was the one of the configuration
    #[arg(long)]
    pub import_npz: bool,

    /// Afterwards delete the entries that this configuration does not use and that are more than an hour old
    #[arg(long)]
    pub prune: bool,

    /// With `--prune`: another configuration that uses the same folder, whose entries stay; can be repeated
    #[arg(long, value_name = "FILE", requires = "prune")]
    pub keep_for: Vec<PathBuf>,

    /// Where to compute
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: DeviceName,
}

/// Arguments of `sdtrain dataset inspect`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct DatasetInspectArgs {
    /// Folder of images and captions
    #[arg(value_name = "FOLDER", required_unless_present = "config", conflicts_with = "config")]
    pub folder: Option<PathBuf>,

    /// Configuration whose `[data]` is looked at
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Change one key of the configuration; can be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,

    /// Read headers only: faster, but without copies, sharpness and files that are broken inside
    #[arg(long)]
    pub quick: bool,

    /// Answer in JSON
    #[arg(long)]
    pub json: bool,

    /// Write a page with pictures and charts to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of `sdtrain dataset clean`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct DatasetCleanArgs {
    /// Folder of images and captions
    #[arg(value_name = "FOLDER", required_unless_present_any = ["config", "undo"], conflicts_with = "config")]
    pub folder: Option<PathBuf>,

    /// Configuration whose `[data]` is cleaned as its `[data.clean]` says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Change one key of the configuration; can be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,

    /// Move the images; without it they are only shown
    #[arg(long)]
    pub apply: bool,

    /// Folder that they go to [default: FOLDER-removed, beside the data]
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,

    /// Move everything back that a manifest names
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["folder", "config", "apply", "to"])]
    pub undo: Option<PathBuf>,

    /// Answer in JSON
    #[arg(long)]
    pub json: bool,

    /// The rules.
    #[command(flatten)]
    pub options: CleanOptions,
}

/// The keys of `[data.clean]` as options; they win over the configuration.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Rules (0 switches one off)")]
pub struct CleanOptions {
    /// Shorter side in pixels [default: 512]
    #[arg(long, value_name = "PIXELS")]
    pub min_side: Option<u32>,

    /// Longer side in pixels [default: 1024]
    #[arg(long, value_name = "PIXELS")]
    pub max_side: Option<u32>,

    /// Kilobytes of the file for each pixel [default: 0.0005]
    #[arg(long, value_name = "NUMBER")]
    pub min_kilobytes_per_pixel: Option<f64>,

    /// Bytes of a kilobyte: 1024 or 1000 [default: 1024]
    #[arg(long, value_name = "BYTES")]
    pub kilobyte: Option<u32>,

    /// Dots an inch [default: 96]
    #[arg(long, value_name = "NUMBER")]
    pub min_dpi: Option<f64>,

    /// What happens to images that state no dots an inch [default: keep]
    #[arg(long, value_name = "keep|drop")]
    pub missing_dpi: Option<MissingDpiOption>,

    /// How many times the shorter side the longer one may be [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub max_aspect: Option<f64>,

    /// Variance of the Laplacian; less is blurred [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub min_sharpness: Option<f64>,

    /// Which copies of an image are taken out [default: near]
    #[arg(long, value_name = "keep|exact|near")]
    pub duplicates: Option<DuplicatesOption>,

    /// Differing bits of 64 up to which two images are nearly the same [default: 4]
    #[arg(long, value_name = "BITS")]
    pub duplicate_distance: Option<u32>,

    /// Take out images that cannot be decoded [default: true]
    #[arg(long, value_name = "true|false")]
    pub broken: Option<bool>,
}

/// `--missing-dpi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MissingDpiOption {
    /// They stay
    Keep,
    /// They are taken out
    Drop,
}

impl From<MissingDpiOption> for MissingDpi {
    fn from(option: MissingDpiOption) -> MissingDpi {
        match option {
            MissingDpiOption::Keep => MissingDpi::Keep,
            MissingDpiOption::Drop => MissingDpi::Drop,
        }
    }
}

/// `--duplicates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DuplicatesOption {
    /// None
    Keep,
    /// Files with the same bytes
    Exact,
    /// Those, and images that look the same
    Near,
}

impl From<DuplicatesOption> for Duplicates {
    fn from(option: DuplicatesOption) -> Duplicates {
        match option {
            DuplicatesOption::Keep => Duplicates::Keep,
            DuplicatesOption::Exact => Duplicates::Exact,
            DuplicatesOption::Near => Duplicates::Near,
        }
    }
}

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
    /// An unfinished run of the same configuration continues.
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

fn parse_side(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(side) if side > 0 && side.is_multiple_of(8) => Ok(side),
        _ => Err("it must be a positive multiple of 8".to_owned()),
    }
}

fn sampler_parser() -> impl TypedValueParser<Value = SamplerName> {
    PossibleValuesParser::new(SamplerName::ALL.map(SamplerName::name)).try_map(|name| name.parse::<SamplerName>())
}

fn float_type_parser() -> impl TypedValueParser<Value = FloatType> {
    PossibleValuesParser::new(FloatType::ALL.map(FloatType::name)).map(|name| {
        let known = FloatType::ALL.into_iter().find(|float_type| float_type.name() == name);
        known.expect("only the names of known formats get this far")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words = std::iter::once("sdtrain").chain(line.split_whitespace());
        Cli::try_parse_from(with_command(words.map(OsString::from)))
    }

    fn command(line: &str) -> Command {
        parse(line).unwrap_or_else(|error| panic!("{error}")).command
    }

    fn is_refused(line: &str) -> bool {
        parse(line).is_err_and(|error| error.exit_code() == 2)
    }

    #[test]
    fn clap_finds_no_contradiction_in_the_arguments() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_configuration_alone_means_train() {
        let short = command("--config a.toml --set train.max_steps=5 --set seed=1 --resume never --device cuda:1");
        assert_eq!(
            short,
            command("train --config a.toml --set train.max_steps=5 --set seed=1 --resume never --device cuda:1")
        );
        let Command::Train(train) = short else { panic!("not train") };
        assert_eq!(train.config.set, ["train.max_steps=5", "seed=1"]);
        assert_eq!((train.resume, train.device), (Resume::Never, DeviceName::Cuda(1)));
    }

    #[test]
    fn resuming_is_automatic_or_from_a_path() {
        let Command::Train(train) = command("train --config a.toml") else { panic!("not train") };
        assert_eq!(train.resume, Resume::Auto);
        let Command::Train(train) = command("train --config a.toml --resume out/checkpoints/step-000250") else {
            panic!("not train")
        };
        assert_eq!(train.resume, Resume::From(PathBuf::from("out/checkpoints/step-000250")));
    }

    #[test]
    fn check_takes_the_configuration_with_and_without_its_flag() {
        for line in ["check a.toml --set seed=1", "check --config a.toml --set seed=1"] {
            let Command::Check(check) = command(line) else { panic!("not check") };
            assert_eq!(check.config().config, Path::new("a.toml"));
            assert_eq!(check.config().set, ["seed=1"]);
        }
        assert!(is_refused("check"));
    }

    #[test]
    fn a_cache_is_filled_for_a_configuration() {
        let Command::Dataset(DatasetArgs { command: DatasetCommand::Cache(cache) }) =
            command("dataset cache --config a.toml --set data.cache_dir=c --import-npz --device cpu")
        else {
            panic!("not cache")
        };
        assert_eq!((cache.config.config.as_path(), cache.import_npz), (Path::new("a.toml"), true));
        assert_eq!((cache.config.set, cache.device), (vec!["data.cache_dir=c".to_owned()], DeviceName::Cpu));
        assert!(is_refused("dataset cache"));
        let Command::Dataset(DatasetArgs { command: DatasetCommand::Cache(cache) }) =
            command("dataset cache --config a.toml --prune --keep-for b.toml --keep-for c.toml")
        else {
            panic!("not cache")
        };
        assert_eq!((cache.prune, cache.keep_for), (true, vec![PathBuf::from("b.toml"), PathBuf::from("c.toml")]));
        assert!(is_refused("dataset cache --config a.toml --keep-for b.toml"));
    }

    #[test]
    fn sample_has_the_documented_defaults() {
        let Command::Sample(sample) = command("sample --model m --prompt p --output o") else { panic!("not sample") };
        assert_eq!((sample.steps, sample.guidance, sample.seed, sample.num_images), (30, 7.5, 0, 1));
        assert_eq!((sample.sampler, sample.dtype), (None, FloatType::Fp32));
    }

    #[test]
    fn merging_makes_a_model_where_one_is_named_and_an_adapter_where_not() {
        let merge = |line: &str| match command(line) {
            Command::Merge(merge) => merge,
            other => panic!("not merge: {other:?}"),
        };
        let args = merge("merge --lora a.safetensors:0.5 --lora b.safetensors:-1 --output o --rank 8 --dtype fp16");
        assert_eq!((args.format(), args.rank, args.dtype), (Format::KohyaLora, Some(8), FloatType::Fp16));
        assert_eq!(args.lora.iter().map(|lora| lora.weight).collect::<Vec<_>>(), [0.5, -1.0]);
        assert_eq!(merge("merge --model m --lora a --output o").format(), Format::SingleFile);
        assert_eq!(merge("merge --model m --lora a --output o --to peft-lora").format(), Format::PeftLora);
        assert!(is_refused("merge --output o") && is_refused("merge --lora a --output o --rank 0"));
    }

    #[test]
    fn every_documented_sampler_is_taken() {
        for name in "ddim ddpm pndm lms euler euler_a heun dpmpp_2m dpmpp_2m_karras unipc".split(' ') {
            let line = format!("sample --model m --prompt p --output o --sampler {name}");
            let Command::Sample(sample) = command(&line) else { panic!("not sample") };
            assert_eq!(sample.sampler.map(SamplerName::name), Some(name));
        }
        assert!(is_refused("sample --model m --prompt p --output o --sampler eular"));
    }

    #[test]
    fn a_lora_may_have_a_weight_and_its_path_a_colon() {
        for (text, path, weight) in [
            ("a.safetensors", "a.safetensors", 1.0),
            ("a.st:0.5", "a.st", 0.5),
            ("c:a.st:-1", "c:a.st", -1.0),
            ("c:a", "c:a", 1.0),
        ] {
            let parsed: WeightedFile = text.parse().expect("right");
            assert_eq!((parsed.path.as_path(), parsed.weight), (Path::new(path), weight));
        }
        assert!(":0.5".parse::<WeightedFile>().is_err());
    }

    #[test]
    fn impossible_values_are_refused_with_exit_code_2() {
        for line in [
            "train",
            "train --config a --device gpu",
            "sample --model m --prompt p --output o --width 100",
            "sample --model m --prompt p --output o --dtype f16",
            "convert a b --to zip",
            "--config a inspect b",
        ] {
            assert!(is_refused(line), "{line}");
        }
    }

    #[test]
    fn convert_formats_have_their_documented_names() {
        let names: Vec<String> = Format::value_variants()
            .iter()
            .filter_map(|format| Some(format.to_possible_value()?.get_name().to_owned()))
            .collect();
        assert_eq!(names, ["single-file", "diffusers", "kohya-lora", "peft-lora"]);
    }
}
