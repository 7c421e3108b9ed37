//! Which parameters a run trains, told from the shapes of the networks.

use std::ops::Add;

use sdtrain_recipe::{FileAdapter, Learning, TrainConfig};
use sdtrain_state_dict::maps::bert;

use super::is_adapter;
use crate::group_rates::GroupRates;
use crate::initial_adapter::PresentAdapters;
use crate::lora_targets::{Adapters, adapters, idle_targets};
use crate::model_parts::ModelParts;
use crate::trained::Trained;
use crate::{ExitCode, Failure, initial_adapter, learned_words};
use sdtrain_state_dict::architecture::Shapes;

/// One network that is trained: its name, what of it, and how much that is.
pub(crate) struct TrainedPart {
    pub name: &'static str,
    pub what: String,
    pub trained: Trained,
}

/// All networks that are trained.
pub(crate) struct TrainedParts {
    pub parts: Vec<TrainedPart>,
    /// What there is to say of the file that training goes on from.
    pub notes: Vec<String>,
}

impl TrainedParts {
    /// All of them together.
    pub fn sum(&self) -> Trained {
        self.parts.iter().map(|part| part.trained).fold(Trained::default(), Add::add)
    }
}

/// How the patterns of `lora.targets` name modules.
const MODULE_PATHS: &str = "paths are those of diffusers behind `unet.` and `text_encoder.`, as \
                            `unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q`; `*` stands for any text";

pub(crate) fn trained_parts(config: &TrainConfig, parts: &ModelParts) -> Result<TrainedParts, Failure> {
    let facts = config.trainable_facts();
    let rates = GroupRates::of(config, parts)?;
    // A block whose rate is 0 is frozen, and gets no adapters.
    let learning = |network: &str, shapes: &Shapes| -> Shapes {
        let learns = shapes.iter().filter(|(name, _)| !rates.freezes(network, name));
        learns.map(|(name, shape)| (name.clone(), shape.clone())).collect()
    };
    let mut trained = TrainedParts { parts: Vec::new(), notes: Vec::new() };
    if facts.trains_adapters() {
        trained = adapter_parts(config, parts, learning)?;
    }
    if facts.trains_weights() {
        check_patterns(config, parts)?;
    }
    let trained_of = |network: &str| match network {
        "unet" => facts.unet,
        "vae" => facts.vae,
        _ => facts.text_encoder,
    };
    let optimizer = config.optimizer.settings();
    for (name, shapes) in parts.networks().filter(|(name, _)| trained_of(name) == Learning::Weights) {
        let mut shapes = learning(name, shapes);
        shapes.retain(|parameter, _| (facts.trains_weight)(config, &format!("{name}.{parameter}")));
        if !shapes.is_empty() {
            let what = format!("{} tensors", shapes.len());
            let tensors = shapes.iter().map(|(tensor, shape)| Trained::of_tensor(optimizer, tensor, shape));
            let of_network = tensors.fold(Trained::default(), Add::add);
            trained.parts.push(TrainedPart { name, what, trained: of_network });
        }
    }
    let widths: Vec<usize> = parts.text_encoders.iter().filter_map(learned_words::width).collect();
    if !widths.is_empty() && !config.learned_tokens().is_empty() {
        for learned_words::Word { word, vectors } in learned_words::of(config, &widths)? {
            for ((name, _), &width) in parts.text_networks().zip(&widths) {
                let what = format!("the word `{word}`, {vectors} vectors");
                let of_word =
                    Trained::of_tensor(optimizer, &format!("{name}.learned_tokens.{word}"), &[vectors, width]);
                trained.parts.push(TrainedPart { name, what, trained: of_word });
            }
        }
    }
    if trained.parts.is_empty() {
        return Err(Failure::new(ExitCode::Configuration, facts.nothing_in_model).hint(MODULE_PATHS));
    }
    let sum = trained.sum();
    if sum.rest > 0 && sum.rest == sum.parameters {
        let message = format!("`{}` is made for matrices, and nothing that is trained is one", optimizer.name());
        return Err(Failure::new(ExitCode::Configuration, message).hint("set `optimizer.type = \"adamw\"`"));
    }
    Ok(trained)
}

