//! What a model consists of, from the headers of its files: names and shapes of its networks.

use std::path::Path;
use std::sync::Arc;

use sdtrain_recipe::{FloatType, HubName, Init, ModelConfig, ModelLocation};
use sdtrain_state_dict::architecture::{self, Shapes};
use sdtrain_state_dict::maps::text_places::TextFolder;
use sdtrain_state_dict::{
    Error as FileError, Family, FileKind, LoadReport, PipelineConfigs, Reader, SafetensorsFile, canonical_text_encoder,
    canonical_unet, canonical_vae, is_bert, ldm_single_file, load_report::parameters_of, open_component, open_file,
    read_json, recognise, text_encoder_folders, unknown_tensors, vae_from_metadata, with_averaged_unet,
};
use sdtrain_tokenizer::WordTable;
use serde_json::Value as Json;

use crate::args::dtype_of;
use crate::hub_files::{lacks_weights, local_file, model_location};
use crate::{ExitCode, Failure, learned_words};

/// Header of the built-in model's file; empty in a program built without it.
const POSTER_TINY_HEADER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/poster-tiny.header"));

/// What there is for a ControlNet that is named where a whole model is meant.
pub(crate) const CONTROL_NET_HINT: &str = "ControlNets are inspected and converted (`sdtrain inspect`, `sdtrain convert`), but neither trained nor drawn \
     with yet; name the whole model in its place";

/// The networks of a model.
pub(crate) struct ModelParts {
    /// What it is, as a user names it.
    pub kind: String,
    pub family: Family,
    pub unet: Shapes,
    pub vae: Option<Shapes>,
    /// Whether the configuration of its VAE asks for fp32, where it says so.
    pub force_upcast: Option<bool>,
    /// Those that were found, the first one first.
    pub text_encoders: Vec<Shapes>,
    /// The configuration of the first; `null` where there is none.
    pub text_config: Json,
    /// Tensors of its single file that belong to no network, in words.
    pub unknown_tensors: Option<String>,
}

impl ModelParts {
    /// Looks at the model of a configuration.
    pub fn of(config: &ModelConfig) -> Result<ModelParts, Failure> {
        let mut parts = match model_location(&config.path)? {
            ModelLocation::Builtin(name) => {
                from_file(chosen(Arc::new(builtin(&name)?), config)?, &format!("builtin:{name}"))?
            }
            ModelLocation::Path(folder) if folder.is_dir() && config.extract_ema => {
                let message = format!("`model.extract_ema`: `{}` is a folder, not a single file", folder.display());
                return Err(Failure::new(ExitCode::Configuration, message)
                    .hint("the mean of weights is a `model.variant` of a folder's files, if it is there"));
            }
            ModelLocation::Path(folder) if folder.is_dir() && config.init == Init::Random => {
                from_configs(&folder, "diffusers configurations, weights drawn from the seed")?
            }
            ModelLocation::Path(folder) if folder.is_dir() && lacks_weights(config) => {
                from_configs(&folder, "diffusers folder whose weights are still to be fetched")?
            }
            ModelLocation::Path(folder) if folder.is_dir() => from_folder(&folder, config.variant.as_deref())?,
            ModelLocation::Path(file) => {
                from_file(chosen(Arc::from(open_file(&file)?), config)?, &file.display().to_string())?
            }
        };
        if let Some(vae) = &config.vae {
            let own = parts.vae.as_ref().map(|own| (own, parts.force_upcast));
            let (vae, force_upcast) = vae_at(vae, own)?;
            (parts.vae, parts.force_upcast) = (Some(vae), force_upcast);
        }
        if config.tokenizer.is_some() {
            parts.check_one_text_encoder("model.tokenizer")?;
        }
        if let Some(folder) = &config.text_encoder {
            parts.exchange_text_encoder(folder, config.text_encoder_init)?;
        }
        if let Some(family) = config.family.filter(|family| family.name() != parts.family.name()) {
            let message = format!(
                "`{}` looks like `{}`, but the configuration says `{}`",
                config.path,
                parts.family.name(),
                family.name()
            );
            return Err(Failure::new(ExitCode::Model, message)
                .hint(format!("set `model.family = \"{}\"` or remove the key", parts.family.name())));
        }
        Ok(parts)
    }

