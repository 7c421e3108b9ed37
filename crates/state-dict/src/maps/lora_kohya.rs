//! Adapter names as kohya's scripts and LyCORIS write them: `lora_unet_<module>.lora_down.weight`, `.lora_up.weight`,
//! `.alpha`, `.hada_w1_a` …, where every dot of the module's path has become an underscore.

use std::collections::HashMap;

use super::lora_peft::{LoraKey, LoraTensor, Part};

/// Whether the file has one text encoder (SD1, SD2: `lora_te_`) or two (SDXL: `lora_te1_`, `lora_te2_`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEncoders {
    /// SD1 and SD2.
    One,
    /// SDXL.
    Two,
}

/// kohya's name for a tensor of an adapter; a tensor that this form has no place for is named as behind a dotted path.
pub fn kohya_name(key: &LoraKey, text_encoders: TextEncoders) -> String {
    let suffix = key.tensor.kohya_suffix().unwrap_or(key.tensor.dotted_suffix());
    format!("{}{suffix}", kohya_module(key.part, &key.module, text_encoders))
}

/// kohya's name for an adapted layer, without the tensor.
pub fn kohya_module(part: Part, module: &str, text_encoders: TextEncoders) -> String {
    let prefix = match (part, text_encoders) {
        (Part::Unet, _) => "lora_unet",
        (Part::TextEncoder, TextEncoders::One) => "lora_te",
        (Part::TextEncoder, TextEncoders::Two) => "lora_te1",
        (Part::TextEncoder2, _) => "lora_te2",
    };
    format!("{prefix}_{}", module.replace('.', "_"))
}

/// Reads kohya's names. Underscores stand for dots and for themselves, so the layers of the model have to be known.
pub struct KohyaModules {
    modules: HashMap<String, (Part, String)>,
}

impl KohyaModules {
    /// A lookup over the layers of a model.
    pub fn new<'m>(modules: impl IntoIterator<Item = (Part, &'m str)>) -> KohyaModules {
        let mut lookup = HashMap::new();
        for (part, module) in modules {
            for text_encoders in [TextEncoders::One, TextEncoders::Two] {
                lookup.insert(kohya_module(part, module, text_encoders), (part, module.to_string()));
            }
        }
        KohyaModules { modules: lookup }
    }

    /// The layer and tensor behind a name, if the model has that layer.
    pub fn parse(&self, name: &str) -> Option<LoraKey> {
        let (layer, tensor) = LoraTensor::split_kohya(name)?;
        let (part, module) = self.modules.get(layer)?;
        Some(LoraKey { part: *part, module: module.clone(), tensor })
    }
}

/// Whether a name has the form of kohya's adapters, for any model and algorithm.
pub fn is_kohya_name(name: &str) -> bool {
    ["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Words of diffusers' and transformers' layer names that contain underscores; all other words do not.
const WORDS: [&str; 24] = [
    "down_blocks",
    "up_blocks",
    "mid_block",
    "transformer_blocks",
    "time_emb_proj",
    "time_embedding",
    "add_embedding",
    "linear_1",
    "linear_2",
    "conv_shortcut",
    "conv_in",
    "conv_out",
    "proj_in",
    "proj_out",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "text_model",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
];

/// Reads a name without a model at hand, by the words that diffusers' layer names are made of. Where a model is
/// known, [`KohyaModules`] is the surer way.
pub fn parse_by_words(name: &str) -> Option<LoraKey> {
    let (layer, tensor) = LoraTensor::split_kohya(name).filter(|(layer, _)| !layer.contains('.'))?;
    let (part, mut rest) = [
        ("lora_unet_", Part::Unet),
        ("lora_te_", Part::TextEncoder),
        ("lora_te1_", Part::TextEncoder),
        ("lora_te2_", Part::TextEncoder2),
    ]
    .into_iter()
    .find_map(|(prefix, part)| Some((part, layer.strip_prefix(prefix)?)))?;
    let mut words = Vec::new();
    while !rest.is_empty() {
        let known = WORDS
            .iter()
            .copied()
            .find(|word| rest.strip_prefix(word).is_some_and(|after| after.is_empty() || after.starts_with('_')));
        let word = known.unwrap_or_else(|| rest.split('_').next().unwrap_or(rest));
        if word.is_empty() {
            return None;
        }
        words.push(word);
        rest = rest[word.len()..].strip_prefix('_').unwrap_or("");
    }
    Some(LoraKey { part, module: words.join("."), tensor })
}
