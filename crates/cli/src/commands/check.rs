//! `sdtrain check`: what a configuration would do, without doing it.

use std::fmt::Write;
use std::path::Path;
use std::thread::available_parallelism;

use sdtrain_config::{Parsed, Problems};
use sdtrain_data_loader::{DataSet, TokenReport, TokenWindow};
use sdtrain_recipe::{
    DataConfig, Every, FileAdapter, GradientCheckpointing, Loaded, LoraFormat, ModelFormat, StoredType, TrainConfig,
    TrainableKind, VaeProduct,
};
use sdtrain_state_dict::{FileKind, SafetensorsFile, recognise};
use sdtrain_tokenizer::Tokenizer;

use crate::architecture::Shapes;
use crate::args::{CheckArgs, ConfigArgs};
use crate::estimate::{Trained, estimate};
use crate::group_rates::GroupRates;
use crate::initial_adapter::{self, PresentAdapters};
use crate::learned_words;
use crate::lora_targets::{adapters, idle_targets};
use crate::model_parts::{ModelParts, count_parameters};
use crate::room::Learned;
use crate::{ExitCode, Failure, class_images, model_tokenizer, print_answer};

/// The step between bucket sides when nothing is known of the model: that of SD1.5.
const USUAL_BUCKET_STEP: usize = 64;

/// Prints the summary to stdout.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = load_or_explain(&args.config())?.config;
    let Examined { parts, data, trained } = examine(&config)?;
    let tokenizer = learned_words::tokenizer(&config, model_tokenizer::of(&config.model)?)?;
    let limit = model_tokenizer::token_limit(&tokenizer, config.model.max_token_length)?;
    let window = TokenWindow { tokenizer: &tokenizer, limit, prompt_weights: config.model.prompt_weights };
    let tokens = data.count_tokens(window);
    print_answer(&summary(&config, &parts, &trained, &data, &tokens));
    Ok(())
}

/// What a run would begin with.
pub(crate) struct Examined {
    parts: ModelParts,
    data: DataSet,
    trained: TrainedParts,
}

impl Examined {
    /// What learns.
    pub(crate) fn learned(&self) -> Learned {
        let sum = |of: fn(&TrainedPart) -> usize| self.trained.parts.iter().map(of).sum::<usize>() as u64;
        Learned { parameters: sum(|part| part.parameters), state_bytes: sum(|part| part.state_bytes) }
    }
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
    if let Err((message, hint)) = config.data.check_images_are_used() {
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
    for (index, fused) in config.model.fuse.iter().enumerate() {
        let _ = is_adapter(&format!("model.fuse.{index}.path"), &fused.path).map_err(&mut keep);
    }
    if let Some(parts) = &parts {
        let _ = check_sample_sizes(config, parts.downscale_factor()).map_err(&mut keep);
    }
    match (failures.into_iter().reduce(Failure::and), parts, data, trained) {
        (None, Some(parts), Some(data), Some(trained)) => Ok(Examined { parts, data, trained }),
        (failure, ..) => Err(failure.expect("what is missing has failed")),
    }
}

fn max_token_length(config: &TrainConfig) -> Option<usize> {
    config.model.max_token_length.map(|length| length as usize)
}

fn is_adapter(key: &str, path: &Path) -> Result<(), Failure> {
    let kind = recognise(&SafetensorsFile::open(path)?);
    if matches!(kind, FileKind::KohyaLora { .. } | FileKind::PeftLora { .. }) {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Model, format!("`{key}`: `{}` is a {kind}, not a LoRA", path.display())))
}

