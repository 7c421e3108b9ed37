//! Says what a file is by the names and shapes of its tensors.

use std::fmt;
use std::path::Path;

use crate::canonical::VAE_PREFIX;
use crate::control_net::CONTROL_NET_PREFIX;
use crate::error::{Error, Result};
use crate::family::Family;
use crate::found_text::FoundText;
use crate::maps::lora_tensor::{LoraKind, LoraTensor};
use crate::maps::{bert, clip, lora_kohya, lora_peft, open_clip, textual_inversion, vae};
use crate::reader::{Reader, TensorInfo};

/// The first convolution of the UNet in a single-file checkpoint.
pub(crate) const LDM_CONV_IN: &str = "model.diffusion_model.input_blocks.0.0.weight";

/// What a ControlNet has, in either naming and in a file of its own.
const OF_CONTROL_NET: [&str; 3] =
    ["control_model.time_embed.0.weight", "controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight"];

/// What a UNet takes in besides the noisy latents, told by its input channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnetInput {
    /// Nothing (4 channels).
    Plain,
    /// A mask and a masked picture (9 channels).
    Inpaint,
    /// A picture to edit (8 channels), as InstructPix2Pix (Brooks et al. 2022, arXiv:2211.09800).
    Edit,
    /// Another number of channels.
    Other(usize),
}

impl UnetInput {
    /// That of a UNet with so many input channels.
    pub fn of_channels(channels: usize) -> UnetInput {
        match channels {
            4 => UnetInput::Plain,
            8 => UnetInput::Edit,
            9 => UnetInput::Inpaint,
            other => UnetInput::Other(other),
        }
    }

    /// That of a UNet with this `config.json`; diffusers assumes 4 channels where it does not say.
    pub fn of_config(unet: &serde_json::Value) -> UnetInput {
        UnetInput::of_channels(unet["in_channels"].as_u64().unwrap_or(4) as usize)
    }

    fn from_conv_in(info: &TensorInfo) -> UnetInput {
        UnetInput::of_channels(info.shape.get(1).copied().unwrap_or(0))
    }

    /// In words behind a kind of model; empty for plain latents.
    pub fn note(self) -> String {
        match self {
            UnetInput::Plain => String::new(),
            UnetInput::Inpaint => " for inpainting".to_string(),
            UnetInput::Edit => " for editing by instruction".to_string(),
            UnetInput::Other(channels) => format!(" with {channels} input channels"),
        }
    }

    /// That the model at `path` can be drawn with and measured, whose UNet takes this in.
    ///
    /// # Errors
    /// What it is, and what can be done with it.
    pub fn check_drawable(self, path: &Path) -> Result<()> {
        match self {
            // One with other channels is not loaded in the first place.
            UnetInput::Plain | UnetInput::Inpaint | UnetInput::Other(_) => Ok(()),
            UnetInput::Edit => {
                let reason = format!(
                    "is a model{} (InstructPix2Pix); such models are inspected, converted and merged with, but not drawn with, \
                     measured or trained yet",
                    self.note()
                );
                Err(Error::WrongKind { path: path.to_path_buf(), reason })
            }
        }
    }
}

