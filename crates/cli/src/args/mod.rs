//! Every command and flag, documented; what stands here is what `--help` says.

mod dataset;
mod launch;
mod values;

pub use dataset::*;
pub use launch::*;
pub use values::*;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sdtrain_recipe::{FloatType, SamplerName};
use sdtrain_state_dict::Dtype;
use values::{file_type_parser, float_type_parser, parse_side, sampler_parser};

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

impl LaunchArgs {
    /// The whole command line of each process, without the program's name, and what it asks for. `--help` and mistakes in it end the
    /// program here, so that they are told once and not by each of the processes.
    pub fn command_line(&self) -> (Vec<OsString>, Command) {
        let line = with_command([OsString::from("sdtrain")].into_iter().chain(self.command.iter().cloned()));
        let command = Cli::parse_from(line.clone()).command;
        (line.into_iter().skip(1).collect(), command)
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
    /// Write a model, VAE, LoRA or learned word in another format
    Convert(ConvertArgs),
    /// Make adapters a part of a model, or several adapters one
    Merge(MergeArgs),
    /// Look at folders of images and captions, and clean them
    Dataset(DatasetArgs),
    /// Start one process for each GPU, or several, which train together
    Launch(LaunchArgs),
    /// Say which of a run's processes this would be, and by which variables
    Env(EnvArgs),
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

    /// What to do with an output folder that exists: `auto` continues an unfinished run of the same configuration, or
    /// writes what is missed of the product of a finished one, `never` moves the folder to NAME.1 and starts anew, a path
    /// continues from that checkpoint
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    pub resume: Resume,

    /// Where to compute
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: DeviceName,

    /// Look at where the time of N steps goes: a Chrome trace in FOLDER/profile, and the ten costliest operators
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub profile: Option<u64>,
}

impl TrainArgs {
    /// The configuration, with what flags change of it.
    pub fn config(&self) -> ConfigArgs {
        let mut config = self.config.clone();
        config.set.extend(self.profile.map(|steps| format!("debug.profile_steps={steps}")));
        config
    }
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
    /// `builtin:poster-tiny`, a diffusers folder, a `.safetensors` or `.ckpt` file, or `hf:ORG/REPO[/FILE][@REVISION]`, which is
    /// fetched from the Hugging Face hub as in all that follows
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

    /// Width in pixels [default: that of --init-image, with --height the one in its proportions; or the size the model was trained at]
    #[arg(long, value_name = "PIXELS", value_parser = parse_side)]
    pub width: Option<u32>,

    /// Height in pixels [default: that of --init-image, with --width the one in its proportions; or the size the model was trained at]
    #[arg(long, value_name = "PIXELS", value_parser = parse_side)]
    pub height: Option<u32>,

    /// Picture to start from, in place of noise alone
    #[arg(long, value_name = "FILE")]
    pub init_image: Option<PathBuf>,

    /// How much of the steps is walked from --init-image, greater than 0, at most 1: the more, the less is left of it [default: 0.8,
    /// with --mask 1]
    #[arg(long, value_name = "S", requires = "init_image")]
    pub strength: Option<f64>,

    /// Picture that is white where --init-image is painted anew, and black where it stays
    #[arg(long, value_name = "FILE", requires = "init_image")]
    pub mask: Option<PathBuf>,

    /// Sampler [default: the model's own scheduler]
    #[arg(long, value_parser = sampler_parser())]
    pub sampler: Option<SamplerName>,

    /// Where to compute
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: DeviceName,

    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub num_images: u32,

    /// LoRA file (`.safetensors`, `.pt` or `.bin`), of kohya's form, PEFT's or an older one, with an optional weight; can be repeated
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    pub lora: Vec<WeightedFile>,

    /// File of learned words (textual inversion), which `--prompt` and `--negative` may then use; WORD= gives the one in it
    /// another name, or a file without one its name [default: the file's own]; can be repeated
    #[arg(long, value_name = "[WORD=]FILE")]
    pub embedding: Vec<NamedFile>,

    /// Another autoencoder than the model's own
    #[arg(long, value_name = "FILE")]
    pub vae: Option<PathBuf>,

    /// Take the running mean of the UNet's weights that a single file has beside them
    #[arg(long)]
    pub extract_ema: bool,

    /// How many of the text encoder's last layers are skipped, 1 being none [default: as the model says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=48))]
    pub clip_skip: Option<u32>,