    /// That it has one text encoder alone, for which `key` names something.
    fn check_one_text_encoder(&self, key: &str) -> Result<(), Failure> {
        if self.family.text_folders().len() == 1 {
            return Ok(());
        }
        let message = format!("`{key}`: a model of the {} family has two text encoders", self.family.title());
        Err(Failure::new(ExitCode::Configuration, message).hint("leave the key out: such a model keeps its own"))
    }

    /// Puts the text encoder at `named` in the place of its own.
    fn exchange_text_encoder(&mut self, named: &Path, init: Init) -> Result<(), Failure> {
        let wrong = |message: String| Err(Failure::new(ExitCode::Configuration, message));
        self.check_one_text_encoder("model.text_encoder")?;
        let (network, _) = text_encoder_folders(&local_file(named)?);
        let described = || shapes_of_config(&network, architecture::text_encoder);
        let shapes = match init {
            Init::Random => described()?,
            Init::Pretrained => match open_component(&network, "model", None) {
                // They are fetched once everything else is right.
                Err(FileError::NoWeights { .. }) if HubName::is_at(named) => described()?,
                reader => parameters_of(&canonical_text_encoder(reader?)?),
            },
        };
        let context = self.unet.iter().find(|(name, _)| name.ends_with(".attn2.to_k.weight"));
        let (width, wanted) = (learned_words::width(&shapes), context.and_then(|(_, shape)| shape.get(1).copied()));
        if width.is_some() && width != wanted {
            let [width, wanted] = [width, wanted].map(Option::unwrap_or_default);
            let named = named.display();
            return wrong(format!(
                "`model.text_encoder`: the states of `{named}` have {width} numbers, but the UNet attends to {wanted}"
            ));
        }
        self.text_encoders = vec![shapes];
        // A folder without one is refused where it is loaded.
        self.text_config = read_json(&network.join("config.json")).unwrap_or_default();
        Ok(())
    }

    /// What its first text encoder says of the words that it reads.
    pub fn word_table(&self) -> Option<WordTable> {
        let rows = learned_words::table(self.text_encoders.first()?)?.first().copied()?;
        Some(word_table(&self.text_config, rows))
    }

    /// Its text encoders with what they are called in a diffusers folder and in traces.
    pub fn text_networks(&self) -> impl Iterator<Item = (&'static str, &Shapes)> {
        self.family.text_folders().iter().map(|folder| folder.network).zip(&self.text_encoders)
    }

    /// Every network that was found: UNet, VAE, text encoders.
    pub fn networks(&self) -> impl Iterator<Item = (&'static str, &Shapes)> {
        let others = [("unet", Some(&self.unet)), ("vae", self.vae.as_ref())];
        others.into_iter().filter_map(|(name, shapes)| Some((name, shapes?))).chain(self.text_networks())
    }

    /// Whether its VAE stays in fp32 while the rest computes in these 16 bits.
    pub fn vae_stays_in_fp32(&self, compute: FloatType) -> bool {
        self.vae.is_some() && architecture::vae_stays_in_f32(self.force_upcast, dtype_of(compute))
    }

    /// How many pixels a latent spans in each direction.
    pub fn downscale_factor(&self) -> usize {
        let levels = self.vae.as_ref().map_or(4, |vae| count_blocks(vae, "encoder.down_blocks."));
        1 << levels.saturating_sub(1)
    }

    /// Input channels of the UNet.
    pub fn unet_channels(&self) -> i64 {
        self.unet.get("conv_in.weight").and_then(|shape| shape.get(1)).map_or(4, |&channels| channels as i64)
    }