/// The kinds of files that are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A whole model in one file, under the original names.
    Ldm {
        /// Its family.
        family: Family,
        /// What the UNet takes in.
        input: UnetInput,
        /// Whether a VAE is inside.
        vae: bool,
        /// Whether a text encoder is inside.
        text_encoder: bool,
    },
    /// A ControlNet.
    ControlNet {
        /// That of the UNet which it stands beside, where its tensors show it.
        family: Option<Family>,
        /// Whether the names are diffusers' (else the original ones).
        diffusers: bool,
        /// Whether the whole model that it was trained beside is inside.
        with_model: bool,
    },
    /// A UNet under diffusers' names.
    DiffusersUnet {
        /// What it takes in.
        input: UnetInput,
        /// The width of the text states it attends to: 768 for SD1, 1024 for SD2, 2048 for SDXL.
        cross_attention_dim: Option<usize>,
    },
    /// A VAE.
    Vae {
        /// Whether the names are diffusers' (else the original ones).
        diffusers: bool,
    },
    /// A CLIP text encoder.
    ClipText {
        /// Its width.
        hidden_size: Option<usize>,
    },
    /// A BERT text encoder.
    BertText {
        /// Its width.
        hidden_size: Option<usize>,
    },
    /// Adapters under kohya's names, of LoRA or one of its relatives.
    KohyaLora {
        /// What they are.
        kind: LoraKind,
        /// How many layers are adapted.
        modules: usize,
        /// The rank of the first adapter that shows one.
        rank: Option<usize>,
    },
    /// Adapters under PEFT's or diffusers' names.
    PeftLora {
        /// What they are.
        kind: LoraKind,
        /// How many layers are adapted.
        modules: usize,
        /// The rank of the first adapter that shows one.
        rank: Option<usize>,
    },
    /// Learned words, mostly one.
    TextualInversion {
        /// How many vectors they have together.
        vectors: usize,
        /// Their width, for the first text encoder.
        width: usize,
        /// Their width for the second text encoder, in files for SDXL's two.
        second_width: Option<usize>,
    },
    /// A trace of training steps.
    Trace {
        /// How many steps were traced.
        steps: usize,
    },
    /// None of these.
    Unknown,
}

impl FileKind {
    /// Whether it is a whole model in one file.
    pub fn is_model(&self) -> bool {
        matches!(self, FileKind::Ldm { .. })
    }

    /// Whether it holds adapters, of whichever kind.
    pub fn is_adapter(&self) -> bool {
        matches!(self, FileKind::KohyaLora { .. } | FileKind::PeftLora { .. })
    }

    /// The family of a whole model.
    pub fn family(&self) -> Option<Family> {
        match self {
            FileKind::Ldm { family, .. } => Some(*family),
            _ => None,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileKind::Ldm { family, input, .. } => {
                write!(f, "single-file {} checkpoint{}", family.title(), input.note())
            }
            FileKind::ControlNet { family, diffusers, with_model } => {
                f.write_str(if *diffusers { "diffusers ControlNet" } else { "ControlNet" })?;
                family.map_or(Ok(()), |family| write!(f, " of the {} family", family.title()))?;
                f.write_str(if *with_model { " in one file with a whole model" } else { "" })
            }
            FileKind::DiffusersUnet { input, .. } => write!(f, "diffusers UNet{}", input.note()),
            FileKind::Vae { diffusers: true } => f.write_str("diffusers VAE"),
            FileKind::Vae { diffusers: false } => f.write_str("VAE under the original names"),
            FileKind::ClipText { .. } => f.write_str("CLIP text encoder"),
            FileKind::BertText { .. } => f.write_str("BERT text encoder"),
            FileKind::KohyaLora { kind, .. } => write!(f, "kohya {}", kind.name()),
            FileKind::PeftLora { kind, .. } => write!(f, "PEFT {}", kind.name()),
            FileKind::TextualInversion { .. } => f.write_str("textual inversion embedding"),
            FileKind::Trace { steps } => write!(f, "trace of {steps} training steps"),
            FileKind::Unknown => f.write_str("file of an unknown kind"),
        }
    }
}

/// Says what a file is.
pub fn recognise(reader: &dyn Reader) -> FileKind {
    recognise_with_reason(reader).0
}

