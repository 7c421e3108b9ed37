//! `sdtrain merge`.

use crate::failure;
use crate::sample::location;
use sdtrain::args::{Format, MergeArgs, WeightedFile};
use sdtrain::{ExitCode, Failure, local_file};
use sdtrain_adapter::{
    AdapterSum, LoraFile, MERGED_KEY, MergedLayer, Networks, WeightedAdapter, add_to_lora_file, describe, fold,
    read_bundled_words, save_merged_full, save_merged_kohya, save_merged_peft,
};
use sdtrain_diffusion::PredictionType;
use sdtrain_files::say;
use sdtrain_model::{LearnedWord, LoadOptions, StableDiffusion, load};
use sdtrain_state_dict::maps::adapter_family::family_of_adapters;
use sdtrain_state_dict::maps::textual_inversion::bundled_words;
use sdtrain_state_dict::metadata::{ModelSpec, architecture, implementation, title};
use sdtrain_state_dict::{Family, Reader, open_file};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Merges adapters into a model, or into one adapter, and says what was written.
pub fn run(args: &MergeArgs) -> Result<(), Failure> {
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::new(ExitCode::Storage, format!("cannot create `{}`: {error}", folder.display())))?;
    let adapter = |lora: &WeightedFile| Ok(WeightedAdapter { path: local_file(&lora.path)?, weight: lora.weight });
    let adapters: Vec<WeightedAdapter> = args.lora.iter().map(adapter).collect::<Result<_, Failure>>()?;
    // The sums are made in f32, and in host memory, so that every machine gives the same ones.
    let options = LoadOptions::new(Device::Cpu, Kind::Float);
    let model = match &args.model {
        Some(model) => Some(load(&location(model)?, &options).map_err(failure::of_model)?),
        None => None,
    };
    match (args.format(), &model) {
        (Format::SingleFile | Format::Diffusers, Some(model)) => fold_into(model, &adapters, args)?,
        (Format::SingleFile | Format::Diffusers, None) => {
            return Err(Failure::new(ExitCode::Configuration, "a whole model can only come out where one goes in")
                .hint("name the model with `--model`"));
        }
        (Format::KohyaEmbedding | Format::DiffusersEmbedding | Format::SdxlEmbedding, _) => {
            return Err(Failure::new(ExitCode::Configuration, "adapters are merged, and no learned words"));
        }
        (Format::KohyaLora | Format::PeftLora, model) => merge_into_one(model.as_ref(), &adapters, args)?,
    }
    say!("wrote `{}`", args.output.display());
    Ok(())
}

fn fold_into(model: &StableDiffusion, adapters: &[WeightedAdapter], args: &MergeArgs) -> Result<(), Failure> {
    fold(model, adapters).map_err(failure::of_adapter)?;
    for WeightedAdapter { path, .. } in adapters {
        for word in bundled_words(&open_file(path)?) {
            let file = path.display();
            say!(
                "warning: the word `{word}` of `{file}` is not in the model, which has no place for it; \
                 `sdtrain sample --embedding {file}` takes it from there"
            );
        }
    }
    let kind = sdtrain_trainer::kind_of(args.dtype);
    check_range(model, kind)?;
    let velocity = model.scheduler.prediction_type == Some(PredictionType::VPrediction);
    let base = args.model.as_deref().unwrap_or_default();
    let spec = ModelSpec {
        merged_from: Some(merged_from(Some(base), adapters)),
        ..ModelSpec::of_single_file(model.family, velocity, model.resolution(), &args.output)
    };
    let mut metadata = spec.keys();
    metadata.extend(origin(adapters)?);
    let written = match args.format() {
        Format::Diffusers => model.save_folder(&args.output, Some(kind), &metadata),
        _ => model.save_single_file(&args.output, Some(kind), &metadata),
    };
    written.map_err(failure::of_model)
}

/// A weight that does not fit into the format would be infinite, and every picture black.
fn check_range(model: &StableDiffusion, kind: Kind) -> Result<(), Failure> {
    const LARGEST_HALF: f64 = 65504.0;
    let largest = if kind == Kind::Half { LARGEST_HALF } else { f64::from(f32::MAX) };
    for (network, parameters) in model.networks() {
        for (name, tensor) in parameters.iter() {
            let found = tensor.f_abs().and_then(|tensor| tensor.f_max()).and_then(|max| max.f_double_value(&[]));
            let found = found.map_err(|error| failure::of_torch(error.into()))?;
            if found.is_nan() || found > largest {
                let message = format!("`{network}.{name}` holds {found:e} after merging, more than the format can");
                return Err(Failure::new(ExitCode::NonFinite, message).hint("lower weights, or `--dtype fp32`"));
            }
        }
    }
    Ok(())
}

