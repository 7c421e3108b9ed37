//! `sdtrain check`.

use crate::project::{CONFIG, Project};

#[test]
fn a_right_configuration_is_explained_on_stdout() {
    let answer = Project::new().run(&["check", "run.toml"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
    for part in [
        "`run`, method `lora`, seed 42",
        "family `sd1`",
        "parameters: unet",
        "unet: 40 adapters",
        "4 images found, 4 kept, 8 with repeats; 4 batches an epoch",
        "bucket 64 × 64: 4 images",
        "20 of up to 2 images, 4 an epoch, 5.0 epochs",
        "adamw, learning rate 1e-4, schedule `constant`",
        "computes in fp32, saves in fp32",
        "a LoRA in kohya's form at the end; checkpoints every 500 steps",
        "GB at the highest point",
    ] {
        assert!(answer.stdout.contains(part), "`{part}` is not in\n{}", answer.stdout);
    }
}

#[test]
fn overrides_count() {
    let answer = Project::new().run(&["check", "run.toml", "--set", "train.max_steps=400", "--set", "method=full"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains("400 of up to 2 images") && answer.stdout.contains("method `full`"));
}

#[test]
fn mistakes_of_configuration_and_data_appear_together_with_exit_code_2() {
    let project = Project::new();
    project.write("run.toml", &CONFIG.replace("max_steps", "max_stepz").replace("init", "ini"));
    project.write("images/4.png", "no picture");
    let answer = project.run(&["check", "run.toml"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""));
    for part in [
        "error: run.toml:3: unknown key `model.ini`\n  hint: did you mean `init`?",
        "error: run.toml:11: unknown key `train.max_stepz`\n  hint: did you mean `max_steps`?",
        "error: 1 of 5 images cannot be read",
    ] {
        assert!(answer.stderr.contains(part), "`{part}` is not in\n{}", answer.stderr);
    }
}

#[test]
fn missing_captions_end_with_exit_code_3_and_say_how_to_allow_them() {
    let project = Project::new();
    std::fs::remove_file(project.path("images/2.txt")).expect("it is there");
    let answer = project.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(3));
    assert!(
        answer.stderr.starts_with("error: 1 of 4 images have no caption, the first is `images/2.png`\n  hint: "),
        "{}",
        answer.stderr
    );
}

#[test]
fn a_wrong_model_ends_with_exit_code_4_together_with_what_is_wrong_with_the_images() {
    let project = Project::new();
    project.write("broken.safetensors", "hello");
    std::fs::remove_file(project.path("images/2.txt")).expect("it is there");
    let overrides = ["check", "run.toml", "--set", "model.path=broken.safetensors", "--set", "model.init=pretrained"];
    let answer = project.run(&overrides);
    assert_eq!(answer.code, Some(4));
    assert!(
        answer.stderr.contains("error: `broken.safetensors` is not a usable safetensors file"),
        "{}",
        answer.stderr
    );
    assert!(answer.stderr.contains("error: 1 of 4 images have no caption"), "{}", answer.stderr);
}

#[test]
fn targets_that_match_nothing_are_refused() {
    let answer = Project::new().run(&["check", "run.toml", "--set", "lora.targets=[\"unet.nothing\"]"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.starts_with("error: no module of the model matches `lora.targets`"), "{}", answer.stderr);
}
