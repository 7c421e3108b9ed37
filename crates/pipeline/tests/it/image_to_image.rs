//! Pictures that start from a picture, with and without a mask, held against diffusers' pipelines.

use crate::text_to_image::{LATENTS, assert_picture, load_folder, request, tiny};
use image::{GrayImage, RgbImage};
use sdtrain_model::StableDiffusion;
use sdtrain_pipeline::{Error, InitImage, Request, denoised_latents, text_to_image};
use sdtrain_torch_test_support::{Golden, assert_near, write_inpainting_folder};
use serde_json::Value;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

const FILE: &str = "pictures_from_image.safetensors";

fn bytes(golden: &Golden, name: &str) -> Vec<u8> {
    Vec::try_from(golden.tensor(name).flatten(0, -1).to_kind(Kind::Uint8)).expect("a row of bytes")
}

/// What a case starts from.
fn init_image(golden: &Golden, case: &Value) -> InitImage {
    let (width, height) =
        (case["width"].as_u64().expect("a side") as u32, case["height"].as_u64().expect("a side") as u32);
    let picture = RgbImage::from_raw(width, height, bytes(golden, "input.picture")).expect("of this size");
    let mask = GrayImage::from_raw(width, height, bytes(golden, "input.mask")).expect("of this size");
    InitImage {
        picture,
        strength: case["strength"].as_f64().expect("a number"),
        mask: case["masked"].as_bool().expect("yes or no").then_some(mask),
    }
}

