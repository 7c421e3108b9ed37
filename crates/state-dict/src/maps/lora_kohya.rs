//! Adapter names as kohya's scripts and LyCORIS write them: `lora_unet_<module>.lora_down.weight`, `.lora_up.weight`,
//! `.alpha`, `.hada_w1_a` …, where every dot of the module's path has become an underscore.
//!
//! The paths are diffusers', but for the UNet of SDXL and its refiner: there they are the original ones, as
//! `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q`. Both are read.

use std::collections::{BTreeMap, HashMap};

use super::adapter_family::{AdaptedInputs, family_of_adapters};
use super::ldm_sd::{UnetLayout, ldm_to_unet, unet_to_ldm};
use super::lora_peft::{LoraKey, LoraTensor, Part};
use crate::family::Family;

/// What the names of a model's adapters depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KohyaNaming {
    /// Of a model with one text encoder (SD1, SD2): `lora_te_`, and diffusers' paths in the UNet.
    OneTextEncoder,
    /// Of a model with two (SDXL), or with the second of them alone (its refiner): `lora_te1_`, `lora_te2_`, and the original paths
    /// in a UNet of this layout.
    TwoTextEncoders(UnetLayout),
}

impl KohyaNaming {
    /// That of the model with these layers.
    pub fn of_layers(layers: &[(Part, &str)]) -> KohyaNaming {
        let layout = || {
            let of_unet = layers.iter().filter(|(part, _)| *part == Part::Unet).map(|(_, module)| *module);
            UnetLayout::from_diffusers_names(of_unet)
        };
        let two = layers.iter().any(|(part, _)| *part == Part::TextEncoder2);
        two.then(layout).flatten().map_or(KohyaNaming::OneTextEncoder, KohyaNaming::TwoTextEncoders)
    }

    /// That of a family's released models. kohya's scripts do not train SDXL's refiner; its names follow the rule for SDXL.
    pub fn of_family(family: Family) -> KohyaNaming {
        match family {
            Family::Sd1 | Family::Sd2 => KohyaNaming::OneTextEncoder,
            Family::Sdxl => KohyaNaming::TwoTextEncoders(sdxl_layout()),
            Family::SdxlRefiner => KohyaNaming::TwoTextEncoders(refiner_layout()),
        }
    }

    /// That of adapters whose model is not at hand, by what they and the metadata of their file show of it.
    pub fn of_adapters<'l>(
        layers: impl IntoIterator<Item = AdaptedInputs<'l>>,
        metadata: &BTreeMap<String, String>,
    ) -> KohyaNaming {
        family_of_adapters(layers, metadata).map_or(KohyaNaming::OneTextEncoder, KohyaNaming::of_family)
    }
}

/// The layout of SDXL's UNet, as it was released.
fn sdxl_layout() -> UnetLayout {
    UnetLayout::uniform(2, &[true, true, false])
}

/// The layout of the UNet of SDXL's refiner, as it was released.
fn refiner_layout() -> UnetLayout {
    UnetLayout::uniform(2, &[false, true, true, false])
}

/// kohya's name for a tensor of an adapter; a tensor that this form has no place for is named as behind a dotted path.
pub fn kohya_name(key: &LoraKey, naming: &KohyaNaming) -> String {
    let suffix = key.tensor.kohya_suffix().unwrap_or(key.tensor.dotted_suffix());
    format!("{}{suffix}", kohya_module(key.part, &key.module, naming))
}

/// kohya's name for an adapted layer, without the tensor.
pub fn kohya_module(part: Part, module: &str, naming: &KohyaNaming) -> String {
    let original = match naming {
        KohyaNaming::TwoTextEncoders(layout) if part == Part::Unet => original_module(module, layout),
        _ => None,
    };
    let prefix = match (part, naming) {
        (Part::Unet, _) => "lora_unet",
        (Part::TextEncoder, KohyaNaming::OneTextEncoder) => "lora_te",
        (Part::TextEncoder, KohyaNaming::TwoTextEncoders(_)) => "lora_te1",
        (Part::TextEncoder2, _) => "lora_te2",
    };
    format!("{prefix}_{}", original.as_deref().unwrap_or(module).replace('.', "_"))
}

/// The original path of a UNet's layer.
fn original_module(module: &str, layout: &UnetLayout) -> Option<String> {
    let name = unet_to_ldm(&format!("{module}.weight"), layout)?;
    name.strip_suffix(".weight").map(str::to_string)
}

/// Reads kohya's names. Underscores stand for dots and for themselves, so the layers of the model have to be known.
pub struct KohyaModules {
    modules: HashMap<String, (Part, String)>,
}

impl KohyaModules {
    /// A lookup over the layers of a model.
    pub fn new<'m>(modules: impl IntoIterator<Item = (Part, &'m str)>) -> KohyaModules {
        let modules: Vec<(Part, &str)> = modules.into_iter().collect();
        let own = KohyaNaming::of_layers(&modules);
        let mut lookup = HashMap::new();
        for (part, module) in modules {
            // Some programs write diffusers' paths for any model, and `lora_te1_` where there is no other.
            for naming in [&own, &KohyaNaming::OneTextEncoder] {
                lookup.insert(kohya_module(part, module, naming), (part, module.to_string()));
            }
            if part == Part::TextEncoder {
                lookup.insert(format!("lora_te1_{}", module.replace('.', "_")), (part, module.to_string()));
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

/// Whether a name of kohya's form is of a UNet's layer by its original path, as for SDXL and its refiner alone.
pub fn is_original_name(name: &str) -> bool {
    const ORIGINAL: [&str; 6] =
        ["input_blocks_", "middle_block_", "output_blocks_", "time_embed_", "label_emb_", "out_"];
    let layer = name.strip_prefix("lora_unet_");
    layer.is_some_and(|layer| ORIGINAL.iter().any(|beginning| layer.starts_with(beginning)))
}

/// Whether a name has the form of kohya's adapters, for any model and algorithm.
pub fn is_kohya_name(name: &str) -> bool {
    ["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Words of layer names that contain underscores, of diffusers', transformers' and the original ones; all other words do not.
const WORDS: [&str; 34] = [
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
    "text_projection",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "input_blocks",
    "middle_block",
    "output_blocks",
    "in_layers",
    "emb_layers",
    "out_layers",
    "skip_connection",
    "time_embed",
    "label_emb",
];

/// Reads a name without a model at hand, by the words that layer names are made of; the original ones of a UNet are taken for SDXL's,
/// and for its refiner's where SDXL has no such layer: what both have lies at the same place in both.
/// Where a model is known, [`KohyaModules`] is the surer way.
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
    let module = words.join(".");
    let original = format!("{module}.weight");
    let of_diffusers = |layout: UnetLayout| {
        ldm_to_unet(&original, &layout).and_then(|name| name.strip_suffix(".weight").map(str::to_string))
    };
    let of_diffusers = match part {
        Part::Unet => of_diffusers(sdxl_layout()).or_else(|| of_diffusers(refiner_layout())),
        Part::TextEncoder | Part::TextEncoder2 => None,
    };
    Some(LoraKey { part, module: of_diffusers.unwrap_or(module), tensor })
}
