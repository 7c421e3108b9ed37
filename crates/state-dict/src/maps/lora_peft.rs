//! Adapter names as PEFT and diffusers write them, of every age that is still found in files.
//!
//! | written by | name |
//! |---|---|
//! | PEFT | `unet.<module>.lora_A.weight`, `text_encoder.<module>.lora_B.weight` |
//! | diffusers 0.18-0.22 | `unet.<module>.lora.down.weight`, `text_encoder.<module>.lora_linear_layer.up.weight` |
//! | diffusers before | `unet.<attention>.processor.to_q_lora.down.weight`, also without `unet.` |
//! | PEFT's relatives | `unet.<module>.hada_w1_a`, `.lokr_w2_b`, `.ia3_l`, `.lora_magnitude_vector` |

use std::fmt;

pub use super::lora_tensor::{LoraKind, LoraTensor, alpha_that_counts};

/// The network that an adapter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The UNet.
    Unet,
    /// The (first) text encoder.
    TextEncoder,
    /// SDXL's second text encoder.
    TextEncoder2,
}

impl Part {
    /// All of them, in the order of groups and files.
    pub const ALL: [Part; 3] = [Part::Unet, Part::TextEncoder, Part::TextEncoder2];

    /// The first word of its names, as in a diffusers folder.
    pub fn folder(self) -> &'static str {
        match self {
            Part::Unet => "unet",
            Part::TextEncoder => "text_encoder",
            Part::TextEncoder2 => "text_encoder_2",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// A tensor of an adapter, independent of any format.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoraKey {
    /// The network.
    pub part: Part,
    /// The adapted layer's path in the network, such as `down_blocks.0.attentions.0.proj_in`; in a text encoder it
    /// begins with `text_model.` in CLIP's.
    pub module: String,
    /// Which of its tensors.
    pub tensor: LoraTensor,
}

/// PEFT's name. Alpha has none there (it lives in the metadata); it is written the way diffusers does for
/// converted files, `<module>.alpha`.
pub fn peft_name(key: &LoraKey) -> String {
    format!("{}.{}{}", key.part, key.module, key.tensor.dotted_suffix())
}

/// Reads a PEFT or diffusers name of any age.
pub fn parse(name: &str) -> Option<LoraKey> {
    let (part, rest) = [Part::TextEncoder2, Part::TextEncoder, Part::Unet]
        .into_iter()
        .find_map(|part| Some((part, name.strip_prefix(part.folder())?.strip_prefix('.')?)))
        .unwrap_or((Part::Unet, name));
    let (module, tensor) = split_tensor(rest)?;
    // Without a first word only attention processors are unmistakable.
    if rest.len() == name.len() && !rest.contains(".processor.") {
        return None;
    }
    let module = match part {
        Part::Unet => module,
        Part::TextEncoder | Part::TextEncoder2 if module.starts_with("text_model.") => module,
        // BERT has nothing in front.
        Part::TextEncoder | Part::TextEncoder2
            if module.starts_with("encoder.layer.") || module.starts_with("pooler.") =>
        {
            module
        }
        Part::TextEncoder | Part::TextEncoder2 => format!("text_model.{module}"),
    };
    Some(LoraKey { part, module, tensor })
}

fn split_tensor(rest: &str) -> Option<(String, LoraTensor)> {
    if let Some((attention, matrix)) = rest.split_once(".processor.") {
        let (layer, matrix) = matrix.split_once("_lora.")?;
        let layer = match layer {
            "to_q" | "to_k" | "to_v" => layer,
            "to_out" => "to_out.0",
            _ => return None,
        };
        let tensor = match matrix {
            "down.weight" => LoraTensor::Down,
            "up.weight" => LoraTensor::Up,
            _ => return None,
        };
        return Some((format!("{attention}.{layer}"), tensor));
    }
    LoraTensor::split_dotted(rest).map(|(module, tensor)| (module.to_string(), tensor))
}