/// The fixture's model `name`, with a UNet for inpainting where that is asked for.
fn model(name: &str, channels: &Value) -> StableDiffusion {
    if channels == 4 {
        return tiny(name);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_inpainting_folder(name, folder.path());
    load_folder(folder.path())
}

fn case(golden: &Golden, name: &str) -> (StableDiffusion, Request) {
    let case = &golden.config()[name];
    let model = model(case["folder"].as_str().expect("a fixture"), &case["channels"]);
    (model, Request { init_image: Some(init_image(golden, case)), ..request(case) })
}

#[test]
fn pictures_from_a_picture_match_diffusers_with_and_without_a_mask() {
    let golden = Golden::open(FILE);
    let mut kinds: BTreeMap<(bool, u64), usize> = BTreeMap::new();
    let mut decoded = 0;
    for (name, settings) in golden.config().as_object().expect("settings by case") {
        let (model, request) = case(&golden, name);
        let latents = denoised_latents(&model, &request).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = golden.tensor(&format!("output.{name}.final_latents"));
        assert_near(&format!("{name}: latents"), &latents, &expected, LATENTS);
        if let Some(picture) = golden.find(&format!("output.{name}.picture")) {
            let pictures = text_to_image(&model, &request).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_picture(name, &pictures, &picture);
            decoded += 1;
        }
        let kind = (request.init_image.is_some_and(|init| init.mask.is_some()), settings["channels"].as_u64());
        *kinds.entry((kind.0, kind.1.expect("a number"))).or_default() += 1;
    }
    assert!(decoded >= 4, "only {decoded} pictures compared");
    assert_eq!(kinds, BTreeMap::from([((false, 4), 12), ((true, 4), 11), ((true, 9), 5)]));
}

#[test]
fn a_picture_from_a_picture_does_not_depend_on_the_others_of_its_batch() {
    let golden = Golden::open(FILE);
    for name in ["image_euler_a", "blend_euler_a", "nine_euler_a"] {
        let (model, mut request) = case(&golden, name);
        request.prompts.insert(0, "a green tree".into());
        request.seed -= 1;
        let batch = denoised_latents(&model, &request).expect("two pictures");
        let alone = golden.tensor(&format!("output.{name}.final_latents"));
        assert_near(name, &batch.narrow(0, 1, 1), &alone, LATENTS);
    }
}

#[test]
fn a_unet_for_inpainting_without_a_picture_has_everything_masked() {
    let golden = Golden::open(FILE);
    let (model, mut request) = case(&golden, "nine_own");
    let init = request.init_image.take().expect("a picture");
    let alone = denoised_latents(&model, &request).expect("it needs none");
    let white = GrayImage::from_pixel(request.width, request.height, image::Luma([255]));
    request.init_image = Some(InitImage { mask: Some(white), ..init.clone() });
    let masked = denoised_latents(&model, &request).expect("all of it is masked");
    assert!(alone.equal(&masked));
    request.init_image = Some(init);
    assert!(!alone.equal(&denoised_latents(&model, &request).expect("a part of it is masked")));
}

#[test]
fn what_cannot_be_painted_is_refused() {
    let golden = Golden::open(FILE);
    let (model, request) = case(&golden, "blend_ddim");
    let refused = |change: &dyn Fn(&mut InitImage)| {
        let mut request = request.clone();
        change(request.init_image.as_mut().expect("a picture"));
        denoised_latents(&model, &request).expect_err("refused")
    };
    for strength in [0.0, -0.1, 1.1, f64::NAN] {
        let error = refused(&|init| init.strength = strength);
        assert!(matches!(error, Error::Strength { .. }), "{error}");
    }
    let error = refused(&|init| init.strength = 0.19);
    assert_eq!(error.to_string(), "with a strength of 0.19 none of 5 steps is left");
    let error = refused(&|init| init.picture = RgbImage::new(8, 8));
    assert_eq!(error.to_string(), "the picture is 8 × 8 pixels, and a picture of 32 × 16 is asked for");
    let error = refused(&|init| init.mask = Some(GrayImage::new(8, 16)));
    assert!(error.to_string().starts_with("the mask is 8 × 16 pixels"), "{error}");
    let dark = GrayImage::from_pixel(32, 16, image::Luma([127]));
    let error = refused(&|init| init.mask = Some(dark.clone()));
    assert!(error.to_string().contains("it is dark everywhere"), "{error}");
    // White, but never at the first pixel of what a latent spans.
    let dots = GrayImage::from_fn(32, 16, |x, y| image::Luma([if (x % 4, y % 4) == (1, 2) { 255 } else { 0 }]));
    let error = refused(&|init| init.mask = Some(dots.clone()));
    assert!(error.to_string().contains("smaller than what a latent spans"), "{error}");
    let (model, mut request) = case(&golden, "nine_ddim");
    request.init_image.as_mut().expect("a picture").mask = None;
    let error = denoised_latents(&model, &request).expect_err("a UNet for inpainting needs a mask");
    assert!(matches!(error, Error::NeedsMask), "{error}");
}

/// The mask decides what of the picture stays: with a UNet of 4 channels the latents outside of it are the picture's own.
#[test]
fn outside_of_the_mask_the_pictures_own_latents_are_left() {
    let golden = Golden::open(FILE);
    let (model, request) = case(&golden, "blend_ddim");
    let latents = denoised_latents(&model, &request).expect("a picture");
    let other = Request { prompts: vec!["a green tree".into()], ..request.clone() };
    let other = denoised_latents(&model, &other).expect("a picture");
    let changed: Vec<bool> = (0..4i64)
        .flat_map(|y| (0..8i64).map(move |x| (y, x)))
        .map(|(y, x)| {
            let at = |latents: &Tensor| latents.narrow(2, y, 1).narrow(3, x, 1);
            !at(&latents).equal(&at(&other))
        })
        .collect();
    // White at the first pixel of latents 3 to 5 of rows 1 to 3, and of 6 and 7 of row 2, whose grey is just light enough.
    let expected: Vec<bool> = (0..4)
        .flat_map(|y: i32| (0..8).map(move |x: i32| ((1..4).contains(&y) && (3..6).contains(&x)) || (y == 2 && x >= 6)))
        .collect();
    assert_eq!(changed, expected);
}