    /// Levels of the UNet.
    pub fn unet_levels(&self) -> usize {
        count_blocks(&self.unet, "down_blocks.")
    }

    /// Sides of training images must be multiples of this many pixels, so that every level of the UNet halves evenly.
    pub fn bucket_step(&self) -> usize {
        self.downscale_factor() << self.unet_levels().saturating_sub(1)
    }
}

/// How many parameters a network has.
pub(crate) fn count_parameters(shapes: &Shapes) -> usize {
    shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
}

/// The built-in model's file with zeros for weights: enough to look at its header.
pub(crate) fn builtin(name: &str) -> Result<SafetensorsFile, Failure> {
    let header = POSTER_TINY_HEADER;
    if header.is_empty() {
        let message = format!("this program was built without `builtin:{name}`");
        return Err(Failure::new(ExitCode::Model, message).hint("build it with the feature `builtin-base`"));
    }
    let data_length = data_length(header).unwrap_or_default();
    // Pages that are never read take no memory.
    let mut content = vec![0; header.len() + data_length];
    content[..header.len()].copy_from_slice(header);
    Ok(SafetensorsFile::from_bytes(content, format!("builtin:{name}"))?)
}

fn data_length(header: &[u8]) -> Option<usize> {
    let json: Json = serde_json::from_slice(header.get(8..)?).ok()?;
    let ends = json.as_object()?.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    ends.max()?.try_into().ok()
}

/// The file with those weights of its UNet that the configuration asks for.
fn chosen(file: Arc<dyn Reader>, config: &ModelConfig) -> Result<Arc<dyn Reader>, Failure> {
    Ok(if config.extract_ema { with_averaged_unet(file)? } else { file })
}

fn from_file(file: Arc<dyn Reader>, name: &str) -> Result<ModelParts, Failure> {
    let kind = recognise(&file);
    let FileKind::Ldm { family, input, .. } = kind else {
        let message = format!("`{name}` is a {kind}; training starts from a model of the SD1, SD2 or SDXL family");
        return Err(Failure::new(ExitCode::Model, message).maybe_hint(other_kind_hint(&kind)));
    };
    family.check_supported(input, Path::new(name))?;
    let parts = ldm_single_file(file.clone())?;
    let configs = PipelineConfigs::of_single_file(&file, family)?;
    let vae = parts.vae.as_ref().map(|vae| vae as &dyn Reader);
    let networks = Networks { unet: &parts.unet, vae, text_encoders: &parts.text_encoders };
    networks.check_fit(file.path(), family, &configs)?;
    Ok(ModelParts {
        kind: kind.to_string(),
        family,
        unet: parameters_of(&parts.unet),
        vae: parts.vae.as_ref().map(|vae| parameters_of(vae)),
        force_upcast: force_upcast(&configs.vae),
        text_encoders: parts.text_encoders.iter().map(|encoder| parameters_of(encoder)).collect(),
        text_config: configs.text_encoders.first().cloned().unwrap_or_default(),
        unknown_tensors: unknown_tensors(&parts.leftover),
    })
}

/// The way out where a file is no whole model.
fn other_kind_hint(kind: &FileKind) -> Option<String> {
    match kind {
        FileKind::KohyaLora { .. } | FileKind::PeftLora { .. } => Some(
            "to continue a LoRA set `lora.initial` to it, and `model.path` to the model it was trained on".to_owned(),
        ),
        FileKind::ControlNet { .. } => Some(CONTROL_NET_HINT.to_owned()),
        _ => None,
    }
}

