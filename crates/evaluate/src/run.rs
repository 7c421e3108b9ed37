//! A base model and its products, measured one after another in the same way.

use crate::error::{Error, Result};
use crate::evaluation::{BASE, Evaluation, Row};
use crate::metric::{METRICS, Metric, Setting};
use sdtrain_adapter::{LoraFile, Networks, on_device, read_bundled_words, read_learned_words};
use sdtrain_data_loader::DataSet;
use sdtrain_model::{LearnedWord, LoadOptions, StableDiffusion, load};
use sdtrain_recipe::{ModelLocation, TrainConfig, local_path};
use sdtrain_state_dict::{FileKind, open_file, recognise};
use std::path::{Path, PathBuf};

/// Measures `model`, to which nothing may be attached, and each of `products`, on `held_out` and as `config` says.
///
/// A LoRA file is attached to `model` while it is measured, with the learned words that it brings along or that the run of
/// `config` left beside it; learned words are added to it. A whole model is loaded beside it, on the same device and
/// in the same dtype. `announce` is told what is measured next. The same models, files, configuration and thread count
/// give the same figures.
pub fn run(
    config: &TrainConfig,
    model: &StableDiffusion,
    held_out: &DataSet,
    products: &[PathBuf],
    announce: &mut dyn FnMut(&str),
) -> Result<Evaluation> {
    // What cannot be measured is said before anything is.
    let of_vae = !config.objective_kind().denoises();
    let products = products.iter().map(|path| Product::recognise(path, of_vae)).collect::<Result<Vec<_>>>()?;
    let setting = Setting { config, model, held_out };
    let mut metrics: Vec<Box<dyn Metric + '_>> = Vec::new();
    for entry in METRICS {
        metrics.extend((entry.prepare)(&setting)?);
    }
    announce(BASE);
    let mut rows = vec![Row { name: BASE.to_string(), figures: figures(&mut metrics, model)? }];
    for (product, name) in products.iter().zip(names_of(&products)) {
        announce(&name);
        let figures = product.with_model(config, model, |model| figures(&mut metrics, model))?;
        rows.push(Row { name, figures });
    }
    Ok(Evaluation {
        columns: metrics.iter().flat_map(|metric| metric.columns()).collect(),
        rows,
        settings: metrics.iter().flat_map(|metric| metric.settings()).collect(),
    })
}

/// Takes all adapters and learned words off `model`.
pub fn detach_all(model: &StableDiffusion) {
    for (_, _, layer) in Networks::of(model).layers() {
        layer.detach_all();
    }
    model.remove_words();
}

