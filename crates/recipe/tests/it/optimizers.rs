//! What may be said about optimizers and schedules, and which of them go together.

use crate::project::{Project, SMALLEST};
use sdtrain_recipe::OptimizerConfig;

/// The one message that these overrides lead to, without the word `error`; empty where nothing is wrong.
fn message(overrides: &[&str]) -> String {
    let project = Project::new(SMALLEST);
    match project.load_with(overrides) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string().trim_start_matches("error: ").to_owned(),
    }
}

const SCHEDULES: [&str; 9] = [
    "constant",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
    "rex",
    "piecewise_constant",
];

#[test]
fn every_optimizer_goes_with_every_schedule_that_it_can_follow() {
    for kind in OptimizerConfig::NAMES {
        for schedule in SCHEDULES {
            let overrides = [format!("optimizer.type={kind}"), format!("lr_schedule.type={schedule}")];
            let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
            let said = message(&overrides);
            let refused = schedule != "constant" && matches!(kind, "adafactor" | "adamw_schedule_free");
            assert_eq!(!said.is_empty(), refused, "{kind} with {schedule}: {said}");
            assert!(!refused || said.contains(&format!("`{kind}` cannot follow schedule `{schedule}`")), "{said}");
        }
    }
}

#[test]
fn the_names_are_those_that_are_written() {
    for (kind, schedule) in OptimizerConfig::NAMES.iter().zip(SCHEDULES.iter().cycle()) {
        if matches!(*kind, "adafactor" | "adamw_schedule_free") {
            continue;
        }
        let overrides = [format!("optimizer.type={kind}"), format!("lr_schedule.type={schedule}")];
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        let config = Project::new(SMALLEST).load_with(&overrides).expect("right").config;
        assert_eq!((config.optimizer.name(), config.lr_schedule.name()), (*kind, *schedule));
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (overrides, expected) in [
        (
            &["optimizer.type=lion", "optimizer.betas=[0.9, 1]"][..],
            "`optimizer.betas` must be at least 0 and less than 1",
        ),
        (&["optimizer.type=adafactor", "optimizer.learning_rate=1e-3"], "is not used with `relative_step = true`"),
        (&["optimizer.type=adafactor", "optimizer.relative_step=false"], "is needed with `relative_step = false`"),
        (
            &["optimizer.type=adafactor", "lr_schedule.warmup_steps=10"],
            "cannot follow schedule `constant` with a warm-up: with `relative_step = true` the size of steps follows their \
             number alone\n  hint: set `optimizer.warmup_init = true`",
        ),
        (
            &[
                "optimizer.type=adafactor",
                "optimizer.relative_step=false",
                "optimizer.learning_rate=1e-4",
                "optimizer.warmup_init=true",
            ],
            "`optimizer.warmup_init` needs `relative_step = true`",
        ),
        (&["optimizer.type=sgd", "optimizer.nesterov=true"], "`optimizer.nesterov` needs a momentum"),
        (&["optimizer.type=prodigy", "optimizer.growth_rate=1"], "must be greater than 1, not 1"),
        (&["optimizer.type=prodigy", "optimizer.slice_p=0"], "`optimizer.slice_p` must be at least 1, not 0"),
        (
            &["optimizer.type=prodigy", "lora.text_encoder_learning_rate=0.5"],
            "`prodigy` finds one rate for all that is trained",
        ),
        (
            &["optimizer.type=dadapt_adam", "train.learning_rate_scale=both"],
            "`dadapt_adam` finds its rate by itself, whatever the batch",
        ),
        (&["optimizer.type=adamw_schedule_free", "optimizer.betas=[0, 0.9]"], "must begin with more than 0"),
        (
            &["optimizer.type=adamw_schedule_free", "ema.enabled=true"],
            "optimizer `adamw_schedule_free` averages the weights by itself",
        ),
        (
            &["optimizer.type=adafactor", "optimizer.eps=[1e-60, 1e-3]"],
            "`optimizer.eps` must be a number that fp32 has, which begins at 1.4e-45, not 1e-60",
        ),
        (
            &["ema.enabled=true", "ema.decay=1", "ema.warmup=none"],
            "`ema.decay` = 1: all of the average stays at every update, so that it never takes in what is trained\n  \
             hint: 0.999 to 0.9999 are usual; a short run needs less",
        ),
        (
            &["ema.enabled=true", "ema.update_every=5000", "train.max_steps=1000"],
            "`ema.update_every` = 5000, and the run has 1000 steps: its product would be the weights that it began with\n  \
             hint: 1 moves the average at every step; `ema.enabled = false` saves the trained weights",
        ),
        (
            &["ema.enabled=true", "ema.update_after_step=5000", "train.max_steps=1000"],
            "`ema.update_after_step` = 5000, and the last update of the average is that of step 1000 of 1000: nothing is averaged",
        ),
        (
            &["optimizer.type=muon", "optimizer.ns_coefficients=[nan, 1, 1]"],
            "`optimizer.ns_coefficients.0` must be a number, not nan",
        ),
        (
            &["optimizer.type=muon", "optimizer.ns_coefficients=[1, 1, -inf]"],
            "`optimizer.ns_coefficients.2` must be a number, not -inf",
        ),
        (&["optimizer.type=muon", "optimizer.adamw.eps=0"], "`optimizer.adamw.eps` must be greater than 0, not 0"),
        (
            &["optimizer.type=muon", "method=textual_inversion", "textual_inversion.tokens=[{word = \"snorp\"}]"],
            "`--set optimizer.type=muon`: `muon` is made for matrices, and only words are learned, each vector by itself\n  \
             hint: set `optimizer.type = \"adamw\"`",
        ),
        (&["lr_schedule.warmup_steps=1.5"], "`lr_schedule.warmup_steps` must be a whole number, not 1.5"),
        (&["lr_schedule.warmup_steps=-1"], "`lr_schedule.warmup_steps` must not be negative, and is -1"),
        (&["lr_schedule.type=rex", "lr_schedule.d=1"], "`lr_schedule.d` must be at least 0 and less than 1, not 1"),
        (
            &["lr_schedule.type=constant", "lr_schedule.min_ratio=0.1"],
            "unknown key `lr_schedule.min_ratio` with `type = \"constant\"`",
        ),
        (
            &["lr_schedule.type=piecewise_constant", "lr_schedule.min_ratio=2"],
            "`lr_schedule.min_ratio` must be between 0 and 1, not 2",
        ),
        (
            &[
                "lr_schedule.type=warmup_stable_decay",
                "lr_schedule.warmup_steps=600",
                "lr_schedule.decay_steps=600",
                "train.max_steps=1000",
            ],
            "of 1000 steps `lr_schedule.warmup_steps` takes 600 and `lr_schedule.decay_steps` 600: the fall begins within the \
             warm-up, and the learning rate would jump into it after step 600\n  \
             hint: lower one of them, or train for at least 1200 steps",
        ),
        (
            &["lr_schedule.type=piecewise_constant", "lr_schedule.boundaries=[10, 20]"],
            "`lr_schedule.factors` must be one more than there are boundaries: 3, not 1",
        ),
        (
            &[
                "lr_schedule.type=piecewise_constant",
                "lr_schedule.boundaries=[20, 10]",
                "lr_schedule.factors=[1, 0.5, 0.1]",
            ],
            "`lr_schedule.boundaries` must rise",
        ),
    ] {
        let said = message(overrides);
        assert!(said.contains(expected), "{overrides:?}: {said}");
        assert!(!said.contains("error: "), "one message: {said}");
    }
}

/// What a run would refuse once its images are looked at, with the key that says it.
#[test]
fn rates_of_parts_are_refused_beside_an_optimizer_that_finds_one_for_all() {
    let words = "textual_inversion.tokens=[{word = \"snorp\"}]";
    let ramp = |count: usize| (0..count).map(|block| format!("0.{}", 1 + block % 9)).collect::<Vec<_>>().join(", ");
    let (blocks, halves) =
        (format!("blocks.learning_rates=[{}]", ramp(25)), format!("blocks.up_weights=[{}]", ramp(12)));
    let zeros = format!("blocks.learning_rates=[{}]", ["0", "1", "1", "0", "1"].repeat(5).join(", "));
    for (optimizer, settings, key) in [
        ("prodigy", &["lora.train_text_encoder=true", "lora.unet_learning_rate=0.5"][..], "lora.unet_learning_rate"),
        ("adafactor", &["lora.train_text_encoder=true", "lora.unet_learning_rate=0.5"], "lora.unet_learning_rate"),
        (
            "dadapt_adam",
            &["method=full", "full.train_text_encoder=true", "full.unet_learning_rate=0.5"],
            "full.unet_learning_rate",
        ),
        ("prodigy", &[words, "lora.unet_learning_rate=0.5"], "lora.unet_learning_rate"),
        ("prodigy", &[words, "textual_inversion.learning_rate=0.5"], "textual_inversion.learning_rate"),
        ("prodigy", &[blocks.as_str()], "blocks.learning_rates"),
        ("adafactor", &[halves.as_str()], "blocks"),
        ("prodigy", &["blocks.down_weights=cosine"], "blocks"),
        ("prodigy", &["blocks.mid_weight=0.5"], "blocks"),
        ("prodigy", &["lora.loraplus_lr_ratio=4"], "lora.loraplus_lr_ratio"),
        ("prodigy", &["lora.loraplus_unet_lr_ratio=4"], "lora.loraplus_unet_lr_ratio"),
        (
            "adafactor",
            &["lora.train_text_encoder=true", "lora.loraplus_text_encoder_lr_ratio=4"],
            "lora.loraplus_text_encoder_lr_ratio",
        ),
        // One rate for all of it.
        ("prodigy", &["lora.unet_learning_rate=0.5"], ""),
        ("prodigy", &["lora.train_text_encoder=true", "lora.text_encoder_learning_rate=0"], ""),
        ("prodigy", &["lora.train_text_encoder=true", "lora.unet_learning_rate=0"], ""),
        ("prodigy", &["blocks.down_weights=zeros"], ""),
        ("prodigy", &[zeros.as_str()], ""),
        ("prodigy", &["lora.loraplus_text_encoder_lr_ratio=4"], ""),
        ("prodigy", &["method=textual_inversion", words, "textual_inversion.learning_rate=0.5"], ""),
        ("adamw", &["lora.train_text_encoder=true", "lora.unet_learning_rate=0.5", "lora.loraplus_lr_ratio=4"], ""),
    ] {
        let kind = format!("optimizer.type={optimizer}");
        let overrides = [&[kind.as_str()][..], settings].concat();
        let said = match Project::new(SMALLEST).load_with(&overrides) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        };
        assert_eq!(said.is_empty(), key.is_empty(), "{overrides:?}: {said}");
        let expected = format!("`{optimizer}` finds one rate for all that is trained");
        assert!(key.is_empty() || said.contains(&expected), "{overrides:?}: {said}");
        // Overrides are what a problem is said of.
        let setting = settings.iter().find(|setting| setting.starts_with(key) && !key.is_empty());
        assert!(key.is_empty() || setting.is_some_and(|setting| said.contains(*setting)), "{overrides:?}: {said}");
    }
}

