//! Weights and state in bf16, and updates within the backward pass: what is kept, what is lost, and that all of it continues to
//! the bit.

use sdtrain_optimizer::{Ema, Optimizer, ParamGroup, Storage, Weights, build, build_stored, clear_gradients};
use sdtrain_recipe::{EmaConfig, OptimizerConfig, Rounding, StoredType};
use sdtrain_torch_test_support::assert_equal;
use serde_json::json;
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

fn config(name: &str) -> OptimizerConfig {
    let settings = match name {
        "sgd" => json!({"type": name, "learning_rate": 1e-2, "momentum": 0.9}),
        "adamw_8bit" => json!({"type": name, "min_8bit_size": 1}),
        "adafactor" => json!({"type": name, "beta1": 0.9}),
        "prodigy" | "dadapt_adam" => json!({"type": name}),
        _ => json!({"type": name, "learning_rate": 1e-2}),
    };
    serde_json::from_value(settings).expect("our own settings")
}

const KINDS: [(StoredType, Rounding, StoredType); 5] = [
    (StoredType::Bf16, Rounding::Stochastic, StoredType::Fp32),
    (StoredType::Bf16, Rounding::Stochastic, StoredType::Bf16),
    (StoredType::Bf16, Rounding::Kahan, StoredType::Bf16),
    (StoredType::Bf16, Rounding::Nearest, StoredType::Fp32),
    (StoredType::Fp32, Rounding::Stochastic, StoredType::Bf16),
];

const PLAIN: (StoredType, Rounding, StoredType) = (StoredType::Fp32, Rounding::Stochastic, StoredType::Fp32);

/// Parameters in two groups, an optimizer over them, and a loss that has other gradients in every step.
struct Run {
    optimizer: Box<dyn Optimizer>,
    parameters: Vec<(String, Tensor)>,
    rates: Vec<f64>,
    fused: bool,
}

impl Run {
    fn new(name: &str, (weights, rounding, state): (StoredType, Rounding, StoredType), fused: bool) -> Run {
        let config = config(name);
        let shapes: [&[i64]; 5] = [&[8, 6], &[5], &[4, 3, 3, 3], &[6, 8], &[1]];
        let parameters: Vec<(String, Tensor)> = (0..shapes.len())
            .map(|index| (format!("part_{index}.weight"), numbers(index as f64, shapes[index]).set_requires_grad(true)))
            .collect();
        let group = |name: &str, members: &[(String, Tensor)]| ParamGroup {
            name: name.into(),
            learning_rate: config.learning_rate(),
            parameters: members.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
        };
        let groups = vec![group("unet", &parameters[..3]), group("text_encoder", &parameters[3..])];
        let storage = Storage { weights, rounding, state, seed: 42 };
        let optimizer = build_stored(&config, groups, storage, fused).expect("it can be built");
        if !fused {
            sdtrain_optimizer::prepare_gradients(optimizer.groups()).expect("they are leaves");
        }
        Run { optimizer, rates: vec![config.learning_rate(); 2], parameters, fused }
    }

    /// The last parameter takes no part in every third step.
    fn loss(&self, step: u64) -> Tensor {
        let taking_part = self.parameters.iter().take(if step % 3 == 2 { 4 } else { 5 });
        let terms = taking_part.enumerate().map(|(index, (_, parameter))| {
            let factor = numbers((step * 10 + index as u64) as f64, &parameter.size());
            (parameter.to_kind(Kind::Float) * factor).sum(Kind::Float)
        });
        terms.reduce(|sum, term| sum + term).expect("there are some")
    }

    fn steps(&mut self, steps: std::ops::Range<u64>) {
        for step in steps {
            self.step(step);
        }
    }

    /// The norm of its gradients.
    fn step(&mut self, step: u64) -> f64 {
        let loss = self.loss(step);
        if self.fused {
            let apart = self.optimizer.apart().expect("it is built for it");
            apart.begin_pass(&self.rates, &loss);
            loss.backward();
            let norm = apart.end_pass().expect("a step").norm.double_value(&[]);
            assert!(self.parameters.iter().all(|(_, parameter)| !parameter.grad().defined()), "gradients are freed");
            return norm;
        }
        loss.backward();
        let gradients = sdtrain_optimizer::gradients(self.optimizer.groups());
        let norm = sdtrain_torch::clip_grad_norm(&gradients, None).expect("a norm").double_value(&[]);
        self.optimizer.step(&self.rates, Some(&Tensor::from_slice(&[0f32]))).expect("a step");
        clear_gradients(self.optimizer.groups());
        norm
    }

