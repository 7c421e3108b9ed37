//! Which family adapters are for, told by what they show of a model that is not at hand.

use std::collections::BTreeMap;

use super::lora_kohya::{is_kohya_name, parse_by_words};
use super::lora_peft::{self, LoraKey, Part};
use crate::family::Family;
use crate::reader::Reader;

/// An adapted layer: its network, its path in it, and how many inputs it has, where the adapter shows it.
pub type AdaptedInputs<'l> = (Part, &'l str, Option<usize>);

/// The family that adapters beside `layers` are for, with the `metadata` of their file; nothing where neither tells. SDXL and its
/// refiner show themselves in several ways, SD1 and SD2 by the width of the text states that attention reads alone.
pub fn family_of_adapters<'l>(
    layers: impl IntoIterator<Item = AdaptedInputs<'l>>,
    metadata: &BTreeMap<String, String>,
) -> Option<Family> {
    let (mut by_width, mut is_xl, mut has_four_levels) = (None, says_xl(metadata), false);
    for (part, module, inputs) in layers {
        match part {
            Part::Unet => {
                let reads_text = module.ends_with("attn2.to_k") || module.ends_with("attn2.to_v");
                let width = inputs.filter(|_| reads_text);
                by_width = by_width.or(width.and_then(Family::of_text_width));
                is_xl |= is_deep(module) || module.starts_with("add_embedding.");
                has_four_levels |= module.starts_with("down_blocks.3.") || module.starts_with("up_blocks.3.");
            }
            Part::TextEncoder => {}
            Part::TextEncoder2 => is_xl = true,
        }
    }
    // Of the two, SDXL has three levels and its refiner four.
    let by_depth = match has_four_levels {
        true => Family::SdxlRefiner,
        false => Family::Sdxl,
    };
    by_width.or(is_xl.then_some(by_depth))
}

/// The same of the adapters in `file`, under the names of either form.
pub fn family_of_adapter_file(file: &dyn Reader) -> Option<Family> {
    let adapted = |name: &str| {
        let key = adapter_key(name)?;
        let inputs = file.info(name).and_then(|info| key.tensor.inputs(&info.shape));
        Some((key.part, key.module, inputs))
    };
    let layers: Vec<(Part, String, Option<usize>)> = file.names().into_iter().filter_map(adapted).collect();
    let layers = layers.iter().map(|(part, module, inputs)| (*part, module.as_str(), *inputs));
    family_of_adapters(layers, file.metadata())
}

/// What a tensor of an adapter is by its name, under those of either form; a model is not at hand.
pub fn adapter_key(name: &str) -> Option<LoraKey> {
    if is_kohya_name(name) { parse_by_words(name) } else { lora_peft::parse(name) }
}

/// Whether a file says of itself that it is for SDXL or its refiner.
fn says_xl(metadata: &BTreeMap<String, String>) -> bool {
    let says = |key: &str, beginning: &str| metadata.get(key).is_some_and(|value| value.starts_with(beginning));
    says("ss_base_model_version", "sdxl") || says("modelspec.architecture", "stable-diffusion-xl")
}

/// Whether a layer lies in a second block of one transformer: those of SD1 and SD2 have one.
fn is_deep(module: &str) -> bool {
    let (_, inner) = module.split_once(".transformer_blocks.").unwrap_or_default();
    inner.split('.').next().and_then(|number| number.parse::<usize>().ok()).is_some_and(|number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO_K: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";

    fn family(layers: &[AdaptedInputs], metadata: &[(&str, &str)]) -> Option<Family> {
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        family_of_adapters(layers.iter().copied(), &metadata)
    }

    #[test]
    fn the_width_of_the_text_states_tells_every_family() {
        for (width, expected) in [
            (768, Some(Family::Sd1)),
            (1024, Some(Family::Sd2)),
            (2048, Some(Family::Sdxl)),
            (1280, Some(Family::SdxlRefiner)),
            (32, None),
        ] {
            assert_eq!(family(&[(Part::Unet, TO_K, Some(width))], &[]), expected, "{width}");
            // The inputs of other layers are as wide as the UNet.
            let to_q = TO_K.replace("to_k", "to_q");
            assert_eq!(family(&[(Part::Unet, to_q.as_str(), Some(width))], &[]), None, "{width}");
        }
    }

    #[test]
    fn sdxl_shows_itself_by_its_depth_its_second_encoder_or_its_metadata_too() {
        let of_sd1 = (Part::Unet, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", None);
        assert_eq!(family(&[of_sd1], &[]), None);
        for shown in [
            (Part::Unet, "down_blocks.2.attentions.0.transformer_blocks.9.attn1.to_q", None),
            (Part::Unet, "add_embedding.linear_1", None),
            (Part::TextEncoder2, "text_model.encoder.layers.0.mlp.fc1", None),
        ] {
            assert_eq!(family(&[of_sd1, shown], &[]), Some(Family::Sdxl), "{}", shown.1);
        }
        for said in [
            ("ss_base_model_version", "sdxl_base_v1-0"),
            ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora"),
        ] {
            assert_eq!(family(&[of_sd1], &[said]), Some(Family::Sdxl), "{said:?}");
        }
        assert_eq!(family(&[of_sd1], &[("ss_base_model_version", "sd_v2")]), None);
        let fourth = (Part::Unet, "up_blocks.3.resnets.0.conv1", None);
        let deep = (Part::Unet, "down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_q", None);
        assert_eq!(family(&[fourth, deep], &[]), Some(Family::SdxlRefiner));
        assert_eq!(family(&[fourth], &[]), None, "SD1 has four levels, too");
    }
}