fn from_folder(folder: &Path, variant: Option<&str>) -> Result<ModelParts, Failure> {
    let family = Family::of_supported_folder(folder)?;
    let open = |part: &str, stem: &str| open_component(&folder.join(part), stem, variant);
    let unet = canonical_unet(open("unet", "diffusion_pytorch_model")?)?;
    let vae = canonical_vae(open("vae", "diffusion_pytorch_model")?)?;
    let configured = |part: &str, network: &dyn Reader, shapes: ShapesOf| -> Result<(), Failure> {
        let path = folder.join(part).join("config.json");
        check_fit(network, &read_json(&path)?, shapes, &format!("`{}`", path.display()))
    };
    configured("unet", &unet, architecture::unet)?;
    configured("vae", &vae, architecture::vae)?;
    let vae_config = read_json(&folder.join("vae/config.json"))?;
    let text_encoder = |place: &TextFolder| -> Result<Shapes, Failure> {
        let encoder = canonical_text_encoder(open(place.network, "model")?)?;
        configured(place.network, &encoder, architecture::text_encoder)?;
        Ok(parameters_of(&encoder))
    };
    Ok(ModelParts {
        kind: "diffusers folder".to_owned(),
        family,
        unet: parameters_of(&unet),
        vae: Some(parameters_of(&vae)),
        force_upcast: force_upcast(&vae_config),
        text_encoders: family.text_folders().iter().map(text_encoder).collect::<Result<_, _>>()?,
        text_config: first_text_config(folder, family)?,
        unknown_tensors: None,
    })
}

/// A folder of which only the configurations count, and what to call it.
fn from_configs(folder: &Path, kind: &str) -> Result<ModelParts, Failure> {
    let family = Family::of_supported_folder(folder)?;
    let read = |part: &str, shapes: ShapesOf| shapes_of_config(&folder.join(part), shapes);
    Ok(ModelParts {
        kind: kind.to_owned(),
        family,
        unet: read("unet", architecture::unet)?,
        vae: Some(read("vae", architecture::vae)?),
        force_upcast: force_upcast(&read_json(&folder.join("vae/config.json"))?),
        text_encoders: family
            .text_folders()
            .iter()
            .map(|place| read(place.network, architecture::text_encoder))
            .collect::<Result<_, _>>()?,
        text_config: first_text_config(folder, family)?,
        unknown_tensors: None,
    })
}

/// What a VAE's configuration says of fp32.
fn force_upcast(config: &Json) -> Option<bool> {
    config.get("force_upcast")?.as_bool()
}

/// What a text encoder with this `config.json` and a table of `rows` words says of them. Of BERT's marks it says nothing.
pub(crate) fn word_table(config: &Json, rows: usize) -> WordTable {
    let mark = |key: &str| config[key].as_i64().filter(|_| !is_bert(config));
    WordTable { rows, bos: mark("bos_token_id"), eos: mark("eos_token_id") }
}

/// The configuration of the first text encoder of the model in `folder`.
fn first_text_config(folder: &Path, family: Family) -> Result<Json, Failure> {
    Ok(read_json(&folder.join(family.text_folders()[0].network).join("config.json"))?)
}

/// Names and shapes of a network from its configuration.
type ShapesOf = fn(&Json) -> Result<Shapes, String>;

/// What the network of `config` has; `place` is where that was read.
fn described(config: &Json, shapes: ShapesOf, place: &str) -> Result<Shapes, Failure> {
    shapes(config).map_err(|reason| Failure::new(ExitCode::Model, format!("{place}: {reason}")))
}

/// The shapes of the network whose `config.json` lies in `folder`.
fn shapes_of_config(folder: &Path, shapes: ShapesOf) -> Result<Shapes, Failure> {
    let path = folder.join("config.json");
    described(&read_json(&path)?, shapes, &format!("`{}`", path.display()))
}

/// Holds the tensors of a network against its configuration, before a run finds out.
pub(crate) fn check_fit(network: &dyn Reader, config: &Json, shapes: ShapesOf, place: &str) -> Result<(), Failure> {
    Ok(LoadReport::of_network(&described(config, shapes, place)?, network).into_result()?)
}

/// The networks of a model under diffusers' names, the text encoders in the order of their family.
pub(crate) struct Networks<'n> {
    pub unet: &'n dyn Reader,
    pub vae: Option<&'n dyn Reader>,
    pub text_encoders: &'n [Box<dyn Reader>],
}

