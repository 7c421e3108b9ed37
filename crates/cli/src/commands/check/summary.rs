//! What `check` says of a run, in words and figures.

use std::fmt::Write;
use std::thread::available_parallelism;

use sdtrain_data_loader::{DataSet, TokenReport};
use sdtrain_recipe::{Every, FloatType, GradientCheckpointing, Init, StoredType, TrainConfig};

use super::Examined;
use super::optimizer_notes::{rest, stored_state};
use super::warnings::{unreached_batches, warnings};
use crate::estimate::estimate;
use crate::group_rates::{GroupRates, short};
use crate::model_parts::{ModelParts, count_parameters};
use crate::room::DiskSummary;
use crate::trained::Trained;
use crate::{class_images, learned_words};

pub(super) fn summary(
    config: &TrainConfig,
    examined: &Examined,
    tokens: &TokenReport,
    to_fetch: &[String],
    prompt_length: usize,
    disk: &DiskSummary,
) -> String {
    let Examined { parts, data, trained } = examined;
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<10} {value}");
    };
    line("run", format!("`{}`, method `{}`, seed {}", config.name, config.method.name(), config.seed));
    line("model", format!("`{}`: {}, family `{}`", config.model.path, parts.kind, parts.family.name()));
    if let Some(folder) = &config.model.text_encoder {
        let drawn =
            if config.model.text_encoder_init == Init::Random { ", its weights drawn from the seed" } else { "" };
        line("", format!("with the text encoder in `{}`{drawn}", folder.display()));
    }
    let counts: Vec<String> =
        parts.networks().map(|(name, shapes)| format!("{name} {}", millions(count_parameters(shapes)))).collect();
    line("", format!("parameters: {}", counts.join(", ")));
    for missing in to_fetch {
        line("to fetch", missing.clone());
    }
    if let Some(unknown) = &parts.unknown_tensors {
        line("warning", format!("`{}` holds {unknown}; nothing reads them", config.model.path));
    }
    for part in &trained.parts {
        line("trained", format!("{}: {}, {} parameters", part.name, part.what, millions(part.trained.parameters)));
    }
    for note in &trained.notes {
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
    let sum = trained.sum();
    let total_steps = data.total_steps(&config.train);
    line("optimizer", optimizer(config, sum, total_steps));
    line("", gradients(config));
    if let Some(rest) = rest(config, sum) {
        line("", rest);
    }
    if let Some(warning) = config.lr_schedule.warmup_warning(total_steps) {
        line("warning", warning);
    }
    let unreached = unreached_batches(&config.train, data.report().batches_in_epochs.1 as u64);
    for warning in warnings(config, sum, total_steps).into_iter().chain(unreached) {
        line("warning", warning);
    }
    if let Ok(rates) = GroupRates::of(config, parts) {
        for rate in rates.lines() {
            line("", rate);
        }
    }
    if config.ema.enabled {
        line("average", average(config));
    }
    line("precision", precision(config, parts));
    line("writes", written(config));
    line("disk", disk.text.clone());
    if let Some(warning) = &disk.warning {
        line("warning", warning.clone());
    }
    line("validates", validated(config));

    let cores = cores(config);
    let (_, batches) = data.report().batches_in_epochs;
    let (most, _) = config.train.batches_of_steps(batches as u64);
    let mut reached = config.clone();
    reached.train.gradient_accumulation_steps = most;
    let estimate = estimate(&reached, parts, sum, prompt_length, cores);
    // Those at the end of an epoch may take fewer batches.
    let whole = config.train.steps_per_epoch(batches as u64).saturating_mul(most).max(1);
    let all_steps = total_steps as f64 * batches.max(1) as f64 / whole as f64;
    line("memory", estimate.in_words());
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

fn precision(config: &TrainConfig, parts: &ModelParts) -> String {
    let precision = &config.precision;
    let mut text = format!("computes in {}", precision.compute.name());
    if config.objective_kind().denoises() && parts.vae_stays_in_fp32(precision.compute) {
        text.push_str(" (the VAE in fp32)");
    }
    let _ = write!(text, ", saves in {}", precision.save.name());
    if precision.weights == StoredType::Bf16 {
        let _ = write!(text, ", trains weights in bf16 with {} rounding", precision.rounding.name());
    }
    text.push_str(stored_state(config));
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
        let every = config.checkpoint.every();
        let checkpoints = if every.is_never() { "there is none before the end".to_owned() } else { in_words(every) };
        let _ = write!(
            text,
            ", updates within the backward pass: a gradient that is not finite ends the run, which loses what came since its last \
             checkpoint ({checkpoints})"
        );
    }
    text
}

