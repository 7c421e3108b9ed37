//! The average of the weights against diffusers' `EMAModel`, and its exchange with them.

use sdtrain_optimizer::{Ema, ParamGroup};
use sdtrain_recipe::{EmaConfig, EmaWarmup};
use sdtrain_torch_test_support::{Golden, assert_equal, assert_near};
use serde_json::Value;
use tch::{Kind, Tensor};

/// fp32, thirty updates.
const TOLERANCE: f64 = 1e-6;

fn config(case: &Value) -> EmaConfig {
    let number = |key: &str, otherwise: f64| case[key].as_f64().unwrap_or(otherwise);
    EmaConfig {
        enabled: true,
        decay: number("decay", 0.0),
        min_decay: number("min_decay", 0.0),
        warmup: if case["warmup"] == "power" { EmaWarmup::Power } else { EmaWarmup::Count },
        inv_gamma: number("inv_gamma", 1.0),
        power: number("power", 2.0 / 3.0),
        update_after_step: number("update_after_step", 0.0) as u64,
        ..EmaConfig::default()
    }
}

/// The weights of a case after `step`, as the parameters of one group.
fn set(groups: &[ParamGroup], golden: &Golden, case: &str, step: i64) {
    for (name, parameter) in &groups[0].parameters {
        let weights = golden.tensor(&format!("input.{case}.weights.{name}")).get(step);
        tch::no_grad(|| parameter.shallow_clone().copy_(&weights));
    }
}

fn groups(golden: &Golden, case: &str) -> Vec<ParamGroup> {
    let names = golden.names_under(&format!("input.{case}.weights."));
    let weights = |name: &str| golden.tensor(&format!("input.{case}.weights.{name}")).get(0).copy();
    let parameters = names.iter().map(|name| (name.to_string(), weights(name).set_requires_grad(true))).collect();
    vec![ParamGroup { name: "unet".into(), learning_rate: 1.0, parameters }]
}

#[test]
fn averages_and_decays_match_diffusers() {
    let golden = Golden::open("ema.safetensors");
    for (case, settings) in golden.config().as_object().expect("settings by case") {
        let groups = groups(&golden, case);
        let mut ema = Ema::new(&config(settings), &groups);
        let decays = golden.tensor(&format!("output.{case}.decays"));
        for step in 1..=settings["steps"].as_i64().expect("a number of steps") {
            set(&groups, &golden, case, step);
            ema.update(&groups).expect("an update");
            let expected = decays.to_kind(Kind::Double).double_value(&[step - 1]);
            // Golden files are read in fp32.
            assert!((ema.decay(step as u64) - expected).abs() < 1e-7, "{case}, step {step}");
            for (name, average) in ema.state().0 {
                let expected = golden.tensor(&format!("output.{case}.averages.{name}")).get(step - 1);
                assert_near(&format!("{case}, {name}, step {step}"), average, &expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn an_exchange_is_undone_to_the_bit() {
    let golden = Golden::open("ema.safetensors");
    let groups = groups(&golden, "count");
    let mut ema = Ema::new(&EmaConfig { enabled: true, ..EmaConfig::default() }, &groups);
    for step in 1..4 {
        set(&groups, &golden, "count", step);
        ema.update(&groups).expect("an update");
    }
    let copies = |tensors: &[(String, Tensor)]| tensors.iter().map(|(_, t)| t.detach().copy()).collect::<Vec<_>>();
    let (weights, averages) = (copies(&groups[0].parameters), copies(ema.state().0));
    ema.exchange(&groups).expect("an exchange");
    for ((_, parameter), average) in groups[0].parameters.iter().zip(&averages) {
        assert_equal("averaged", &parameter.detach(), average);
    }
    ema.exchange(&groups).expect("an exchange");
    for ((_, parameter), weight) in groups[0].parameters.iter().zip(&weights) {
        assert_equal("trained", &parameter.detach(), weight);
    }
}

#[test]
fn updates_can_be_rare() {
    let golden = Golden::open("ema.safetensors");
    let groups = groups(&golden, "count");
    let rare = EmaConfig { enabled: true, update_every: 3, ..EmaConfig::default() };
    let mut ema = Ema::new(&rare, &groups);
    let mut changes = Vec::new();
    for step in 1..=6 {
        set(&groups, &golden, "count", step);
        let before = ema.state().0[0].1.copy();
        ema.update(&groups).expect("an update");
        changes.push(ema.state().0[0].1 != before);
    }
    assert_eq!(changes, [false, false, true, false, false, true]);
}
