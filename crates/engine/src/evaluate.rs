//! `sdtrain evaluate`.

use crate::failure;
use sdtrain::args::EvaluateArgs;
use sdtrain::{ExitCode, Failure, default_output, print_answer};
use sdtrain_files::say;
use sdtrain_recipe::{Loaded, TrainConfig};
use sdtrain_trainer::{load_model, open_held_out};
use std::fs;
use std::path::{Path, PathBuf};

/// Measures the base and its products on the held-out images, prints the table, writes JSON and CSV.
pub fn run(args: &EvaluateArgs) -> Result<(), Failure> {
    let Loaded { config, .. } = TrainConfig::load(&args.config.config, &args.config.set)?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&config.name));
    let products = match args.checkpoint.is_empty() {
        true => products_in(&output, &config),
        false => args.checkpoint.clone(),
    };
    sdtrain_torch::use_threads(config.train.threads);
    let device = sdtrain_torch::device(&args.device.to_string()).map_err(failure::of_torch)?;
    let model = load_model(&config, device).map_err(failure::of)?;
    let held_out = open_held_out(&config, model.bucket_step()).map_err(failure::of)?.ok_or_else(|| {
        Failure::new(ExitCode::Configuration, "there are no held-out images to evaluate on")
            .hint("set `validation.path` to a folder of them, or `validation.split = 0.1`")
    })?;
    if products.is_empty() {
        say!("`{}` holds no product of `{}`: only the base is measured", output.display(), config.name);
    }
    let mut announce = |name: &str| say!("evaluating {name}");
    let evaluation =
        sdtrain_evaluate::run(&config, &model, &held_out, &products, &mut announce).map_err(failure::of_evaluate)?;
    fs::create_dir_all(&output)
        .map_err(|error| Failure::new(ExitCode::Storage, format!("cannot create `{}`: {error}", output.display())))?;
    evaluation.write(&output).map_err(failure::of_evaluate)?;
    print_answer(&format!("{}\n", evaluation.table()));
    Ok(())
}

/// The products that a run of this name left in its folder, those on the way first.
fn products_in(folder: &Path, config: &TrainConfig) -> Vec<PathBuf> {
    let name = config.name.as_str();
    // Files of single words are parts of a product: a LoRA, or a file of all of them.
    let of_words: Vec<String> = config.textual_inversion.word_files("").collect();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "safetensors")
                || ["model_index.json", "config.json"].iter().any(|name| path.join(name).is_file())
        })
        .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)))
        .filter(|path| !path.to_string_lossy().ends_with("-peft.safetensors"))
        .filter(|path| !of_words.iter().any(|ending| path.to_string_lossy().ends_with(ending)))
        .collect();
    paths.sort_by_key(|path| (path.file_stem().is_some_and(|stem| stem.to_string_lossy() == name), path.clone()));
    paths
}
