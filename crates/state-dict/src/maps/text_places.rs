//! Where text encoders lie, in a diffusers folder and in single files.

use super::{bert, clip, open_clip};

/// The folders of a text encoder and of its tokenizer in a diffusers folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextFolder {
    /// The network's.
    pub network: &'static str,
    /// The tokenizer's.
    pub tokenizer: &'static str,
}

/// Of the first and of the second text encoder.
pub const FOLDERS: [TextFolder; 2] = [
    TextFolder { network: "text_encoder", tokenizer: "tokenizer" },
    TextFolder { network: "text_encoder_2", tokenizer: "tokenizer_2" },
];

/// How a text encoder is called inside a single file, behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// transformers' names, of CLIP or of BERT.
    Transformers,
    /// OpenCLIP's, from the first layer to the projection.
    OpenClip,
    /// OpenCLIP's with a last layer and a projection of which nothing is read: SD2 takes the states of the layer before.
    OpenClipBeyond,
}

/// Where a text encoder lies in a single file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPlace {
    /// What its names begin with.
    pub prefix: &'static str,
    /// What follows.
    pub naming: Naming,
}

/// SD1's.
pub const SD1: &[TextPlace] = &[TextPlace { prefix: clip::LDM_PREFIX, naming: Naming::Transformers }];
/// SD2's.
pub const SD2: &[TextPlace] = &[TextPlace { prefix: open_clip::LDM_PREFIX, naming: Naming::OpenClipBeyond }];
/// SDXL's two.
pub const SDXL: &[TextPlace] = &[
    TextPlace { prefix: clip::SGM_PREFIX, naming: Naming::Transformers },
    TextPlace { prefix: open_clip::SGM_PREFIX, naming: Naming::OpenClip },
];
/// That of SDXL's refiner.
pub const SDXL_REFINER: &[TextPlace] = &[TextPlace { prefix: open_clip::SGM_REFINER_PREFIX, naming: Naming::OpenClip }];

impl TextPlace {
    /// Whether a tensor of a single file belongs to the text encoder here. Position numbers do not.
    pub fn holds(&self, name: &str) -> bool {
        let Some(inside) = name.strip_prefix(self.prefix) else { return false };
        match self.naming {
            Naming::Transformers => clip::canonical_name(inside).or_else(|| bert::canonical_name(inside)).is_some(),
            Naming::OpenClip | Naming::OpenClipBeyond => open_clip::canonical_names(inside).is_some(),
        }
    }
}
