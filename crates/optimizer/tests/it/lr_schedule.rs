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

#[test]
fn a_schedule_falls_to_its_smallest_ratio_and_no_further() {
    for kind in ["linear", "cosine", "cosine_with_restarts", "polynomial", "warmup_stable_decay", "rex"] {
        let settings = serde_json::json!({ "type": kind, "min_ratio": 0.25, "warmup_steps": 0.1 });
        let schedule: LrScheduleConfig = serde_json::from_value(settings).expect("settings of all of them");
        let factors: Vec<f64> = (10..=110).map(|step| learning_rate_factor(&schedule, step, 100)).collect();
        assert!((factors[0] - 1.0).abs() < 1e-12, "{kind}: {factors:?}");
        assert!(factors.iter().all(|factor| (0.25 - 1e-12..=1.0).contains(factor)), "{kind}: {factors:?}");
        assert!((factors[90] - 0.25).abs() < 1e-12, "{kind}: {factors:?}");
    }
}
