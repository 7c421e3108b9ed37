//! Pictures drawn during training, and the grid of them.

use crate::error::{Error, Result};
use image::RgbImage;
use sdtrain_model::{PromptReading, StableDiffusion};
use sdtrain_pipeline::{Request, comparison_sheet, parameters_text, save_png, sheet, text_to_image_while};
use sdtrain_recipe::Picture;
use sdtrain_signals::StopRequest;
use std::fs;
use std::path::Path;

/// What is asked of the pipeline for `pictures`, in order: neighbours that differ in nothing but the prompt, and whose seeds
/// follow each other, are drawn together.
pub fn requests(pictures: &[Picture], prompt_reading: PromptReading) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for picture in pictures {
        let Picture { prompt, negative, steps, guidance, seed, width, height, sampler } = picture.clone();
        let steps = steps as usize;
        let fits = |last: &&mut Request| {
            (last.seed.wrapping_add(last.prompts.len() as u64), last.width, last.height) == (seed, width, height)
                && (last.steps, last.guidance, last.sampler) == (steps, guidance, sampler)
                && last.negative == negative
        };
        match requests.last_mut().filter(fits) {
            Some(last) => last.prompts.push(prompt),
            None => {
                let prompts = vec![prompt];
                requests.push(Request {
                    prompts,
                    negative,
                    steps,
                    guidance,
                    seed,
                    width,
                    height,
                    sampler,
                    prompt_reading,
                    init_image: None,
                });
            }
        }
    }
    requests
}

/// The sheet of all pictures, which is written last.
pub const GRID: &str = "grid.png";

/// Draws them and writes `folder/00-<seed>.png` … and `folder/grid.png`; nothing where somebody asks to stop meanwhile.
pub fn draw(
    model: &StableDiffusion,
    requests: &[Request],
    folder: &Path,
    stop: &StopRequest,
) -> Result<Option<Vec<RgbImage>>> {
    fs::create_dir_all(folder).map_err(|error| Error::storage(folder, error))?;
    let name = model.path.display().to_string();
    let words = words_of(model);
    let settings: Vec<(&str, String)> = words.into_iter().map(|words| ("Embeddings", words)).collect();
    let mut pictures = Vec::new();
    for request in requests {
        let drawn = match text_to_image_while(model, request, &|| !stop.is_set()) {
            Err(sdtrain_pipeline::Error::BrokenOff) => return Ok(None),
            drawn => drawn?,
        };
        for (index, picture) in drawn.into_iter().enumerate() {
            let text = parameters_text(model, &name, request, index, &settings);
            let seed = request.seed.wrapping_add(index as u64);
            let path = folder.join(format!("{:02}-{seed}.png", pictures.len()));
            save_png(&path, &picture, &[("parameters", text)])?;
            pictures.push(picture);
        }
    }
    save_png(&folder.join(GRID), &sheet(&pictures), &[])?;
    Ok(Some(pictures))
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
    let number = |path: &Path| path.file_name()?.to_str()?.split_once('-')?.0.parse::<usize>().ok();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    paths.sort();
    paths.iter().filter_map(|(_, path)| Some(image::open(path).ok()?.into_rgb8())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_recipe::{PictureConfig, Resolution, SamplePrompt, SamplesConfig};

    #[test]
    fn only_pictures_that_are_drawn_alike_are_drawn_together() {
        let own = |prompt: &str, seed: Option<u64>, steps: Option<u32>| {
            SamplePrompt::Settings(PictureConfig { prompt: prompt.into(), seed, steps, ..PictureConfig::default() })
        };
        let prompts =
            vec!["a".into(), "b".into(), own("c", None, Some(9)), own("d", Some(7), None), own("e", Some(8), None)];
        let samples = SamplesConfig { prompts, ..SamplesConfig::default() };
        let requests = requests(&samples.pictures(Resolution::Square(96)), PromptReading::default());
        let seen: Vec<_> = requests.iter().map(|r| (r.prompts.join(" "), r.seed, r.steps)).collect();
        assert_eq!(seen, [("a b".to_string(), 0, 30), ("c".into(), 2, 9), ("d e".into(), 7, 30)]);
    }
}
