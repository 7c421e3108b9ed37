//! LoRA files without names of layers, as cloneofsimo's `lora` wrote them: pairs in the order in which torch walks a model, here under
//! PEFT's names.
//!
//! | file | its tensors |
//! |---|---|
//! | `.pt` | a list: up, down, up, down … of the UNet, or of the text encoder |
//! | `.safetensors` | `unet:0:up`, `unet:0:down`, `text_encoder:0:up` …, and words as `<word>` |
//!
//! The layers are those of SD1 and SD2: in each transformer attention, gate, attention, as its blocks declared them then; first the
//! blocks down, then those up, and the middle last, since a UNet makes the list of its blocks up before it makes its middle.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::maps::leading_number;
use crate::maps::lora_peft::{LoraKey, LoraTensor, Part, peft_name};
use crate::maps::textual_inversion::bundle_names;
use crate::reader::Reader;
use crate::renamed::Renamed;

/// The layers of an attention of a UNet, and of CLIP's.
const OF_UNET: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];
const OF_CLIP: [&str; 4] = ["k_proj", "v_proj", "q_proj", "out_proj"];
const GATE: &str = "ff.net.0.proj";

/// The same file with PEFT's names, if it is one without names of layers; else as it is.
///
/// # Errors
/// Where the list is not as long, or its tensors are not as large, as those of any model that such files were made for.
pub(crate) fn with_names(file: Box<dyn Reader>) -> Result<Box<dyn Reader>> {
    let mut lists: BTreeMap<Option<Part>, BTreeMap<usize, [Option<String>; 2]>> = BTreeMap::new();
    let mut words = Vec::new();
    for name in file.names() {
        match place_of(name) {
            Some((part, index, is_down)) => {
                let pair = lists.entry(part).or_default().entry(index).or_default();
                pair[usize::from(is_down)] = Some(name.to_owned());
            }
            None => words.push(name.to_owned()),
        }
    }
    // A word's file may be called by a number.
    let is_list = lists.keys().any(Option::is_some) || (words.is_empty() && lists.values().any(|list| list.len() > 1));
    if !is_list {
        return Ok(file);
    }
    let wrong = |reason: &str| Error::WrongKind { path: file.path().to_path_buf(), reason: reason.to_owned() };
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (part, list) in lists {
        let whole: Option<Vec<[String; 2]>> = list.into_values().map(|[up, down]| Some([up?, down?])).collect();
        let pairs = whole.ok_or_else(|| wrong("is a list of LoRA matrices in which one of a pair is missing"))?;
        let shapes = pairs.iter().map(|pair| Pair::of(&*file, pair)).collect::<Option<Vec<Pair>>>();
        let shapes = shapes.ok_or_else(|| wrong("is a list of tensors that are no pairs of LoRA matrices"))?;
        let layers = match part {
            Some(Part::Unet) => unet_layers(&shapes).map(|layers| (Part::Unet, layers)),
            Some(part) => text_layers(&shapes).map(|layers| (part, layers)),
            None => {
                let of_unet = unet_layers(&shapes).map(|layers| (Part::Unet, layers));
                of_unet.or_else(|| Some((Part::TextEncoder, text_layers(&shapes)?)))
            }
        };
        let (part, layers) = layers.ok_or_else(|| {
            wrong(
                "is a list of LoRA matrices without names, of other layers than the attention of SD1's or SD2's UNet or text encoder",
            )
        })?;
        for ([up, down], module) in pairs.into_iter().zip(layers) {
            for (name, tensor) in [(up, LoraTensor::Up), (down, LoraTensor::Down)] {
                names.insert(name, peft_name(&LoraKey { part, module: module.clone(), tensor }));
            }
        }
    }
    for word in words {
        let [bundled] = &bundle_names(&word, 1)[..] else { continue };
        names.insert(word, bundled.clone());
    }
    Ok(Box::new(Renamed::new(file, |name, info| Some((names.get(name)?.clone(), info.shape.clone())))?))
}

/// The part, the number of the pair and whether it is its second matrix, of a name in a list.
fn place_of(name: &str) -> Option<(Option<Part>, usize, bool)> {
    // What a list of a pickle becomes: its indices.
    if let Some((index, "")) = leading_number(&format!("{name}.")) {
        return Some((None, index / 2, index % 2 == 1));
    }
    let mut words = name.split(':');
    let (part, index, which, None) = (words.next()?, words.next()?, words.next()?, words.next()) else { return None };
    let part = [Part::Unet, Part::TextEncoder].into_iter().find(|known| known.folder() == part)?;
    let is_down = match which {
        "up" => false,
        "down" => true,
        _ => return None,
    };
    Some((Some(part), index.parse().ok()?, is_down))
}

/// Sizes of the weight that a pair changes.
#[derive(Clone, Copy, PartialEq)]
struct Pair {
    outputs: usize,
    inputs: usize,
}

