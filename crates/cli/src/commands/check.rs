//! `sdtrain check`: what a configuration would do, without doing it.

use std::fmt::Write;
use std::path::Path;
use std::thread::available_parallelism;

use sdtrain_config::{Parsed, Problems};
use sdtrain_data_loader::{DataSet, TokenReport};
use sdtrain_recipe::{DataConfig, Every, Loaded, LoraFormat, ModelFormat, TrainConfig, TrainableKind};
use sdtrain_state_dict::{FileKind, SafetensorsFile, recognise};
use sdtrain_tokenizer::Tokenizer;

use crate::args::{CheckArgs, ConfigArgs};
use crate::estimate::estimate;
use crate::learned_words;
use crate::lora_targets::adapters;
use crate::model_parts::{ModelParts, count_parameters};
use crate::{ExitCode, Failure, model_tokenizer, print_answer};

/// The step between bucket sides when nothing is known of the model: that of SD1.5.
const USUAL_BUCKET_STEP: usize = 64;

/// Prints the summary to stdout.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = load_or_explain(&args.config())?.config;
    let Examined { parts, data, trained } = examine(&config)?;
    let tokenizer = learned_words::tokenizer(&config, model_tokenizer::of(&config.model)?)?;
    let windows = tokenizer.windows_of(max_token_length(&config))?;
    let tokens = data.count_tokens(&tokenizer, windows * (tokenizer.window() - 2));
    print_answer(&summary(&config, &parts, &trained, &data, &tokens));
    Ok(())
}

/// What a run would begin with.
pub(crate) struct Examined {
    parts: ModelParts,
    data: DataSet,
    trained: Vec<TrainedPart>,
}

/// Looks at everything that a run reads, without a tensor; whatever is wrong is in the one failure.
pub(crate) fn examine(config: &TrainConfig) -> Result<Examined, Failure> {
    let parts = ModelParts::of(&config.model);
    let step = parts.as_ref().map_or(USUAL_BUCKET_STEP, ModelParts::bucket_step);
    let mut failures = Vec::new();
    let mut keep = |failure: Failure| failures.push(failure);
    let trained = parts.as_ref().ok().map(|parts| trained_parts(config, parts));
    let parts = parts.map_err(&mut keep).ok();
    let mut data = open_data(config, step).map_err(&mut keep).ok();
    if let Err((message, hint)) = config.check_images_are_used() {
        keep(Failure::new(ExitCode::Configuration, message).hint(hint));
    }
    if let (Ok(tokenizer), Some(data)) = (model_tokenizer::of(&config.model), &data) {
        let _ = learned_words::check(config, &tokenizer, data).map_err(&mut keep);
    }
    if let (Some(length), Ok(tokenizer)) = (max_token_length(config), model_tokenizer::of(&config.model)) {
        let _ = tokenizer.windows_of(Some(length)).map_err(|error| keep(error.into()));
    }
    if let Some(path) = &config.validation.path {
        let subsets = vec![config.held_out_subset(path)];
        let held_out = DataConfig { subsets, batch_size: 1, ..config.data.clone() };
        let held_out = DataSet::open(&held_out, config.seed, step).map_err(|error| keep(error.into())).ok();
        if let Some(held_out) = held_out {
            data = data.map(|data| data.compared_with(&held_out));
        }
    }
    let trained = trained.and_then(|trained| trained.map_err(&mut keep).ok());
    if let Some(initial) = config.lora.initial.as_ref().filter(|_| config.trainable_kind() == TrainableKind::Lora) {
        let _ = is_lora(initial).map_err(&mut keep);
    }
    if let (Some(parts), false) = (&parts, config.samples.prompts.is_empty()) {
        let _ = check_sample_size(config, parts.downscale_factor()).map_err(&mut keep);
    }
    match (failures.into_iter().reduce(Failure::and), parts, data, trained) {
        (None, Some(parts), Some(data), Some(trained)) => Ok(Examined { parts, data, trained }),
        (failure, ..) => Err(failure.expect("what is missing has failed")),
    }
}

fn max_token_length(config: &TrainConfig) -> Option<usize> {
    config.model.max_token_length.map(|length| length as usize)
}

fn is_lora(path: &Path) -> Result<(), Failure> {
    let kind = recognise(&SafetensorsFile::open(path)?);
    if matches!(kind, FileKind::KohyaLora { .. } | FileKind::PeftLora { .. }) {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Model, format!("`lora.initial`: `{}` is a {kind}, not a LoRA", path.display())))
}

fn check_sample_size(config: &TrainConfig, factor: usize) -> Result<(), Failure> {
    let (width, height) = config.sample_size();
    if [width, height].iter().all(|side| (*side as usize).is_multiple_of(factor)) {
        return Ok(());
    }
    let message =
        format!("pictures of {width} × {height} cannot be drawn: the model needs multiples of {factor} pixels");
    Err(Failure::new(ExitCode::Configuration, message)
        .hint("set `samples.width` and `samples.height`, or another `data.resolution`"))
}

