//! Pictures of the tiny SD1 model by every sampler, with guidance, negative prompts, clip skip and other schedules.

use image::RgbImage;
use sdtrain_diffusion::SchedulerConfig;
use sdtrain_model::{LoadOptions, PromptReading, StableDiffusion, load};
use sdtrain_pipeline::{Error, Request, denoised_latents, text_to_image};
use sdtrain_recipe::SamplerName;
use sdtrain_torch_test_support::{Golden, assert_near, fixture_folder};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// fp32: ten times what was measured after six steps with guidance, a fifth of what is promised.
pub const LATENTS: f64 = 2e-5;

fn tiny_model() -> StableDiffusion {
    tiny("tiny_sd1")
}

pub fn tiny(name: &str) -> StableDiffusion {
    load_folder(&fixture_folder().join(name))
}

pub fn load_folder(folder: &Path) -> StableDiffusion {
    load(&folder.display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).expect("a fixture")
}

/// What a case of a golden file asks for.
pub fn request(case: &Value) -> Request {
    let text = |key: &str| case[key].as_str().expect("a text").to_string();
    let whole = |key: &str| case[key].as_u64().unwrap_or_else(|| panic!("`{key}` is a whole number"));
    Request {
        prompts: vec![text("prompt")],
        negative: text("negative_prompt"),
        steps: whole("steps") as usize,
        guidance: case["guidance"].as_f64().expect("a number"),
        seed: whole("seed"),
        width: whole("width") as u32,
        height: whole("height") as u32,
        sampler: case["sampler"].as_str().map(|name| name.parse().expect("a sampler of ours")),
        prompt_reading: PromptReading { clip_skip: Some(whole("clip_skip") as usize), ..PromptReading::default() },
        init_image: None,
    }
}

/// The model with the case's changes to its `scheduler_config.json`.
fn model_of(case: &Value) -> StableDiffusion {
    with_changes(tiny_model(), case)
}

fn with_changes(mut model: StableDiffusion, case: &Value) -> StableDiffusion {
    let mut scheduler: Value = serde_json::from_str(&model.scheduler.to_json()).expect("JSON");
    for (key, value) in case["scheduler_changes"].as_object().expect("changed keys") {
        scheduler[key] = value.clone();
    }
    model.scheduler = SchedulerConfig::from_json(&scheduler.to_string()).expect("keys of diffusers");
    model
}

/// `[height, width, 3]`, 0 to 255.
fn pixels(picture: &RgbImage) -> Tensor {
    Tensor::from_slice(picture.as_raw())
        .reshape([i64::from(picture.height()), i64::from(picture.width()), 3])
        .to_kind(Kind::Int64)
}

#[test]
fn pictures_match_diffusers_with_every_sampler_and_setting() {
    let samplers = assert_pictures("pictures.safetensors", "tiny_sd1");
    assert_eq!(samplers.len(), SamplerName::ALL.len(), "every sampler: {samplers:?}");
}

#[test]
fn pictures_of_sd2_match_diffusers() {
    assert_pictures("pictures_sd2.safetensors", "tiny_sd2");
}

#[test]
fn pictures_of_sdxl_match_diffusers() {
    // Of the sizes that it is told, of zeros where there is no negative prompt, of both text encoders.
    assert_pictures("pictures_sdxl.safetensors", "tiny_sdxl");
}

#[test]
fn pictures_of_chinese_and_japanese_prompts_match_diffusers() {
    for name in ["taiyi", "pai", "japanese"] {
        assert_pictures(&format!("pictures_{name}.safetensors"), &format!("tiny_{name}"));
    }
}

/// Holds every case of a golden file against the tiny model of its family; the samplers in it.
fn assert_pictures(file: &str, tiny_name: &str) -> BTreeSet<&'static str> {
    let golden = Golden::open(file);
    let mut samplers = BTreeSet::new();
    for (name, case) in golden.config().as_object().expect("settings by case") {
        let (model, request) = (with_changes(tiny(tiny_name), case), request(case));
        let latents = denoised_latents(&model, &request).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_near(
            &format!("{name}: latents"),
            &latents,
            &golden.tensor(&format!("output.{name}.final_latents")),
            LATENTS,
        );
        let pictures = text_to_image(&model, &request).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_picture(name, &pictures, &golden.tensor(&format!("output.{name}.picture")));
        samplers.extend(request.sampler.map(SamplerName::name));
    }
    samplers
}

/// Holds the one picture of a case against diffusers', `[height, width, 3]`.
pub fn assert_picture(name: &str, pictures: &[RgbImage], expected: &Tensor) {
    let [picture] = pictures else { panic!("one prompt, one picture") };
    let found = pixels(picture);
    assert_eq!(found.size(), expected.size(), "{name}: size");
    let apart = (found - expected).abs();
    let others = apart.gt(0).sum(Kind::Int64).int64_value(&[]);
    println!("{name}: {others} of {} channels are another number", apart.numel());
    // One step of 255 where rounding falls to the other side.
    assert!(apart.max().int64_value(&[]) <= 1, "{name}: a channel is off by {}", apart.max().int64_value(&[]));
}

#[test]
fn a_picture_does_not_depend_on_the_others_of_its_batch() {
    let golden = Golden::open("pictures.safetensors");
    let config = golden.config();
    for name in ["ddim", "euler_a"] {
        let case = &config[name];
        let (model, mut alone) = (model_of(case), request(case));
        let mut together = alone.clone();
        together.prompts.insert(0, "a green tree".into());
        together.seed -= 1;
        let batch = denoised_latents(&model, &together).expect("two pictures");
        assert_near(name, &batch.narrow(0, 1, 1), &golden.tensor(&format!("output.{name}.final_latents")), LATENTS);
        alone.prompts = vec!["a green tree".into()];
        alone.seed -= 1;
        let other = denoised_latents(&model, &alone).expect("a picture");
        assert_near(name, &batch.narrow(0, 0, 1), &other, LATENTS);
    }
}

#[test]
fn a_size_that_the_model_cannot_make_is_refused() {
    let golden = Golden::open("pictures.safetensors");
    let request = Request { width: 66, ..request(&golden.config()["ddim"]) };
    let error = text_to_image(&tiny_model(), &request).expect_err("66 is no multiple of 4");
    assert!(matches!(error, Error::Size { .. }) && error.to_string().contains("multiples of 4"), "{error}");
}

#[test]
fn a_model_that_overflows_gives_an_error_instead_of_a_black_picture() {
    let golden = Golden::open("pictures.safetensors");
    let model = tiny_model();
    let bias = model.unet.parameters().get("conv_out.bias").expect("every UNet has it");
    let _ = tch::no_grad(|| bias.shallow_clone().fill_(f64::NAN));
    let error = text_to_image(&model, &request(&golden.config()["ddim"])).expect_err("it is not finite");
    assert!(matches!(error, Error::NotFinite { seed: 1234 }), "{error}");
}
