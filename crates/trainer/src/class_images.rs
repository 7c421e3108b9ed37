//! Class images of a DreamBooth run: what is missing is drawn by the base, and nothing is taken that it would not draw so.

use crate::error::{Error, Result};
use crate::identity;
use crate::samples::requests;
use sdtrain_checkpoint::{replace_file, vfs::RealVfs};
use sdtrain_data_loader::EXTENSIONS;
use sdtrain_evaluate::prompt_reading;
use sdtrain_files::say;
use sdtrain_model::StableDiffusion;
use sdtrain_pipeline::{Request, parameters_text, pictures_at_once, png_texts, sampler_name, save_png, text_to_image};
use sdtrain_recipe::TrainConfig;
use sdtrain_torch::tensor_to_bytes;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Text chunk of a class image that says how it was drawn.
const CHUNK: &str = "sdtrain-class-image";
/// Beside the run's other files: which class images it is trained on, and their prompts.
const TABLE: &str = "class_images.jsonl";

/// The configuration with the class images of `[dreambooth]` as one more subset, for opening the data; those that are missing
/// are drawn first, by `model`, to which nothing may be attached. `output` is the run's folder. A run without class images is
/// left as it is.
///
/// Where others work on the run too, only the lead draws and writes, and before them.
pub(crate) fn with_class_images(
    config: &TrainConfig,
    model: &StableDiffusion,
    output: &Path,
    is_lead: bool,
) -> Result<TrainConfig> {
    let mut config = config.clone();
    if !config.uses_class_images() {
        return Ok(config);
    }
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Error::storage(path, error));
    let folder = match &config.dreambooth.class_data_dir {
        Some(folder) => folder.clone(),
        None => absolute(&output.join("class_images"))?,
    };
    let table = absolute(&output.join(TABLE))?;
    if is_lead {
        write_table(&table, &complete(&config, model, &folder)?)?;
    }
    let class_subset = config.class_subset(folder, table);
    config.data.subsets.push(class_subset);
    Ok(config)
}

fn write_table(table: &Path, images: &[(String, String)]) -> Result<()> {
    let row = |(name, prompt): &(String, String)| format!("{}\n", json!({"file_name": name, "text": prompt}));
    Ok(replace_file(&RealVfs, table, images.iter().map(row).collect::<String>().as_bytes())?)
}

/// Names and prompts of the class images in `folder`, after those that were missing have been drawn.
fn complete(config: &TrainConfig, model: &StableDiffusion, folder: &Path) -> Result<Vec<(String, String)>> {
    let wanted = config.dreambooth.num_class_images;
    let mut own = images_of_others(folder)?;
    own.truncate(wanted);
    let mut pictures = config.class_pictures();
    pictures.truncate(wanted - own.len());
    // Always the same together, whatever is there already: a picture's last bits depend on the others of its batch.
    let at_once = pictures.first().map_or(1, |picture| pictures_at_once(picture.width, picture.height));
    let reading = prompt_reading(&config.model);
    let batches: Vec<Request> = pictures.chunks(at_once).flat_map(|batch| requests(batch, reading)).collect();
    let model_digest = if batches.is_empty() { String::new() } else { digest(model)? };
    let mut first = 0;
    let mut missing = Vec::new();
    for batch in &batches {
        let mut absent = Vec::new();
        for index in 0..batch.prompts.len() {
            let path = folder.join(file_name(first + index));
            match path.exists() {
                true => check(&path, &marks(model, &model_digest, batch, index))?,
                false => absent.push(index),
            }
        }
        missing.push((first, batch, absent));
        first += batch.prompts.len();
    }
    can_draw(model, &missing, folder)?;
    draw(model, &model_digest, folder, &missing)?;
    let prompt = |index: usize| config.dreambooth.class_prompt.of(index as u64).to_owned();
    let drawn = (0..pictures.len()).map(|index| (file_name(index), prompt(index)));
    let own = own.into_iter().zip(pictures.len()..).map(|(name, index)| (name, prompt(index)));
    Ok(drawn.chain(own).collect())
}

/// That `model` draws pictures of noise alone, where any is missing.
fn can_draw(model: &StableDiffusion, missing: &[(usize, &Request, Vec<usize>)], folder: &Path) -> Result<()> {
    let absent: usize = missing.iter().map(|(.., absent)| absent.len()).sum();
    if absent == 0 || model.family.makes_pictures_of_noise() {
        return Ok(());
    }
    Err(Error::Config {
        message: format!(
            "`dreambooth.num_class_images`: {absent} class images are missing in `{}`, and a model of the {} family goes on from a \
             picture: it draws none of noise",
            folder.display(),
            model.family.title()
        ),
        hint: Some("put pictures of the class there, or set `dreambooth.prior = \"base_prediction\"`".into()),
    })
}