/// The adapters that `[lora]` asks for, beside those layers of a network that `learning` leaves.
fn adapter_parts(
    config: &TrainConfig,
    parts: &ModelParts,
    learning: impl Fn(&str, &Shapes) -> Shapes,
) -> Result<TrainedParts, Failure> {
    let networks: Vec<(&'static str, &Shapes)> = parts.networks().filter(|(network, _)| *network != "vae").collect();
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
    let (mut trained, mut notes, mut added) = (Vec::new(), Vec::new(), 0);
    for (name, shapes) in networks {
        let shapes = learning(name, shapes);
        let adapters = adapters(&config.lora, name, &shapes, &present);
        added += adapters.count - adapters.of_file;
        if adapters.count > 0 {
            let kind = config.lora.kind.name();
            let of_file = match adapters.of_file {
                0 => String::new(),
                count => format!(", {count} of them from `lora.initial`"),
            };
            let what = format!("{} adapters of kind `{kind}`{of_file}", adapters.count);
            trained.push(TrainedPart { name, what, trained: of_adapters(config, &adapters) });
        }
    }
    if let Some(path) = &config.lora.initial {
        let of_file: Vec<FileAdapter> = present.into_values().map(|present| present.adapter).collect();
        let read = config.lora.read_initial(&path.display().to_string(), &of_file, added);
        notes = read.map_err(|(message, hint)| Failure::new(ExitCode::Configuration, message).hint(hint))?;
    }
    let is_bert =
        |name: &str| parts.text_networks().any(|(own, shapes)| own == name && shapes.contains_key(bert::FIRST));
    if trained.iter().any(|part| is_bert(part.name)) {
        notes.push(
            "no other program reads adapters of a BERT text encoder; `method = \"full\"` trains it for all".to_owned(),
        );
    }
    Ok(TrainedParts { parts: trained, notes })
}

/// All of a network's adapters taken for one: matrices of this rank, and a vector of the numbers that lie in none.
fn of_adapters(config: &TrainConfig, adapters: &Adapters) -> Trained {
    let optimizer = config.optimizer.settings();
    let rank = config.lora.rank.max(1) as usize;
    // Only an optimizer that is made for matrices makes a difference between them.
    let apart = if optimizer.rest().is_some() { adapters.parameters - adapters.in_matrices } else { 0 };
    let matrices = Trained::of_tensor(optimizer, "matrices", &[rank, (adapters.parameters - apart) / rank]);
    let others = Trained::of_tensor(optimizer, "others", &[apart]);
    let as_one = matrices + others;
    let state_bytes = as_one.state_bytes.saturating_sub(optimizer.first_weight_bytes(&[adapters.zeros]));
    // First weights that are not kept are as large as the others, or else no part of what is.
    let large_state_bytes = as_one.large_state_bytes.min(state_bytes);
    Trained { parameters: adapters.parameters, state_bytes, large_state_bytes, ..as_one }
}

/// A pattern that matches nothing is a slip of the pen.
fn check_patterns(config: &TrainConfig, parts: &ModelParts) -> Result<(), Failure> {
    let of = |network: &str, shapes: &Shapes| -> Vec<String> {
        shapes.keys().map(|name| format!("{network}.{name}")).collect()
    };
    let mut names = of("unet", &parts.unet);
    names.extend(parts.text_networks().flat_map(|(network, shapes)| of(network, shapes)));
    match config.trainable_facts().idle_pattern(names.iter().map(String::as_str)) {
        None => Ok(()),
        Some((key, pattern)) => {
            let message = format!("`{key}` has the pattern \"{pattern}\", which matches no parameter of the model");
            Err(Failure::new(ExitCode::Configuration, message)
                .hint("names are those of diffusers behind `unet.` and `text_encoder.`"))
        }
    }
}