fn check_sample_sizes(config: &TrainConfig, factor: usize) -> Result<(), Failure> {
    let fits = |side: u32| (side as usize).is_multiple_of(factor);
    let Some(picture) = config.sample_pictures().into_iter().find(|p| !fits(p.width) || !fits(p.height)) else {
        return Ok(());
    };
    let (width, height) = (picture.width, picture.height);
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

/// One network that is trained: its name, what of it, how many parameters, and what the optimizer keeps for them.
pub(crate) struct TrainedPart {
    name: &'static str,
    what: String,
    parameters: usize,
    state_bytes: usize,
}

/// All networks that are trained.
pub(crate) struct TrainedParts {
    parts: Vec<TrainedPart>,
    /// What there is to say of the file that training goes on from.
    notes: Vec<String>,
}

/// How the patterns of `lora.targets` name modules.
const MODULE_PATHS: &str = "paths are those of diffusers behind `unet.` and `text_encoder.`, as \
                            `unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q`; `*` stands for any text";

fn trained_parts(config: &TrainConfig, parts: &ModelParts) -> Result<TrainedParts, Failure> {
    let rates = GroupRates::of(config, parts)?;
    // A block whose rate is 0 is frozen, and gets no adapters.
    let learns = |network: &str, name: &str| !rates.freezes(network, name);
    let networks = [("unet", Some(&parts.unet)), ("text_encoder", parts.text_encoder.as_ref())];
    let learning = networks.map(|(network, shapes)| {
        let shapes = shapes.cloned().unwrap_or_default();
        (network, shapes.into_iter().filter(|(name, _)| learns(network, name)).collect::<Shapes>())
    });
    let optimizer = config.optimizer.settings();
    let (mut trained, mut notes, mut added) = (Vec::new(), Vec::new(), 0);
    match config.trainable_kind() {
        TrainableKind::Lora => {
            if let idle @ [_, ..] = &idle_targets(&config.lora, &networks)[..] {
                let named: Vec<String> = idle.iter().map(|pattern| format!("\"{pattern}\"")).collect();
                let message = format!("`lora.targets`: no module of the model matches {}", named.join(", "));
                return Err(Failure::new(ExitCode::Configuration, message).hint(MODULE_PATHS));
            }
            let present = match &config.lora.initial {
                Some(path) => {
                    is_adapter("lora.initial", path)?;
                    initial_adapter::read(path, &networks)?
                }
                None => PresentAdapters::new(),
            };
            for (name, shapes) in learning {
                let adapters = adapters(&config.lora, name, &shapes, &present);
                added += adapters.count - adapters.of_file;
                if adapters.count > 0 {
                    let kind = config.lora.kind.name();
                    let of_file = match adapters.of_file {
                        0 => String::new(),
                        count => format!(", {count} of them from `lora.initial`"),
                    };
                    let what = format!("{} adapters of kind `{kind}`{of_file}", adapters.count);
                    // All of a network's adapters taken for one: matrices of this rank.
                    let rank = config.lora.rank.max(1) as usize;
                    let state_bytes = optimizer.state_bytes(&[rank, adapters.parameters / rank]);
                    trained.push(TrainedPart { name, what, parameters: adapters.parameters, state_bytes });
                }
            }
            if let Some(path) = &config.lora.initial {
                let of_file: Vec<FileAdapter> = present.into_values().map(|present| present.adapter).collect();
                let read = config.lora.read_initial(&path.display().to_string(), &of_file, added);
                notes = read.map_err(|(message, hint)| Failure::new(ExitCode::Configuration, message).hint(hint))?;
            }
        }
        TrainableKind::Full => {
            check_patterns(config, parts)?;
            for (name, mut shapes) in learning {
                shapes.retain(|parameter, _| config.full.trains(&format!("{name}.{parameter}")));
                if !shapes.is_empty() {
                    let what = format!("{} tensors", shapes.len());
                    trained.push(TrainedPart {
                        name,
                        what,
                        parameters: count_parameters(&shapes),
                        state_bytes: shapes.values().map(|shape| optimizer.state_bytes(shape)).sum(),
                    });
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
                trained.push(TrainedPart {
                    name: "vae",
                    what,
                    parameters: count_parameters(&shapes),
                    state_bytes: shapes.values().map(|shape| optimizer.state_bytes(shape)).sum(),
                });
            }
        }
    }
    let width = parts.text_encoder.as_ref().and_then(learned_words::width);
    if let (Some(width), false) = (width, config.learned_tokens().is_empty()) {
        for learned_words::Word { word, vectors } in learned_words::of(config, width)? {
            let what = format!("the word `{word}`, {vectors} vectors");
            let state_bytes = optimizer.state_bytes(&[vectors, width]);
            trained.push(TrainedPart { name: "text_encoder", what, parameters: vectors * width, state_bytes });
        }
    }
    if !trained.is_empty() {
        return Ok(TrainedParts { parts: trained, notes });
    }
    let message = match config.trainable_kind() {
        TrainableKind::Lora => "the model holds no module that `lora` asks for",
        TrainableKind::Full => "`full.targets`, `full.freeze` and `[blocks]` leave nothing of the model to train",
        TrainableKind::TextualInversion => "the model holds no text encoder that could learn a word",
        TrainableKind::Vae => "the model holds none of the networks that are to be trained",
    };
    Err(Failure::new(ExitCode::Configuration, message).hint(MODULE_PATHS))
}

/// A pattern that matches nothing is a slip of the pen.
fn check_patterns(config: &TrainConfig, parts: &ModelParts) -> Result<(), Failure> {
    let of = |network: &str, shapes: &Shapes| -> Vec<String> {
        shapes.keys().map(|name| format!("{network}.{name}")).collect()
    };
    let mut names = of("unet", &parts.unet);
    names.extend(parts.text_encoder.iter().flat_map(|shapes| of("text_encoder", shapes)));
    match config.full.idle_pattern(names.iter().map(String::as_str)) {
        None => Ok(()),
        Some((key, pattern)) => {
            let message = format!("`{key}` has the pattern \"{pattern}\", which matches no parameter of the model");
            Err(Failure::new(ExitCode::Configuration, message)
                .hint("names are those of diffusers behind `unet.` and `text_encoder.`"))
        }
    }
}

fn summary(
    config: &TrainConfig,
    parts: &ModelParts,
    TrainedParts { parts: trained, notes }: &TrainedParts,
    data: &DataSet,
    tokens: &TokenReport,
) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<10} {value}");
    };
    line("run", format!("`{}`, method `{}`, seed {}", config.name, config.method.name(), config.seed));
    line("model", format!("`{}`: {}, family `{}`", config.model.path, parts.kind, parts.family.name()));
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
    for note in notes {
        line("", note.clone());
    }
    for fused in &config.model.fuse {
        line("fused", format!("`{}`, {} times", fused.path.display(), fused.weight));
    }
    for warning in learned_words::left_behind(config).unwrap_or_default() {
        line("warning", warning);
    }
    line("data", data.report().to_string().replace("\n  ", &format!("\n{:<10} ", "")));
    if config.objective_kind().denoises() {
        line("tokens", tokens.to_string().replace("\n  ", &format!("\n{:<10} ", "")));
    }
    if let Some(class) = class_images::described(config, data.report()) {
        line("class", class);
    }
    line("steps", steps(config, data));
    if let weightings @ [_, _, ..] = &config.loss.snr_weightings()[..] {
        let product = weightings.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" × ");
        line("loss", format!("note: timesteps are weighed by a product, {product}, as in kohya's scripts"));
    }
    line("optimizer", optimizer(config, trained, data.total_steps(&config.train)));
    if let Ok(rates) = GroupRates::of(config, parts) {
        for rate in rates.lines() {
            line("", rate);
        }
    }
    if config.ema.enabled {
        line("average", average(config));
    }
    line("precision", precision(config));
    line("writes", written(config));
    line("validates", validated(config));

    let total = trained.iter().map(|part| part.parameters).sum();
    let state_bytes = trained.iter().map(|part| part.state_bytes).sum();
    let cores = cores(config);
    let estimate = estimate(config, parts, Trained { parameters: total, state_bytes }, cores);
    let all_steps = data.total_steps(&config.train) as f64;
    line("memory", format!("about {:.2} GB at the highest point", estimate.bytes / 1e9));
    line(
        "time",
        format!(
            "about {} a step and {} for all steps on {cores} processor cores, without pictures and measurements \
             ({} floating-point operations a step)",
            duration(estimate.cpu_seconds),
            duration(estimate.cpu_seconds * all_steps),
            with_prefix(estimate.step_operations)
        ),
    );
    text
}

