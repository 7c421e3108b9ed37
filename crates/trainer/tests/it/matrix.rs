//! Family × method × trainable: every pair runs, changes what it declares, is saved, read back and continued, or is refused by name.
//!
//! The rows are matches without a wildcard: a new family, trainable or objective does not compile until it has its own.

use sdtrain_adapter::{LoraFile, Networks, read_learned_words};
use sdtrain_model::{LoadOptions, PromptReading, StableDiffusion, load};
use sdtrain_recipe::{AdapterKind, Family, Method, ObjectiveKind, TrainConfig, TrainableKind};
use sdtrain_state_dict::maps::lora_peft::{LoraKind, LoraTensor, Part};
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_torch_test_support::{fixture_folder, write_inpainting_folder};
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

const FAMILIES: [Family; 4] = [Family::Sd1, Family::Sd2, Family::Sdxl, Family::SdxlRefiner];

/// The tiny models of a family: SD1's also with BERT as the text encoder, with CLIP behind BERT's tokenizer, and with a tokenizer
/// without a start mark.
fn tiny(family: Family) -> &'static [&'static str] {
    match family {
        Family::Sd1 => &["tiny_sd1", "tiny_taiyi", "tiny_pai", "tiny_japanese"],
        Family::Sd2 => &["tiny_sd2"],
        Family::Sdxl => &["tiny_sdxl"],
        Family::SdxlRefiner => &["tiny_sdxl_refiner"],
    }
}

