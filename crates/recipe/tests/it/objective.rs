//! Noise, timesteps, loss and masks: every option that makes no sense beside another is refused by name.

use crate::project::{Project, SMALLEST};

/// Messages for these overrides of the smallest configuration, without where the values stand.
fn refused(overrides: &[&str]) -> String {
    let messages = Project::new(SMALLEST).messages_with(overrides);
    let without_place = |line: &str| line.split_once("`: ").map_or(line, |(_, message)| message).to_owned();
    messages
        .lines()
        .map(|line| if line.starts_with("error") { without_place(line) } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}

fn is_accepted(overrides: &[&str]) {
    if let Err(problems) = Project::new(SMALLEST).load_with(overrides) {
        panic!("{overrides:?}: {problems}");
    }
}

#[test]
fn values_out_of_range_are_refused() {
    for (settings, expected) in [
        (&["noise.offset=inf"][..], "`noise.offset` must be a number, not inf"),
        (&["noise.input_perturbation=-1"], "`noise.input_perturbation` must not be negative, and is -1"),
        (&["noise.perturbation=-1"], "`noise.perturbation` must not be negative, and is -1"),
        (
            &["noise.offset=0.1", "noise.adaptive_offset_scale=nan"],
            "`noise.adaptive_offset_scale` must be a number, not nan",
        ),
        (
            &["noise.multires_iterations=101"],
            "`noise.multires_iterations` is at most 100, not 101\n  hint: 6 to 10 is usual",
        ),
        (
            &["noise.multires_iterations=6", "noise.multires_discount=0"],
            "`noise.multires_discount` must be greater than 0 and at most 1, not 0",
        ),
        (
            &["timesteps.distribution={ type = \"logit_normal\", std = 0 }"],
            "`timesteps.distribution.std` must be greater than 0, not 0",
        ),
        (
            &["timesteps.distribution={ type = \"logit_normal\", mean = 21 }"],
            "`timesteps.distribution.mean` must be between -20 and 20, not 21",
        ),
        (
            &["timesteps.distribution={ type = \"sigmoid\", center = 2 }"],
            "`timesteps.distribution.center` must be between 0 and 1, not 2",
        ),
        (
            &["timesteps.distribution={ type = \"biased\", multiplier = 0 }"],
            "`timesteps.distribution.multiplier` must be greater than 0, not 0",
        ),
        (&["loss.type=\"huber\"", "loss.huber_c=0"], "`loss.huber_c` must be greater than 0, not 0"),
        (&["loss.p2_gamma=0"], "`loss.p2_gamma` must be greater than 0, not 0"),
        (&["loss.v_pred_like_loss=-1"], "`loss.v_pred_like_loss` must be greater than 0, not -1"),
        (
            &["data.subsets.0.alpha_mask=true", "loss.unmasked_weight=1.5"],
            "`loss.unmasked_weight` must be between 0 and 1, not 1.5",
        ),
        (&["data.subsets.0.loss_weight=-1"], "`data.subsets.0.loss_weight` must not be negative, and is -1"),
        (&["data.subsets.0.loss_weight_column=\"\""], "`data.subsets.0.loss_weight_column` is empty"),
    ] {
        assert_eq!(refused(settings), expected, "{settings:?}");
    }
}

#[test]
fn options_that_need_another_are_refused_without_it() {
    for (setting, needed) in [
        ("noise.offset_random_strength=true", "noise.offset"),
        ("noise.adaptive_offset_scale=0.1", "noise.offset"),
        ("noise.input_perturbation_random_strength=true", "noise.input_perturbation"),
        ("noise.multires_discount=0.2", "noise.multires_iterations"),
        ("noise.multires_norm=\"batch\"", "noise.multires_iterations"),
    ] {
        let key = setting.split_once('=').expect("a setting").0;
        let expected = format!("`{key}` is set, but `{needed}` is not\n  hint: set both, or remove it");
        assert_eq!(refused(&[setting]), expected);
        is_accepted(&[setting, &format!("{needed}=1")]);
    }
    for key in ["huber_c=0.2", "huber_scale=2", "huber_schedule=\"constant\""] {
        let message = refused(&[&format!("loss.{key}")]);
        assert!(message.contains("is for the losses `huber` and `smooth_l1`"), "{message}");
        is_accepted(&[&format!("loss.{key}"), "loss.type=\"smooth_l1\"", "loss.huber_schedule=\"constant\""]);
    }
    for key in ["unmasked_weight=0.1", "normalize_masked_area=true", "unmasked_probability=0.1"] {
        let message = refused(&[&format!("loss.{key}")]);
        assert!(message.contains("is about masks, and there are none\n  hint: set `alpha_mask`"), "{message}");
        is_accepted(&[&format!("loss.{key}"), "data.subsets.0.alpha_mask=true"]);
        let mask = "data.subsets.0.extra_images=[{ column = \"mask\", suffix = \"-m\" }]";
        is_accepted(&[&format!("loss.{key}"), mask]);
    }
    let message = refused(&["loss.snr_before_rescaling=true"]);
    assert!(message.contains("nothing is weighed by the SNR"), "{message}");
    is_accepted(&["loss.snr_before_rescaling=true", "loss.min_snr_gamma=5"]);
}

#[test]
fn weights_of_the_timesteps_multiply_as_in_kohyas_scripts_and_p2_stands_alone() {
    let all = ["min_snr_gamma=5", "debiased_estimation=true", "scale_v_pred_loss_like_noise_pred=true"];
    for (place, first) in all.iter().enumerate() {
        is_accepted(&[&format!("loss.{first}")]);
        for second in &all[place + 1..] {
            is_accepted(&[&format!("loss.{first}"), &format!("loss.{second}")]);
        }
        let message = refused(&[&format!("loss.{first}"), "loss.p2_gamma=1"]);
        let name = first.split_once('=').expect("a setting").0;
        let expected =
            format!("`loss.{name}` and `loss.p2_gamma` weigh the timesteps twice\n  hint: keep the one that is meant");
        assert!(message.ends_with(&expected), "{message}");
    }
    is_accepted(&["loss.min_snr_gamma=5", "loss.v_pred_like_loss=0.1"]);
}

#[test]
fn weights_that_do_not_go_with_what_the_model_predicts_are_refused() {
    let [noise, velocity, image] =
        ["epsilon", "v_prediction", "sample"].map(|kind| format!("model.prediction_type=\"{kind}\""));
    let table = [
        ("debiased_estimation=true", [true, true, false]),
        ("p2_gamma=1", [true, true, false]),
        ("min_snr_gamma=5", [true, true, true]),
        ("scale_v_pred_loss_like_noise_pred=true", [false, true, false]),
        ("v_pred_like_loss=1", [true, false, false]),
    ];
    for (setting, accepted) in table {
        for (prediction, accepted) in [&noise, &velocity, &image].into_iter().zip(accepted) {
            let setting = format!("loss.{setting}");
            if accepted {
                is_accepted(&[&setting, prediction]);
            } else {
                let message = refused(&[&setting, prediction]);
                assert!(message.contains("is not made for a model that predicts the"), "{message}");
            }
        }
    }
    let message = refused(&[
        "loss.snr_before_rescaling=true",
        "loss.min_snr_gamma=5",
        &velocity,
        "model.zero_terminal_snr=false",
    ]);
    assert!(message.contains("`loss.snr_before_rescaling`: the noise schedule is not rescaled"), "{message}");
}

#[test]
fn a_scale_without_effect_is_refused() {
    let message = refused(&["loss.type=\"huber\"", "loss.huber_scale=2"]);
    assert!(message.contains("`loss.huber_scale` has no effect with `huber_schedule = \"snr\"`"), "{message}");
    is_accepted(&["loss.type=\"huber\"", "loss.huber_scale=2", "loss.huber_schedule=\"exponential\""]);
}

#[test]
fn a_bias_says_which_timesteps_in_one_way() {
    let with = |settings: &str| format!("timesteps.distribution={{ type = \"biased\", {settings} }}");
    let range = "strategy = \"range\"";
    let later = "strategy = \"later\"";
    is_accepted(&[&with(&format!("{range}, begin = 200, end = 300, multiplier = 2"))]);
    is_accepted(&[&with(&format!("{later}, portion = 0.5, multiplier = 2"))]);
    for (settings, words) in [
        (
            format!("{range}, portion = 0.5"),
            "portion` does not go with this `strategy`\n  hint: it is for `earlier` and `later`",
        ),
        (
            format!("{later}, begin = 5"),
            "begin` does not go with this `strategy`\n  hint: it is for `strategy = \"range\"`",
        ),
        (format!("{range}, begin = 300, end = 300"), "end` must be greater than `timesteps.distribution.begin`"),
    ] {
        let message = refused(&[&with(&settings)]);
        assert!(message.contains(words), "{message}");
    }
    let message = refused(&[&with(&format!("{range}, begin = 5, end = 300")), "timesteps.min=10"]);
    assert!(message.contains("the range reaches beyond the timesteps that are trained"), "{message}");
}

#[test]
fn the_autoencoder_has_no_use_for_them() {
    for (setting, section) in
        [("noise.offset=0.1", "noise"), ("timesteps.stratified=true", "timesteps"), ("loss.type=\"l1\"", "loss")]
    {
        let message = refused(&["method=\"vae\"", setting]);
        assert!(message.contains(&format!("`[{section}]` is not used by `method = \"vae\"`")), "{message}");
    }
    for setting in ["alpha_mask=true", "loss_weight=2", "extra_images=[{ column = \"mask\", suffix = \"-m\" }]"] {
        let message = refused(&["method=\"vae\"", &format!("data.subsets.0.{setting}")]);
        assert!(message.contains("is not made for `method = \"vae\"`"), "{message}");
    }
}

#[test]
fn names_of_other_programs_are_answered() {
    for (theirs, words) in [
        ("masked_loss=true", "masks are used where a subset has them"),
        (
            "loss.loss_weight_fn=\"P2\"",
            "set one of `loss.min_snr_gamma`, `loss.debiased_estimation` and `loss.p2_gamma`",
        ),
        ("min_noising_strength=0.2", "write `timesteps.min`"),
    ] {
        let message = refused(&[theirs]);
        assert!(message.contains(words), "{message}");
    }
}
