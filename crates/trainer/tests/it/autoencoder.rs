//! Training of the autoencoder: what is measured on the way, and the forms of the product.

use sdtrain_model::{LoadOptions, StableDiffusion, load};
use sdtrain_recipe::TrainConfig;
use sdtrain_state_dict::{FileKind, Reader, SafetensorsFile, recognise};
use sdtrain_torch_test_support::{fixture_folder, write_lpips_network};
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn tiny() -> PathBuf {
    fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture")
}

/// Two steps on three of four small pictures, with `changes`; the product.
fn run(folder: &Path, changes: &[&str]) -> PathBuf {
    let images = folder.join("images");
    fs::create_dir_all(&images).expect("there is room");
    for number in 0..4u8 {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([number * 60, x as u8 * 8, y as u8 * 8]));
        picture.save(images.join(format!("{number}.png"))).expect("there is room");
        fs::write(images.join(format!("{number}.txt")), "a plate").expect("there is room");
    }
    let text = format!(
        "method = \"vae\"\n[model]\npath = \"{}\"\n[data]\nresolution = 32\nbatch_size = 1\n[[data.subsets]]\n\
         path = \"images\"\n[optimizer]\ntype = \"adamw\"\nlearning_rate = 1e-2\n[train]\nmax_steps = 2\n[precision]\n\
         save = \"fp32\"\n[log]\ntensorboard = false\n",
        tiny().display()
    );
    fs::write(folder.join("run.toml"), text).expect("there is room");
    let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
    let loaded = TrainConfig::load(&folder.join("run.toml"), &changes).unwrap_or_else(|error| panic!("{error}"));
    let output = folder.join(&loaded.config.name);
    let options = RunOptions { output, device: "cpu".into(), resume: ResumePolicy::Never };
    match train(loaded.config, &options) {
        Ok(Outcome::Done(product)) => product[0].clone(),
        other => panic!("{changes:?}: {other:?}"),
    }
}

fn model(vae: Option<&Path>) -> StableDiffusion {
    let options = LoadOptions { vae: vae.map(Path::to_path_buf), ..LoadOptions::new(Device::Cpu, Kind::Float) };
    load(&tiny().display().to_string(), &options).expect("it can be read")
}

fn weights(model: &StableDiffusion) -> Vec<(String, Tensor)> {
    model.vae.parameters().iter().map(|(name, tensor)| (name.to_string(), tensor.shallow_clone())).collect()
}

#[test]
fn held_out_images_are_measured_by_their_reconstruction() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    run(folder.path(), &["validation.split=0.25", "validation.every_steps=1", "validation.num_samples=0"]);
    let scalars = fs::read_to_string(folder.path().join("run/scalars.jsonl")).expect("written");
    for tag in ["reconstruction_l1", "reconstruction_l2", "latent_kl", "psnr"] {
        let of_tag = scalars.lines().filter(|line| line.contains(&format!("\"validation/{tag}\""))).count();
        assert_eq!(of_tag, 3, "before the first step and after both: {scalars}");
    }
    let text = fs::read_to_string(folder.path().join("run/evaluation.json")).expect("written at the end");
    let evaluation: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let figure =
        |row: usize, key: &str| evaluation["rows"][row][key].as_f64().unwrap_or_else(|| panic!("{key}: {text}"));
    assert_eq!(evaluation["settings"]["held_out_images"], 1);
    for key in ["reconstruction_l1", "reconstruction_l2", "latent_kl", "psnr"] {
        assert!(figure(0, key) != figure(1, key), "{key} of base and product: {text}");
    }
    for row in [0, 1] {
        // Of one image the ratio follows from its mean square: values go from -1 to 1.
        let expected = 10.0 * (4.0 / figure(row, "reconstruction_l2")).log10();
        assert!((figure(row, "psnr") - expected).abs() < 1e-6, "{text}");
        assert!(figure(row, "reconstruction_l2") < 4.0 && figure(row, "latent_kl") > 0.0, "{text}");
    }
}

