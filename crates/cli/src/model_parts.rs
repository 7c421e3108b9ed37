//! What a model consists of, from the headers of its files: names and shapes of its networks.

use std::path::Path;
use std::sync::Arc;

use sdtrain_recipe::{Init, ModelConfig, ModelLocation};
use sdtrain_state_dict::maps::text_places::TextFolder;
use sdtrain_state_dict::{
    Family, FileKind, Reader, SafetensorsFile, canonical_text_encoder, canonical_unet, canonical_vae, ldm_single_file,
    load_report::parameters_of, open_component, open_file, read_json, recognise,
};
use serde_json::Value as Json;

use crate::architecture::{self, Shapes};
use crate::{ExitCode, Failure};

/// Header of the built-in model's file; empty in a program built without it.
const POSTER_TINY_HEADER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/poster-tiny.header"));

/// The networks of a model.
pub(crate) struct ModelParts {
    /// What it is, as a user names it.
    pub kind: String,
    pub family: Family,
    pub unet: Shapes,
    pub vae: Option<Shapes>,
    /// Those that were found, the first one first.
    pub text_encoders: Vec<Shapes>,
}

impl ModelParts {
    /// Looks at the model of a configuration.
    pub fn of(config: &ModelConfig) -> Result<ModelParts, Failure> {
        let location = ModelLocation::find(&config.path)
            .map_err(|(message, hint)| Failure::new(ExitCode::Configuration, message).maybe_hint(hint))?;
        let mut parts = match location {
            ModelLocation::Builtin(name) => from_file(Arc::new(builtin(&name)?), &format!("builtin:{name}"))?,
            ModelLocation::Path(folder) if folder.is_dir() && config.init == Init::Random => from_configs(&folder)?,
            ModelLocation::Path(folder) if folder.is_dir() => from_folder(&folder, config.variant.as_deref())?,
            ModelLocation::Path(file) => from_file(Arc::from(open_file(&file)?), &file.display().to_string())?,
        };
        if let Some(vae) = &config.vae {
            parts.vae = Some(vae_at(vae)?);
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

    /// Its text encoders with what they are called in a diffusers folder and in traces.
    pub fn text_networks(&self) -> impl Iterator<Item = (&'static str, &Shapes)> {
        self.family.text_folders().iter().map(|folder| folder.network).zip(&self.text_encoders)
    }

    /// Every network that was found: UNet, VAE, text encoders.
    pub fn networks(&self) -> impl Iterator<Item = (&'static str, &Shapes)> {
        let others = [("unet", Some(&self.unet)), ("vae", self.vae.as_ref())];
        others.into_iter().filter_map(|(name, shapes)| Some((name, shapes?))).chain(self.text_networks())
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

fn from_file(file: Arc<dyn Reader>, name: &str) -> Result<ModelParts, Failure> {
    let kind = recognise(&file);
    let FileKind::Ldm { family, input, .. } = kind else {
        let message = format!("`{name}` is a {kind}; training starts from a model of the SD1, SD2 or SDXL family");
        return Err(Failure::new(ExitCode::Model, message).maybe_hint(lora_hint(&kind)));
    };
    family.check_supported(input, Path::new(name))?;
    let parts = ldm_single_file(file)?;
    Ok(ModelParts {
        kind: kind.to_string(),
        family,
        unet: parameters_of(&parts.unet),
        vae: parts.vae.as_ref().map(|vae| parameters_of(vae)),
        text_encoders: parts.text_encoders.iter().map(|encoder| parameters_of(encoder)).collect(),
    })
}

fn lora_hint(kind: &FileKind) -> Option<String> {
    matches!(kind, FileKind::KohyaLora { .. } | FileKind::PeftLora { .. }).then(|| {
        "to continue a LoRA set `lora.initial` to it, and `model.path` to the model it was trained on".to_owned()
    })
}

fn from_folder(folder: &Path, variant: Option<&str>) -> Result<ModelParts, Failure> {
    let family = Family::of_supported_folder(folder)?;
    let open = |part: &str, stem: &str| open_component(&folder.join(part), stem, variant);
    let unet = canonical_unet(open("unet", "diffusion_pytorch_model")?)?;
    let vae = canonical_vae(open("vae", "diffusion_pytorch_model")?)?;
    let text_encoder = |place: &TextFolder| -> Result<Shapes, Failure> {
        Ok(parameters_of(&canonical_text_encoder(open(place.network, "model")?)?))
    };
    Ok(ModelParts {
        kind: "diffusers folder".to_owned(),
        family,
        unet: parameters_of(&unet),
        vae: Some(parameters_of(&vae)),
        text_encoders: family.text_folders().iter().map(text_encoder).collect::<Result<_, _>>()?,
    })
}

/// A folder of which only the configurations count.
fn from_configs(folder: &Path) -> Result<ModelParts, Failure> {
    let family = Family::of_supported_folder(folder)?;
    let read = |part: &str, shapes: fn(&Json) -> Option<Shapes>| {
        let path = folder.join(part).join("config.json");
        shapes(&read_json(&path)?).ok_or_else(|| {
            Failure::new(
                ExitCode::Model,
                format!("`{}` lacks a key that the network's size depends on", path.display()),
            )
        })
    };
    Ok(ModelParts {
        kind: "diffusers configurations, weights drawn from the seed".to_owned(),
        family,
        unet: read("unet", architecture::unet)?,
        vae: Some(read("vae", architecture::vae)?),
        text_encoders: family
            .text_folders()
            .iter()
            .map(|place| read(place.network, architecture::text_encoder))
            .collect::<Result<_, _>>()?,
    })
}

fn vae_at(path: &Path) -> Result<Shapes, Failure> {
    let reader: Box<dyn Reader> = match path.is_dir() {
        true => open_component(path, "diffusion_pytorch_model", None)?,
        false => open_file(path)?,
    };
    Ok(parameters_of(&canonical_vae(reader)?))
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
        to_single_file(&folder, &single, false).expect("a complete folder");
        let parts = |path: &Path, init| {
            let path = path.to_string_lossy().into_owned();
            ModelParts::of(&ModelConfig { path, init, ..ModelConfig::default() }).expect("a model")
        };
        let as_folder = parts(&folder, Init::Pretrained);
        assert_eq!((as_folder.downscale_factor(), as_folder.unet_levels(), as_folder.bucket_step()), (2, 2, 4));
        for other in [parts(&single, Init::Pretrained), parts(&folder, Init::Random)] {
            assert_eq!(other.unet, as_folder.unet);
            assert_eq!(other.vae, as_folder.vae);
            assert_eq!(other.text_encoders, as_folder.text_encoders);
        }
    }
}