impl Pair {
    /// That of an up `[outputs, rank]` and a down `[rank, inputs]`.
    fn of(file: &dyn Reader, names: &[String; 2]) -> Option<Pair> {
        match (&file.info(&names[0])?.shape[..], &file.info(&names[1])?.shape[..]) {
            (&[outputs, rank], &[other, inputs]) if rank == other => Some(Pair { outputs, inputs }),
            _ => None,
        }
    }

    fn is_square(&self, width: usize) -> bool {
        *self == Pair { outputs: width, inputs: width }
    }

    /// Whether it is GEGLU's projection, which makes eight numbers of one.
    fn is_gate(&self, width: usize) -> bool {
        // A dimension can be anything where another is empty.
        Some(self.outputs) == width.checked_mul(8) && self.inputs == width
    }
}

/// The layers of a UNet whose deepest level has no attention, as SD1's and SD2's; none where the pairs cannot be theirs.
fn unet_layers(pairs: &[Pair]) -> Option<Vec<String>> {
    // Programs of later days declare GEGLU's projection behind both attentions.
    let gate_at = |at: usize| pairs.len() > at && pairs[at].is_gate(pairs[0].outputs);
    let attention = |name: &str| OF_UNET.map(|layer| format!("{name}.{layer}"));
    let mut of_block: Vec<String> = [attention("attn1"), attention("attn2")].concat();
    if let Some(at) = [4, 8].into_iter().find(|&at| gate_at(at)) {
        of_block.insert(at, GATE.to_owned());
    }
    let blocks = pairs.chunks_exact(of_block.len());
    if !blocks.remainder().is_empty() {
        return None;
    }
    let places = transformers(blocks.len())?;
    let context = pairs[of_block.iter().position(|layer| layer == "attn2.to_k")?].inputs;
    let mut layers = Vec::new();
    for (place, block) in places.iter().zip(blocks) {
        let width = block[0].outputs;
        for (layer, pair) in of_block.iter().zip(block) {
            let fits = match layer.as_str() {
                GATE => pair.is_gate(width),
                "attn2.to_k" | "attn2.to_v" => *pair == Pair { outputs: width, inputs: context },
                _ => pair.is_square(width),
            };
            if !fits {
                return None;
            }
            layers.push(format!("{place}.transformer_blocks.0.{layer}"));
        }
    }
    // A text encoder's pairs are squares, too, but all of one size.
    let is_text = of_block.len() == 8 && pairs.iter().all(|pair| pair.is_square(pairs[0].outputs));
    (!is_text).then_some(layers)
}

/// Where so many transformers are: `K` levels with `L` down, and `L + 1` up, and one in the middle. SD1 and SD2 have two layers a level.
fn transformers(count: usize) -> Option<Vec<String>> {
    let beside_middle = count.checked_sub(1).filter(|rest| *rest > 0)?;
    let layers = [2, 1].into_iter().find(|layers| beside_middle.is_multiple_of(2 * layers + 1))?;
    let levels = beside_middle / (2 * layers + 1);
    let down =
        (0..levels).flat_map(|level| (0..layers).map(move |layer| format!("down_blocks.{level}.attentions.{layer}")));
    let up =
        (1..=levels).flat_map(|level| (0..=layers).map(move |layer| format!("up_blocks.{level}.attentions.{layer}")));
    Some(down.chain(up).chain(["mid_block.attentions.0".to_owned()]).collect())
}

/// The layers of CLIP's attention.
fn text_layers(pairs: &[Pair]) -> Option<Vec<String>> {
    let width = pairs.first()?.outputs;
    if !pairs.len().is_multiple_of(OF_CLIP.len()) || !pairs.iter().all(|pair| pair.is_square(width)) {
        return None;
    }
    let layer = |index: usize| {
        let (number, name) = (index / OF_CLIP.len(), OF_CLIP[index % OF_CLIP.len()]);
        format!("text_model.encoder.layers.{number}.self_attn.{name}")
    };
    Some((0..pairs.len()).map(layer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transformers_of_sd1_are_in_torchs_order() {
        let places = transformers(16).expect("SD1's");
        assert_eq!(places[..2], ["down_blocks.0.attentions.0", "down_blocks.0.attentions.1"]);
        assert_eq!((places[6].as_str(), places[15].as_str()), ("up_blocks.1.attentions.0", "mid_block.attentions.0"));
        assert_eq!((places.len(), transformers(2), transformers(0)), (16, None, None));
    }

    #[test]
    fn a_width_of_which_there_is_no_eightfold_is_no_unets() {
        let pair = Pair { outputs: usize::MAX / 4, inputs: 1 };
        assert_eq!(unet_layers(&[pair; 9]), None);
        assert_eq!(unet_layers(&[pair; 16]), None);
    }
}