#[test]
fn lpips_is_a_term_of_the_loss_and_a_figure_of_held_out_images() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let network = folder.path().join("lpips.safetensors");
    write_lpips_network(&network);
    let first_loss = |weight: u32| {
        let name = format!("weight_{weight}");
        let changes = [
            format!("name={name}"),
            format!("vae_objective.lpips={}", network.display()),
            format!("vae_objective.lpips_weight={weight}"),
            "validation.split=0.25".to_owned(),
            "validation.num_samples=0".to_owned(),
        ];
        run(folder.path(), &changes.each_ref().map(String::as_str));
        let text = fs::read_to_string(folder.path().join(&name).join("evaluation.json")).expect("written at the end");
        let evaluation: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let of_product = evaluation["rows"][1]["lpips"].as_f64().expect("a figure");
        let metrics = fs::read_to_string(folder.path().join(&name).join("metrics.jsonl")).expect("written");
        let first: serde_json::Value = serde_json::from_str(metrics.lines().next().expect("a step")).expect("JSON");
        (first["loss"].as_f64().expect("a figure"), of_product)
    };
    let [without, once, twice] = [0, 1, 2].map(first_loss);
    let distance = once.0 - without.0;
    assert!(distance > 0.01, "{without:?} {once:?}");
    assert!((twice.0 - once.0 - distance).abs() < 1e-5, "{without:?} {once:?} {twice:?}");
    assert!(without.1 != once.1, "it decided what was learned: {without:?} {once:?}");
}

#[test]
fn a_vae_alone_is_a_file_or_a_folder_that_takes_the_place_of_the_models_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let alone = "vae_objective.product=vae";
    let whole = model_at(&run(folder.path(), &["vae_objective.train_encoder=false", "name=whole"]));
    let file = run(folder.path(), &["vae_objective.train_encoder=false", "name=file", alone]);
    let kind = recognise(&SafetensorsFile::open(&file).expect("written"));
    assert_eq!(kind, FileKind::Vae { diffusers: false });
    let diffusers = run(folder.path(), &["full.format=diffusers", "name=folder", alone]);
    let config = fs::read_to_string(diffusers.join("config.json")).expect("written");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["_class_name"], "AutoencoderKL");
    let (base, from_folder) = (model(None), model(Some(&diffusers)));
    // It changes with the encoder, and a folder has a place for it.
    let scale = config["scaling_factor"].as_f64().expect("a number");
    assert!((from_folder.vae.config().scaling_factor - scale).abs() < 1e-12);
    assert!((base.vae.config().scaling_factor - scale).abs() > 1e-6);
    let mut changed = 0;
    for ((name, found), (_, expected)) in weights(&model(Some(&file))).iter().zip(&weights(&whole)) {
        assert!(found.equal(expected), "{name} of the file is that of the whole model");
        changed += usize::from(!found.equal(&weights(&base).iter().find(|(other, _)| other == name).expect("it").1));
    }
    assert!(changed > 0);
    let header = SafetensorsFile::open(diffusers.join("diffusion_pytorch_model.safetensors")).expect("written");
    assert_eq!(header.metadata()["ss_steps"], "2");
}

/// The factor belongs to the encoder's weights, and those of the average are others than the raw ones.
#[test]
fn averaged_and_raw_weights_have_the_factor_of_their_own_latents() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let product = ["vae_objective.product=vae", "full.format=diffusers"];
    let factor = |path: PathBuf| {
        let config = fs::read_to_string(path.join("config.json")).expect("written");
        let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
        config["scaling_factor"].as_f64().expect("a number")
    };
    let plain = factor(run(folder.path(), &[&product[..], &["name=plain"]].concat()));
    let averages = ["name=averaged", "ema.enabled=true", "ema.save_raw=true"];
    let averaged = run(folder.path(), &[&product[..], &averages].concat());
    let raw = averaged.with_file_name("averaged-raw");
    assert_eq!(factor(raw), plain);
    assert!((factor(averaged.clone()) - plain).abs() > 1e-6, "{}: {plain}", averaged.display());
}

fn model_at(path: &Path) -> StableDiffusion {
    load(&path.display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).expect("it can be read")
}

#[test]
fn a_product_that_is_a_vae_alone_is_evaluated_in_the_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let held_out = ["validation.split=0.25", "validation.num_samples=0"];
    let figures = |name: &str, changes: &[&str]| {
        let set_name = format!("name={name}");
        run(
            folder.path(),
            &[&held_out[..], &[set_name.as_str(), "vae_objective.train_encoder=false"], changes].concat(),
        );
        let text = fs::read_to_string(folder.path().join(name).join("evaluation.json")).expect("written at the end");
        let evaluation: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        evaluation["rows"][1]["reconstruction_l2"].as_f64().expect("a figure")
    };
    let whole = figures("whole", &[]);
    assert_eq!(figures("alone", &["vae_objective.product=vae"]), whole);
    assert_eq!(figures("folder", &["vae_objective.product=vae", "full.format=diffusers"]), whole);
}
