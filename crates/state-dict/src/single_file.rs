//! Single-file (LDM, sgm) checkpoints as the networks of a diffusers folder, and back.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::averaged::EMA_PREFIX;
use crate::canonical::{UNET_PREFIX, VAE_PREFIX, canonical_text_encoder, canonical_unet, canonical_vae, has_prefix};
use crate::error::{Error, Result, shown};
use crate::family::Family;
use crate::maps::ldm_sd::{self, UnetLayout};
use crate::maps::text_places::{Naming, SD1, SD2, SDXL, SDXL_REFINER, TextPlace};
use crate::maps::{bert, clip, vae};
use crate::open_clip::{FromOpenClip, ToOpenClip};
use crate::reader::{Joined, Reader};
use crate::renamed::Renamed;

/// The networks of a single-file checkpoint under diffusers' names.
pub struct LdmSingleFile {
    /// The UNet.
    pub unet: Renamed<Arc<dyn Reader>>,
    /// The VAE; many files leave it out.
    pub vae: Option<Renamed<Arc<dyn Reader>>>,
    /// The text encoders that are there, the first one first, CLIP's with `text_model.` in front of their names.
    pub text_encoders: Vec<Box<dyn Reader>>,
    /// Tensors that belong to none of them and are not known to be needless.
    pub leftover: Vec<String>,
}

/// Reads a single-file checkpoint of any family. How deep the networks are is read off their names.
pub fn ldm_single_file(file: Arc<dyn Reader>) -> Result<LdmSingleFile> {
    if !has_prefix(&file, UNET_PREFIX) {
        return Err(Error::WrongKind {
            path: file.path().to_path_buf(),
            reason: format!("is no single-file checkpoint: no UNet was found under `{UNET_PREFIX}`"),
        });
    }
    let unet = canonical_unet(file.clone())?;
    let vae = has_prefix(&file, VAE_PREFIX).then(|| canonical_vae(file.clone())).transpose()?;
    let places = text_places(&file);
    let text_encoders = places.iter().map(|place| text_encoder(&file, *place)).collect::<Result<_>>()?;
    let mut used: HashSet<&str> = [Some(&unet), vae.as_ref()].into_iter().flatten().flat_map(original_names).collect();
    used.extend(file.names().into_iter().filter(|name| places.iter().any(|place| place.holds(name))));
    let leftover = left_over(&file, &used);
    Ok(LdmSingleFile { unet, vae, text_encoders, leftover })
}

/// A VAE that lies in a file by itself, under diffusers' names.
pub struct VaeFile {
    /// The VAE.
    pub vae: Renamed<Arc<dyn Reader>>,
    /// Tensors that are none of its, and not known to be needless.
    pub leftover: Vec<String>,
}

/// Reads a VAE by itself: under diffusers' names, of today or of old, or under the original ones, with the prefix of a whole model or
/// without.
///
/// # Errors
/// Where the file holds none.
pub fn vae_file(file: Arc<dyn Reader>) -> Result<VaeFile> {
    let vae = canonical_vae(file.clone())?;
    let leftover = left_over(&file, &original_names(&vae).into_iter().collect());
    Ok(VaeFile { vae, leftover })
}

/// The names in its file of a network's tensors.
fn original_names(network: &Renamed<Arc<dyn Reader>>) -> Vec<&str> {
    network.names().into_iter().filter_map(|name| network.original_name(name)).collect()
}

/// How many tensors are `leftover`, and the first of them, in words; none where all belong to a network.
pub fn unknown_tensors(leftover: &[String]) -> Option<String> {
    in_words(leftover, "of no network that is known")
}

/// How many `tensors` there are, what is said `of_them`, and the first of their names; none where there are none.
pub fn in_words(tensors: &[String], of_them: &str) -> Option<String> {
    const SHOWN: usize = 3;
    let names: Vec<String> = tensors.iter().take(SHOWN).map(|name| format!("`{}`", shown(name))).collect();
    let more = if tensors.len() > SHOWN { ", …" } else { "" };
    let count = match tensors.len() {
        0 => return None,
        1 => "one tensor".to_string(),
        count => format!("{count} tensors"),
    };
    Some(format!("{count} {of_them}: {}{more}", names.join(", ")))
}

fn left_over(file: &dyn Reader, used: &HashSet<&str>) -> Vec<String> {
    let left = |name: &&str| !used.contains(name) && !is_needless(name);
    file.names().into_iter().filter(left).map(str::to_string).collect()
}

/// Where the text encoders lie that `file` holds: at most one for each of a family's.
fn text_places(file: &dyn Reader) -> Vec<TextPlace> {
    let names = file.names();
    let first = [SD2, SD1, SDXL_REFINER, SDXL].map(|places| places[0]);
    let is_there = |place: &&TextPlace| names.iter().any(|name| place.holds(name));
    first.iter().find(is_there).into_iter().chain(SDXL[1..].iter().filter(is_there)).copied().collect()
}