/// Says what a file is, and which of its tensors show it. The order of the questions matters: a checkpoint contains the names of smaller
/// files.
pub fn recognise_with_reason(reader: &dyn Reader) -> (FileKind, String) {
    let names = reader.names();
    let any = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    let shown = |name: &str| shown(reader, name);

    // A ControlNet may have the whole model beside it that it was trained with.
    if let Some(name) = OF_CONTROL_NET.into_iter().find(|name| reader.info(name).is_some()) {
        return control_net(reader, &names, name);
    }
    if let Some(conv_in) = reader.info(LDM_CONV_IN) {
        let input = UnetInput::from_conv_in(conv_in);
        let (family, evidence) = family_of_single_file(reader, &names);
        let text_encoder = any(clip::LDM_PREFIX) || any(open_clip::LDM_PREFIX) || any("conditioner.embedders.");
        let evidence = match evidence {
            Some(name) => format!("and {}", shown(name)),
            None => "and nothing of another family".to_string(),
        };
        let kind = FileKind::Ldm { family, input, vae: any("first_stage_model."), text_encoder };
        let text = FoundText::of(reader).filter(|_| family == Family::Sd1).and_then(FoundText::note);
        let text = text.map(|note| format!("; {note}")).unwrap_or_default();
        return (kind, format!("it has {}, {evidence}{text}", shown(LDM_CONV_IN)));
    }
    if let Some(first) = names.iter().find(|name| lora_kohya::is_kohya_name(name)) {
        let modules = count_modules(&names, |name| {
            lora_kohya::is_kohya_name(name).then(|| name.split_once('.').map_or(name, |(module, _)| module).to_string())
        });
        let tensor = |name: &str| Some(LoraTensor::split_kohya(name).filter(|(layer, _)| !layer.contains('.'))?.1);
        let (kind, rank, shows) = adapters(reader, tensor);
        return (FileKind::KohyaLora { kind, modules, rank }, format!("it has {}", shown(shows.unwrap_or(first))));
    }
    if let Some(first) = names.iter().find(|name| lora_peft::parse(name).is_some()) {
        let modules =
            count_modules(&names, |name| lora_peft::parse(name).map(|key| format!("{}.{}", key.part, key.module)));
        let (kind, rank, shows) = adapters(reader, |name| Some(lora_peft::parse(name)?.tensor));
        return (FileKind::PeftLora { kind, modules, rank }, format!("it has {}", shown(shows.unwrap_or(first))));
    }
    if let Some(conv_in) = reader.info("conv_in.weight").filter(|_| any("down_blocks.") && any("up_blocks.")) {
        let context = names.iter().find(|name| name.ends_with(".attn2.to_k.weight"));
        let kind = FileKind::DiffusersUnet {
            input: UnetInput::from_conv_in(conv_in),
            cross_attention_dim: context.and_then(|name| reader.info(name)?.shape.get(1).copied()),
        };
        let evidence = context.map(|name| format!(", and {}", shown(name))).unwrap_or_default();
        return (kind, format!("it has {}{evidence}", shown("conv_in.weight")));
    }
    if let Some(found) = vae_by_itself(reader, &names) {
        return found;
    }
    let embedding = names.iter().find(|name| name.ends_with("embeddings.token_embedding.weight"));
    if let Some(embedding) = embedding.filter(|name| clip::canonical_name(name).is_some()) {
        let hidden_size = reader.info(embedding).and_then(|info| info.shape.get(1).copied());
        return (FileKind::ClipText { hidden_size }, format!("it has {}", shown(embedding)));
    }
    let is_first = |name: &&&str| bert::canonical_name(name).as_deref() == Some(bert::FIRST);
    if let Some(embedding) = names.iter().find(is_first) {
        let hidden_size = reader.info(embedding).and_then(|info| info.shape.get(1).copied());
        return (FileKind::BertText { hidden_size }, format!("it has {}", shown(embedding)));
    }
    let mut traced = names.iter().filter(|name| is_traced_loss(name));
    if let Some(first) = traced.next() {
        return (FileKind::Trace { steps: 1 + traced.count() }, format!("it has {}", shown(first)));
    }
    let unknown = || (FileKind::Unknown, format!("none of its {} tensors has a name that is known", names.len()));
    learned_words(reader, &names).unwrap_or_else(unknown)
}

