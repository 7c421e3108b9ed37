//! Adapters merged into a model, and with each other.

use crate::project::{Project, fixture};
use image::RgbImage;
use std::fs;

/// The picture of a model, with adapters beside it.
fn draw(project: &Project, model: &str, loras: &[&str]) -> RgbImage {
    let mut args = vec!["sample", "--model", model, "--prompt", "a red star", "--steps", "2", "--output", "drawn"];
    args.extend(loras.iter().flat_map(|lora| ["--lora", *lora]));
    project.expect(0, &args);
    let picture = image::open(project.path("drawn/00000-0.png")).expect("a picture").into_rgb8();
    fs::remove_dir_all(project.path("drawn")).expect("it is there");
    picture
}

/// Largest difference of a channel.
fn apart(a: &RgbImage, b: &RgbImage) -> u8 {
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().expect("pictures")
}

#[test]
fn a_merged_model_draws_what_the_model_draws_with_its_adapters() {
    let project = Project::new();
    let model = fixture("tiny_sd1").display().to_string();
    let kohya = fixture("lora_kohya.safetensors").display().to_string();
    let (strong, weak) = (format!("{kohya}:1.5"), format!("{kohya}:-0.25"));
    let beside = draw(&project, &model, &[&strong, &weak]);
    assert!(apart(&beside, &draw(&project, &model, &[])) > 4, "the adapters show");
    let merge = ["merge", "--model", &model, "--lora", &strong, "--lora", &weak, "--output"];
    for (output, format) in [("merged.safetensors", "single-file"), ("merged", "diffusers")] {
        let (_, stderr) = project.expect(0, &[&merge[..], &[output, "--to", format]].concat());
        assert!(stderr.contains(&format!("wrote `{output}`")), "{stderr}");
        // Rounding of f32 shows in one channel step at most.
        assert!(apart(&draw(&project, output, &[]), &beside) <= 1, "{format}");
    }
    let (stdout, _) = project.expect(0, &["inspect", "merged.safetensors", "--json"]);
    for part in ["stable-diffusion-v1", "tiny_sd1, lora_kohya, lora_kohya", "sdtrain.merged"] {
        assert!(stdout.contains(part), "`{part}` is not in\n{stdout}");
    }
    // The same two as one adapter, which needs no model.
    let one = ["merge", "--lora", &strong, "--lora", &weak, "--output"];
    let (_, stderr) = project.expect(0, &[&one[..], &["both.safetensors"]].concat());
    assert!(stderr.contains("layers of rank 8"), "{stderr}");
    let (_, stderr) =
        project.expect(0, &[&one[..], &["both4.safetensors", "--rank", "4", "--to", "peft-lora"]].concat());
    assert!(stderr.contains("error of the smaller rank:") && stderr.contains("layers of rank 4"), "{stderr}");
    for lora in ["both.safetensors", "both4.safetensors"] {
        assert!(apart(&draw(&project, &model, &[lora]), &beside) <= 1, "{lora}");
    }
}

#[test]
fn what_cannot_be_merged_is_refused_at_once() {
    let project = Project::new();
    let model = fixture("tiny_sd1").display().to_string();
    fs::copy(fixture("lora_kohya.safetensors"), project.path("a.safetensors")).expect("there is room");
    for (code, args, message) in [
        (2, vec!["--lora", "a.safetensors", "--to", "diffusers", "--output", "out"], "name the model"),
        (2, vec!["--lora", "a.safetensors", "--output", "a.safetensors"], "cannot be merged onto itself"),
        (2, vec!["--model", &model, "--lora", "a.safetensors", "--rank", "2", "--output", "out"], "`--rank`"),
        (2, vec!["--lora", "a.safetensors", "--conv-rank", "2", "--output", "out"], "without `--rank`"),
        (
            2,
            vec!["--model", "nowhere", "--lora", "a.safetensors", "--output", "out"],
            "`--model`: `nowhere` does not exist",
        ),
        (4, vec!["--lora", "images/0.png", "--output", "out"], "images/0.png"),
    ] {
        let (_, stderr) = project.expect(code, &[vec!["merge"], args].concat());
        assert!(stderr.contains(message), "`{message}` is not in\n{stderr}");
        assert!(!project.path("out").exists());
    }
}
