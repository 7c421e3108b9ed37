//! How long a step of each optimizer takes over 40 million parameters, and what its state weighs: `… --example optimizer_speed
//! [TYPE]…`.

use std::time::Instant;

use sdtrain_optimizer::{ParamGroup, build};
use sdtrain_recipe::OptimizerConfig;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// As of a network: matrices of a million numbers.
const TENSORS: i64 = 40;
const SHAPE: [i64; 2] = [1000, 1000];
const STEPS: usize = 7;

fn measure(name: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let config: OptimizerConfig = serde_json::from_value(json!({ "type": name }))?;
    let parameters: Vec<(String, Tensor)> = (0..TENSORS)
        .map(|index| {
            let parameter = Tensor::randn(SHAPE, (Kind::Float, Device::Cpu)).set_requires_grad(true);
            (&parameter * Tensor::randn(SHAPE, (Kind::Float, Device::Cpu))).sum(Kind::Float).backward();
            (format!("layers.{index}.weight"), parameter)
        })
        .collect();
    let group = ParamGroup { name: "unet".into(), learning_rate: 1e-4, parameters };
    let mut optimizer = build(&config, vec![group]);
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
    let names: Vec<&str> =
        if named.is_empty() { OptimizerConfig::NAMES.to_vec() } else { named.iter().map(String::as_str).collect() };
    let mut found = serde_json::Map::new();
    for name in names {
        found.insert(name.to_owned(), measure(name)?);
    }
    println!("{}", Value::Object(found));
    Ok(())
}