/// What the ControlNet with the tensor `first` is.
fn control_net(reader: &dyn Reader, names: &[&str], first: &str) -> (FileKind, String) {
    let prefix = if first.starts_with(CONTROL_NET_PREFIX) { CONTROL_NET_PREFIX } else { "" };
    let own = |inner: &str| names.iter().find(|name| name.starts_with(prefix) && name.ends_with(inner)).copied();
    let width = |name: &str| reader.info(name).and_then(|info| info.shape.last().copied());
    let by_text = own(".attn2.to_k.weight").and_then(|name| Some((Family::of_text_width(width(name)?)?, name)));
    // Small ones for SDXL have no attention; its pooled text and six numbers are theirs as well.
    let labels = own("add_embedding.linear_1.weight").or_else(|| own("label_emb.0.0.weight"));
    let by_labels = labels.filter(|name| width(name) == Some(2816)).map(|name| (Family::Sdxl, name));
    let found = by_text.or(by_labels);
    let kind = FileKind::ControlNet {
        family: found.map(|(family, _)| family),
        diffusers: first == OF_CONTROL_NET[1],
        with_model: reader.info(LDM_CONV_IN).is_some(),
    };
    let evidence = found.map(|(_, name)| format!(", and {}", shown(reader, name))).unwrap_or_default();
    (kind, format!("it has {}{evidence}", shown(reader, first)))
}

/// A VAE and nothing else, with the prefix that it has in a whole model or without.
fn vae_by_itself(reader: &dyn Reader, names: &[&str]) -> Option<(FileKind, String)> {
    ["", VAE_PREFIX].into_iter().find_map(|prefix| {
        let ends = ["encoder.conv_in.weight", "decoder.conv_out.weight"].map(|name| format!("{prefix}{name}"));
        let are_there = ends.iter().all(|name| reader.info(name).is_some());
        let diffusers = names.iter().any(|name| name.contains(".down_blocks."));
        let levels = || vae::levels(names.iter().filter_map(|name| name.strip_prefix(prefix)));
        (are_there && (diffusers || levels() > 0)).then(|| {
            let reason = format!("it has {}, and {}", shown(reader, &ends[0]), shown(reader, &ends[1]));
            (FileKind::Vae { diffusers }, reason)
        })
    })
}

/// A tensor and its shape.
fn shown(reader: &dyn Reader, name: &str) -> String {
    let shape = reader.info(name).map(|info| format!(" {:?}", info.shape)).unwrap_or_default();
    format!("`{name}`{shape}")
}

/// The family of a whole model under the original names, and the tensor that shows it; SD1 where none shows another.
fn family_of_single_file<'n>(reader: &dyn Reader, names: &[&'n str]) -> (Family, Option<&'n str>) {
    const TEXT_ENCODERS: [(&str, Family); 4] = [
        (open_clip::SGM_PREFIX, Family::Sdxl),
        (clip::SGM_PREFIX, Family::Sdxl),
        (open_clip::SGM_REFINER_PREFIX, Family::SdxlRefiner),
        (open_clip::LDM_PREFIX, Family::Sd2),
    ];
    let find = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    let width = |name: &str| reader.info(name).and_then(|info| info.shape.last().copied());
    let by_text_encoder = TEXT_ENCODERS.into_iter().find_map(|(prefix, family)| {
        let name = names.iter().copied().find(|name| name.starts_with(prefix))?;
        Some((family, Some(name)))
    });
    if let Some(found) = by_text_encoder {
        return found;
    }
    // The first level of SDXL and its refiner has no attention; SD2's variants for pictures in place of texts have an embedding of labels,
    // too, but attention there.
    if let Some(context) = find("model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight") {
        let family = if width(context) == Some(1024) { Family::Sd2 } else { Family::Sd1 };
        return (family, Some(context));
    }
    let deeper = find("model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight");
    let by_width = deeper.and_then(|name| Some((Family::of_text_width(width(name)?)?, Some(name))));
    if let Some(found) = by_width {
        return found;
    }
    match find("model.diffusion_model.label_emb.0.0.weight") {
        // The pooled text and five numbers, where SDXL has six.
        Some(labels) if width(labels) == Some(2560) => (Family::SdxlRefiner, Some(labels)),
        Some(labels) => (Family::Sdxl, Some(labels)),
        None => (Family::Sd1, None),
    }
}