fn figures(metrics: &mut [Box<dyn Metric + '_>], model: &StableDiffusion) -> Result<Vec<f64>> {
    let mut figures = Vec::new();
    for metric in metrics {
        figures.extend(metric.measure(model)?);
    }
    Ok(figures)
}

/// A saved result of training.
#[derive(Debug, PartialEq, Eq)]
enum Product<'p> {
    Lora(&'p Path),
    Words(&'p Path),
    Vae(&'p Path),
    Model(&'p Path),
}

impl Product<'_> {
    /// A VAE alone is a product where that is what is trained (`of_vae`): losses with other latents could not be compared.
    fn recognise(path: &Path, of_vae: bool) -> Result<Product<'_>> {
        if path.join("model_index.json").is_file() {
            return Ok(Product::Model(path));
        }
        if of_vae && path.is_dir() && path.join("config.json").is_file() {
            return Ok(Product::Vae(path));
        }
        if path.is_dir() {
            let kind = "a folder without `model_index.json`".to_string();
            return Err(Error::NoProduct { path: path.to_path_buf(), kind });
        }
        match recognise(&open_file(path)?) {
            FileKind::KohyaLora { .. } | FileKind::PeftLora { .. } => Ok(Product::Lora(path)),
            FileKind::TextualInversion { .. } => Ok(Product::Words(path)),
            FileKind::Vae { .. } if of_vae => Ok(Product::Vae(path)),
            kind if kind.family().is_some() => Ok(Product::Model(path)),
            kind => Err(Error::NoProduct { path: path.to_path_buf(), kind: kind.to_string() }),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Product::Lora(path) | Product::Words(path) | Product::Vae(path) | Product::Model(path) => path,
        }
    }

    /// Runs `measure` on the base with the product in it, and leaves the base as it was.
    fn with_model<T>(
        &self,
        config: &TrainConfig,
        base: &StableDiffusion,
        measure: impl FnOnce(&StableDiffusion) -> Result<T>,
    ) -> Result<T> {
        match self {
            Product::Lora(path) => {
                let networks = Networks::of(base);
                let file = open_file(path)?;
                LoraFile::read(&file, &networks)?.into_lora(&networks)?.attach(&networks);
                let bundled = read_bundled_words(&file)?;
                let words = if bundled.is_empty() { words_beside(config, path)? } else { bundled };
                with_words(base, words, measure)
            }
            Product::Words(path) => with_words(base, read_learned_words(&open_file(path)?, None)?, measure),
            Product::Vae(path) => {
                let location = ModelLocation::find(&config.model.path).map_err(|(reason, _)| Error::NoProduct {
                    path: path.to_path_buf(),
                    kind: format!("a VAE without its model: {reason}"),
                })?;
                let options = LoadOptions {
                    vae: Some(path.to_path_buf()),
                    variant: config.model.variant.clone(),
                    ..LoadOptions::new(base.device, base.compute)
                };
                let mut model = load(&location.to_string(), &options)?;
                model.scheduler = base.scheduler.clone();
                measure(&model)
            }
            Product::Model(path) => {
                // A model whose VAE was trained holds it.
                let vae = config.model.vae.as_deref().filter(|_| config.objective_kind().denoises());
                let vae = vae.map(local_path).transpose().map_err(|(reason, _)| Error::NoProduct {
                    path: path.to_path_buf(),
                    kind: format!("a model without its VAE: {reason}"),
                })?;
                let options = LoadOptions { vae, ..LoadOptions::new(base.device, base.compute) };
                let mut model = load(&path.display().to_string(), &options)?;
                if config.objective_kind().denoises() {
                    model.check_input()?;
                }
                // What the configuration says about the scheduler holds for the product, too.
                model.scheduler = base.scheduler.clone();
                measure(&model)
            }
        }
    }
}

/// Runs `measure` on the base with `words`, and leaves the base without words and adapters.
fn with_words<T>(
    base: &StableDiffusion,
    words: Vec<LearnedWord>,
    measure: impl FnOnce(&StableDiffusion) -> Result<T>,
) -> Result<T> {
    let added = if words.is_empty() { Ok(()) } else { base.add_words(on_device(words, base.device)) };
    let measured = added.map_err(Into::into).and_then(|()| measure(base));
    detach_all(base);
    measured
}

/// The words that were learned with a LoRA, in files of their own beside it.
fn words_beside(config: &TrainConfig, lora: &Path) -> Result<Vec<LearnedWord>> {
    let stem = lora.file_stem().unwrap_or_default().to_string_lossy();
    let mut words = Vec::new();
    for name in config.textual_inversion.word_files(&stem) {
        let file = lora.with_file_name(name);
        if file.is_file() {
            words.extend(read_learned_words(&open_file(file)?, None)?);
        }
    }
    Ok(words)
}

/// File names; whole paths where two files have the same name, or one has the base's.
fn names_of(products: &[Product]) -> Vec<String> {
    let file_name = |product: &Product| product.path().file_name().map(|name| name.to_string_lossy().into_owned());
    let names: Vec<Option<String>> = products.iter().map(file_name).collect();
    let is_unique = |name: &String| name != BASE && names.iter().flatten().filter(|other| *other == name).count() == 1;
    let whole_path = |product: &Product| product.path().display().to_string();
    let named = products.iter().zip(&names);
    named.map(|(product, name)| name.clone().filter(is_unique).unwrap_or_else(|| whole_path(product))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_named_by_their_files_unless_that_is_ambiguous() {
        let products = ["a/cat.safetensors", "b/cat.safetensors", "b/dog.safetensors", "runs/base"].map(Path::new);
        let products = products.map(Product::Lora);
        assert_eq!(names_of(&products), ["a/cat.safetensors", "b/cat.safetensors", "dog.safetensors", "runs/base"]);
    }
}
