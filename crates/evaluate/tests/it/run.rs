//! What an evaluation measures, and that it measures every model in the same way.

use sdtrain_adapter::{Lora, Networks};
use sdtrain_data_loader::DataSet;
use sdtrain_evaluate::{BASE, DenoisingLoss, Error, Evaluation, run};
use sdtrain_model::vae::LatentDistribution;
use sdtrain_model::{LoadOptions, PromptReading, StableDiffusion, load};
use sdtrain_recipe::{DataConfig, LoraConfig, Method, Resolution, SamplePrompt, Subset, TrainConfig};
use sdtrain_state_dict::maps::lora_peft::Part;
use sdtrain_test_support::fixture_folder;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn model() -> StableDiffusion {
    let folder = fixture_folder().join("tiny_sd1");
    load(&folder.display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).unwrap()
}

fn posters() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/posters-validation")
}

/// Six of the sample posters with captions changed by `caption`.
fn captioned(folder: &Path, caption: impl Fn(&str) -> String) {
    for index in 0..6 {
        let file = |ending: &str| format!("{index:05}.{ending}");
        fs::copy(posters().join(file("png")), folder.join(file("png"))).unwrap();
        let old = fs::read_to_string(posters().join(file("txt"))).unwrap();
        fs::write(folder.join(file("txt")), caption(&old)).unwrap();
    }
}

fn config(images: &Path) -> TrainConfig {
    let mut config = TrainConfig::default();
    config.data.resolution = Resolution::Square(16);
    config.data.subsets = vec![Subset { path: images.to_path_buf(), ..Subset::default() }];
    config.validation.num_samples = 3;
    config.validation.repeats = 2;
    config.samples.steps = 2;
    config
}

fn held_out(config: &DataConfig, seed: u64) -> DataSet {
    DataSet::open(config, seed, 8).unwrap()
}

fn evaluation(config: &TrainConfig, model: &StableDiffusion, products: &[PathBuf]) -> Evaluation {
    run(config, model, &held_out(&config.data, 1), products, &mut |_| {}).unwrap()
}

fn keys(evaluation: &Evaluation) -> Vec<&str> {
    evaluation.columns.iter().map(|column| column.key.as_str()).collect()
}

const LOSSES: [&str; 5] = ["loss", "loss_band_0", "loss_band_1", "loss_band_2", "loss_band_3"];
const WITHOUT: [&str; 4] =
    ["object_without_trigger", "colour_without_trigger", "both_without_trigger", "style_without_trigger"];
const WITH: [&str; 4] = ["object_with_trigger", "colour_with_trigger", "both_with_trigger", "style_with_trigger"];

#[test]
fn the_same_model_gives_the_same_figures() {
    let config = config(&posters());
    let first = evaluation(&config, &model(), &[]);
    assert_eq!(keys(&first), [&LOSSES[..], &WITHOUT, &WITH].concat());
    assert_eq!(first.settings["held_out_images"], 24);
    assert_eq!(first.settings["pictures"], 6);
    assert!(first.figure(BASE, "loss").unwrap() > 0.1, "{}", first.table());
    assert_eq!(first, evaluation(&config, &model(), &[]));
}

#[test]
fn mean_loss_is_that_of_equal_bands() {
    let evaluation = evaluation(&config(&posters()), &model(), &[]);
    let bands: Vec<f64> = LOSSES[1..].iter().map(|key| evaluation.figure(BASE, key).unwrap()).collect();
    let mean = bands.iter().sum::<f64>() / 4.0;
    assert!((evaluation.figure(BASE, "loss").unwrap() - mean).abs() < 1e-12); // f64
    assert!(bands.windows(2).all(|pair| pair[0] != pair[1]), "{bands:?}");
}

#[test]
fn losses_do_not_depend_on_seed_order_or_batch_size_of_the_run() {
    let model = model();
    let config = config(&posters()).data;
    let losses = |config: &DataConfig, seed| {
        DenoisingLoss::new(&model, &held_out(config, seed), config, 4, 1)
            .unwrap()
            .losses(&model, &PromptReading::default())
            .unwrap()
    };
    assert_eq!(losses(&config, 1), losses(&DataConfig { batch_size: 5, ..config.clone() }, 2));
}

#[test]
fn a_lora_is_measured_beside_the_base_and_taken_off_again() {
    let folder = tempfile::tempdir().unwrap();
    let (fresh, trained) = (folder.path().join("fresh.safetensors"), folder.path().join("trained.safetensors"));
    let config = config(&posters());
    let model = model();
    let lora = Lora::new(&LoraConfig { rank: 2, ..LoraConfig::default() }, 1, &Networks::of(&model)).unwrap();
    lora.save_kohya(&fresh, Kind::Float, &BTreeMap::new()).unwrap();
    for (_, tensor) in lora.parameters(Part::Unet) {
        let _ = tch::no_grad(|| tensor.shallow_clone().fill_(0.05));
    }
    lora.save_peft(&trained, Kind::Float, &BTreeMap::new()).unwrap();

    let mut announced = Vec::new();
    let products = [trained, fresh];
    let held_out = held_out(&config.data, 1);
    let evaluation = run(&config, &model, &held_out, &products, &mut |name| announced.push(name.to_string())).unwrap();

    assert_eq!(announced, ["base", "trained.safetensors", "fresh.safetensors"]);
    let losses = |name: &str| LOSSES.map(|key| evaluation.figure(name, key).unwrap());
    assert_ne!(losses("trained.safetensors"), losses(BASE));
    // A new LoRA adds zero, so these two also say that the first one was taken off.
    assert_eq!(losses("fresh.safetensors"), losses(BASE));
}

