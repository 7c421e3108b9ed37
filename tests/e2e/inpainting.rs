//! Pictures from pictures, models for inpainting: converted, drawn with, trained.

use crate::project::{Project, fixture};
use image::{GrayImage, Luma, RgbImage};

fn picture(project: &Project, path: &str) -> RgbImage {
    image::open(project.path(path)).expect("a picture").into_rgb8()
}

/// `mask.png`, white on the right half of 64 × 64 pixels, and `white.png`.
fn write_masks(project: &Project) {
    let mask = GrayImage::from_fn(64, 64, |x, _| Luma([if x < 32 { 0 } else { 255 }]));
    mask.save(project.path("mask.png")).expect("there is room");
    GrayImage::from_pixel(64, 64, Luma([255])).save(project.path("white.png")).expect("there is room");
}

/// Draws with `more` arguments; what was said.
fn draw(project: &Project, model: &str, folder: &str, more: &[&str]) -> String {
    let args = ["sample", "--model", model, "--prompt", "a red star", "--steps", "4", "--output", folder];
    project.expect(0, &[&args[..], more].concat()).1
}

fn largest_difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or_default()
}

#[test]
fn a_picture_is_drawn_from_a_picture_at_its_size_or_the_one_asked_for() {
    let project = Project::new();
    write_masks(&project);
    let model = fixture("tiny_sd1").display().to_string();
    let said = draw(&project, &model, "own", &["--init-image", "images/0.png", "--strength", "0.5"]);
    assert!(!said.contains("scaled"), "{said}");
    assert_eq!(picture(&project, "own/00000-0.png").dimensions(), (64, 96));
    let text = std::fs::read(project.path("own/00000-0.png")).expect("written");
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        text.contains("Denoising strength: 0.5") && text.contains("Init image: 0.png") && !text.contains(&model),
        "{text:.600}"
    );
    let size = ["--width", "64", "--height", "64"];
    let init = ["--init-image", "images/0.png", "--mask", "mask.png"];
    let said = draw(&project, &model, "scaled", &[&init[..], &size].concat());
    assert!(
        said.contains("`--init-image` has 64 × 96 pixels and is scaled to 64 × 64, which changes its proportions"),
        "{said}"
    );
    assert_eq!(picture(&project, "scaled/00000-0.png").dimensions(), (64, 64));
    project.write("broken.png", "no picture");
    let broken = ["sample", "--model", &model, "--prompt", "x", "--output", "out", "--init-image", "broken.png"];
    let (_, said) = project.expect(3, &broken);
    assert!(said.contains("`--init-image`: `broken.png`: "), "{said}");
}

#[test]
fn a_model_made_for_inpainting_draws_as_before_and_is_trained_to_see_the_mask() {
    let project = Project::new();
    write_masks(&project);
    let model = fixture("tiny_sd1").display().to_string();
    project.expect(0, &["convert", &model, "folder", "--to", "diffusers", "--inpainting"]);
    project.expect(0, &["convert", &model, "plain.safetensors", "--to", "single-file"]);
    project.expect(0, &["convert", "plain.safetensors", "single.safetensors", "--to", "single-file", "--inpainting"]);
    let (said, _) = project.expect(0, &["inspect", "single.safetensors"]);
    assert!(said.contains("SD1 checkpoint for inpainting"), "{said}");
    draw(&project, &model, "plain", &["--width", "64", "--height", "64"]);
    let white = ["--init-image", "images/1.png", "--mask", "white.png"];
    for wider in ["folder", "single.safetensors"] {
        draw(&project, wider, "white", &white);
        let apart =
            largest_difference(&picture(&project, "white/00000-0.png"), &picture(&project, "plain/00000-0.png"));
        assert!(apart <= 1, "{wider}: off by {apart}");
    }
    let alone = ["sample", "--model", "folder", "--prompt", "x", "--output", "out"];
    let (_, said) = project.expect(2, &alone);
    assert!(
        said.contains("it needs a picture and a mask") && said.contains("--init-image PICTURE --mask MASK"),
        "{said}"
    );
    let (_, said) = project.expect(2, &[&alone[..], &["--init-image", "images/1.png"]].concat());
    assert!(said.contains("it needs a mask"), "{said}");
    let (_, said) = project.expect(4, &["convert", "folder", "again", "--to", "diffusers", "--inpainting"]);
    assert!(said.contains("is made for inpainting already"), "{said}");

    let train = ["--config", "run.toml", "--set", "model.path=folder", "--set", "method=inpainting"];
    let (_, said) = project.expect(0, &[&train[..], &["--set", "trainable=lora", "--output", "of-lora"]].concat());
    assert!(said.contains("the UNet's weights for mask and picture are all zero"), "{said}");
    let (_, said) =
        project.expect(0, &[&train[..], &["--set", "optimizer.learning_rate=1e-2", "--output", "of-full"]].concat());
    assert!(!said.contains("are all zero"), "{said}");
    let product = "of-full/run.safetensors";
    let (said, _) = project.expect(0, &["inspect", product]);
    assert!(said.contains("SD1 checkpoint for inpainting"), "{said}");
    let drawn = |mask: &str, folder: &str| {
        draw(&project, product, folder, &["--init-image", "images/1.png", "--mask", mask]);
        picture(&project, &format!("{folder}/00000-0.png"))
    };
    assert!(
        largest_difference(&drawn("white.png", "a"), &drawn("mask.png", "b")) > 1,
        "the mask changes what is drawn"
    );
}
