//! How long it takes until every weight of a model is in the dtype of computing, and to read each once more: `… --example load_speed
//! MODEL [bf16|fp16|fp32]`, on the processor.

use std::error::Error;
use std::time::Instant;

use sdtrain_model::{LoadOptions, load};
use serde_json::json;
use tch::{Device, Kind};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let location = args.next().ok_or("name a model: a file or a diffusers folder")?;
    let kind = match args.next().as_deref() {
        None | Some("bf16") => Kind::BFloat16,
        Some("fp16") => Kind::Half,
        Some("fp32") => Kind::Float,
        Some(other) => return Err(format!("`{other}` is none of bf16, fp16 and fp32").into()),
    };
    let start = Instant::now();
    let model = load(&location, &LoadOptions::new(Device::Cpu, kind))?;
    let loaded = start.elapsed().as_secs_f64();
    let (mut tensors, mut bytes, mut sum) = (0, 0, 0.0);
    for (_, network) in model.networks() {
        for (_, tensor) in network.iter() {
            tensors += 1;
            bytes += tensor.numel() * tensor.kind().elt_size_in_bytes();
            sum += tensor.sum(Kind::Float).double_value(&[]);
        }
    }
    let read = start.elapsed().as_secs_f64();
    println!("{}", json!({ "loaded": loaded, "read": read, "tensors": tensors, "bytes": bytes, "sum": sum }));
    Ok(())
}