fn merge_into_one(
    model: Option<&StableDiffusion>,
    adapters: &[WeightedAdapter],
    args: &MergeArgs,
) -> Result<(), Failure> {
    let mut sum = AdapterSum::default();
    let mut inherited = Inherited::default();
    let mut words = Vec::new();
    for adapter in adapters {
        let file = open_file(&adapter.path)?;
        inherited.add(file.metadata());
        add_words(&mut words, &file)?;
        let name = adapter.path.display().to_string();
        let added = match model {
            None => sum.add_file(&file, adapter.weight),
            Some(model) => {
                let networks = Networks::of(model);
                let lora = LoraFile::read(&file, &networks).and_then(|file| file.into_lora(&networks));
                lora.and_then(|lora| sum.add(&lora, adapter.weight, &name))
            }
        };
        added.map_err(failure::of_adapter)?;
    }
    let layers = match args.rank {
        _ if args.full_diff => Vec::new(),
        None => sum.concatenated().map_err(failure::of_adapter)?,
        Some(rank) => {
            let (rank, conv_rank) = (i64::from(rank), i64::from(args.conv_rank.unwrap_or(rank)));
            let (layers, lost) = sum.truncated(rank, conv_rank).map_err(failure::of_adapter)?;
            say!("error of the smaller rank: {:.3e} of the change's norm over all layers", lost.total);
            if lost.worst > 0.0 {
                say!("  the largest, {:.3e}, beside `{}`", lost.worst, lost.worst_layer);
            }
            layers
        }
    };
    let whole = if args.full_diff { sum.whole().map_err(failure::of_adapter)? } else { Vec::new() };
    match args.full_diff {
        true => say!("{} layers, whole", whole.len()),
        false => say!("{}", sizes(&layers)),
    }
    let inputs = |matrix: &Tensor| matrix.size().get(1).map(|&inputs| inputs as usize);
    let adapted = layers.iter().map(|layer| (layer.part, layer.path.as_str(), inputs(&layer.down)));
    let adapted = adapted.chain(whole.iter().map(|change| (change.part, change.path.as_str(), inputs(&change.diff))));
    let family = family_of_adapters(adapted, &inherited.kept);
    let spec = ModelSpec {
        architecture: inherited.architecture(family),
        implementation: family.map_or("diffusers", |family| implementation(family, Some("lora"))).into(),
        title: title(&args.output),
        merged_from: Some(merged_from(None, adapters)),
        ..ModelSpec::default()
    };
    let mut metadata = inherited.kept;
    metadata.extend(spec.keys());
    metadata.extend(origin(adapters)?);
    metadata.insert("ss_output_name".into(), title(&args.output));
    let kind = sdtrain_trainer::kind_of(args.dtype);
    match args.format() {
        _ if args.full_diff => save_merged_full(&args.output, &whole, kind, &metadata),
        Format::PeftLora => save_merged_peft(&args.output, &layers, kind, &metadata),
        _ => save_merged_kohya(&args.output, &layers, kind, &metadata),
    }
    .map_err(failure::of_adapter)?;
    match words.is_empty() {
        true => Ok(()),
        // Whatever the adapters' weights: half of a word is no word.
        false => add_to_lora_file(&args.output, &words, kind).map_err(failure::of_adapter),
    }
}

/// Adds the words that an adapter brings along to those of the adapters before it.
fn add_words(words: &mut Vec<LearnedWord>, file: &dyn Reader) -> Result<(), Failure> {
    for word in read_bundled_words(file).map_err(failure::of_adapter)? {
        match words.iter().find(|other| other.word.eq_ignore_ascii_case(&word.word)) {
            None => words.push(word),
            Some(other) if other.vectors == word.vectors => {}
            Some(_) => {
                let message = format!(
                    "`{}` brings the word `{}` along, as another adapter does",
                    file.path().display(),
                    word.word
                );
                return Err(Failure::new(ExitCode::Model, message).hint(
                    "merge files without words (`textual_inversion.bundle = false`), and keep the words' own files",
                ));
            }
        }
    }
    Ok(())
}

/// `264 layers of rank 32`.
fn sizes(layers: &[MergedLayer]) -> String {
    let ranks: BTreeSet<i64> = layers.iter().map(MergedLayer::rank).collect();
    match (ranks.first(), ranks.last()) {
        (Some(least), Some(most)) if least != most => format!("{} layers of rank {least} to {most}", layers.len()),
        (Some(rank), _) => format!("{} layers of rank {rank}", layers.len()),
        _ => "no layers".to_string(),
    }
}

/// What all of the merged adapters say alike.
#[derive(Default)]
struct Inherited {
    kept: BTreeMap<String, String>,
    files: usize,
    architecture: Option<String>,
}

impl Inherited {
    fn add(&mut self, metadata: &BTreeMap<String, String>) {
        const KEPT: [&str; 5] =
            ["ss_base_model_version", "ss_v2", "ss_sd_model_name", "ss_sd_model_hash", "modelspec.prediction_type"];
        let known = KEPT.into_iter().filter_map(|key| Some((key.to_string(), metadata.get(key)?.clone())));
        match self.files {
            0 => self.kept = known.collect(),
            _ => self.kept.retain(|key, value| metadata.get(key) == Some(value)),
        }
        self.files += 1;
        self.architecture = self.architecture.take().or_else(|| metadata.get("modelspec.architecture").cloned());
    }

    /// Files of kohya's scripts and of ours say it; of others it is that of the `family` which they show, and most of those that show
    /// none are SD1's.
    fn architecture(&self, family: Option<Family>) -> String {
        let shown = || architecture(family.unwrap_or(Family::Sd1), false, Some("lora"));
        self.architecture.clone().unwrap_or_else(shown)
    }
}

/// The names of what a merged file was made of.
fn merged_from(base: Option<&str>, adapters: &[WeightedAdapter]) -> String {
    let base = base.map(|base| title(Path::new(base)));
    let names = base.into_iter().chain(adapters.iter().map(|adapter| title(&adapter.path)));
    names.collect::<Vec<_>>().join(", ")
}

fn origin(adapters: &[WeightedAdapter]) -> Result<BTreeMap<String, String>, Failure> {
    let merged = describe(adapters).map_err(failure::of_adapter)?;
    let version = ("sdtrain.version".to_string(), env!("CARGO_PKG_VERSION").to_string());
    Ok(BTreeMap::from([(MERGED_KEY.to_string(), merged), version]))
}
