//! ControlNet names: diffusers' `ControlNetModel` ↔ the original `cldm.ControlNet`. Names here are without the `control_model.` prefix.
//! What it has of a UNet is named as there; what reads the control image is one list of convolutions, with an activation between each two.

use super::ldm_sd::{MAX_COUNT, UnetLayout, ldm_to_unet, unet_to_ldm};
use super::leading_number;

const EMBEDDING: &str = "controlnet_cond_embedding.";
const HINT: &str = "input_hint_block.";
const DOWN: &str = "controlnet_down_blocks.";
const ZERO: &str = "zero_convs.";
const MIDDLE: (&str, &str) = ("controlnet_mid_block.", "middle_block_out.0.");

/// What the numbers in ControlNet names depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlNetLayout {
    /// That of the half of a UNet that it has.
    pub unet: UnetLayout,
    /// Convolutions between the first and the last of those that read the control image.
    pub inner_convolutions: usize,
}

impl ControlNetLayout {
    /// Reads the layout off diffusers' names.
    pub fn from_diffusers_names<'n>(names: impl IntoIterator<Item = &'n str> + Clone) -> Option<ControlNetLayout> {
        let unet = UnetLayout::from_diffusers_names(names.clone())?;
        let of_image = names.into_iter().filter_map(|name| name.strip_prefix(EMBEDDING)?.strip_prefix("blocks."));
        let numbers = of_image.map(|rest| Some(leading_number(rest)?.0)).collect::<Option<Vec<usize>>>()?;
        let inner_convolutions = numbers.into_iter().max().map_or(0, |last| last.saturating_add(1));
        (inner_convolutions < MAX_COUNT).then_some(ControlNetLayout { unet, inner_convolutions })
    }

    /// Reads the layout off the original names.
    pub fn from_ldm_names<'n>(names: impl IntoIterator<Item = &'n str> + Clone) -> Option<ControlNetLayout> {
        let unet = UnetLayout::from_ldm_names(names.clone())?;
        let of_image = names.into_iter().filter_map(|name| name.strip_prefix(HINT));
        let numbers = of_image.map(|rest| Some(leading_number(rest)?.0)).collect::<Option<Vec<usize>>>()?;
        // The first is 0, and there is an activation before each other one.
        let inner_convolutions = (numbers.into_iter().max()? / 2).checked_sub(1)?;
        (inner_convolutions < MAX_COUNT).then_some(ControlNetLayout { unet, inner_convolutions })
    }
}

/// diffusers' name → the original one; `None` for a name that no ControlNet of this layout has.
pub fn control_net_to_ldm(name: &str, layout: &ControlNetLayout) -> Option<String> {
    if let Some(rest) = name.strip_prefix(EMBEDDING) {
        let (place, inner) = match rest.strip_prefix("blocks.") {
            Some(rest) => {
                let (number, inner) = leading_number(rest)?;
                (number.checked_add(1).filter(|place| *place <= layout.inner_convolutions)?, inner)
            }
            None => match rest.split_once('.')? {
                ("conv_in", inner) => (0, inner),
                ("conv_out", inner) => (layout.inner_convolutions + 1, inner),
                _ => return None,
            },
        };
        return Some(format!("{HINT}{}.{inner}", 2 * place));
    }
    if let Some(rest) = name.strip_prefix(DOWN) {
        let (number, inner) = leading_number(rest)?;
        return Some(format!("{ZERO}{number}.0.{inner}"));
    }
    if let Some(inner) = name.strip_prefix(MIDDLE.0) {
        return Some(format!("{}{inner}", MIDDLE.1));
    }
    if is_of_first_half(name) { unet_to_ldm(name, &layout.unet) } else { None }
}

/// The original name → diffusers' one; `None` for a name that no ControlNet of this layout has.
pub fn ldm_to_control_net(name: &str, layout: &ControlNetLayout) -> Option<String> {
    if let Some(rest) = name.strip_prefix(HINT) {
        let (number, inner) = leading_number(rest)?;
        let last = layout.inner_convolutions + 1;
        return match number / 2 {
            _ if !number.is_multiple_of(2) => None,
            0 => Some(format!("{EMBEDDING}conv_in.{inner}")),
            place if place == last => Some(format!("{EMBEDDING}conv_out.{inner}")),
            place if place < last => Some(format!("{EMBEDDING}blocks.{}.{inner}", place - 1)),
            _ => None,
        };
    }
    if let Some(rest) = name.strip_prefix(ZERO) {
        let (number, rest) = leading_number(rest)?;
        return Some(format!("{DOWN}{number}.{}", rest.strip_prefix("0.")?));
    }
    if let Some(inner) = name.strip_prefix(MIDDLE.1) {
        return Some(format!("{}{inner}", MIDDLE.0));
    }
    ldm_to_unet(name, &layout.unet).filter(|name| is_of_first_half(name))
}

/// Whether a UNet's name under diffusers' naming is one that a ControlNet has, too.
fn is_of_first_half(name: &str) -> bool {
    !["up_blocks.", "conv_norm_out.", "conv_out."].iter().any(|half| name.starts_with(half))
}
