//! A VAE by itself: a diffusers folder, or one file under diffusers' names or the original ones.

use sdtrain_files::say;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sdtrain_state_dict::{
    Family, FileKind, FromReader, LoadReport, PipelineConfigs, Reader, VaeFile, architecture, open_component,
    open_file, read_json, recognise, to_ldm_vae, vae_file, vae_from_metadata, vae_to_metadata, write_network_folder,
    write_source,
};
use serde_json::Value as Json;

use super::{kept_metadata, left_out, refuse_flags_of_models, with_dtype};
use crate::args::{ConvertArgs, Format};
use crate::model_parts::check_fit;
use crate::{ExitCode, Failure};

/// The tensors of the VAE that lies at `input` by itself, in a file or as a folder; none where something else lies there.
pub(super) fn find(input: &Path) -> Result<Option<Arc<dyn Reader>>, Failure> {
    let file = match input.is_dir() {
        true if !is_vae_folder(input) => return Ok(None),
        true => open_component(input, "diffusion_pytorch_model", None)?,
        false => open_file(input)?,
    };
    let is_vae = matches!(recognise(&file), FileKind::Vae { .. });
    Ok(is_vae.then(|| Arc::from(file)))
}

fn is_vae_folder(folder: &Path) -> bool {
    read_json(&folder.join("config.json")).is_ok_and(|config| config["_class_name"] == "AutoencoderKL")
}

/// Writes the VAE in `file`, which was found at `input`; what the result cannot hold, in words.
pub(super) fn convert(file: Arc<dyn Reader>, input: &Path, args: &ConvertArgs) -> Result<Vec<String>, Failure> {
    refuse_flags_of_models(args, "a VAE")?;
    let VaeFile { vae, leftover } = vae_file(file)?;
    let vae = with_dtype(Box::new(vae), args.dtype)?;
    let (config, place) = match input.is_dir() {
        true => {
            let path = input.join("config.json");
            (Some(read_json(&path)?), format!("`{}`", path.display()))
        }
        false => {
            let place = format!("`{}`, the configuration of its VAE", input.display());
            (vae_from_metadata(input, vae.metadata())?, place)
        }
    };
    if let Some(config) = &config {
        check_fit(&*vae, config, architecture::vae, &place)?;
    }
    let is_folder = args.to == Format::Diffusers && args.output.extension().is_none_or(|end| end != "safetensors");
    let mut metadata = kept_metadata(&*vae);
    if is_folder {
        let config = match config {
            Some(config) => config,
            None => assumed_config(&*vae)?,
        };
        // It has a file of its own.
        metadata.remove(&vae_to_metadata(&config).0);
        write_network_folder(&args.output, &config, &FromReader(&*vae), &metadata)?;
    } else {
        metadata.extend(config.as_ref().map(vae_to_metadata));
        metadata.insert("format".to_owned(), "pt".to_owned());
        match args.to {
            Format::SingleFile => write_source(&args.output, &FromReader(&to_ldm_vae(&*vae)?), &metadata)?,
            _ => write_source(&args.output, &FromReader(&*vae), &metadata)?,
        }
    }
    Ok(left_out::of_single_file(&[], &leftover))
}

/// The released configuration for a file that says nothing of its own.
fn assumed_config(vae: &dyn Reader) -> Result<Json, Failure> {
    let path = vae.path().display();
    let (family, is_told) = family_of(vae.metadata());
    let config = PipelineConfigs::released(family, false).vae;
    let shapes = architecture::vae(&config).map_err(|reason| Failure::new(ExitCode::Model, reason))?;
    let report = LoadReport::of_network(&shapes, vae);
    if !report.wrong_shape.is_empty() {
        let message = format!("`{path}` has other sizes than Stable Diffusion's VAE and carries no configuration");
        return Err(Failure::new(ExitCode::Model, message).hint(
            "a folder is written by hand as well: `--to diffusers FOLDER/diffusion_pytorch_model.safetensors`, and the \
             `config.json` beside it",
        ));
    }
    report.into_result()?;
    if !is_told {
        say!(
            "warning: `{path}` does not say its `scaling_factor`; `config.json` has that of SD1 and SD2, {}. Of SDXL's VAE it is {}",
            config["scaling_factor"],
            PipelineConfigs::released(Family::Sdxl, false).vae["scaling_factor"]
        );
    }
    Ok(config)
}

/// The family whose VAE has the same numbers in its configuration, and whether the metadata say it; SDXL's has the sizes of SD1's, so the
/// tensors do not.
fn family_of(metadata: &BTreeMap<String, String>) -> (Family, bool) {
    match metadata.get("modelspec.architecture") {
        Some(said) if said.starts_with("stable-diffusion-xl") => (Family::Sdxl, true),
        Some(said) => (Family::Sd1, said.starts_with("stable-diffusion")),
        None => (Family::Sd1, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_say_whose_scaling_factor_counts() {
        let of = |said: &str| family_of(&BTreeMap::from([("modelspec.architecture".to_owned(), said.to_owned())]));
        assert_eq!(of("stable-diffusion-xl-v1-base/vae"), (Family::Sdxl, true));
        assert_eq!(of("stable-diffusion-v1/vae"), (Family::Sd1, true));
        assert_eq!(of("other"), (Family::Sd1, false));
        assert_eq!(family_of(&BTreeMap::new()), (Family::Sd1, false));
        let factor = |family| PipelineConfigs::released(family, false).vae["scaling_factor"].clone();
        assert_eq!((factor(Family::Sd1), factor(Family::Sdxl)), (0.18215.into(), 0.13025.into()));
    }
}