/// Draws the absent pictures of each batch; what is drawn stays when the program is stopped.
fn draw(
    model: &StableDiffusion,
    model_digest: &str,
    folder: &Path,
    missing: &[(usize, &Request, Vec<usize>)],
) -> Result<()> {
    let total: usize = missing.iter().map(|(.., absent)| absent.len()).sum();
    let wanted: usize = missing.iter().map(|(_, batch, _)| batch.prompts.len()).sum();
    if total == 0 {
        return Ok(());
    }
    say!("class images: {} of {wanted} are in `{}`, drawing {total}", wanted - total, folder.display());
    let name = model.path.display().to_string();
    let mut done = 0;
    for (first, batch, absent) in missing.iter().filter(|(.., absent)| !absent.is_empty()) {
        let drawn = text_to_image(model, batch)?;
        for &index in absent {
            let texts = [
                ("parameters", parameters_text(model, &name, batch, index, &[])),
                (CHUNK, Value::from(marks(model, model_digest, batch, index)).to_string()),
            ];
            save_png(&folder.join(file_name(first + index)), &drawn[index], &texts)?;
        }
        done += absent.len();
        say!("drew {done} of {total} class images");
    }
    Ok(())
}

fn file_name(index: usize) -> String {
    format!("class-{index:05}.png")
}

/// Images in the folder, which is made where it is not there, that no run drew; in order of their names.
fn images_of_others(folder: &Path) -> Result<Vec<String>> {
    let storage = |error: std::io::Error| Error::storage(folder, error);
    fs::create_dir_all(folder).map_err(storage)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(storage)? {
        let Ok(name) = entry.map_err(storage)?.file_name().into_string() else { continue };
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        let is_image = ending.is_some_and(|ending| EXTENSIONS.contains(&ending.as_str()));
        // A file being written has a dot in front.
        if is_image && !name.starts_with('.') && !is_drawn(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_drawn(name: &str) -> bool {
    let number = name.strip_prefix("class-").and_then(|name| name.strip_suffix(".png"));
    number.is_some_and(|number| number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Everything that decides what picture `index` of a batch looks like.
fn marks(model: &StableDiffusion, model_digest: &str, batch: &Request, index: usize) -> Map<String, Value> {
    let reading = &batch.prompt_reading;
    let marks = json!({
        "prompt": batch.prompts[index],
        "negative": batch.negative,
        "steps": batch.steps,
        "guidance": batch.guidance,
        "seed": batch.seed.wrapping_add(index as u64),
        "width": batch.width,
        "height": batch.height,
        "sampler": sampler_name(model, batch),
        "clip_skip": model.text_layer(reading).from_end,
        "max_token_length": reading.max_token_length,
        "prompt_weights": reading.weights,
        "compute": format!("{:?}", model.compute).to_lowercase(),
        "model": model_digest,
    });
    marks.as_object().cloned().unwrap_or_default()
}

/// Refuses an image at `path` that was drawn in another way than `expected`.
fn check(path: &Path, expected: &Map<String, Value>) -> Result<()> {
    let texts = png_texts(path)?;
    let found: Option<Map<String, Value>> = texts.get(CHUNK).and_then(|text| serde_json::from_str(text).ok());
    let refused = |reason: String| Error::Config {
        message: format!("`{}` {reason}", path.display()),
        hint: Some(
            "set another `dreambooth.class_data_dir`, or delete the class images to have them drawn anew".into(),
        ),
    };
    let found =
        found.ok_or_else(|| refused("has the name of a drawn class image, but does not say how it was".into()))?;
    let differing: Vec<String> = expected
        .iter()
        .filter(|(key, value)| found.get(*key) != Some(value))
        .map(|(key, value)| match key.as_str() {
            // A digest tells nobody anything.
            "model" => "another model".to_string(),
            _ => format!("`{key}` {} instead of {value}", found.get(key).unwrap_or(&Value::Null)),
        })
        .collect();
    match differing.is_empty() {
        true => Ok(()),
        false => Err(refused(format!("was drawn otherwise than this run would: with {}", differing.join(", ")))),
    }
}

/// A digest of the weights as they are computed with, and of the noise schedule: the same however the model is stored.
fn digest(model: &StableDiffusion) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(serde_json::to_string(&model.scheduler).unwrap_or_default().as_bytes());
    for parameters in identity::by_order_of_digests(model) {
        for (name, weight) in parameters.iter() {
            field(name.as_bytes());
            field(&tensor_to_bytes(&weight.detach().to_kind(model.compute))?);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}