#[test]
fn a_run_in_which_nothing_learns_is_refused_by_the_key_that_freezes_the_last_part() {
    let words = "textual_inversion.tokens=[{word = \"snorp\"}]";
    let frozen = format!("blocks.learning_rates=[{}]", ["0"; 25].join(", "));
    let text_alone = ["lora.train_unet=false", "lora.train_text_encoder=true"];
    for (settings, key) in [
        (&["lora.unet_learning_rate=0"][..], "lora.unet_learning_rate"),
        (&["method=full", "full.unet_learning_rate=0"], "full.unet_learning_rate"),
        (
            &["lora.train_text_encoder=true", "lora.text_encoder_learning_rate=0", "lora.unet_learning_rate=0"],
            "lora.unet_learning_rate",
        ),
        (&[text_alone[0], text_alone[1], "lora.text_encoder_learning_rate=0"], "lora.text_encoder_learning_rate"),
        (&["optimizer.type=prodigy", "lora.unet_learning_rate=0"], "lora.unet_learning_rate"),
        (&[frozen.as_str()], "blocks.learning_rates"),
        (&["blocks.down_weights=zeros", "blocks.mid_weight=0", "blocks.up_weights=zeros"], "blocks"),
        (&["method=textual_inversion", words, "textual_inversion.learning_rate=0"], "textual_inversion.learning_rate"),
        (&["lr_schedule.type=piecewise_constant", "lr_schedule.factors=[0]"], "lr_schedule.factors"),
        // Something is left.
        (&["lora.train_text_encoder=true", "lora.unet_learning_rate=0"], ""),
        (&["lora.train_text_encoder=true", "lora.text_encoder_learning_rate=0"], ""),
        (&["lora.unet_learning_rate=0", words], ""),
        (&["lora.unet_learning_rate=0", "blocks.learning_rates=[0, 0, 0, 0, 1e-4, 0, 0, 0, 0]"], ""),
        (&["method=vae"], ""),
    ] {
        let said = message(settings);
        assert_eq!(said.is_empty(), key.is_empty(), "{settings:?}: {said}");
        assert!(!said.contains("error: "), "one message: {said}");
        let setting = settings.iter().find(|setting| setting.starts_with(key) && !key.is_empty());
        assert!(key.is_empty() || setting.is_some_and(|setting| said.contains(*setting)), "{settings:?}: {said}");
        let expected = if key.starts_with("lr_schedule") { "would train nothing" } else { "nothing is trained: " };
        assert!(key.is_empty() || said.contains(expected), "{settings:?}: {said}");
    }
}

#[test]
fn metadata_name_the_optimizer_with_its_settings() {
    let config =
        Project::new(SMALLEST).load_with(&["optimizer.type=lion", "optimizer.weight_decay=0.3"]).expect("right").config;
    assert_eq!(config.optimizer.in_words(), "lion(betas=[0.9,0.99],weight_decay=0.3)");
}