    /// How many tokens of a prompt are read: a multiple of the text encoder's window, 75 for CLIP [default: one window]
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

impl SampleArgs {
    /// How much of the steps is walked from the picture to start from: diffusers' defaults for one with a mask and one without.
    pub fn effective_strength(&self) -> f64 {
        self.strength.unwrap_or(if self.mask.is_some() { 1.0 } else { 0.8 })
    }
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
    /// A `.safetensors`, `.ckpt`, `.pt`, `.pth` or `.bin` file, a diffusers folder, a run's output folder or one of its checkpoints,
    /// or a name on the hub, of which only what describes it is fetched
    #[arg(value_name = "FILE|FOLDER")]
    pub path: PathBuf,

    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sdtrain convert`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ConvertArgs {
    /// What to convert: a file, a diffusers folder, or a name on the hub
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// Where to write the result
    #[arg(value_name = "OUT")]
    pub output: PathBuf,

    /// The format of the result; LoRAs of diffusers' old attention processors and cloneofsimo's lists are only read, as today's
    /// names say the same to more programs
    #[arg(long, value_name = "FORMAT")]
    pub to: Format,

    /// Take the running mean of the UNet's weights that a single file has beside them (`model_ema.`), in their place
    #[arg(long)]
    pub extract_ema: bool,
    /// Leave out that running mean, which `--to single-file` otherwise writes beside the weights
    #[arg(long, conflicts_with = "extract_ema")]
    pub drop_ema: bool,
    /// Folder of the tokenizer of a single file whose text encoder reads other words than CLIP's and that carries none (Taiyi,
    /// PAI-Diffusion, Japanese Stable Diffusion); for `--to diffusers`
    #[arg(long, value_name = "FOLDER")]
    pub tokenizer: Option<PathBuf>,
    /// Number format of its floating-point tensors; the two of 8 bits, torch's `float8_e4m3fn` and `float8_e5m2`, are for models, ControlNets
    /// and VAEs [default: as they are]
    #[arg(long, value_parser = file_type_parser())]
    pub dtype: Option<Dtype>,
    /// Make a model one for inpainting: its UNet gets input channels for a mask and a masked picture, with weights of zero, so that it
    /// draws as before until it is trained with `method = "inpainting"`
    #[arg(long)]
    pub inpainting: bool,
}

/// Arguments of `sdtrain merge`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct MergeArgs {
    /// Model that the adapters become a part of: `builtin:poster-tiny`, a diffusers folder, a `.safetensors` or `.ckpt` file, or a name on
    /// the hub. With `--to kohya-lora` or `peft-lora` it is only looked up, for adapters whose change depends on it
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,

    /// Adapter file (`.safetensors`, `.pt` or `.bin`), of kohya's form, PEFT's or an older one, with an optional weight; can be
    /// repeated. The result's change is the sum of each weight times that adapter's change
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

    /// Write the merged adapter as whole differences (kind `full`), with `--to kohya-lora`: exact for adapters of every kind, and
    /// as large as the layers that they change
    #[arg(long)]
    pub full_diff: bool,

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
    /// A diffusers folder; of a VAE or ControlNet one file with diffusers' names where OUT ends in `.safetensors`
    Diffusers,
    /// A LoRA with the names of kohya's scripts
    KohyaLora,
    /// A LoRA with the names of PEFT and diffusers
    PeftLora,
    /// A learned word as `emb_params`, as kohya's scripts and web interfaces have it
    KohyaEmbedding,
    /// Learned words by their names, as diffusers has them
    DiffusersEmbedding,
    /// A learned word of SDXL's two text encoders, `clip_l` and `clip_g`
    SdxlEmbedding,
}

impl Format {
    /// Whether it is one of whole models.
    pub fn is_model(self) -> bool {
        matches!(self, Format::SingleFile | Format::Diffusers)
    }

    /// Whether it is one of learned words.
    pub fn is_embedding(self) -> bool {
        matches!(self, Format::KohyaEmbedding | Format::DiffusersEmbedding | Format::SdxlEmbedding)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;
    use sdtrain_ranks::ProcessesPerNode;

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
    fn a_launcher_takes_its_own_flags_and_leaves_the_rest_to_the_processes() {
        for line in [
            "launch --nproc 2 --config a.toml --set seed=1",
            "launch --nproc 2 -- --config a.toml --set seed=1",
            "launch --nproc 2 train --config a.toml --set seed=1",
            "launch --nproc=2 -- train --config a.toml --set seed=1",
        ] {
            let Command::Launch(launch) = command(line) else { panic!("not launch") };
            assert_eq!((launch.nproc, launch.restarts), (Some(ProcessesPerNode::Number(2)), 0), "{line}");
            let (words, asked) = launch.command_line();
            assert_eq!(words, ["train", "--config", "a.toml", "--set", "seed=1"], "{line}");
            assert_eq!(asked, command("train --config a.toml --set seed=1"), "{line}");
        }
        let line = "launch --nproc gpu --nnodes 2 --node-rank 1 --master [::1]:29500 --restarts 3 check a.toml";
        let Command::Launch(launch) = command(line) else { panic!("not launch") };
        assert_eq!((launch.nnodes, launch.node_rank, launch.restarts), (Some(2), Some(1), 3));
        assert_eq!(launch.master, Some(Address { host: "::1".into(), port: 29500 }));
        assert_eq!(launch.command, ["check", "a.toml"]);
        for line in [
            "launch",
            "launch --nproc 0 check a",
            "launch --nproc all check a",
            "launch --nnodes 0 check a",
            "launch --master node0 check a",
            "launch --master :1 check a",
            "launch --master a:b:1 check a",
            "launch --master node0:0 check a",
            "launch --master node0:65536 check a",
            "launch --restarts -1 check a",
        ] {
            assert!(is_refused(line), "{line}");
        }
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
        let of_words = ["kohya-embedding", "diffusers-embedding", "sdxl-embedding"];
        assert_eq!(names, [&["single-file", "diffusers", "kohya-lora", "peft-lora"][..], &of_words].concat());
    }
}
