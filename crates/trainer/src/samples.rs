//! Pictures drawn during training, and the grid of them.

use crate::error::{Error, Result};
use image::RgbImage;
use sdtrain_model::{PromptReading, StableDiffusion};
use sdtrain_pipeline::{Request, comparison_sheet, parameters_text, save_png, sheet, text_to_image};
use sdtrain_recipe::TrainConfig;
use std::fs;
use std::path::Path;

/// The pictures that `[samples]` asks for.
pub fn request(config: &TrainConfig, prompt_reading: PromptReading) -> Request {
    let samples = &config.samples;
    Request {
        prompts: samples.prompts.clone(),
        negative: samples.negative.clone(),
        steps: samples.steps as usize,
        guidance: samples.guidance,
        seed: samples.seed,
        width: config.sample_size().0,
        height: config.sample_size().1,
        sampler: samples.sampler,
        prompt_reading,
    }
}

/// Draws them and writes `folder/00-<seed>.png` … and `folder/grid.png`.
pub fn draw(model: &StableDiffusion, request: &Request, folder: &Path) -> Result<Vec<RgbImage>> {
    let pictures = text_to_image(model, request)?;
    fs::create_dir_all(folder).map_err(|error| Error::storage(folder, error))?;
    let name = model.path.display().to_string();
    let words = words_of(model);
    let settings: Vec<(&str, String)> = words.into_iter().map(|words| ("Embeddings", words)).collect();
    for (index, picture) in pictures.iter().enumerate() {
        let text = parameters_text(model, &name, request, index, &settings);
        let path = folder.join(format!("{index:02}-{}.png", request.seed + index as u64));
        save_png(&path, picture, &[("parameters", text)])?;
    }
    save_png(&folder.join("grid.png"), &sheet(&pictures), &[])?;
    Ok(pictures)
}

/// The words that a model has learned, with their vectors: `<cat> (2)`.
fn words_of(model: &StableDiffusion) -> Option<String> {
    let words: Vec<String> =
        model.learned_words().into_iter().map(|(word, vectors)| format!("{word} ({vectors})")).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Base above, result below, of the pictures in two folders that [`draw`] wrote: `target`. Nothing when the first
/// folder is not there (a run that was begun without pictures).
pub fn compare(before: &Path, after: &Path, target: &Path) -> Result<()> {
    let (before, after) = (read_all(before), read_all(after));
    if before.is_empty() || after.is_empty() {
        return Ok(());
    }
    Ok(save_png(target, &comparison_sheet(&before, &after), &[])?)
}

/// The numbered pictures of a folder, in order.
fn read_all(folder: &Path) -> Vec<RgbImage> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
    });
    paths.sort();
    paths.iter().filter_map(|path| Some(image::open(path).ok()?.into_rgb8())).collect()
}