fn text_encoder(file: &Arc<dyn Reader>, place: TextPlace) -> Result<Box<dyn Reader>> {
    Ok(match place.naming {
        Naming::Transformers => Box::new(canonical_text_encoder(file.clone())?),
        Naming::OpenClip | Naming::OpenClipBeyond => Box::new(FromOpenClip::new(file.clone(), place)?),
    })
}

/// Networks under diffusers' names as one reader under the names of a single-file checkpoint of `family`, ready for
/// [`crate::write_source`] through [`crate::FromReader`]. There must be as many text encoders as the family has.
pub fn to_ldm<'r>(
    family: Family,
    unet: &'r dyn Reader,
    vae: &'r dyn Reader,
    text_encoders: &[&'r dyn Reader],
) -> Result<Joined<Box<dyn Reader + 'r>>> {
    let layout = UnetLayout::from_diffusers_names(unet.names()).ok_or_else(|| Error::WrongKind {
        path: unet.path().to_path_buf(),
        reason: "is no diffusers UNet: no `down_blocks` were found".to_string(),
    })?;
    let renamed = renamed_fully(unet, |name, shape| {
        Some((format!("{UNET_PREFIX}{}", ldm_sd::unet_to_ldm(name, &layout)?), shape.to_vec()))
    })?;
    let places = family.text_places();
    if places.len() != text_encoders.len() {
        return Err(Error::WrongKind {
            path: unet.path().to_path_buf(),
            reason: format!(
                "has {} text encoders beside it; a single file of the {} family holds {}",
                text_encoders.len(),
                family.title(),
                places.len()
            ),
        });
    }
    let mut parts: Vec<Box<dyn Reader + 'r>> = vec![Box::new(renamed), Box::new(vae_with_prefix(vae, VAE_PREFIX)?)];
    for (place, text_encoder) in places.iter().zip(text_encoders.iter().copied()) {
        parts.push(match place.naming {
            Naming::OpenClip | Naming::OpenClipBeyond => Box::new(ToOpenClip::new(text_encoder, *place)?),
            Naming::Transformers => Box::new(renamed_fully(text_encoder, |name, shape| {
                let of_clip = clip::canonical_name(name).filter(|name| name.starts_with("text_model."));
                let name = of_clip.or_else(|| bert::canonical_name(name))?;
                Some((format!("{}{name}", place.prefix), shape.to_vec()))
            })?),
        });
    }
    Joined::new(Path::new("single-file checkpoint"), parts)
}

/// A VAE under diffusers' names as one under the names that files of a VAE alone have.
pub fn to_ldm_vae(vae: &dyn Reader) -> Result<Renamed<&dyn Reader>> {
    vae_with_prefix(vae, "")
}

fn vae_with_prefix<'r>(vae: &'r dyn Reader, prefix: &str) -> Result<Renamed<&'r dyn Reader>> {
    let levels = vae::levels(vae.names());
    renamed_fully(vae, |name, shape| {
        let current = vae::current_name(name);
        let shape = vae::shape_in_ldm(&current, shape);
        Some((format!("{prefix}{}", vae::vae_to_ldm(&current, levels)?), shape))
    })
}

// What is about to be saved must not lose a tensor silently.
pub(crate) fn renamed_fully(
    reader: &dyn Reader,
    map: impl Fn(&str, &[usize]) -> Option<(String, Vec<usize>)>,
) -> Result<Renamed<&dyn Reader>> {
    for name in reader.names() {
        let shape = &reader.info(name).expect("a listed tensor has its info").shape;
        if map(name, shape).is_none() && !name.ends_with("position_ids") {
            return Err(Error::BrokenTensor {
                path: reader.path().to_path_buf(),
                tensor: shown(name),
                reason: "has no place in a single-file checkpoint".to_string(),
            });
        }
    }
    Renamed::new(reader, |name, info| map(name, &info.shape))
}

/// Tensors that files carry although nobody needs them: schedules, averaged copies, position numbers, training losses.
pub fn is_needless(name: &str) -> bool {
    const STARTS: [&str; 14] = [
        "betas",
        "alphas_cumprod",
        "sqrt_",
        "posterior_",
        "log_one_minus_",
        "logvar",
        "lvlb_weights",
        EMA_PREFIX,
        "cond_stage_model.model.logit_scale",
        "cond_stage_model.model.text_projection",
        "conditioner.embedders.0.model.logit_scale",
        "conditioner.embedders.1.model.logit_scale",
        "first_stage_model.loss.",
        "loss.",
    ];
    const ENDS: [&str; 2] = [".attn_mask", "position_ids"];
    STARTS.iter().any(|start| name.starts_with(start)) || ENDS.iter().any(|end| name.ends_with(end))
}
