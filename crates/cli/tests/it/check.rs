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
        "tokens     4 captions of 3.0 tokens on average, the longest has 3; all fit into 75",
        "20 of up to 2 images, 4 an epoch, 5.0 epochs",
        "adamw, learning rate 1e-4, schedule `constant`",
        "computes in fp32, saves in fp32",
        "a LoRA in kohya's form at the end; checkpoints every 500 steps",
        "GB at the highest point",
        "disk       about ",
        " in `outputs/run`: 3 checkpoints of ",
        " and 1 product of ",
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
fn a_warm_up_that_the_run_does_not_outlast_is_said() {
    let project = Project::new();
    let told =
        |warmup: &str| project.run(&["check", "run.toml", "--set", &format!("lr_schedule.warmup_steps={warmup}")]);
    let answer = told("50");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let expected = "warning    the run ends within its warm-up: of 20 steps `lr_schedule.warmup_steps` takes 50, and the learning rate is \
                    never more than 38 % of what is set\n";
    assert!(answer.stdout.contains(expected), "{}", answer.stdout);
    assert!(!told("19").stdout.contains("within its warm-up"));
}

/// By `check` as by `train`, from the same figures.
#[test]
fn a_run_that_its_disk_has_no_room_for_is_said() {
    let project = Project::new();
    // More than any disk has.
    let many = ["--set", "checkpoint.keep_last=1000000000000"];
    let answer = project.run(&[&["check", "run.toml"], &many[..]].concat());
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let warning = answer.stdout.lines().find(|line| line.starts_with("warning ")).unwrap_or_default();
    assert!(warning.starts_with("warning    `outputs/run`: its disk has "), "{}", answer.stdout);
    assert!(warning.contains("; `sdtrain train` refuses that: free some space, "), "{warning}");
    let refused = project.run(&[&["train", "--config", "run.toml"], &many[..]].concat());
    assert_eq!(refused.code, Some(7), "{}", refused.stderr);
    // What others write meanwhile changes what is free.
    let (_, needed) = warning.split_once(" left, and the run writes about ").expect("how much it is");
    let (needed, _) = needed.split_once(';').expect("what follows from it");
    assert!(needed.contains("1000000000001 checkpoints of "), "{warning}");
    assert!(refused.stderr.contains(needed), "{warning}\n{}", refused.stderr);
}

#[test]
fn what_a_run_never_comes_to_is_said() {
    let project = Project::new();
    for (settings, expected) in [
        (
            &["lr_schedule.type=warmup_stable_decay", "lr_schedule.decay_steps=5000"][..],
            "`lr_schedule.decay_steps` = 5000, and the run has 20 steps: it ends before the learning rate has fallen\n",
        ),
        (
            &["lora.train_text_encoder=true", "train.max_text_encoder_steps=100000"],
            "`train.max_text_encoder_steps` = 100000, and the run has 20 steps: the text encoder learns in all of them\n",
        ),
        (&["optimizer.type=adamw_8bit", "optimizer.min_8bit_size=100000000"], "`adamw_8bit` keeps its state in fp32\n"),
        (
            &["lr_schedule.type=cosine_with_restarts", "lr_schedule.cycles=50"],
            "`lr_schedule.cycles` = 50, and 20 of 20 steps come after the warm-up: a cycle of less than two steps has no fall\n",
        ),
        (&["ema.decay=0.9"], "`[ema]` has settings, and `ema.enabled` is false: nothing is averaged"),
    ] {
        let mut args = vec!["check", "run.toml"];
        args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        let answer = project.run(&args);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let warning = answer.stdout.lines().find(|line| line.starts_with("warning ")).unwrap_or_default();
        assert!(format!("{warning}\n").contains(expected), "`{expected}` is not in\n{}", answer.stdout);
    }
    assert!(!project.run(&["check", "run.toml"]).stdout.contains("\nwarning "));
}