#[test]
fn a_whole_model_is_measured_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    let copy = folder.path().join("copy.safetensors");
    model.save_single_file(&copy, Some(Kind::Float), &BTreeMap::new()).unwrap();
    let diffusers = folder.path().join("copy");
    model.save_folder(&diffusers, Some(Kind::Float), &BTreeMap::new()).unwrap();
    let evaluation = evaluation(&config(&posters()), &model, &[copy, diffusers]);
    assert_eq!(evaluation.rows[1].figures, evaluation.rows[0].figures);
    assert_eq!(evaluation.rows[2].figures, evaluation.rows[0].figures);
}

#[test]
fn pictures_are_drawn_only_where_captions_are_those_of_posters() {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    captioned(folder.path(), |caption| caption.replace("zenpop, ", ""));
    let config = config(folder.path());
    assert_eq!(keys(&evaluation(&config, &model, &[])), [&LOSSES[..], &WITHOUT].concat());

    captioned(folder.path(), |_| "a photo of a red house".to_string());
    assert_eq!(keys(&evaluation(&config, &model, &[])), LOSSES);
}

#[test]
fn the_sample_subject_is_looked_for_where_samples_or_class_tokens_name_it() {
    const SUBJECT: [&str; 3] = ["subject_with_word", "subject_without_word", "house_without_word"];
    let folder = tempfile::tempdir().unwrap();
    captioned(folder.path(), |_| "a photo of a house".to_string());
    let (model, mut config) = (model(), config(folder.path()));
    assert_eq!(keys(&evaluation(&config, &model, &[])), LOSSES);
    config.samples.prompts = vec![SamplePrompt::Text("poster, a sks house, on the left --s 4".into())];
    assert_eq!(keys(&evaluation(&config, &model, &[])), [&LOSSES[..], &SUBJECT].concat());
    config.samples.prompts.clear();
    config.data.subsets[0].class_tokens = Some("poster, a sks house".into());
    assert_eq!(keys(&evaluation(&config, &model, &[])), [&LOSSES[..], &SUBJECT].concat());
}

#[test]
fn pictures_and_losses_can_be_left_out() {
    let mut config = config(&posters());
    config.validation.num_samples = 0;
    assert_eq!(keys(&evaluation(&config, &model(), &[])), LOSSES);
    config.method = Method::Vae;
    let of_vae = evaluation(&config, &model(), &[]);
    assert_eq!(keys(&of_vae), ["reconstruction_l1", "reconstruction_l2", "latent_kl", "psnr"]);
}

#[test]
fn reconstruction_is_measured_by_its_formulas_whatever_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    captioned(folder.path(), |caption| caption.to_string());
    let mut config = config(folder.path());
    config.method = Method::Vae;
    config.validation.num_samples = 0;
    let (model, data) = (model(), held_out(&config.data, 1));
    let found = evaluation(&config, &model, &[]);
    let figure = |key: &str| found.figure(BASE, key).unwrap();
    let mut sums = [0.0; 4];
    for image in 0..data.images() {
        let pixels = Tensor::from_slice(&data.load_image(image, false).unwrap().pixels).reshape([1, 3, 16, 16]);
        let LatentDistribution { mean, logvar } = model.latent_distribution(&pixels).unwrap();
        let decoded = tch::no_grad(|| model.vae.decode(&mean)).clamp(-1.0, 1.0);
        let difference = (decoded - pixels).to_kind(Kind::Double);
        let of_all = |tensor: Tensor| tensor.mean(Kind::Double).double_value(&[]);
        let (l1, l2) = (of_all(difference.abs()), of_all(difference.square()));
        let variance = logvar.exp();
        let kl: Tensor = (mean.square() + variance - logvar - 1.0) / 2.0;
        let figures = [l1, l2, kl.sum(Kind::Double).double_value(&[]), 20.0 * (2.0 / l2.sqrt()).log10()];
        sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / data.images() as f64);
    }
    for (key, expected) in ["reconstruction_l1", "reconstruction_l2", "latent_kl", "psnr"].into_iter().zip(sums) {
        assert!((figure(key) / expected - 1.0).abs() < 1e-5, "{key}: {} is not {expected}", figure(key));
    }
}

#[test]
fn a_file_that_is_no_product_is_refused_before_anything_is_measured() {
    let config = config(&posters());
    let vae = fixture_folder().join("tiny_sd1/vae/diffusion_pytorch_model.safetensors");
    let never = &mut |name: &str| panic!("measures {name}");
    let error = run(&config, &model(), &held_out(&config.data, 1), &[vae], never).unwrap_err();
    assert!(matches!(error, Error::NoProduct { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("only whole models, LoRA files and learned words can be evaluated"), "{text}");
}