/// The configuration; when it is wrong, the failure also names what is wrong with the images, where those can be looked at.
pub(crate) fn load_or_explain(args: &ConfigArgs) -> Result<Loaded, Failure> {
    let Parsed { value, faults } = TrainConfig::load_what_fits(&args.config, &args.set)?;
    let parsed = Parsed { value, faults };
    let data_failure = match &parsed.value {
        Some(loaded) if !parsed.faults.is_empty() && !parsed.is_faulty("data") => {
            DataSet::open(&loaded.config.data, loaded.config.seed, USUAL_BUCKET_STEP).err()
        }
        _ => None,
    };
    match parsed.value {
        Some(loaded) if parsed.faults.is_empty() => Ok(loaded),
        _ => {
            let problems = Problems(parsed.faults.into_iter().map(|fault| fault.problem).collect());
            let failure = Failure::from(problems);
            Err(match data_failure {
                Some(error) => failure.and(error.into()),
                None => failure,
            })
        }
    }
}

fn open_data(config: &TrainConfig, bucket_step: usize) -> Result<DataSet, Failure> {
    let split = config.validation.split.filter(|_| config.validation.path.is_none());
    Ok(match split {
        Some(part) => DataSet::open_split(&config.data, config.seed, bucket_step, part)?.0,
        None => DataSet::open(&config.data, config.seed, bucket_step)?,
    })
}

/// One network that is trained: its name, what of it, and how many parameters.
pub(crate) struct TrainedPart {
    name: &'static str,
    what: String,
    parameters: usize,
}

fn trained_parts(config: &TrainConfig, parts: &ModelParts) -> Result<Vec<TrainedPart>, Failure> {
    let networks = [("unet", Some(&parts.unet)), ("text_encoder", parts.text_encoder.as_ref())];
    let mut trained = Vec::new();
    match config.trainable_kind() {
        TrainableKind::Lora => {
            for (name, shapes) in networks {
                let adapters = shapes.map(|shapes| adapters(&config.lora, name, shapes)).unwrap_or_default();
                if adapters.count > 0 {
                    let what = format!("{} adapters", adapters.count);
                    trained.push(TrainedPart { name, what, parameters: adapters.parameters });
                }
            }
        }
        TrainableKind::Full => {
            let wanted = [config.full.train_unet, config.full.train_text_encoder];
            for ((name, shapes), wanted) in networks.into_iter().zip(wanted) {
                if let Some(shapes) = shapes.filter(|_| wanted) {
                    let what = format!("{} tensors", shapes.len());
                    trained.push(TrainedPart { name, what, parameters: count_parameters(shapes) });
                }
            }
        }
        // Added below, where they may stand beside a LoRA.
        TrainableKind::TextualInversion => {}
        TrainableKind::Vae => {
            if let Some(mut shapes) = parts.vae.clone() {
                if !config.vae_objective.train_encoder {
                    shapes.retain(|name, _| !name.starts_with("encoder.") && !name.starts_with("quant_conv."));
                }
                let what = format!("{} tensors", shapes.len());
                trained.push(TrainedPart { name: "vae", what, parameters: count_parameters(&shapes) });
            }
        }
    }
    let width = parts.text_encoder.as_ref().and_then(learned_words::width);
    if let (Some(width), false) = (width, config.learned_tokens().is_empty()) {
        for learned_words::Word { word, vectors } in learned_words::of(config, width)? {
            let what = format!("the word `{word}`, {vectors} vectors");
            trained.push(TrainedPart { name: "text_encoder", what, parameters: vectors * width });
        }
    }
    if !trained.is_empty() {
        return Ok(trained);
    }
    let message = match config.trainable_kind() {
        TrainableKind::Lora => "no module of the model matches `lora.targets`",
        TrainableKind::TextualInversion => "the model holds no text encoder that could learn a word",
        TrainableKind::Full | TrainableKind::Vae => "the model holds none of the networks that are to be trained",
    };
    Err(Failure::new(ExitCode::Configuration, message)
        .hint("module paths are those of diffusers behind `unet.` and `text_encoder.`"))
}