#[test]
fn an_average_that_the_run_ends_before_is_refused_by_check_and_train() {
    let project = Project::new();
    project.write("run.toml", &CONFIG.replace("max_steps = 20", "max_epochs = 5\n[ema]\nenabled = true"));
    for command in [&["check", "run.toml"][..], &["train", "--config", "run.toml"]] {
        let answer = project.run(&[command, &["--set", "ema.update_every=21"]].concat());
        let command = command[0];
        assert_eq!(answer.code, Some(2), "{command}: {}", answer.stderr);
        let expected = "`ema.update_every` = 21, and the run has 20 steps: its product would be the weights that it began with\n  hint: ";
        assert!(answer.stderr.contains(expected), "{command}: {}", answer.stderr);
    }
    let answer = project.run(&["check", "run.toml", "--set", "ema.update_every=20"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
}

#[test]
fn a_fall_within_the_warm_up_is_refused_where_the_run_is_measured_in_epochs() {
    let project = Project::new();
    project.write("run.toml", &CONFIG.replace("max_steps = 20", "max_epochs = 5"));
    let told = |command: &[&str], decay: &str| {
        let decay = format!("lr_schedule.decay_steps={decay}");
        let schedule = ["--set", "lr_schedule.type=warmup_stable_decay", "--set", "lr_schedule.warmup_steps=15"];
        project.run(&[command, &schedule, &["--set", decay.as_str()]].concat())
    };
    for command in [&["check", "run.toml"][..], &["train", "--config", "run.toml"]] {
        let answer = told(command, "10");
        assert_eq!(answer.code, Some(2), "{command:?}: {}", answer.stderr);
        let expected = "of 20 steps `lr_schedule.warmup_steps` takes 15 and `lr_schedule.decay_steps` 10: ";
        assert!(answer.stderr.contains(expected), "{command:?}: {}", answer.stderr);
        assert!(answer.stderr.contains("or train for at least 25 steps"), "{command:?}: {}", answer.stderr);
    }
    let answer = told(&["check", "run.toml"], "5");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
}

#[test]
fn what_becomes_of_gradients_state_and_rate_is_said() {
    let project = Project::new();
    let told = |settings: &[&str]| {
        let mut args = vec!["check", "run.toml"];
        args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        let answer = project.run(&args);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        answer.stdout
    };
    let bf16 = "precision.optimizer_state=bf16";
    let eight = "optimizer.type=adamw_8bit";
    let scaled = ["train.gradient_accumulation_steps=3", "train.learning_rate_scale=both"];
    for (settings, expected) in [
        (&[bf16][..], "keeps 4.0 bytes a parameter\n"),
        (&[], "keeps 8.0 bytes a parameter\n           gradients are clipped to a norm of 1\n"),
        (&[bf16], ", optimizer state in bf16\n"),
        // 16 bytes, less 4 for the upper matrices, which are 17 of 29.6 numbers here.
        (&["optimizer.type=prodigy"], "keeps 13.7 bytes a parameter\n"),
        (&["optimizer.type=prodigy", bf16], "keeps 6.9 bytes a parameter\n"),
        (&[bf16, eight], ", optimizer state in 8 bits, as without `precision.optimizer_state`\n"),
        (&[bf16, "optimizer.type=sgd"], "saves in fp32, no optimizer state, whatever `precision.optimizer_state` is\n"),
        (&[bf16, "optimizer.type=adafactor"], ", rows and columns of the optimizer state in fp32, whatever "),
        (&["train.max_grad_norm=0"], "gradients are not clipped\n"),
        (
            &["train.max_grad_norm=0", "train.fused_backward=true", "checkpoint.every_steps=7"],
            "ends the run, which loses what came since its last checkpoint (every 7 steps)\n",
        ),
        (
            &["train.max_grad_norm=0", "train.fused_backward=true", "checkpoint.every_steps=0"],
            "ends the run, which loses what came since its last checkpoint (there is none before the end)\n",
        ),
        (&["checkpoint.every_steps=0"], "a LoRA in kohya's form at the end; one checkpoint at the end\n"),
        (
            &["precision.compute=fp16"],
            "a norm of 1; the loss is scaled for fp16, and a step whose gradients overflow is skipped\n",
        ),
        (&["precision.compute=fp16"], "computes in fp16 (the VAE in fp32), saves in fp32"),
        (
            &scaled,
            "20 of up to 6 images in 3 batches whose gradients are averaged (the last of an epoch in 1), 2 an epoch, ",
        ),
        (&scaled, "adamw, learning rate 6e-4, 6 times 1e-4 by `train.learning_rate_scale`, schedule"),
        (&[scaled[0], scaled[1], "lora.unet_learning_rate=5e-5"], "unet: learning rate 3e-4\n"),
    ] {
        let said = told(settings);
        assert!(said.contains(expected), "{settings:?}: `{expected}` is not in\n{said}");
    }
    assert!(!told(&[bf16, eight]).contains("state in bf16"));
    project.write(
        "model/vae/config.json",
        r#"{"block_out_channels": [32, 32, 32], "layers_per_block": 1, "force_upcast": false}"#,
    );
    assert!(!told(&["precision.compute=fp16"]).contains("the VAE in fp32"));
}

#[test]
fn what_muon_leaves_to_adamw_is_said_and_nothing_but_that_is_refused() {
    let project = Project::new();
    let told = |settings: &[&str]| {
        let mut args = vec!["check", "run.toml", "--set", "optimizer.type=muon"];
        args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        project.run(&args)
    };
    let answer = told(&["method=full", "optimizer.learning_rate=2e-3", "optimizer.adamw.learning_rate=3e-4"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let expected = " parameters are in no matrix (kernels, biases, norms, tables of words): AdamW's, at 3e-4 where matrices learn at 2e-3, ";
    assert!(answer.stdout.contains(expected), "{}", answer.stdout);
    let answer = told(&[]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(!answer.stdout.contains("in no matrix"), "a LoRA of linear layers is all matrices: {}", answer.stdout);
    for settings in [&["method=full", "full.targets=[\"*.bias\"]"][..], &["lora.kind=ia3"]] {
        let answer = told(settings);
        assert_eq!(answer.code, Some(2), "{settings:?}: {}", answer.stdout);
        let expected = "error: `muon` is made for matrices, and nothing that is trained is one\n  hint: set `optimizer.type = \"adamw\"`";
        assert!(answer.stderr.contains(expected), "{settings:?}: {}", answer.stderr);
    }
}

#[test]
fn epochs_that_differ_in_length_are_counted_one_by_one() {
    let carry = ["data.leftovers=carry", "data.batch_size=3", "data.subsets.0.repeats=1", "train.max_epochs=3"];
    let mut args = vec!["check", "run.toml"];
    args.extend(carry.iter().flat_map(|setting| ["--set", *setting]));
    let answer = Project::new().run(&args);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for part in [
        "4 kept; 1 to 2 batches an epoch, 1 image of the first in no batch, waiting for the next epoch",
        // 4 images are one batch, one, and two.
        "4 of up to 3 images, 1 to 2 an epoch, 3.0 epochs",
    ] {
        assert!(answer.stdout.contains(part), "`{part}` is not in\n{}", answer.stdout);
    }
}

/// The commonest mistake with optimizers that find their rate: the one of the run before, which had another.
#[test]
fn a_learning_rate_that_is_left_from_another_optimizer_is_said() {
    let project = Project::new();
    let told = |rate: &str| {
        let rate = format!("optimizer.learning_rate={rate}");
        let answer = project.run(&["check", "run.toml", "--set", "optimizer.type=prodigy", "--set", &rate]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        answer.stdout
    };
    let said = told("1e-4");
    assert!(said.contains("warning    `optimizer.learning_rate` = 1e-4: `prodigy` finds its rate by itself"), "{said}");
    assert!(!told("1").contains("finds its rate by itself"));
}

/// A step never goes on into the next epoch.
#[test]
fn no_step_is_told_to_take_more_batches_than_an_epoch_has() {
    let project = Project::new();
    let told = |batches: u64| {
        let setting = format!("train.gradient_accumulation_steps={batches}");
        let answer = project.run(&["check", "run.toml", "--set", &setting]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        answer.stdout
    };
    let (all, more) = (told(4), told(100));
    assert!(all.contains("20 of up to 8 images in 4 batches whose gradients are averaged, 1 an epoch"), "{all}");
    assert!(!all.contains("no epoch has more than"), "{all}");
    let warning = |line: &&str| line.starts_with("warning ") && line.contains("no epoch has more than 4 batches");
    assert_eq!(more.lines().filter(warning).count(), 1, "{more}");
    // But for that they are the same run, as large and as long.
    for label in ["steps ", "memory ", "time "] {
        let line = |text: &str| text.lines().find(|line| line.starts_with(label)).map(str::to_owned);
        assert!(line(&all).is_some() && line(&all) == line(&more), "{label}\n{all}\n{more}");
    }
}

#[test]
fn the_largest_batch_of_all_subsets_counts() {
    let project = Project::new();
    let own = "repeats = 2\nbatch_size = 1\n[[data.subsets]]\npath = \"images\"\nresolution = 128\nbatch_size = 4";
    project.write("run.toml", &CONFIG.replace("repeats = 2", own));
    let answer = project.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for part in ["bucket 64 × 64: 4 images, 8 batches of 1", "bucket 128 × 128: 4 images, 1 batch of 4"] {
        assert!(answer.stdout.contains(part), "`{part}` is not in\n{}", answer.stdout);
    }
    assert!(answer.stdout.contains("20 of up to 4 images, 9 an epoch"), "{}", answer.stdout);
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
    // One slip among others that do match would else be a part that is not trained, in silence.
    for targets in ["[\"unet.nothing\"]", "[\"unet.*.attn1.*\", \"unet.nothing\"]"] {
        let answer = Project::new().run(&["check", "run.toml", "--set", &format!("lora.targets={targets}")]);
        assert_eq!(answer.code, Some(2));
        let expected = "error: `lora.targets`: no module of the model matches \"unet.nothing\"\n";
        assert!(answer.stderr.starts_with(expected), "{}", answer.stderr);
    }
}

#[test]
fn a_caption_that_is_cut_off_is_named_for_people_and_for_programs() {
    let project = Project::new();
    project.write("images/2.txt", &["word"; 80].join(" "));
    let answer = project.run(&["check", "run.toml"]);
    let told = "warning: 1 captions lose what is behind their first 75 tokens:\n           `images/2.png`: 80 tokens\n";
    assert!(answer.stdout.contains(told), "{}", answer.stdout);
    let answer = project.run(&["dataset", "inspect", "images", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let tokens = &report["captions"]["tokens"];
    assert_eq!((&tokens["spread"]["most"], &tokens["over_long"]), (&80.0.into(), &1.into()));
    assert_eq!(tokens["over_long_captions"], serde_json::json!([{"path": "images/2.png", "tokens": 80}]));
}

#[test]
fn captions_are_counted_with_the_tokenizer_of_the_model() {
    let project = Project::new();
    project.write("images/0.txt", "photorealistic");
    let longest = |overrides: &[&str]| {
        let answer = project.run(&[&["check", "run.toml"], overrides].concat());
        let tokens = answer.stdout.lines().find(|line| line.starts_with("tokens ")).map(str::to_owned);
        tokens.unwrap_or_else(|| panic!("{}{}", answer.stdout, answer.stderr))
    };
    // CLIP knows the word's two halves, the built-in base only its letters.
    assert!(longest(&[]).contains("the longest has 3;"));
    let builtin = ["--set", "model.path=builtin:poster-tiny", "--set", "model.init=pretrained"];
    assert!(longest(&builtin).contains("the longest has 10;"));
    project.write("model/tokenizer/vocab.json", "{");
    project.write("model/tokenizer/merges.txt", "");
    let answer = project.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(4));
    assert!(answer.stderr.starts_with("error: `model/tokenizer/vocab.json`"), "{}", answer.stderr);
}

#[test]
fn held_out_images_that_are_trained_on_as_well_are_named() {
    let project = Project::new();
    project.write_image("held-out/x.png", 64, 64);
    project.write("held-out/x.txt", "a red bottle");
    let answer = project.run(&["check", "run.toml", "--set", "validation.path=held-out"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let told = "warning: 1 of the 1 held-out images are trained on as well, so what is measured on them says little: \
                `held-out/x.png` is `images/0.png`";
    assert!(answer.stdout.contains(told), "{}", answer.stdout);
}

#[test]
fn words_to_learn_are_named_and_looked_for() {
    let project = Project::new();
    let learning = |word: &str| {
        let token = format!("textual_inversion.tokens=[{{word='{word}', vectors=2}}]");
        project.run(&["check", "run.toml", "--set", "method=textual_inversion", "--set", &token])
    };
    let answer = learning("quux");
    assert_eq!(answer.code, Some(2), "{}", answer.stdout);
    assert!(answer.stderr.contains("no caption holds `quux`, so nothing would be learned"), "{}", answer.stderr);
    let answer = learning("a");
    assert_eq!(answer.code, Some(2), "{}", answer.stdout);
    assert!(
        answer.stderr.contains("`textual_inversion.tokens.0.word`: `a` cannot be a learned word"),
        "{}",
        answer.stderr
    );
    let long = ["check", "run.toml", "--set", "method=textual_inversion"];
    for (vectors, is_refused) in [(74, false), (75, true)] {
        let token = format!("textual_inversion.tokens=[{{word='red', vectors={vectors}}}]");
        let answer = project.run(&[&long[..], &["--set", &token]].concat());
        let said = "`textual_inversion.tokens.0.vectors` must be less than 75: so many tokens has a window of this model's text encoder";
        assert_eq!(answer.stderr.contains(said), is_refused, "{vectors}: {}", answer.stderr);
    }
    project.write("images/0.txt", "poster, a quux");
    let answer = learning("quux");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for part in ["text_encoder: the word `quux`, 2 vectors, 64 parameters", "the words' vectors at the end"] {
        assert!(answer.stdout.contains(part), "`{part}` is not in\n{}", answer.stdout);
    }
}

#[test]
fn another_text_encoder_or_tokenizer_is_for_models_with_one() {
    let project = Project::new();
    let model = format!("{}/../../tests/fixtures/tiny_sdxl", env!("CARGO_MANIFEST_DIR"));
    for (key, folder) in [("model.tokenizer", "tokenizer_2"), ("model.text_encoder", "text_encoder")] {
        let (path, other) = (format!("model.path={model}"), format!("{key}={model}/{folder}"));
        let answer = project.run(&["check", "run.toml", "--set", &path, "--set", &other]);
        assert_eq!(answer.code, Some(2), "{}", answer.stdout);
        let said = format!("`{key}`: a model of the SDXL family has two text encoders");
        assert!(answer.stderr.contains(&said), "{}", answer.stderr);
    }
}

#[test]
fn what_a_run_cannot_train_on_is_refused_by_its_key() {
    let project = Project::new();
    for index in 0..4 {
        project.write_image(&format!("edges/{index}.png"), 64, 64);
    }
    let control = "[[data.subsets.extra_images]]\ncolumn = \"edges\"\npath = \"edges\"\n[train]";
    project.write("run.toml", &CONFIG.replace("[train]", control));
    for command in ["check", "train"] {
        let args: &[&str] =
            if command == "check" { &["check", "run.toml"] } else { &["train", "--config", "run.toml"] };
        let answer = project.run(args);
        assert_eq!(answer.code, Some(2), "{}", answer.stderr);
        let expected = "error: `data.subsets.0.extra_images.0`: control images and pairs of images are read and inspected, \
                        but there is no method yet that trains on them";
        assert!(answer.stderr.starts_with(expected), "{}", answer.stderr);
        assert_eq!(answer.stderr.matches("error: ").count(), 1, "{}", answer.stderr);
    }
    // A mask is what training knows.
    project.write("run.toml", &CONFIG.replace("[train]", &control.replace("\"edges\"\npath", "\"mask\"\npath")));
    let answer = project.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains("extra images: 4 `mask`"), "{}", answer.stdout);
}

#[test]
fn weights_in_brackets_are_counted_as_training_reads_them() {
    let project = Project::new();
    project.write("images/2.txt", &format!("({}:1.25)", ["word"; 75].join(" ")));
    let config = CONFIG.replace("init = \"random\"\n", "init = \"random\"\nprompt_weights = true\n");
    project.write("weights.toml", &config);
    for (file, whole) in [("run.toml", false), ("weights.toml", true)] {
        let answer = project.run(&["check", file]);
        assert_eq!(answer.stdout.contains("the longest has 75; all fit into 75"), whole, "{file}: {}", answer.stdout);
        let answer = project.run(&["dataset", "inspect", "--config", file, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert_eq!(report["captions"]["tokens"]["over_long"], u64::from(!whole), "{file}");
    }
}

/// An adapter file in kohya's form: rank 2 and alpha 1 beside each of `modules`, whose weights are `[outputs, inputs]`.
fn write_adapter(project: &Project, name: &str, modules: &[(&str, usize, usize)]) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut put = |name: String, shape: &[usize]| {
        let start = data.len();
        (0..shape.iter().product::<usize>()).for_each(|_| data.extend(1f32.to_le_bytes()));
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name, entry);
    };
    for (module, outputs, inputs) in modules {
        put(format!("{module}.lora_down.weight"), &[2, *inputs]);
        put(format!("{module}.lora_up.weight"), &[*outputs, 2]);
        put(format!("{module}.alpha"), &[]);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    file.extend(data);
    std::fs::write(project.path(name), file).expect("there is room");
}

#[test]
fn adapters_of_a_file_that_is_continued_are_counted_with_the_new_ones() {
    let project = Project::new();
    let modules = [
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 64, 64),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 64, 32),
    ];
    write_adapter(&project, "style.safetensors", &modules);
    let initial = ["check", "run.toml", "--set", "lora.initial=style.safetensors", "--set", "lora.rank=2"];
    let answer = project.run(&[&initial[..], &["--set", "lora.train_text_encoder=true"]].concat());
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    for part in [
        "unet: 40 adapters of kind `lora`, 2 of them from `lora.initial`",
        "text_encoder: 12 adapters of kind `lora`, ",
        "50 layers that `style.safetensors` lacks get new adapters, which count once where those of the file count 0.500 times",
    ] {
        assert!(answer.stdout.contains(part), "`{part}` is not in\n{}", answer.stdout);
    }
    let answer = project.run(&[&initial[..], &["--set", "lora.alpha=8"]].concat());
    assert_eq!(answer.code, Some(2), "{}", answer.stdout);
    assert!(
        answer.stderr.contains("has alpha 1, but `lora.alpha` is 8\n  hint: set `lora.alpha = 1`"),
        "{}",
        answer.stderr
    );
    write_adapter(&project, "other.safetensors", &[("lora_unet_mid_block_attentions_9_proj_in", 64, 64)]);
    let answer = project.run(&["check", "run.toml", "--set", "lora.initial=other.safetensors"]);
    assert_eq!(answer.code, Some(4), "{}", answer.stdout);
    assert!(
        answer.stderr.contains("the model has no layer for `lora_unet_mid_block_attentions_9"),
        "{}",
        answer.stderr
    );
}

#[test]
fn weights_of_timesteps_that_multiply_each_other_are_noted() {
    let sets = ["loss.min_snr_gamma=5", "loss.debiased_estimation=true"];
    let mut args = vec!["check", "run.toml"];
    args.extend(sets.iter().flat_map(|setting| ["--set", *setting]));
    let answer = Project::new().run(&args);
    let expected = "timesteps are weighed by a product, `min_snr_gamma` × `debiased_estimation`";
    assert!(answer.stdout.contains(expected), "{}{}", answer.stdout, answer.stderr);
}

#[test]
fn a_text_encoder_that_does_not_go_with_the_model_is_refused() {
    let project = Project::new();
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let check = |settings: &[(&str, &str)]| {
        let named = settings.iter().map(|(key, name)| format!("model.{key}={}", fixtures.join(name).display()));
        let settings: Vec<String> = named.collect();
        let mut args = vec!["check", "run.toml"];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        project.run(&args)
    };
    let answer = check(&[("text_encoder", "tiny_sd1")]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(
        answer.stdout.contains("with the text encoder in `") && answer.stdout.contains("text_encoder 47 k"),
        "{}",
        answer.stdout
    );
    let answer = check(&[("text_encoder", "tiny_pai")]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(answer.stderr.contains("have 16 numbers, but the UNet attends to 32"), "{}", answer.stderr);
    // The model's own text encoder has 300 words.
    let answer = check(&[("tokenizer", "tiny_sd1/tokenizer")]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    let expected = "the tokenizer has 600 tokens, but the text encoder knows only 300; they are not of one model";
    assert!(answer.stderr.contains(expected), "{}", answer.stderr);
    let answer = project.run(&["check", "run.toml", "--set", "model.text_encoder_init=random"]);
    assert!(answer.stderr.contains("is set, but `model.text_encoder` is not"), "{}", answer.stderr);
}

#[test]
fn a_table_with_many_rows_without_a_token_is_warned_of() {
    let project = Project::new();
    let fixtures = sdtrain_test_support::fixture_folder();
    let model = format!("model.path={}", fixtures.join("tiny_japanese").display());
    let set = ["check", "run.toml", "--set", "model.init=pretrained", "--set", &model];
    let warning = "the tokenizer has 418 tokens, but the text encoder knows 480; they may not be of one model";
    let answer = project.run(&set);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(!answer.stdout.contains("may not be of one model"), "{}", answer.stdout);
    let tokenizer = format!("model.tokenizer={}", fixtures.join("bert_tokenizer").display());
    let answer = project.run(&[&set[..], &["--set", &tokenizer]].concat());
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains(warning), "{}", answer.stdout);
}

#[test]
fn a_unet_that_does_not_fit_the_method_is_refused_before_a_run() {
    let project = Project::new();
    let answer = project.run(&["check", "run.toml", "--set", "method=inpainting"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stdout);
    assert!(
        answer.stderr.contains("`method = \"inpainting\"` trains a UNet with 9 input channels"),
        "{}",
        answer.stderr
    );
    assert!(answer.stderr.contains("OUT --to diffusers --inpainting` makes one of it"), "{}", answer.stderr);
    let config = std::fs::read_to_string(project.path("model/unet/config.json")).expect("written");
    project.write("model/unet/config.json", &config.replacen('{', "{\"in_channels\": 9, ", 1));
    let answer = project.run(&["check", "run.toml", "--set", "method=inpainting"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
    let answer = project.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stdout);
    assert!(
        answer.stderr.contains("is made for inpainting, and `method = \"lora\"` has no masks"),
        "{}",
        answer.stderr
    );
}

/// A VAE that asks for fp32, as SDXL's does, gets it in bf16 too; one that says nothing in fp16 alone.
#[test]
fn the_precision_of_the_vae_is_said() {
    let project = Project::new();
    let config = |more: &str| format!("{{\"block_out_channels\": [32, 32, 32], \"layers_per_block\": 1{more}}}");
    for (more, wide) in [
        ("", &["fp16"][..]),
        (", \"force_upcast\": true", &["bf16", "fp16"][..]),
        (", \"force_upcast\": false", &[][..]),
    ] {
        project.write("model/vae/config.json", &config(more));
        for compute in ["fp32", "bf16", "fp16"] {
            let answer = project.run(&["check", "run.toml", "--set", &format!("precision.compute={compute}")]);
            assert_eq!(answer.code, Some(0), "{}", answer.stderr);
            let vae = if wide.contains(&compute) { " (the VAE in fp32)" } else { "" };
            let said = format!("computes in {compute}{vae}, saves in");
            assert!(answer.stdout.contains(&said), "`{said}` is not in\n{}", answer.stdout);
        }
    }
}