/// What becomes of a trainable with an objective.
enum Row {
    /// A run for each of these settings.
    Trains(&'static [&'static [&'static str]]),
    /// The configuration is refused, and this is what the message ends with.
    Refused(&'static str),
}

fn row(trainable: TrainableKind, objective: ObjectiveKind) -> Row {
    use ObjectiveKind as O;
    use TrainableKind as T;
    const PIVOTAL: &str = "textual_inversion.tokens=[{word=\"snorp\"}]";
    const CLASS: &str = "dreambooth.num_class_images=2";
    const BASE: &str = "dreambooth.prior=base_prediction";
    match (trainable, objective) {
        (T::Lora, O::TextToImage) => Row::Trains(&[
            &[],
            &["lora.train_text_encoder=true"],
            &["lora.train_unet=false", "lora.train_text_encoder=true"],
            &[PIVOTAL],
            &["lora.kind=loha", "lora.convolutions=true"],
            &["lora.kind=lokr", "lora.convolutions=true"],
            &["lora.kind=dora", "lora.convolutions=true"],
            &["lora.kind=ia3", "lora.train_text_encoder=true"],
            &["lora.kind=full", "lora.convolutions=true"],
            // Kernels of bf16 have outputs of their own kind, which all of a model must take.
            &["lora.train_text_encoder=true", "precision.compute=bf16"],
        ]),
        (T::Lora, O::Dreambooth) => Row::Trains(&[
            &[CLASS],
            &["dreambooth.prior=none"],
            &[BASE],
            &[CLASS, PIVOTAL],
            &[BASE, "lora.kind=loha"],
            &[BASE, "lora.kind=lokr"],
            &[BASE, "lora.kind=dora"],
            &[BASE, "lora.kind=ia3"],
            &[BASE, "lora.kind=full"],
        ]),
        (T::Full, O::TextToImage) => Row::Trains(&[
            &[],
            &["full.train_text_encoder=true"],
            &["full.train_unet=false", "full.train_text_encoder=true"],
            &["full.format=diffusers"],
        ]),
        (T::Full, O::Dreambooth) => Row::Trains(&[&[CLASS], &[BASE, "full.train_text_encoder=true"]]),
        (T::Lora, O::Inpainting) => Row::Trains(&[&[], &["lora.targets=[\"unet.conv_in\"]"]]),
        (T::Full, O::Inpainting) => Row::Trains(&[&[], &["full.format=diffusers"]]),
        (T::TextualInversion, O::Inpainting) => Row::Trains(&[&[PIVOTAL]]),
        (T::TextualInversion, O::TextToImage) => Row::Trains(&[&[PIVOTAL]]),
        (T::TextualInversion, O::Dreambooth) => Row::Refused("a word alone leaves its class as it is"),
        (T::Vae, O::Autoencoding) => {
            Row::Trains(&[&[], &["vae_objective.train_encoder=false"], &["full.format=diffusers"]])
        }
        (T::Vae, O::TextToImage | O::Dreambooth | O::Inpainting)
        | (T::Lora | T::Full | T::TextualInversion, O::Autoencoding) => {
            Row::Refused("the autoencoder has a method of its own")
        }
    }
}

/// Whether a run of `config` says that it trains the tensor `name` (as in traces).
fn is_declared(config: &TrainConfig, name: &str) -> bool {
    let (part, rest) = name.split_once('.').expect("a part and a name");
    if rest.starts_with("learned_tokens.") {
        return !config.learned_tokens().is_empty();
    }
    let (of_lora, of_full) = (&config.lora, &config.full);
    // The tensor of an adapter is one of its kind; a DoRA stands over a LoRA.
    let found = || LoraTensor::split_dotted(rest).map(|(_, tensor)| LoraKind::of([tensor]).name());
    let is_of_kind = || match of_lora.kind {
        AdapterKind::Dora => matches!(found(), Some("LoRA" | "DoRA")),
        kind => found() == Some(kind.title()),
    };
    match (config.trainable_kind(), part) {
        (TrainableKind::Lora, "unet") => of_lora.train_unet && is_of_kind(),
        (TrainableKind::Lora, "text_encoder" | "text_encoder_2") => of_lora.train_text_encoder && is_of_kind(),
        (TrainableKind::Full, "unet") => of_full.train_unet,
        (TrainableKind::Full, "text_encoder" | "text_encoder_2") => of_full.train_text_encoder,
        (TrainableKind::Vae, "vae") => config.vae_objective.train_encoder || !is_of_the_encoder(rest),
        _ => false,
    }
}

fn is_of_the_encoder(name: &str) -> bool {
    name.starts_with("encoder.") || name.starts_with("quant_conv.")
}

/// How large the pictures are, in pixels. Where nothing but one place is left of them in the middle, attention to itself has nothing to
/// choose from and its queries and keys learn nothing: the refiner's are halved once more than others'.
fn side(family: Family) -> u32 {
    match family {
        Family::Sd1 | Family::Sd2 | Family::Sdxl => 32,
        Family::SdxlRefiner => 64,
    }
}

/// Where class images are: those that a family cannot draw are there already.
fn class_folder(family: Family) -> &'static str {
    match family {
        Family::Sd1 | Family::Sd2 | Family::Sdxl => "output/class_images",
        Family::SdxlRefiner => "images",
    }
}

/// A folder with four pictures and the configuration of two steps.
fn project(model: &Path, family: Family) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (images, side, class) = (folder.path().join("images"), side(family), class_folder(family));
    fs::create_dir(&images).expect("there is room");
    for number in 0..4u8 {
        let picture =
            image::RgbImage::from_fn(side, side, |x, y| image::Rgb([number * 60, (x * 8) as u8, (y * 8) as u8]));
        picture.save(images.join(format!("{number}.png"))).expect("there is room");
        fs::write(images.join(format!("{number}.txt")), "poster, a snorp").expect("there is room");
    }
    let text = format!(
        "[model]\npath = \"{}\"\n[data]\nresolution = {side}\nbatch_size = 2\n[[data.subsets]]\npath = \"images\"\n\
         [lora]\nrank = 2\n[dreambooth]\nclass_prompt = \"a house\"\nclass_data_dir = \"{class}\"\nsteps = 2\n[optimizer]\ntype = \"adamw\"\n\
         learning_rate = 1e-3\n[train]\nmax_steps = 2\n[checkpoint]\nevery_steps = 1\nkeep_last = 9\n[precision]\n\
         save = \"fp32\"\n[log]\ntensorboard = false\n[debug]\ntrace_steps = 2\n",
        model.display()
    );
    fs::write(folder.path().join("run.toml"), text).expect("there is room");
    folder
}

fn config(folder: &Path, changes: &[String]) -> Result<TrainConfig, String> {
    let loaded = TrainConfig::load(&folder.join("run.toml"), changes);
    loaded.map(|loaded| loaded.config).map_err(|error| error.to_string())
}

/// Trains, and the product's first file.
fn run(folder: &Path, config: &TrainConfig, resume: ResumePolicy, what: &str) -> PathBuf {
    let options = RunOptions { output: folder.join("output"), device: "cpu".into(), resume };
    match train(config.clone(), &options) {
        Ok(Outcome::Done(product)) => {
            // By these names a finished run is asked for what it made.
            assert_eq!(product, config.products_in(&options.output), "{what}");
            product[0].clone()
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// Every tensor of a trace whose name begins with `prefix`, without it.
fn tensors(trace: &SafetensorsFile, prefix: &str) -> BTreeMap<String, Tensor> {
    let names = trace.names().into_iter().filter_map(|name| Some((name, name.strip_prefix(prefix)?.to_string())));
    let read =
        |name| sdtrain_model::read_tensor(trace, name, None, Device::Cpu).unwrap_or_else(|error| panic!("{error}"));
    names.map(|(name, rest)| (rest, read(name))).collect()
}

fn model_at(location: &Path) -> StableDiffusion {
    load(&location.display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).expect("it can be read")
}

/// All weights of a model under the names of traces.
fn weights(model: &StableDiffusion) -> BTreeMap<String, Tensor> {
    let named = model.networks().into_iter().flat_map(|(part, parameters)| {
        parameters.iter().map(move |(name, tensor)| (format!("{part}.{name}"), tensor.shallow_clone()))
    });
    named.collect()
}

/// What the product at `path` holds, under the names of traces; of a whole model what the run did not train is held against the
/// base on the way.
fn read_back(config: &TrainConfig, path: &Path, base: &StableDiffusion, what: &str) -> BTreeMap<String, Tensor> {
    let mut found = BTreeMap::new();
    match config.trainable_kind() {
        TrainableKind::Lora => {
            let networks = Networks::of(base);
            let file = SafetensorsFile::open(path).expect("the run wrote it");
            let lora = LoraFile::read(&file, &networks).and_then(|file| file.into_lora(&networks));
            let lora = lora.unwrap_or_else(|error| panic!("{what}: {error}"));
            found.extend(Part::ALL.into_iter().flat_map(|part| lora.parameters(part)));
        }
        TrainableKind::Full | TrainableKind::Vae => {
            let (before, after) = (weights(base), weights(&model_at(path)));
            assert!(before.keys().eq(after.keys()), "{what}: a whole model");
            for (name, tensor) in after {
                match is_declared(config, &name) && !base.is_never_asked(&name, &PromptReading::default()) {
                    true => _ = found.insert(name, tensor),
                    false => assert!(tensor.equal(&before[&name]), "{what}: {name} is not trained, and changed"),
                }
            }
        }
        TrainableKind::TextualInversion => {}
    }
    for token in config.learned_tokens() {
        let file = match config.trainable_kind() {
            TrainableKind::TextualInversion => path.to_path_buf(),
            _ => path.with_file_name(format!("{}-{}.safetensors", config.name, token.file_stem())),
        };
        let words = read_learned_words(&SafetensorsFile::open(file).expect("the run wrote it"), None);
        for word in words.unwrap_or_else(|error| panic!("{what}: {error}")) {
            for (encoder, vectors) in base.text_encoders.iter().zip(word.vectors) {
                found.insert(format!("{}.learned_tokens.{}", encoder.name, word.word), vectors);
            }
        }
    }
    found
}

/// The bytes of a product that is a file, or of UNet and VAE in one that is a folder.
fn content(product: &Path) -> Vec<u8> {
    let read = |file: &Path| fs::read(file).expect("the run wrote it");
    let of_network = |network: &str| read(&product.join(network).join("diffusion_pytorch_model.safetensors"));
    if product.is_dir() { ["unet", "vae"].map(of_network).concat() } else { read(product) }
}

/// Two steps of `config`: finite losses, exactly the declared tensors changed, a product that holds them, and the same product
/// from the middle on.
fn assert_trains(folder: &Path, config: &TrainConfig, base: &StableDiffusion, what: &str) {
    let product = run(folder, config, ResumePolicy::Auto, what);
    let trace = SafetensorsFile::open(config.debug.trace.as_ref().expect("it is set")).expect("the run wrote it");
    for step in 1..=2 {
        let loss = tensors(&trace, &format!("step.{step}.loss")).remove("").expect("each step has one");
        assert!(loss.double_value(&[]).is_finite(), "{what}: the loss of step {step}");
    }
    let (before, after) = (tensors(&trace, "initial."), tensors(&trace, "final."));
    assert!(!before.is_empty() && before.keys().eq(after.keys()), "{what}");
    for (name, tensor) in &after {
        assert!(is_declared(config, name), "{what}: {name} is trained, and nobody said so");
        assert!(!tensor.equal(&before[name]), "{what}: {name} did not change");
    }
    let saved = read_back(config, &product, base, what);
    assert!(saved.keys().eq(after.keys()), "{what}: the product has other tensors than were trained");
    assert!(saved.iter().all(|(name, tensor)| tensor.equal(&after[name])), "{what}: the product has other numbers");

    let bytes = content(&product);
    let again = run(folder, config, ResumePolicy::From(folder.join("output/checkpoints/step-000001")), what);
    assert!(content(&again) == bytes, "{what}: continued after step 1 it becomes another product");
}

#[test]
fn every_pair_of_method_and_trainable_trains_and_continues_or_is_refused() {
    let (mut trained, mut refused) = (0, 0);
    let models = || FAMILIES.into_iter().flat_map(|family| tiny(family).iter().map(move |name| (family, name)));
    for (family, name) in models() {
        let plain = fixture_folder().join(name).canonicalize().expect("a fixture");
        let for_inpainting = tempfile::tempdir().expect("a temporary folder");
        write_inpainting_folder(name, for_inpainting.path());
        let bases = [plain.as_path(), for_inpainting.path()].map(|location| (location, model_at(location)));
        let mut done = Vec::new();
        for (method, trainable) in Method::all().flat_map(|method| TrainableKind::ALL.map(|kind| (method, kind))) {
            let objective = TrainConfig { method, ..TrainConfig::default() }.objective_kind();
            let (location, base) = &bases[usize::from(objective == ObjectiveKind::Inpainting)];
            let pair = [format!("method={}", method.name()), format!("trainable={}", trainable.name())];
            match row(trainable, objective) {
                Row::Refused(expected) => {
                    let folder = project(location, family);
                    let message = config(folder.path(), &pair).expect_err("it is refused");
                    let start = format!("cannot train `\"{}\"`", trainable.name());
                    assert!(message.contains(&format!("{start}: {expected}")), "{pair:?}: {message}");
                    refused += 1;
                }
                // Two methods may be names for the same pair.
                Row::Trains(_) if done.contains(&(trainable, objective)) => {}
                Row::Trains(variants) => {
                    for changes in variants {
                        let folder = project(location, family);
                        let trace = folder.path().join("trace.safetensors");
                        let mut all = pair.to_vec();
                        all.extend(changes.iter().map(|change| change.to_string()));
                        let what = format!("{name} {}", all.join(" "));
                        all.push(format!("debug.trace={}", trace.display()));
                        let config = config(folder.path(), &all).unwrap_or_else(|error| panic!("{what}: {error}"));
                        assert_trains(folder.path(), &config, base, &what);
                        trained += 1;
                    }
                    done.push((trainable, objective));
                }
            }
        }
    }
    let models = models().count();
    assert_eq!((trained, refused), (34 * models, 9 * models), "as many as there are rows");
}
