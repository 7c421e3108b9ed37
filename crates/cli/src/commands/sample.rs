//! `sdtrain sample`: checks that every file is there, then becomes the engine.

use std::path::Path;

use sdtrain_hub::Wanted;
use sdtrain_recipe::{HubName, ModelLocation, steps_of_strength};
use sdtrain_state_dict::{Family, FileKind, open_file, recognise};

use crate::args::SampleArgs;
use crate::engine::become_engine;
use crate::hub_files::{HubFiles, whole_model, wrong_file, wrong_model};
use crate::model_parts::CONTROL_NET_HINT;
use crate::{ExitCode, Failure};

/// Comes back only with a failure.
pub(crate) fn run(args: &SampleArgs) -> Result<(), Failure> {
    let mut failures = Vec::new();
    failures.extend(wrong_model(&args.model));
    let files = args.lora.iter().map(|lora| ("--lora", lora.path.as_path()));
    let words = args.embedding.iter().map(|file| ("--embedding", file.path.as_path()));
    let others = [("--vae", &args.vae), ("--init-image", &args.init_image), ("--mask", &args.mask)];
    let others = others.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?)));
    for (flag, path) in files.chain(words).chain(others) {
        failures.extend(wrong_file(flag, path));
    }
    if !args.guidance.is_finite() || args.guidance < 0.0 {
        let message = format!("`--guidance` must not be negative, and is {}", args.guidance);
        failures.push(Failure::new(ExitCode::Configuration, message));
    }
    let strength = args.effective_strength();
    if !(strength > 0.0 && strength <= 1.0) {
        let message = format!("`--strength` must be greater than 0 and at most 1, and is {strength}");
        failures.push(Failure::new(ExitCode::Configuration, message));
    } else if args.init_image.is_some() && steps_of_strength(args.steps as usize, strength) == 0 {
        let message = format!("with `--strength {strength}` none of {} steps is left", args.steps);
        let least = (1.0 / strength).ceil();
        let hint = format!("`--steps {least}` leaves one; a greater strength more");
        failures.push(Failure::new(ExitCode::Configuration, message).hint(hint));
    }
    if Path::new(&args.output).is_file() {
        let message = format!("`--output {}` is a file, not a folder", args.output.display());
        failures.push(Failure::new(ExitCode::Configuration, message));
    }
    if let Some(failure) = failures.into_iter().reduce(Failure::and) {
        return Err(failure);
    }
    let vae = args.vae.iter().filter_map(|vae| Some((vae.to_str()?, Wanted::Vae)));
    let files = args.lora.iter().map(|lora| &lora.path).chain(args.embedding.iter().map(|words| &words.path));
    let files = files.chain(&args.init_image).chain(&args.mask);
    let files = files.filter_map(|path| Some((path.to_str()?, Wanted::File)));
    let model = (args.model.as_str(), whole_model());
    let on_hub = HubFiles::prepare([model].into_iter().chain(vae).chain(files))?;
    check_drawable(&args.model)?;
    on_hub.fetch()?;
    if HubName::is_one(&args.model) {
        // One file of a repository says what it is now.
        check_drawable(&args.model)?;
    }
    Err(become_engine())
}

/// That the model is one that pictures are drawn with, by its configurations or the header of its file, where they are here.
fn check_drawable(model: &str) -> Result<(), Failure> {
    // What is not here yet is said when it is fetched.
    let Ok(ModelLocation::Path(path)) = ModelLocation::find(model) else { return Ok(()) };
    let input = match path.is_dir() {
        true => Family::of_folder(&path)?.1,
        false => match recognise(&open_file(&path)?) {
            FileKind::Ldm { input, .. } => input,
            kind => {
                let message = format!("`--model {model}` is a {kind}; pictures are drawn with whole models");
                return Err(Failure::new(ExitCode::Model, message).maybe_hint(hint_of(&kind)));
            }
        },
    };
    let way_out = "take a model with 4 input channels, or one for inpainting with 9";
    input.check_drawable(&path).map_err(|error| Failure::from(error).hint(way_out))
}

fn hint_of(kind: &FileKind) -> Option<String> {
    match kind {
        FileKind::KohyaLora { .. } | FileKind::PeftLora { .. } => {
            Some("it goes with `--lora`, and the model that it was trained on with `--model`".to_owned())
        }
        FileKind::ControlNet { .. } => Some(CONTROL_NET_HINT.to_owned()),
        _ => None,
    }
}
