//! PNG files that carry the prompt and every setting, in the text form that other tools read.

use crate::error::{Error, Result};
use crate::text_to_image::Request;
use image::RgbImage;
use sdtrain_checkpoint::{replace_file, vfs::RealVfs};
use sdtrain_diffusion::SchedulerClass;
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::published_name;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// The settings of picture `index` that `model` drew for `request`, as web interfaces write them into the `parameters` chunk.
/// `name` is what the user calls the model; `settings` are further names and values, such as LoRAs.
pub fn parameters_text(
    model: &StableDiffusion,
    name: &str,
    request: &Request,
    index: usize,
    settings: &[(&str, String)],
) -> String {
    let negative = match request.negative.as_str() {
        "" => String::new(),
        negative => format!("\nNegative prompt: {negative}"),
    };
    let sampler = sampler_name(model, request);
    let reading = &request.prompt_reading;
    let window = reading.max_token_length.map_or_else(String::new, |length| format!(", Max token length: {length}"));
    let weights = if reading.weights { ", Prompt weights: on" } else { "" };
    let strength = request.init_image.as_ref().map(|init| format!(", Denoising strength: {}", init.strength));
    let strength = strength.unwrap_or_default();
    let settings: String = settings.iter().map(|(name, value)| format!(", {name}: {value}")).collect();
    format!(
        "{}{negative}\nSteps: {}, Sampler: {sampler}, CFG scale: {}, Seed: {}, Size: {}x{}, Clip skip: {}{window}{weights}{strength}, \
         Model: {}, Computed in: {}{settings}, Version: sdtrain {}",
        request.prompts[index],
        request.steps,
        request.guidance,
        request.seed + index as u64,
        request.width,
        request.height,
        model.text_layer(reading).from_end,
        published_name(name),
        format!("{:?}", model.compute).to_lowercase(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The sampler that draws `request`: its own name, or diffusers' name of the model's scheduler.
pub fn sampler_name(model: &StableDiffusion, request: &Request) -> String {
    let own = || model.scheduler.class_name.clone().unwrap_or_else(|| SchedulerClass::Pndm.name().to_string());
    request.sampler.map_or_else(own, |sampler| sampler.to_string())
}

/// Writes `picture` with text chunks; the file appears under its name when it is complete.
pub fn save_png(path: &Path, picture: &RgbImage, texts: &[(&str, String)]) -> Result<()> {
    let failed = |reason: String| Error::Write { path: path.to_path_buf(), reason };
    let bytes = encode(picture, texts).map_err(|error| failed(error.to_string()))?;
    replace_file(&RealVfs, path, &bytes).map_err(|error| failed(error.to_string()))
}

/// The text chunks of a PNG file by their keywords, as [`save_png`] writes them; nothing is decoded.
pub fn png_texts(path: &Path) -> Result<BTreeMap<String, String>> {
    let failed = |reason: String| Error::Read { path: path.to_path_buf(), reason };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(|error| failed(error.to_string()))?;
    let info = reader.info();
    let latin1 = info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let mut texts: BTreeMap<String, String> = latin1.collect();
    for chunk in &info.utf8_text {
        texts.insert(chunk.keyword.clone(), chunk.get_text().map_err(|error| failed(error.to_string()))?);
    }
    Ok(texts)
}

fn encode(picture: &RgbImage, texts: &[(&str, String)]) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut output = Vec::new();
    let mut encoder = png::Encoder::new(&mut output, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        // tEXt holds Latin-1 only; anything else needs iTXt.
        match text.is_ascii() {
            true => encoder.add_text_chunk(keyword.to_string(), text.clone())?,
            false => encoder.add_itxt_chunk(keyword.to_string(), text.clone())?,
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.as_raw())?;
    writer.finish()?;
    Ok(output)
}
