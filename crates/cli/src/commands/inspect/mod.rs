//! `sdtrain inspect`: what a file or folder is.

mod control_net;
mod file;
mod folder;

use std::path::Path;

use sdtrain_hub::Wanted;
use sdtrain_recipe::HubName;
use serde_json::{Map, Value as Json};

use crate::args::InspectArgs;
use crate::hub_files::{HubFiles, local_file, whole_model};
use crate::model_parts::builtin;
use crate::{ExitCode, Failure, print_answer};

/// What is known of a file or folder: for people line by line, for programs as JSON.
#[derive(Debug, Default)]
struct Description {
    lines: Vec<(String, String)>,
    json: Map<String, Json>,
}

impl Description {
    /// A fact for both readers.
    fn fact(&mut self, key: &str, label: &str, value: impl Into<Json>) {
        let value = value.into();
        let shown = match &value {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.line(label, shown);
        self.data(key, value);
    }

    /// A line for people only.
    fn line(&mut self, label: &str, value: impl Into<String>) {
        self.lines.push((label.to_owned(), value.into()));
    }

    /// The lines with their values below each other.
    fn as_lines(&self) -> String {
        let width = self.lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or_default();
        self.lines.iter().map(|(label, value)| format!("{label:<width$}  {value}\n")).collect()
    }

    /// A value for programs only.
    fn data(&mut self, key: &str, value: impl Into<Json>) {
        self.json.insert(key.to_owned(), value.into());
    }
}

/// Prints the description to stdout.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let description = describe(&args.path)?;
    print_answer(&match args.json {
        true => format!("{:#}\n", Json::Object(description.json)),
        false => description.as_lines(),
    });
    Ok(())
}

fn describe(path: &Path) -> Result<Description, Failure> {
    let mut description = Description::default();
    description.data("path", path.to_string_lossy());
    if let Some(name) = path.to_str().and_then(|text| text.strip_prefix("builtin:")) {
        file::describe(&builtin(name)?, &mut description)?;
        return Ok(description);
    }
    if let Some(name) = path.to_str().filter(|text| HubName::is_one(text)) {
        describe_hub(name, &mut description)?;
        return Ok(description);
    }
    describe_path(path, &mut description)?;
    Ok(description)
}

/// What is on the hub: of a model that is not in the cache what describes it, and what a run would fetch.
fn describe_hub(name: &str, description: &mut Description) -> Result<(), Failure> {
    // What it is shows in what there is of it.
    let model = HubFiles::prepare([(name, whole_model())]);
    let on_hub = model.or_else(|failure| HubFiles::prepare([(name, Wanted::Vae)]).map_err(|_| failure))?;
    on_hub.fetch_small_undescribed()?;
    let missing = on_hub.missing();
    let path = local_file(Path::new(name))?;
    description.data("folder", path.to_string_lossy());
    for missing in &missing {
        description.line("to fetch", missing.clone());
    }
    description.data("to_fetch", missing.clone());
    match describe_path(&path, description) {
        // Without weights the folder of a single network says nothing.
        Err(_) if !missing.is_empty() => Ok(()),
        described => described,
    }
}

fn describe_path(path: &Path, description: &mut Description) -> Result<(), Failure> {
    match path {
        path if path.is_dir() => folder::describe(path, description)?,
        path if path.exists() => file::describe(&sdtrain_state_dict::open_file(path)?, description)?,
        path => return Err(Failure::new(ExitCode::Configuration, format!("`{}` does not exist", path.display()))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::describe;
    use crate::commands::convert::model::{tests::write_tiny_folder, to_single_file};

    #[test]
    fn a_folder_and_its_single_file_are_described_alike() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, single) = (place.path().join("folder"), place.path().join("single.safetensors"));
        write_tiny_folder(&folder);
        to_single_file(&folder, &single, None, false).expect("a complete folder");
        let (folder, single) = (describe(&folder).expect("a model").json, describe(&single).expect("a model").json);
        assert_eq!((&folder["kind"], &single["kind"]), (&"diffusers_folder".into(), &"single_file".into()));
        for part in ["unet", "vae", "text_encoder"] {
            assert_eq!(folder["parts"][part]["parameters"], single["parts"][part]["parameters"], "{part}");
        }
        assert_eq!((&folder["family"], &single["family"]), (&"sd1".into(), &"sd1".into()));
        assert_eq!(folder["parts"]["unet"]["class"], "UNet2DConditionModel");
        let reason = |description: &super::Map<String, super::Json>| description["reason"].to_string();
        assert!(
            reason(&folder).contains("`model_index.json` names a `StableDiffusionPipeline`"),
            "{}",
            reason(&folder)
        );
        assert!(reason(&single).contains("`model.diffusion_model.input_blocks.0.0.weight`"), "{}", reason(&single));
        assert_eq!(folder["for_inpainting"], false);
        assert!(
            single["metadata"]["sdtrain.unet"].as_str().is_some_and(|config| config.contains("block_out_channels"))
        );
    }

    #[test]
    fn a_folder_for_inpainting_says_so_and_what_it_is_taken_for_it_by() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = place.path().join("folder");
        write_tiny_folder(&folder);
        let config = folder.join("unet/config.json");
        let mut unet = sdtrain_state_dict::read_json(&config).expect("it was just written");
        unet["in_channels"] = 9.into();
        std::fs::write(&config, unet.to_string()).expect("there is room");
        let found = describe(&folder).expect("a model").json;
        assert_eq!((&found["for_inpainting"], &found["for_editing"]), (&true.into(), &false.into()));
        assert_eq!(found["description"], "diffusers folder of a `StableDiffusionPipeline` for inpainting");
        let reason =
            "its `model_index.json` names a `StableDiffusionPipeline`, and its UNet attends to text states of width 32";
        assert_eq!(found["reason"], format!("{reason}, and has 9 input channels"));
        unet["in_channels"] = 8.into();
        std::fs::write(&config, unet.to_string()).expect("there is room");
        let found = describe(&folder).expect("a model").json;
        assert_eq!((&found["for_inpainting"], &found["for_editing"]), (&false.into(), &true.into()));
        assert_eq!(found["description"], "diffusers folder of a `StableDiffusionPipeline` for editing by instruction");
        assert_eq!(found["reason"], format!("{reason}, and has 8 input channels"));
    }
}