    fn copies(&self) -> Vec<(String, Tensor)> {
        let parameters = self.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy()));
        parameters.chain(self.optimizer.state().into_iter().map(|(name, tensor)| (name, tensor.copy()))).collect()
    }
}

/// Numbers between -1 and 1 that look random.
fn numbers(seed: f64, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let places = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + seed * 78.233 + 1.0;
    (places.sin() * 43_758.547).frac().to_kind(Kind::Float).reshape(shape)
}

fn assert_same(what: &str, found: &Run, expected: &Run) {
    let (found, expected) = (found.copies(), expected.copies());
    let names = |list: &[(String, Tensor)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert_eq!(found.kind(), expected.kind(), "{what}: {name}");
        assert_equal(&format!("{what}: {name}"), found, expected);
    }
}

/// A weight of 1 from which each of 256 steps takes 1/4096, a thirty-second of the way to the next number in bf16.
fn after_tiny_updates(rounding: Rounding) -> Tensor {
    let weight = Tensor::ones([4096], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let group =
        ParamGroup { name: "unet".into(), learning_rate: 1.0, parameters: vec![("w".into(), weight.shallow_clone())] };
    let config = serde_json::from_value(json!({"type": "sgd", "learning_rate": 1.0})).expect("our own settings");
    let storage = Storage { weights: StoredType::Bf16, rounding, state: StoredType::Fp32, seed: 1 };
    let mut optimizer = build_stored(&config, vec![group], storage, false).expect("it can be built");
    for _ in 0..256 {
        (&weight / 4096.0).sum(Kind::Float).backward();
        optimizer.step(&[1.0], None).expect("a step");
        clear_gradients(optimizer.groups());
    }
    assert_eq!(weight.kind(), Kind::BFloat16);
    weight.detach().to_kind(Kind::Double)
}

#[test]
fn an_update_that_nearest_rounding_loses_is_kept_on_average_by_chance_and_by_compensation() {
    let lost = after_tiny_updates(Rounding::Nearest);
    assert!(lost.equal(&lost.ones_like()), "each is smaller than half a step of bf16");
    let expected = 1.0 - 256.0 / 4096.0;
    let stochastic = after_tiny_updates(Rounding::Stochastic);
    let mean = stochastic.mean(Kind::Double).double_value(&[]);
    // Below 1 a step of bf16 is 2⁻⁸; 256 draws of chance 1/16 deviate by 4 of them at most, and 4096 weights are averaged.
    assert!((mean - expected).abs() < 5.0 * 4.0 / 256.0 / 64.0, "{mean}");
    assert!(stochastic.std(true).double_value(&[]) > 1e-3, "weights go their own ways");
    let kahan = after_tiny_updates(Rounding::Kahan);
    assert!((kahan.mean(Kind::Double).double_value(&[]) - expected).abs() < 1.0 / 512.0, "{kahan}");
}

#[test]
fn kahan_follows_fp32_for_200_steps() {
    let mut narrow = Run::new("adamw", (StoredType::Bf16, Rounding::Kahan, StoredType::Fp32), false);
    let mut wide = Run::new("adamw", PLAIN, false);
    let weights = |run: &Run| -> Vec<Tensor> { run.parameters.iter().map(|(_, p)| p.detach().copy()).collect() };
    // Both from the same numbers, and gradients that do not depend on them, in bf16 in both.
    for ((_, wide), narrow) in wide.parameters.iter().zip(weights(&narrow)) {
        tch::no_grad(|| wide.shallow_clone().copy_(&narrow));
    }
    let nearest = {
        let mut run = Run::new("adamw", (StoredType::Bf16, Rounding::Nearest, StoredType::Fp32), false);
        run.steps(0..200);
        weights(&run)
    };
    for step in 0..200 {
        narrow.step(step);
        wide.loss(step).backward();
        for (_, parameter) in &wide.parameters {
            let mut gradient = parameter.grad();
            gradient.copy_(&gradient.to_kind(Kind::BFloat16));
        }
        wide.optimizer.step(&wide.rates, None).expect("a step");
        clear_gradients(wide.optimizer.groups());
    }
    let state: HashMap<String, Tensor> = narrow.optimizer.state().into_iter().collect();
    let mut lost: f64 = 0.0;
    for (((name, kept), (_, wide)), nearest) in narrow.parameters.iter().zip(&wide.parameters).zip(&nearest) {
        let (kept, wide) = (kept.detach().to_kind(Kind::Float), wide.detach());
        let whole = &kept + state[&format!("compensation.{name}")].to_kind(Kind::Float);
        let apart = |a: &Tensor| (a - &wide).abs().max().double_value(&[]);
        // 16 bits of a number below 4: half of 2⁻¹⁴ in each of 200 steps, which add up as a random walk does.
        assert!(apart(&whole) < 200f64.sqrt() * 2f64.powi(-15), "{name}: {:.1e}", apart(&whole));
        assert!(apart(&kept) < 2f64.powi(-7), "{name}: {:.1e}", apart(&kept));
        lost = lost.max(apart(&nearest.to_kind(Kind::Float)));
    }
    assert!(lost > 2f64.powi(-5), "nearest rounding keeps up, which shows that this shows nothing: {lost:.1e}");
}

#[test]
fn every_optimizer_continues_to_the_bit_in_every_format() {
    for name in OptimizerConfig::NAMES {
        for kind in KINDS {
            let mut whole = Run::new(name, kind, false);
            whole.steps(0..5);
            let saved: HashMap<String, Tensor> = whole.copies().into_iter().collect();
            let mut continued = Run::new(name, kind, false);
            // What a run that is continued begins with does not matter.
            continued.steps(0..3);
            tch::no_grad(|| {
                continued.parameters.iter().for_each(|(name, p)| p.shallow_clone().copy_(&saved[name]));
            });
            continued.optimizer.load_state(&mut |name| saved.get(name).map(Tensor::copy)).expect("it is complete");
            for step in 5..12 {
                whole.step(step);
                continued.step(step);
            }
            assert_same(&format!("{name} {kind:?}"), &continued, &whole);
        }
    }
}

#[test]
fn another_seed_rounds_otherwise_and_weights_have_learned() {
    let kind = KINDS[1];
    let run = |seed| {
        let mut run = Run::new("adamw", kind, false);
        if seed != 42 {
            let groups = run.optimizer.groups().iter().map(|group| ParamGroup {
                name: group.name.clone(),
                learning_rate: group.learning_rate,
                parameters: group.parameters.iter().map(|(n, p)| (n.clone(), p.shallow_clone())).collect(),
            });
            let storage = Storage { weights: kind.0, rounding: kind.1, state: kind.2, seed };
            run.optimizer = build_stored(&config("adamw"), groups.collect(), storage, false).expect("it can be built");
        }
        run.steps(0..10);
        run.copies()
    };
    let (first, second) = (run(42), run(43));
    assert!(first.iter().zip(&second).any(|((_, a), (_, b))| !a.equal(b)), "seeds must matter");
}

#[test]
fn a_step_that_is_not_finite_changes_no_bit() {
    for name in OptimizerConfig::NAMES {
        for kind in KINDS {
            let mut run = Run::new(name, kind, false);
            run.steps(0..4);
            let before = run.copies();
            (run.loss(4) * f64::NAN).backward();
            run.optimizer.step(&run.rates, Some(&Tensor::from_slice(&[1f32]))).expect("a step");
            for ((slot, after), (_, before)) in run.copies().iter().zip(&before) {
                if slot != "rounding.step" {
                    assert_equal(&format!("{name} {kind:?}: {slot}"), after, before);
                }
            }
        }
    }
}

#[test]
fn updates_within_the_backward_pass_have_the_bits_of_a_plain_step() {
    for name in OptimizerConfig::NAMES.into_iter().filter(|name| !config(name).settings().needs_all_tensors()) {
        for kind in KINDS.into_iter().chain([PLAIN]) {
            let (mut plain, mut fused) = (Run::new(name, kind, false), Run::new(name, kind, true));
            for step in 0..8 {
                let (expected, found) = (plain.step(step), fused.step(step));
                assert_eq!(found, expected, "{name} {kind:?}: the norm of step {step}");
            }
            for ((parameter, found), (_, expected)) in fused.parameters.iter().zip(&plain.parameters) {
                assert_equal(&format!("{name} {kind:?}: {parameter}"), found, expected);
            }
            let expected: HashMap<String, Tensor> = plain.optimizer.state().into_iter().collect();
            for (slot, found) in fused.optimizer.state() {
                if let Some(expected) = expected.get(&slot) {
                    assert_equal(&format!("{name} {kind:?}: {slot}"), &found, expected);
                }
            }
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_changes_nothing_within_the_backward_pass_either() {
    let mut run = Run::new("adamw", KINDS[1], true);
    run.steps(0..3);
    let before = run.copies();
    let loss = run.loss(3) + f64::NAN;
    let apart = run.optimizer.apart().expect("it is built for it");
    apart.begin_pass(&run.rates, &loss);
    loss.backward();
    apart.end_pass().expect("a step");
    for ((slot, after), (_, before)) in run.copies().iter().zip(&before) {
        if slot != "rounding.step" {
            assert_equal(slot, after, before);
        }
    }
}

#[test]
fn a_gradient_in_two_parts_is_refused_within_the_backward_pass() {
    let mut run = Run::new("adamw", PLAIN, true);
    let (first, second) = (run.loss(0), run.loss(1));
    let apart = run.optimizer.apart().expect("it is built for it");
    apart.begin_pass(&run.rates, &first);
    first.backward();
    let error = sdtrain_torch::catch(|| second.backward()).expect_err("each has one already").to_string();
    assert!(error.contains("`train.fused_backward`"), "{error}");
}

#[test]
fn looking_at_the_evaluation_weights_changes_no_bit() {
    for kind in KINDS {
        let mut run = Run::new("adamw_schedule_free", kind, false);
        run.steps(0..4);
        let before = run.copies();
        run.optimizer.hold(Weights::Evaluation).expect("weights");
        assert!(run.parameters.iter().zip(&before).any(|((_, now), (_, before))| !now.equal(before)), "{kind:?}");
        for weights in [Weights::Evaluation, Weights::Training, Weights::Training] {
            run.optimizer.hold(weights).expect("weights");
        }
        for ((slot, after), (_, before)) in run.copies().iter().zip(&before) {
            assert_equal(&format!("{kind:?}: {slot}"), after, before);
        }
    }
}

#[test]
fn an_average_of_bf16_weights_is_fp32_and_the_exchange_is_undone_to_the_bit() {
    let mut run = Run::new("adamw", KINDS[0], false);
    let settings = json!({"enabled": true, "decay": 0.999, "warmup": "none"});
    let ema_config: EmaConfig = serde_json::from_value(settings).expect("our own settings");
    let mut ema = Ema::new(&ema_config, run.optimizer.groups());
    let began = ema.state().0[0].1.copy();
    for step in 0..4 {
        run.step(step);
        ema.update(run.optimizer.groups()).expect("it fits");
    }
    assert!(ema.state().0.iter().all(|(_, average)| average.kind() == Kind::Float));
    assert!(!ema.state().0[0].1.equal(&began), "a thousandth of a step is kept");
    let before = run.copies();
    let averages: Vec<Tensor> = ema.state().0.iter().map(|(_, average)| average.copy()).collect();
    ema.exchange(run.optimizer.groups()).expect("it fits");
    assert!(run.parameters.iter().zip(&before).any(|((_, now), (_, before))| !now.equal(before)));
    ema.exchange(run.optimizer.groups()).expect("it fits");
    for ((slot, after), (_, before)) in run.copies().iter().zip(&before) {
        assert_equal(slot, after, before);
    }
    assert!(ema.state().0.iter().zip(&averages).all(|((_, now), before)| now.equal(before)));
}

#[test]
fn state_in_bf16_takes_half_and_weights_and_gradients_too() {
    let bytes = |kind| -> usize {
        let state = Run::new("adamw", kind, false).optimizer.state();
        state.iter().map(|(_, tensor)| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum()
    };
    let numbers = 48 + 5 + 108 + 48;
    // Beside it the step of each of the five, the mean of a single number, and the step of rounding.
    let beside = 5 * 4 + 2 * 4 + 8;
    assert_eq!(bytes(KINDS[1]), 2 * 2 * numbers + beside);
    assert_eq!(bytes(KINDS[0]), 2 * 4 * numbers + beside);
    assert_eq!(bytes(KINDS[2]), 2 * 2 * numbers + 2 * (numbers + 1) + beside);
    let mut run = Run::new("adamw", KINDS[1], false);
    run.step(0);
    assert!(run.parameters.iter().all(|(_, p)| (p.kind(), p.grad().kind()) == (Kind::BFloat16, Kind::BFloat16)));
    let plain = build(&config("adamw"), Vec::new());
    assert!(plain.state().is_empty());
}
