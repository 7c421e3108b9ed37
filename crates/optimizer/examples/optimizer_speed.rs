//! How long a step of each optimizer takes over 40 million parameters, and what its state weighs: `… --example optimizer_speed
//! [TYPE]…`; `TYPE:bf16` keeps weights and state in bf16, rounded stochastically.

use std::time::Instant;

use sdtrain_optimizer::{ParamGroup, Storage, build_stored};
use sdtrain_recipe::{OptimizerConfig, Rounding, StoredType};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// As of a network: matrices of a million numbers.
const TENSORS: i64 = 40;
const SHAPE: [i64; 2] = [1000, 1000];
const STEPS: usize = 7;

fn measure(name: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let (kind, stored) = name.split_once(':').unwrap_or((name, "fp32"));
    let config: OptimizerConfig = serde_json::from_value(json!({ "type": kind }))?;
    let stored: StoredType = serde_json::from_value(json!(stored))?;
    let storage = Storage { weights: stored, rounding: Rounding::Stochastic, state: stored, seed: 0 };
    let parameters: Vec<(String, Tensor)> = (0..TENSORS)
        .map(|index| {
            let numbers = Tensor::randn(SHAPE, (Kind::Float, Device::Cpu));
            let parameter = match stored {
                StoredType::Fp32 => numbers,
                StoredType::Bf16 => numbers.to_kind(Kind::BFloat16),
            }
            .set_requires_grad(true);
            (&parameter * Tensor::randn(SHAPE, (Kind::Float, Device::Cpu))).sum(Kind::Float).backward();
            (format!("layers.{index}.weight"), parameter)
        })
        .collect();
    let group = ParamGroup { name: "unet".into(), learning_rate: 1e-4, parameters };
    let mut optimizer = build_stored(&config, vec![group], storage, false)?;
    // The first one also makes the state.
    optimizer.step(&[1e-4], None)?;
    let mut seconds = Vec::new();
    for _ in 0..STEPS {
        let start = Instant::now();
        optimizer.step(&[1e-4], None)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let bytes: usize =
        optimizer.state().iter().map(|(_, tensor)| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum();
    let parameters = (TENSORS * SHAPE[0] * SHAPE[1]) as f64;
    Ok(json!({ "seconds": seconds[STEPS / 2], "state_bytes_per_parameter": bytes as f64 / parameters }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let mut names: Vec<&str> = named.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = OptimizerConfig::NAMES.to_vec();
        names.push("adamw:bf16");
    }
    let mut found = serde_json::Map::new();
    for name in names {
        found.insert(name.to_owned(), measure(name)?);
    }
    println!("{}", Value::Object(found));
    Ok(())
}
