//! A network under this program's names, whatever naming its file has: diffusers' names for UNet and VAE,
//! transformers' with `text_model.` for the text encoder. Prefixes of single-file checkpoints are taken off.

use crate::error::{Error, Result, shown};
use crate::maps::ldm_sd::{self, UnetLayout};
use crate::maps::{bert, clip, vae};
use crate::reader::Reader;
use crate::renamed::Renamed;

/// What single-file checkpoints put in front of the UNet's names.
pub(crate) const UNET_PREFIX: &str = "model.diffusion_model.";
/// What single-file checkpoints put in front of the VAE's names.
pub(crate) const VAE_PREFIX: &str = "first_stage_model.";

/// That no 8-bit numbers have scales beside them (ComfyUI's `scaled_fp8`): without these they would be read as other numbers.
pub(crate) fn check_unscaled(reader: &dyn Reader) -> Result<()> {
    let scale = reader.names().into_iter().find(|name| name.ends_with(".scale_weight") || *name == "scaled_fp8");
    match scale {
        Some(name) => Err(Error::WrongKind {
            path: reader.path().to_path_buf(),
            reason: format!("has 8-bit weights with scales beside them (`{}`), which are not supported", shown(name)),
        }),
        None => Ok(()),
    }
}

/// The UNet of a diffusers file, of a single-file checkpoint, or of a file with the original names alone.
pub fn canonical_unet<R: Reader>(reader: R) -> Result<Renamed<R>> {
    check_unscaled(&reader)?;
    let inside = has_prefix(&reader, UNET_PREFIX);
    let strip =
        |name: &str| if inside { name.strip_prefix(UNET_PREFIX).map(str::to_string) } else { Some(name.to_string()) };
    let names: Vec<String> = reader.names().into_iter().filter_map(strip).collect();
    if names.iter().any(|name| name.starts_with("down_blocks.")) {
        return Renamed::new(reader, |name, info| Some((strip(name)?, info.shape.clone())));
    }
    let original = names.iter().any(|name| name.starts_with("input_blocks."));
    let layout = UnetLayout::from_ldm_names(names.iter().map(String::as_str)).filter(|_| original);
    let Some(layout) = layout else {
        return Err(Error::WrongKind {
            path: reader.path().to_path_buf(),
            reason: "holds no UNet: neither `down_blocks` nor `input_blocks` were found".to_string(),
        });
    };
    Renamed::new(reader, |name, info| Some((ldm_sd::ldm_to_unet(&strip(name)?, &layout)?, info.shape.clone())))
}

/// The VAE of a diffusers file of any age, of a single-file checkpoint, or of a stand-alone file with the original
/// names (whose training losses and averaged copies are left out).
pub fn canonical_vae<R: Reader>(reader: R) -> Result<Renamed<R>> {
    let inside = has_prefix(&reader, VAE_PREFIX);
    let strip =
        |name: &str| if inside { name.strip_prefix(VAE_PREFIX).map(str::to_string) } else { Some(name.to_string()) };
    let names: Vec<String> = reader.names().into_iter().filter_map(strip).collect();
    let levels = vae::levels(names.iter().map(String::as_str));
    if levels == 0 {
        return Err(Error::WrongKind {
            path: reader.path().to_path_buf(),
            reason: "holds no VAE: neither `encoder.down_blocks` nor `encoder.down` were found".to_string(),
        });
    }
    let diffusers =
        names.iter().any(|name| name.starts_with("encoder.down_blocks.") || name.starts_with("decoder.up_blocks."));
    Renamed::new(reader, |name, info| {
        let name = strip(name)?;
        let name = if diffusers { vae::current_name(&name) } else { vae::ldm_to_vae(&name, levels)? };
        let shape = vae::shape_in_diffusers(&name, &info.shape);
        Some((name, shape))
    })
}

/// The text encoder, CLIP's or BERT, of a transformers file or of a single-file checkpoint.
pub fn canonical_text_encoder<R: Reader>(reader: R) -> Result<Renamed<R>> {
    check_unscaled(&reader)?;
    if reader.names().iter().any(|name| bert::canonical_name(name).as_deref() == Some(bert::FIRST)) {
        return Renamed::new(reader, |name, info| Some((bert::canonical_name(name)?, info.shape.clone())));
    }
    let prefix = [clip::LDM_PREFIX, clip::SGM_PREFIX].into_iter().find(|prefix| has_prefix(&reader, prefix));
    let renamed = Renamed::new(reader, |name, info| {
        let inside = prefix.is_none_or(|prefix| name.starts_with(prefix));
        Some((clip::canonical_name(name).filter(|_| inside)?, info.shape.clone()))
    })?;
    if renamed.info("text_model.embeddings.token_embedding.weight").is_none() {
        return Err(Error::WrongKind {
            path: renamed.path().to_path_buf(),
            reason: "holds no text encoder: neither CLIP's `embeddings.token_embedding.weight` nor BERT's \
                     `embeddings.word_embeddings.weight` was found"
                .to_string(),
        });
    }
    Ok(renamed)
}

pub(crate) fn has_prefix(reader: &dyn Reader, prefix: &str) -> bool {
    reader.names().iter().any(|name| name.starts_with(prefix))
}