/// `step.N.loss`, which a trace has once for each step.
fn is_traced_loss(name: &str) -> bool {
    let number = name.strip_prefix("step.").and_then(|rest| rest.strip_suffix(".loss"));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Files that say so, known names, and one tensor of a usual width without a module's path.
fn learned_words(reader: &dyn Reader, names: &[&str]) -> Option<(FileKind, String)> {
    let says_so = reader.metadata().get("modelspec.architecture").is_some_and(|it| it.ends_with("/textual-inversion"));
    // SDXL's files have a second table for their other text encoder.
    let known = ["emb_params", "emp_params", "clip_l"].into_iter().find(|name| reader.info(name).is_some());
    let of_pickle = || names.iter().copied().find(|name| name.starts_with(textual_inversion::OF_PICKLE));
    let name = known.or_else(of_pickle);
    let is_bundle = !names.is_empty() && names.iter().all(|name| name.starts_with(textual_inversion::BUNDLE_PREFIX));
    if let (Ok(entries), true) = (textual_inversion::entries(reader), says_so || is_bundle) {
        let vectors = entries.iter().map(|entry| entry.vectors).sum();
        let widths = &entries.first()?.widths;
        let kind = FileKind::TextualInversion { vectors, width: widths[0], second_width: widths.get(1).copied() };
        let reason = match says_so {
            true => "its `modelspec.architecture` says so".to_string(),
            false => format!("it has {}", shown(reader, names.first()?)),
        };
        return Some((kind, reason));
    }
    let name = match (name, names) {
        (Some(name), _) => name,
        (None, [only]) if !only.contains('.') => only,
        _ => return None,
    };
    let (vectors, width) = match reader.info(name)?.shape[..] {
        [width] => (1, width),
        [vectors, width] => (vectors, width),
        _ => return None,
    };
    let [first, second] = textual_inversion::OF_TWO;
    let of_second = reader.info(second).filter(|_| name == first);
    let second_width = of_second.and_then(|info| info.shape.last().copied());
    let beside = second_width.map(|_| format!(", and {}", shown(reader, second)));
    let kind = FileKind::TextualInversion { vectors, width, second_width };
    let reason = format!("it has {}{}", shown(reader, name), beside.unwrap_or_default());
    matches!(width, 512..=2048).then_some((kind, reason))
}

fn count_modules(names: &[&str], module: impl Fn(&str) -> Option<String>) -> usize {
    names.iter().filter_map(|name| module(name)).collect::<std::collections::BTreeSet<_>>().len()
}

/// The kind of the adapters in a file, the rank of the first that shows one, and the name of one, best of what shows the family, too.
fn adapters<'r>(
    reader: &'r dyn Reader,
    tensor: impl Fn(&str) -> Option<LoraTensor>,
) -> (LoraKind, Option<usize>, Option<&'r str>) {
    let tensors: Vec<(&'r str, LoraTensor)> =
        reader.names().into_iter().filter_map(|name| Some((name, tensor(name)?))).collect();
    let ranks = || tensors.iter().filter_map(|(name, tensor)| Some((*name, tensor.rank(&reader.info(name)?.shape)?)));
    let rank = ranks().next().map(|(_, rank)| rank);
    let reads_text = |name: &str| name.contains("attn2_to_k.") || name.contains("attn2.to_k.");
    let shows = ranks().find(|(name, _)| reads_text(name)).or(ranks().next()).map(|(name, _)| name);
    (LoraKind::of(tensors.iter().map(|(_, tensor)| *tensor)), rank, shows)
}
