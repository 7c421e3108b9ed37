//! PNG files that carry the prompt and every setting, in the text form that other tools read.

use crate::error::{Error, Result};
use crate::text_to_image::Request;
use image::RgbImage;
use sdtrain_diffusion::SchedulerClass;
use sdtrain_model::StableDiffusion;
use std::fs::File;
use std::io::{BufWriter, Write};
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
    let own = || model.scheduler.class_name.clone().unwrap_or_else(|| SchedulerClass::Pndm.name().to_string());
    let sampler = request.sampler.map_or_else(own, |sampler| sampler.to_string());
    let settings: String = settings.iter().map(|(name, value)| format!(", {name}: {value}")).collect();
    format!(
        "{}{negative}\nSteps: {}, Sampler: {sampler}, CFG scale: {}, Seed: {}, Size: {}x{}, Clip skip: {}, \
         Model: {name}, Computed in: {}{settings}, Version: sdtrain {}",
        request.prompts[index],
        request.steps,
        request.guidance,
        request.seed + index as u64,
        request.width,
        request.height,
        request.clip_skip,
        format!("{:?}", model.compute).to_lowercase(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Writes `picture` with text chunks; the file appears under its name when it is complete.
pub fn save_png(path: &Path, picture: &RgbImage, texts: &[(&str, String)]) -> Result<()> {
    let failed = |reason: String| Error::Write { path: path.to_path_buf(), reason };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let staging = tempfile::Builder::new()
        .permissions(shared())
        .tempfile_in(folder)
        .map_err(|error| failed(error.to_string()))?;
    write_png(staging.as_file(), picture, texts).map_err(|error| failed(error.to_string()))?;
    staging.as_file().sync_all().map_err(|error| failed(error.to_string()))?;
    staging.persist(path).map_err(|error| failed(error.to_string()))?;
    Ok(())
}

/// Readable for everybody that the umask allows; temporary files are private by default.
fn shared() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

fn write_png(file: &File, picture: &RgbImage, texts: &[(&str, String)]) -> std::result::Result<(), png::EncodingError> {
    let mut output = BufWriter::new(file);
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
    output.flush()?;
    Ok(())
}
