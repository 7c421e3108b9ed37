//! The learning rate of every step, as diffusers' and transformers' schedulers hand it to the optimizer.

use sdtrain_optimizer::learning_rate_factor;
use sdtrain_recipe::LrScheduleConfig;
use sdtrain_torch_test_support::{Golden, assert_near};
use std::collections::BTreeSet;
use tch::Tensor;

#[test]
fn rates_match_the_reference() {
    let golden = Golden::open("lr_schedules.safetensors");
    let mut tried = BTreeSet::new();
    for (case, settings) in golden.config().as_object().expect("settings by case") {
        let schedule: LrScheduleConfig =
            serde_json::from_value(settings["schedule"].clone()).expect("our own settings");
        let (steps, base) = (settings["steps"].as_u64().unwrap(), settings["learning_rate"].as_f64().unwrap());
        // The last is the rate one step past the end.
        let rates: Vec<f64> = (0..=steps).map(|step| base * learning_rate_factor(&schedule, step, steps)).collect();
        // 1e-7: the golden file is read as fp32.
        assert_near(case, &Tensor::from_slice(&rates), &golden.tensor(&format!("output.{case}.lr")), 1e-7);
        tried.insert(schedule.name());
    }
    assert_eq!(tried.len(), 9, "{tried:?}");
}

/// Every schedule with a floor, and what it takes to come to it within 100 steps, ten of them a warm-up.
const FALLING: [(&str, &str); 8] = [
    ("linear", "{}"),
    ("cosine", "{}"),
    ("cosine_with_restarts", "{}"),
    ("polynomial", "{}"),
    ("inverse_sqrt", r#"{ "timescale": 1 }"#),
    ("warmup_stable_decay", "{}"),
    ("rex", "{}"),
    ("piecewise_constant", r#"{ "boundaries": [40, 70], "factors": [1, 0.6, 0.1] }"#),
];

/// The factors of a schedule's steps from 0 to `last` of a run of 100.
fn factors(kind: &str, own: &str, min_ratio: f64, warmup_steps: f64, last: u64) -> Vec<f64> {
    let mut settings: serde_json::Value = serde_json::from_str(own).expect("our own settings");
    settings["type"] = kind.into();
    settings["warmup_steps"] = warmup_steps.into();
    if kind != "constant" {
        settings["min_ratio"] = min_ratio.into();
    }
    let schedule: LrScheduleConfig = serde_json::from_value(settings).expect("settings of all of them");
    (0..=last).map(|step| learning_rate_factor(&schedule, step, 100)).collect()
}

#[test]
fn a_schedule_falls_to_its_smallest_ratio_and_no_further() {
    for (kind, own) in FALLING {
        let factors = factors(kind, own, 0.25, 0.1, 110);
        assert!((factors[10] - 1.0).abs() < 1e-12, "{kind}: {factors:?}");
        assert!(factors[10..].iter().all(|factor| (0.25 - 1e-12..=1.0).contains(factor)), "{kind}: {factors:?}");
        // The root does not look at the run's end: 0.25 is what it comes near to.
        let expected = if kind == "inverse_sqrt" { 0.25 + 0.75 / 91f64.sqrt() } else { 0.25 };
        assert!((factors[100] - expected).abs() < 1e-12, "{kind}: {factors:?}");
    }
}

#[test]
fn the_floor_under_factors_that_are_written_out_changes_only_those_below_it() {
    let own = r#"{ "boundaries": [40, 70], "factors": [1, 0.6, 0.1] }"#;
    let with = factors("piecewise_constant", own, 0.25, 0.0, 99);
    assert_eq!([with[0], with[39], with[40], with[69], with[70], with[99]], [1.0, 1.0, 0.6, 0.6, 0.25, 0.25]);
    let without = factors("piecewise_constant", own, 0.0, 0.0, 99);
    assert_eq!((&without[..70], without[70]), (&with[..70], 0.1));
}

#[test]
fn every_schedule_warms_up_over_a_share_of_the_run_as_over_that_many_steps() {
    for (kind, own) in FALLING.into_iter().chain([("constant", "{}")]) {
        let share = factors(kind, own, 0.25, 0.2, 100);
        assert_eq!(share, factors(kind, own, 0.25, 20.0, 100), "{kind}");
        for (step, factor) in share[..20].iter().enumerate() {
            assert!((factor - step as f64 / 20.0).abs() < 1e-12, "{kind}, step {step}: {factor}");
        }
        assert!((share[20] - 1.0).abs() < 1e-12, "{kind}: {share:?}");
    }
}