fn steps(config: &TrainConfig, data: &DataSet) -> String {
    let train = &config.train;
    let total = data.total_steps(train);
    let largest = config.data.batchings().iter().map(|batching| batching.batch_size).max().unwrap_or(1);
    let (least, most) = data.report().batches_in_epochs;
    let (batches, last) = train.batches_of_steps(most as u64);
    let images = (largest as u64).saturating_mul(batches).saturating_mul(train.ranks());
    let accumulated = match batches {
        1 => String::new(),
        _ if least != most => {
            format!(" in {batches} batches whose gradients are averaged (the last of an epoch in what is left of it)")
        }
        _ if last < batches => {
            format!(" in {batches} batches whose gradients are averaged (the last of an epoch in {last})")
        }
        _ => format!(" in {batches} batches whose gradients are averaged"),
    };
    let accumulated = match train.ranks() {
        1 => accumulated,
        ranks => format!("{accumulated} on {ranks} ranks"),
    };
    let [least, most] = [least, most].map(|batches| train.steps_per_epoch(batches as u64));
    let per_epoch = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let epochs = match train.max_epochs {
        Some(epochs) => epochs as f64,
        None => total as f64 * 2.0 / (least + most).max(1) as f64,
    };
    format!("{total} of up to {images} images{accumulated}, {per_epoch} an epoch, {epochs:.1} epochs")
}

fn optimizer(config: &TrainConfig, trained: Trained, total_steps: u64) -> String {
    let optimizer = config.optimizer.settings();
    let rate = optimizer.learning_rate();
    let rate = match optimizer.finds_its_rate() {
        true if rate == 1.0 => "finds its learning rate".to_owned(),
        true => format!("finds its learning rate, times {rate}"),
        false => match config.learning_rate_scale() {
            1.0 => format!("learning rate {rate:e}"),
            scale => {
                format!("learning rate {}, {scale} times {rate:e} by `train.learning_rate_scale`", short(rate * scale))
            }
        },
    };
    let each = trained.kept_state_bytes(config) as f64 / trained.parameters.max(1) as f64;
    let warmup = config.lr_schedule.warmup_steps(total_steps);
    let schedule = config.lr_schedule.name();
    let name = optimizer.name();
    format!("{name}, {rate}, schedule `{schedule}` with {warmup} warm-up steps; keeps {each:.1} bytes a parameter")
}

/// What becomes of gradients before the optimizer has them.
fn gradients(config: &TrainConfig) -> String {
    let clipped = match config.train.clip_norm() {
        Some(norm) => format!("gradients are clipped to a norm of {norm}"),
        None => "gradients are not clipped".to_owned(),
    };
    match config.precision.compute {
        FloatType::Fp16 => {
            format!("{clipped}; the loss is scaled for fp16, and a step whose gradients overflow is skipped")
        }
        FloatType::Fp32 | FloatType::Bf16 => clipped,
    }
}

fn written(config: &TrainConfig) -> String {
    let product = (config.trainable_facts().product)(config);
    let mut parts = vec![format!("{product} at the end{}", also(config.save.every()))];
    parts.push(match config.checkpoint.every() {
        every if every.is_never() => "one checkpoint at the end".to_owned(),
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