fn summary(
    config: &TrainConfig,
    parts: &ModelParts,
    trained: &[TrainedPart],
    data: &DataSet,
    tokens: &TokenReport,
) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<10} {value}");
    };
    line("run", format!("`{}`, method `{}`, seed {}", config.name, config.method.name(), config.seed));
    line("model", format!("`{}`: {}, family `{}`", config.model.path, parts.kind, parts.family));
    let networks =
        [("unet", Some(&parts.unet)), ("vae", parts.vae.as_ref()), ("text_encoder", parts.text_encoder.as_ref())];
    let counts: Vec<String> = networks
        .iter()
        .filter_map(|(name, shapes)| Some(format!("{name} {}", millions(count_parameters(shapes.as_ref()?)))))
        .collect();
    line("", format!("parameters: {}", counts.join(", ")));
    for part in trained {
        line("trained", format!("{}: {}, {} parameters", part.name, part.what, millions(part.parameters)));
    }
    line("data", data.report().to_string().replace("\n  ", &format!("\n{:<10} ", "")));
    if config.objective_kind().denoises() {
        line("tokens", tokens.to_string().replace("\n  ", &format!("\n{:<10} ", "")));
    }
    line("steps", steps(config, data));
    line(
        "optimizer",
        format!(
            "{}, learning rate {:e}, schedule `{}` with {} warm-up steps",
            config.optimizer.name(),
            config.optimizer.learning_rate(),
            config.lr_schedule.name(),
            config.lr_schedule.warmup_steps()
        ),
    );
    let checkpointing = if config.train.gradient_checkpointing { ", gradient checkpointing" } else { "" };
    line(
        "precision",
        format!(
            "computes in {}, saves in {}{checkpointing}",
            config.precision.compute.name(),
            config.precision.save.name()
        ),
    );
    line("writes", written(config));
    line("validates", validated(config));

    let total: usize = trained.iter().map(|part| part.parameters).sum();
    let cores = cores(config);
    let estimate = estimate(config, parts, total, cores);
    let all_steps = data.total_steps(&config.train) as f64;
    line("memory", format!("about {:.1} GB at the highest point", estimate.bytes / 1e9));
    line(
        "time",
        format!(
            "about {} a step and {} in all on {cores} processor cores ({} floating-point operations a step)",
            duration(estimate.cpu_seconds),
            duration(estimate.cpu_seconds * all_steps),
            with_prefix(estimate.step_operations)
        ),
    );
    text
}

fn steps(config: &TrainConfig, data: &DataSet) -> String {
    let train = &config.train;
    let total = data.total_steps(train);
    let largest = config.data.batchings().iter().map(|batching| batching.batch_size).max().unwrap_or(1);
    let images = largest as u64 * train.gradient_accumulation_steps;
    let (least, most) = data.report().batches_in_epochs;
    let [least, most] = [least, most].map(|batches| train.steps_per_epoch(batches as u64));
    let per_epoch = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let epochs = match train.max_epochs {
        Some(epochs) => epochs as f64,
        None => total as f64 * 2.0 / (least + most).max(1) as f64,
    };
    format!("{total} of up to {images} images, {per_epoch} an epoch, {epochs:.1} epochs")
}

fn written(config: &TrainConfig) -> String {
    let product = match (config.trainable_kind(), config.lora.format, config.full.format) {
        (TrainableKind::Lora, LoraFormat::Kohya, _) => "a LoRA in kohya's form",
        (TrainableKind::Lora, LoraFormat::Peft, _) => "a LoRA in PEFT's form",
        (TrainableKind::Lora, LoraFormat::Both, _) => "a LoRA in kohya's and in PEFT's form",
        (TrainableKind::Vae, ..) | (TrainableKind::Full, _, ModelFormat::SingleFile) => "a single-file model",
        (TrainableKind::Full, _, ModelFormat::Diffusers) => "a diffusers folder",
        (TrainableKind::TextualInversion, ..) => "the words' vectors",
    };
    let mut parts = vec![format!("{product} at the end{}", also(config.save.every()))];
    parts.push(match config.checkpoint.every() {
        every if every.is_never() => "no checkpoints".to_owned(),
        every => format!("checkpoints {}", in_words(every)),
    });
    if !config.samples.prompts.is_empty() {
        let count = config.samples.prompts.len();
        parts.push(format!("{count} pictures at the start, at the end{}", also(config.samples.every())));
    }
    parts.join("; ")
}

fn validated(config: &TrainConfig) -> String {
    let validation = &config.validation;
    let images = match (&validation.path, validation.split) {
        (Some(path), _) => format!("on `{}`", path.display()),
        (None, Some(split)) => format!("on {:.0} % of the images, held out", split * 100.0),
        (None, None) => return "on nothing: neither `validation.path` nor `validation.split` is set".to_owned(),
    };
    let end = if validation.evaluate_at_end { ", evaluation at the end" } else { "" };
    match validation.every() {
        every if every.is_never() => format!("{images}{end}"),
        every => format!("{images} {}{end}", in_words(every)),
    }
}

fn also(every: Every) -> String {
    if every.is_never() { String::new() } else { format!(" and {}", in_words(every)) }
}

fn in_words(every: Every) -> String {
    let steps = every.steps.map(|steps| format!("every {steps} steps"));
    let epochs = every.epochs.map(|epochs| format!("every {epochs} epochs"));
    [steps, epochs].into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

fn cores(config: &TrainConfig) -> usize {
    let all = available_parallelism().map_or(1, usize::from);
    config.train.threads.map_or(all, |threads| threads as usize)
}

/// `859.5 M`.
pub(crate) fn millions(count: usize) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.0} k", count as f64 / 1e3),
        _ => format!("{:.1} M", count as f64 / 1e6),
    }
}

/// `12.3 giga`.
fn with_prefix(count: f64) -> String {
    match count {
        ..1e12 => format!("{:.1} giga", count / 1e9),
        _ => format!("{:.1} tera", count / 1e12),
    }
}

/// `40 ms`, `1.5 s`, `12 min`, `3.4 h`.
fn duration(seconds: f64) -> String {
    match seconds {
        ..0.1 => format!("{:.0} ms", seconds * 1e3),
        ..10.0 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}