impl Networks<'_> {
    /// Holds all of them, which are the model at `path`, against their configurations: what does not fit is one report.
    pub fn check_fit(&self, path: &Path, family: Family, configs: &PipelineConfigs) -> Result<(), Failure> {
        let report = |name: &'static str, network: &dyn Reader, config: &Json, shapes: ShapesOf| {
            let place = format!("`{}`, the configuration of its {name}", path.display());
            described(config, shapes, &place).map(|shapes| (name, LoadReport::of_network(&shapes, network)))
        };
        let mut reports = vec![report("unet", self.unet, &configs.unet, architecture::unet)?];
        if let Some(vae) = self.vae {
            reports.push(report("vae", vae, &configs.vae, architecture::vae)?);
        }
        let text_encoders = self.text_encoders.iter().zip(&configs.text_encoders).zip(family.text_folders());
        for ((encoder, config), place) in text_encoders {
            reports.push(report(place.network, encoder, config, architecture::text_encoder)?);
        }
        Ok(LoadReport::of_model(path, reports).into_result()?)
    }
}

/// The VAE at `named` in the place of a model's `own`, held against its configuration: that of a folder, that in a file of this program,
/// or else the model's; beside it what that configuration says of fp32.
fn vae_at(named: &Path, own: Option<(&Shapes, Option<bool>)>) -> Result<(Shapes, Option<bool>), Failure> {
    let path = local_file(named)?;
    if path.is_dir() {
        let reader = match open_component(&path, "diffusion_pytorch_model", None) {
            // They are fetched once everything else is right.
            Err(FileError::NoWeights { .. }) if HubName::is_at(named) => {
                let config = read_json(&path.join("config.json"))?;
                return Ok((shapes_of_config(&path, architecture::vae)?, force_upcast(&config)));
            }
            reader => canonical_vae(reader?)?,
        };
        let place = path.join("config.json");
        let config = read_json(&place)?;
        check_fit(&reader, &config, architecture::vae, &format!("`{}`", place.display()))?;
        return Ok((parameters_of(&reader), force_upcast(&config)));
    }
    let file = open_file(&path)?;
    let told = vae_from_metadata(file.path(), file.metadata())?;
    let reader = canonical_vae(file)?;
    let asks = match (told, own) {
        (Some(config), _) => {
            let place = format!("`{}`, the configuration of its VAE", path.display());
            check_fit(&reader, &config, architecture::vae, &place)?;
            force_upcast(&config)
        }
        (None, Some((own, asks))) => {
            LoadReport::of_network(own, &reader).into_result()?;
            asks
        }
        // What the model lacks is said when it is opened.
        (None, None) => None,
    };
    Ok((parameters_of(&reader), asks))
}

fn count_blocks(shapes: &Shapes, prefix: &str) -> usize {
    let numbers = shapes.keys().filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok());
    numbers.max().map_or(0, |highest| highest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::convert::model::{tests::write_tiny_folder, to_single_file};

    #[test]
    fn a_model_has_the_same_parts_as_folder_as_file_and_from_its_configurations() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, single) = (place.path().join("folder"), place.path().join("single.safetensors"));
        write_tiny_folder(&folder);
        to_single_file(&folder, &single, None, false).expect("a complete folder");
        let parts = |path: &Path, init| {
            let path = path.to_string_lossy().into_owned();
            ModelParts::of(&ModelConfig { path, init, ..ModelConfig::default() }).expect("a model")
        };
        let as_folder = parts(&folder, Init::Pretrained);
        assert_eq!((as_folder.downscale_factor(), as_folder.unet_levels(), as_folder.bucket_step()), (2, 2, 4));
        for other in [parts(&single, Init::Pretrained), parts(&folder, Init::Random)] {
            assert_eq!(other.unet, as_folder.unet);
            assert_eq!((&other.vae, other.force_upcast), (&as_folder.vae, as_folder.force_upcast));
            assert_eq!(other.text_encoders, as_folder.text_encoders);
        }
    }
}
