//! Runs of a subject beside its class: how many of each, and what each example's loss is multiplied by.

use sdtrain_recipe::TrainConfig;
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};
use std::path::Path;
use tch::{Kind, Tensor};
use tempfile::TempDir;

const GAMMA: f64 = 5.0;
const PRIOR_LOSS_WEIGHT: f64 = 0.25;

/// A run of 4 images of a subject and 3 of its class in batches of 3; its trace.
fn run(folder: &TempDir, more: &str) -> SafetensorsFile {
    let path = |name: &str| folder.path().join(name);
    let posters = path("posters");
    std::fs::create_dir_all(&posters).expect("there is room");
    for number in 0..4u8 {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([number * 60, x as u8 * 8, y as u8 * 8]));
        picture.save(posters.join(format!("{number}.png"))).expect("there is room");
    }
    let text = format!(
        "method = \"dreambooth\"\ntrainable = \"lora\"\n[model]\npath = \"{}\"\n[data]\nresolution = 32\nbatch_size = 3\n\
         [[data.subsets]]\npath = \"posters\"\nclass_tokens = \"a sks house\"\n[dreambooth]\nclass_prompt = \"a house\"\n\
         num_class_images = 3\nsteps = 2\n{more}\n[loss]\nmin_snr_gamma = {GAMMA}\nprior_loss_weight = {PRIOR_LOSS_WEIGHT}\n\
         [train]\nmax_epochs = 2\n[log]\ntensorboard = false\n[debug]\ntrace_steps = 100\n",
        fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture").display()
    );
    std::fs::write(path("run.toml"), text).expect("there is room");
    let trace = path("trace.safetensors");
    let overrides = [format!("debug.trace={}", trace.display())];
    let config = TrainConfig::load(&path("run.toml"), &overrides).unwrap_or_else(|error| panic!("{error}")).config;
    let options = RunOptions { output: path("output"), device: "cpu".into(), resume: ResumePolicy::Auto };
    let outcome = train(config, &options).unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    SafetensorsFile::open(&trace).expect("the run wrote it")
}

fn values(trace: &SafetensorsFile, name: &str) -> Vec<f64> {
    let tensor = sdtrain_model::read_tensor(trace, name, None, tch::Device::Cpu).unwrap_or_else(|e| panic!("{e}"));
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).expect("one row")
}

/// min(SNR, γ) / SNR of the noise prediction at a timestep (Hang et al. 2023, arXiv:2303.09556), in f64 from the betas of
/// Stable Diffusion.
fn min_snr(timestep: f64) -> f64 {
    let beta = |t: f64| (0.00085f64.sqrt() + (0.012f64.sqrt() - 0.00085f64.sqrt()) * t / 999.0).powi(2);
    let alpha_cumprod: f64 = (0..=timestep as u32).map(|t| 1.0 - beta(f64::from(t))).product();
    let snr = alpha_cumprod / (1.0 - alpha_cumprod);
    snr.min(GAMMA) / snr
}

fn steps(trace: &SafetensorsFile) -> usize {
    trace.names().into_iter().filter(|name| name.ends_with(".loss")).count()
}

fn assert_near(found: f64, expected: f64, what: &str) {
    // f32, a thousand products apart.
    assert!((found / expected - 1.0).abs() < 1e-4, "{what}: {found}, expected {expected}");
}

/// huggingface/diffusers#5791: in train_dreambooth.py with `--snr_gamma`, the weights of the whole batch met the losses of its
/// first half, and the class images' half had none.
#[test]
fn r_diffusers_5791_min_snr_weighs_subject_and_class_each_by_its_own_timestep() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = run(&folder, "");
    // Two epochs of 4 + 4 visits in batches of 3, 3 and 2.
    assert_eq!(steps(&trace), 6);
    let (mut of_subject, mut of_class) = (0, 0);
    for step in 1..=6 {
        let timesteps = values(&trace, &format!("step.{step}.timesteps"));
        let weights = values(&trace, &format!("step.{step}.loss_weights"));
        assert_eq!(timesteps.len(), weights.len());
        for (timestep, weight) in timesteps.into_iter().zip(weights) {
            let factor = weight / min_snr(timestep);
            let expected = if factor > 0.5 { 1.0 } else { PRIOR_LOSS_WEIGHT };
            assert_near(factor, expected, &format!("step {step}, timestep {timestep}"));
            if expected == 1.0 { of_subject += 1 } else { of_class += 1 }
        }
    }
    assert_eq!((of_subject, of_class), (8, 8), "as many of the class as of the subject, as in kohya's scripts");
}

#[test]
fn min_snr_weighs_the_subject_and_what_the_base_predicts_alike() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = run(&folder, "prior = \"base_prediction\"");
    // Two epochs of 4 visits in batches of 3 and 1.
    assert_eq!(steps(&trace), 4);
    for step in 1..=4 {
        let read = |name: &str| values(&trace, &format!("step.{step}.{name}"));
        for ((timestep, weight), prior) in
            read("timesteps").into_iter().zip(read("loss_weights")).zip(read("prior_loss_weights"))
        {
            assert_near(weight, min_snr(timestep), &format!("step {step}, timestep {timestep}"));
            assert_near(prior, PRIOR_LOSS_WEIGHT * weight, &format!("step {step}, the base's half"));
        }
    }
}

#[test]
fn a_continued_run_is_held_to_the_base_and_not_to_where_it_stopped() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let more = "prior = \"base_prediction\"";
    let rate = "[optimizer]\ntype = \"adamw\"\nlearning_rate = 0.01\n[checkpoint]\nevery_steps = 2";
    let whole = run(&folder, &format!("{more}\n{rate}"));
    let finals = |trace: &SafetensorsFile| -> Vec<Tensor> {
        let names = trace.names().into_iter().filter(|name| name.starts_with("final."));
        names.map(|name| sdtrain_model::read_tensor(trace, name, None, tch::Device::Cpu).expect("listed")).collect()
    };
    let expected = finals(&whole);
    let config = TrainConfig::load(
        &folder.path().join("run.toml"),
        &[format!("debug.trace={}", folder.path().join("later.safetensors").display())],
    );
    let checkpoint = folder.path().join("output/checkpoints/step-000002");
    assert!(Path::new(&checkpoint).is_dir(), "a checkpoint in the middle");
    let options = RunOptions {
        output: folder.path().join("output"),
        device: "cpu".into(),
        resume: ResumePolicy::From(checkpoint),
    };
    train(config.unwrap_or_else(|error| panic!("{error}")).config, &options).unwrap_or_else(|error| panic!("{error}"));
    let later = finals(&SafetensorsFile::open(folder.path().join("later.safetensors")).expect("the run wrote it"));
    assert_eq!(expected.len(), later.len());
    assert!(expected.iter().zip(&later).all(|(a, b)| a.equal(b)));
}