fn average(config: &TrainConfig) -> String {
    let ema = &config.ema;
    let mut text = format!("products hold the mean of the trained weights, decay {}", ema.decay);
    if ema.update_every > 1 {
        let _ = write!(text, ", every {} steps", ema.update_every);
    }
    if ema.update_after_step > 0 {
        let _ = write!(text, ", after step {}", ema.update_after_step);
    }
    if ema.save_raw {
        text.push_str("; the weights themselves are saved as `-raw`");
    }
    text
}

fn precision(config: &TrainConfig) -> String {
    let precision = &config.precision;
    let mut text = format!("computes in {}, saves in {}", precision.compute.name(), precision.save.name());
    if precision.weights == StoredType::Bf16 {
        let _ = write!(text, ", trains weights in bf16 with {} rounding", precision.rounding.name());
    }
    if precision.optimizer_state == StoredType::Bf16 {
        text.push_str(", optimizer state in bf16");
    }
    match config.train.gradient_checkpointing {
        GradientCheckpointing::None => {}
        blocks => {
            let _ = write!(text, ", gradient checkpointing `{}`", blocks.name());
        }
    }
    match precision.tf32 {
        Some(true) => text.push_str(", TF32 in products and convolutions (on a GPU only)"),
        Some(false) => text.push_str(", no TF32 (which only a GPU would use)"),
        None => {}
    }
    if config.train.fused_backward {
        text.push_str(", updates within the backward pass");
    }
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

fn optimizer(config: &TrainConfig, trained: &[TrainedPart], total_steps: u64) -> String {
    let optimizer = config.optimizer.settings();
    let rate = optimizer.learning_rate();
    let rate = match optimizer.finds_its_rate() {
        true if rate == 1.0 => "finds its learning rate".to_owned(),
        true => format!("finds its learning rate, times {rate}"),
        false => format!("learning rate {:e}", rate * config.learning_rate_scale()),
    };
    let bytes: usize = trained.iter().map(|part| part.state_bytes).sum();
    let parameters: usize = trained.iter().map(|part| part.parameters).sum();
    let each = bytes as f64 / parameters.max(1) as f64;
    let warmup = config.lr_schedule.warmup_steps(total_steps);
    let schedule = config.lr_schedule.name();
    let name = optimizer.name();
    format!("{name}, {rate}, schedule `{schedule}` with {warmup} warm-up steps; keeps {each:.1} bytes a parameter")
}

fn written(config: &TrainConfig) -> String {
    let product = match (config.trainable_kind(), config.full.format) {
        (TrainableKind::Lora, _) => {
            let form = match config.lora.format {
                LoraFormat::Kohya => "kohya's form",
                LoraFormat::Peft => "PEFT's form",
                LoraFormat::Both => "kohya's and in PEFT's form",
            };
            format!("a {} in {form}", config.lora.kind.title())
        }
        (TrainableKind::Vae, form) if config.vae_objective.product == VaeProduct::Vae => match form {
            ModelFormat::SingleFile => "a VAE in one file".to_owned(),
            ModelFormat::Diffusers => "a VAE in a folder of diffusers".to_owned(),
        },
        (TrainableKind::Vae | TrainableKind::Full, ModelFormat::SingleFile) => "a single-file model".to_owned(),
        (TrainableKind::Vae | TrainableKind::Full, ModelFormat::Diffusers) => "a diffusers folder".to_owned(),
        (TrainableKind::TextualInversion, _) => "the words' vectors".to_owned(),
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
