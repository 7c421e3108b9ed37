//! A folder: a diffusers model, one component of it, a run's output, or a checkpoint of a run.

use std::fs;
use std::path::Path;

use sdtrain_recipe::step_of_name;
use sdtrain_state_dict::{Family, UnetInput, is_control_net_folder, open_component, read_json};
use serde_json::{Map, Value as Json, json};

use super::{Description, file};
use crate::commands::check::millions;
use crate::{ExitCode, Failure};

/// What the weight files of components are called.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

pub(super) fn describe(folder: &Path, description: &mut Description) -> Result<(), Failure> {
    if folder.join("model_index.json").is_file() {
        return diffusers(folder, description);
    }
    if folder.join("MANIFEST.json").is_file() {
        return training_state(folder, description);
    }
    if folder.join("config.toml").is_file() {
        return output_folder(folder, description);
    }
    for stem in STEMS {
        if let Ok(reader) = open_component(folder, stem, None) {
            let config =
                if is_control_net_folder(folder) { Some(read_json(&folder.join("config.json"))?) } else { None };
            return file::describe_with(&reader, config, description);
        }
    }
    let message = format!("nothing known is in `{}`", folder.display());
    Err(Failure::new(ExitCode::Model, message).hint(
        "it is none of: a diffusers folder (`model_index.json`), one of its components, a run's output folder \
         (`config.toml`), a checkpoint (`MANIFEST.json`)",
    ))
}

fn diffusers(folder: &Path, description: &mut Description) -> Result<(), Failure> {
    let index = read_json(&folder.join("model_index.json"))?;
    let class = index["_class_name"].as_str().unwrap_or("unnamed class").to_owned();
    let known = Family::of_folder(folder).ok();
    let note = known.map(|(_, input)| input.note()).unwrap_or_default();
    let unet = read_json(&folder.join("unet/config.json")).unwrap_or_default();
    let number = |key: &str| unet[key].as_u64();
    let text_width = number("cross_attention_dim");
    description.data("kind", "diffusers_folder");
    description.fact("description", "kind", format!("diffusers folder of a `{class}`{note}"));
    let mut reason = format!("its `model_index.json` names a `{class}`");
    if let Some(width) = text_width {
        reason += &format!(", and its UNet attends to text states of width {width}");
    }
    if let Some(channels) = number("in_channels").filter(|_| !note.is_empty()) {
        reason += &format!(", and has {channels} input channels");
    }
    description.fact("reason", "because", reason);
    description.data("class", class);
    let takes = |wanted: UnetInput| known.is_some_and(|(_, input)| input == wanted);
    description.data("for_inpainting", takes(UnetInput::Inpaint));
    description.data("for_editing", takes(UnetInput::Edit));
    let mut parts = Map::new();
    let components = index.as_object().into_iter().flatten();
    for (name, value) in components.filter(|(name, _)| !name.starts_with('_')) {
        let Some(class) = value[1].as_str() else { continue };
        let mut part = json!({"class": class});
        let mut line = class.to_owned();
        let reader = STEMS.iter().find_map(|stem| open_component(&folder.join(name), stem, None).ok());
        if let Some(reader) = reader {
            let mut sizes = Description::default();
            file::sizes(&reader, &mut sizes);
            let parameters = sizes.json["parameters"].as_u64().unwrap_or_default();
            line += &format!(", {} tensors, {} parameters", sizes.json["tensor_count"], millions(parameters as usize));
            if let Some(part) = part.as_object_mut() {
                part.extend(sizes.json);
            }
        }
        description.line(name, line);
        parts.insert(name.clone(), part);
    }
    if let Some((family, _)) = known {
        description.fact("family", "family", family.name());
    }
    if let Some(width) = text_width {
        description.fact("cross_attention_dim", "text width", width);
    }
    description.data("parts", parts);
    Ok(())
}

fn training_state(folder: &Path, description: &mut Description) -> Result<(), Failure> {
    let manifest = read_json(&folder.join("MANIFEST.json"))?;
    description.data("kind", "training_state");
    description.line("kind", "checkpoint that a run continues from");
    for (key, value) in manifest.as_object().into_iter().flatten() {
        match value {
            Json::Object(info) if key == "info" => {
                for (key, value) in info {
                    description.line(key, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                }
            }
            Json::Array(files) if key == "files" => {
                for file in files {
                    let name = file["name"].as_str().unwrap_or_default();
                    description.line("file", format!("{name}, {} bytes", file["length"]));
                }
            }
            Json::Array(_) | Json::Object(_) | Json::Null => {}
            Json::String(text) => description.line(key, text.clone()),
            other => description.line(key, other.to_string()),
        }
    }
    description.data("manifest", manifest);
    Ok(())
}

fn output_folder(folder: &Path, description: &mut Description) -> Result<(), Failure> {
    description.data("kind", "output_folder");
    description.line("kind", "output folder of a run");
    let config = fs::read_to_string(folder.join("config.toml")).unwrap_or_default();
    if let Ok(config) = config.parse::<toml::Table>() {
        for key in ["name", "method", "seed"] {
            match config.get(key) {
                Some(toml::Value::String(text)) => description.fact(key, key, text.clone()),
                Some(toml::Value::Integer(number)) => description.fact(key, key, *number),
                _ => {}
            }
        }
    }
    let names = |folder: &Path, wanted: fn(&str) -> bool| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| wanted(name)).collect();
        names.sort();
        names
    };
    let products = names(folder, |name| name.ends_with(".safetensors"));
    let checkpoints = names(&folder.join("checkpoints"), |name| step_of_name(name).is_some());
    for (key, found) in [("products", products), ("checkpoints", checkpoints)] {
        let shown = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        description.line(key, shown);
        description.data(key, json!(found));
    }
    if let Ok(run) = read_json(&folder.join("run.json")) {
        description.data("run", run);
    }
    Ok(())
}
