//! Twenty steps of AdamW with given gradients: every parameter after every step, both moments, clipping, continuation.

use crate::golden_parameters::{initial_group, parameters_of};
use sdtrain_optimizer::{Optimizer, build, clear_gradients, gradients};
use sdtrain_recipe::{AdamWConfig, OptimizerConfig};
use sdtrain_torch::clip_grad_norm;
use sdtrain_torch_test_support::{Golden, assert_equal, assert_near};
use serde_json::Value;
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// fp32 over twenty steps; the same kernel of the same libtorch made the numbers, on another instruction set perhaps.
const TOLERANCE: f64 = 1e-6;

struct Case<'g> {
    golden: &'g Golden,
    name: String,
    optimizer: Box<dyn Optimizer>,
    parameters: Vec<(String, Tensor)>,
    max_grad_norm: Option<f64>,
    steps: i64,
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("`{key}` is a number"))
}

impl Case<'_> {
    /// The case before its first step.
    fn new<'g>(golden: &'g Golden, name: &str, case: &Value) -> Case<'g> {
        let config = AdamWConfig {
            learning_rate: number(case, "lr"),
            betas: [case["betas"][0].as_f64().unwrap(), case["betas"][1].as_f64().unwrap()],
            eps: number(case, "eps"),
            weight_decay: number(case, "weight_decay"),
        };
        let group = initial_group(golden, name, config.learning_rate);
        Case {
            golden,
            name: name.to_string(),
            parameters: parameters_of(&group),
            optimizer: build(&OptimizerConfig::AdamW(config), vec![group]),
            max_grad_norm: case["max_grad_norm"].as_f64(),
            steps: case["steps"].as_i64().expect("a number of steps"),
        }
    }

    /// One step with the recorded gradients; the norm before clipping.
    fn step(&mut self, step: i64) -> Tensor {
        for (name, parameter) in &self.parameters {
            let gradient = self.golden.tensor(&format!("input.{}.gradients.{name}", self.name)).get(step);
            // The gradient of Σ parameter·gradient is that gradient, to the bit.
            (parameter * gradient).sum(Kind::Float).backward();
        }
        let norm = clip_grad_norm(&gradients(self.optimizer.groups()), self.max_grad_norm).expect("finite gradients");
        let rate = self.golden.tensor(&format!("input.{}.lr", self.name)).to_kind(Kind::Double).double_value(&[step]);
        self.optimizer.step(&[rate], None).expect("a step");
        clear_gradients(self.optimizer.groups());
        norm
    }
}

fn cases(golden: &Golden) -> Vec<Case<'_>> {
    let config = golden.config();
    config.as_object().expect("settings by case").iter().map(|(name, case)| Case::new(golden, name, case)).collect()
}

#[test]
fn twenty_steps_match_torch() {
    let golden = Golden::open("adamw.safetensors");
    for mut case in cases(&golden) {
        let expected = |what: &str| golden.tensor(&format!("output.{}.{what}", case.name));
        let norms = expected("grad_norm");
        let histories: Vec<Tensor> =
            case.parameters.iter().map(|(name, _)| expected(&format!("parameters.{name}"))).collect();
        for step in 0..case.steps {
            let norm = case.step(step);
            let what = |thing: &str| format!("{}, step {step}: {thing}", case.name);
            assert_near(&what("gradient norm"), &norm, &norms.get(step), TOLERANCE);
            for ((name, parameter), history) in case.parameters.iter().zip(&histories) {
                assert_near(&what(name), parameter, &history.get(step), TOLERANCE);
            }
        }
        let state: HashMap<String, Tensor> = case.optimizer.state().into_iter().collect();
        for (name, _) in &case.parameters {
            for moment in ["exp_avg", "exp_avg_sq"] {
                let slot = format!("{moment}.{name}");
                assert_near(
                    &format!("{}: {slot}", case.name),
                    &state[&slot],
                    &golden.tensor(&format!("output.{}.{slot}", case.name)),
                    TOLERANCE,
                );
            }
        }
    }
}

#[test]
fn a_restored_state_continues_to_the_bit() {
    let golden = Golden::open("adamw.safetensors");
    for (mut whole, mut first) in cases(&golden).into_iter().zip(cases(&golden)) {
        (0..whole.steps).for_each(|step| drop(whole.step(step)));
        let half = whole.steps / 2;
        (0..half).for_each(|step| drop(first.step(step)));

        let config = golden.config();
        let mut second = Case::new(&golden, &first.name, &config[first.name.as_str()]);
        let saved: HashMap<String, Tensor> =
            first.optimizer.state().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
        second.optimizer.load_state(&mut |name| saved.get(name).map(Tensor::shallow_clone)).expect("it is complete");
        tch::no_grad(|| {
            for ((_, to), (_, from)) in second.parameters.iter().zip(&first.parameters) {
                to.shallow_clone().copy_(from);
            }
        });
        (half..whole.steps).for_each(|step| drop(second.step(step)));
        for ((name, found), (_, expected)) in second.parameters.iter().zip(&whole.parameters) {
            assert_equal(&format!("{}: {name}", whole.name), found, expected);
        }
    }
}

#[test]
fn an_incomplete_state_is_refused_by_name() {
    let golden = Golden::open("adamw.safetensors");
    let mut case = cases(&golden).remove(0);
    let error = case.optimizer.load_state(&mut |_| None).expect_err("nothing was found");
    assert!(error.to_string().contains("`exp_avg."), "{error}");
}

#[test]
fn a_step_whose_gradient_is_not_finite_changes_nothing() {
    let golden = Golden::open("adamw.safetensors");
    let mut case = cases(&golden).remove(0);
    let _ = case.step(0);
    let before: Vec<Tensor> = case.parameters.iter().map(|(_, parameter)| parameter.detach().copy()).collect();
    let state: Vec<(String, Tensor)> =
        case.optimizer.state().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
    for (_, parameter) in &case.parameters {
        (parameter * f64::INFINITY).sum(Kind::Float).backward();
    }
    case.optimizer.step(&[1e-3], Some(&Tensor::from_slice(&[1f32]))).expect("a step that is left out");
    for ((name, parameter), before) in case.parameters.iter().zip(&before) {
        assert_equal(name, &parameter.detach(), before);
    }
    for ((name, after), (_, before)) in case.optimizer.state().iter().zip(&state) {
        assert_equal(name, after, before);
    }
}
