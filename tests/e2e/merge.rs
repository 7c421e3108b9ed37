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
    let (_, stderr) = project.expect(0, &[&one[..], &["whole.safetensors", "--full-diff"]].concat());
    assert!(stderr.contains(" layers, whole"), "{stderr}");
    for lora in ["both.safetensors", "both4.safetensors", "whole.safetensors"] {
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
            vec!["--lora", "a.safetensors", "--full-diff", "--rank", "2", "--output", "out"],
            "`--full-diff` keeps all",
        ),
        (
            2,
            vec!["--lora", "a.safetensors", "--full-diff", "--to", "peft-lora", "--output", "out"],
            "only `--to kohya-lora` has a place for",
        ),
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

#[test]
fn words_that_come_along_are_merged_named_or_refused() {
    let project = Project::new();
    let model = fixture("tiny_sd1").display().to_string();
    // The words' first vectors depend on the run's seed.
    let learn = |name: &str, word: &str, seed: u8| {
        let tokens = format!("textual_inversion.tokens=[{{word=\"{word}\", vectors=2}}]");
        let prefix = format!("data.subsets.0.caption_prefix=\"a {word},\"");
        let (name_is, seed_is) = (format!("name={name}"), format!("seed={seed}"));
        let mut args = vec!["train", "--config", "run.toml"];
        for change in [
            &name_is,
            &seed_is,
            &tokens,
            &prefix,
            "textual_inversion.bundle=true",
            "train.max_steps=1",
            "samples.prompts=[]",
            "validation.evaluate_at_end=false",
        ] {
            args.extend(["--set", change]);
        }
        project.expect(0, &args);
        fs::copy(
            project.path(&format!("outputs/{name}/{name}.safetensors")),
            project.path(&format!("{name}.safetensors")),
        )
        .expect("there is room");
    };
    learn("one", "snorp", 7);
    learn("two", "<cat>", 7);
    learn("other", "snorp", 8);

    project.expect(
        0,
        &["merge", "--lora", "one.safetensors", "--lora", "two.safetensors", "--output", "both.safetensors"],
    );
    let both = fs::read(project.path("both.safetensors")).expect("written");
    for name in ["bundle_emb.snorp.", "bundle_emb.<cat>."] {
        assert!(both.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "{name}");
    }
    let sample = ["sample", "--model", &model, "--prompt", "a snorp, a <cat>", "--steps", "1", "--output", "drawn"];
    project.expect(0, &[&sample[..], &["--lora", "both.safetensors"]].concat());

    let merge =
        ["merge", "--lora", "one.safetensors", "--lora", "other.safetensors", "--output", "neither.safetensors"];
    let (_, stderr) = project.expect(4, &merge);
    assert!(stderr.contains("`other.safetensors` brings the word `snorp` along, as another adapter does"), "{stderr}");

    let into_model = ["merge", "--model", &model, "--lora", "one.safetensors", "--output", "model.safetensors"];
    let (_, stderr) = project.expect(0, &into_model);
    assert!(stderr.contains("warning: the word `snorp` of `one.safetensors` is not in the model"), "{stderr}");
}

#[test]
fn a_run_says_which_words_of_its_adapters_it_leaves_behind() {
    let project = Project::new();
    let tokens = "textual_inversion.tokens=[{word=\"snorp\", vectors=2}]";
    let (prefix, bundle) = ("data.subsets.0.caption_prefix=\"a snorp,\"", "textual_inversion.bundle=true");
    let train = |changes: &[&str]| {
        let mut args = vec!["train", "--config", "run.toml", "--resume", "never", "--set", "train.max_steps=1"];
        args.extend(["--set", "samples.prompts=[]", "--set", "validation.evaluate_at_end=false"]);
        args.extend(changes.iter().flat_map(|change| ["--set", *change]));
        project.expect(0, &args).1
    };
    let check = |changes: &[&str]| {
        let changes = changes.iter().flat_map(|change| ["--set", *change]);
        project.expect(0, &["check", "run.toml"].into_iter().chain(changes).collect::<Vec<_>>()).0
    };
    train(&[tokens, prefix, bundle]);
    fs::copy(project.path("outputs/run/run.safetensors"), project.path("one.safetensors")).expect("there is room");
    let one = project.path("one.safetensors").display().to_string();
    let learned_on = format!("textual_inversion.tokens=[{{word=\"snorp\", initial=\"{one}\"}}]");
    for key in ["model.fuse", "lora.initial"] {
        let change = match key {
            "model.fuse" => format!("model.fuse=[{{path=\"{one}\"}}]"),
            _ => format!("lora.initial=\"{one}\""),
        };
        let says = format!("`{key}`: `{one}` brings the word `snorp` along, which this run leaves behind");
        for said in [check(&[&change]), train(&[&change])] {
            assert!(said.contains(&says), "`{says}` is not in\n{said}");
        }
        for said in [check(&[&change, &learned_on, prefix]), train(&[&change, &learned_on, prefix])] {
            assert!(!said.contains("brings the word"), "{said}");
        }
    }
}
