//! NCCL with one rank on one GPU: `… --example nccl_one_rank [DEVICE]`. Every operation of a group and its reducer, held against what one
//! rank alone must get. `libsdtrain_nccl.so` must lie beside the program; `scripts/gpu_check` runs it.

use sdtrain_torch::{Nccl, ProcessGroup, Reducer, Store, StoreAddress, device};
use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or("cuda:0".into());
    let gpu = device(&name)?;
    let Device::Cuda(index) = gpu else { return Err(format!("`{name}` is no GPU").into()) };
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let timeout = Duration::from_secs(60);
    let address = StoreAddress { host: "127.0.0.1".into(), port, prefix: "one-rank".into(), timeout };
    let store = Store::connect(&address, true)?;
    let group = ProcessGroup::gloo(&store, 0, 1, timeout, Some("127.0.0.1"))?;
    group.add_nccl(&Nccl::open()?, &store, index)?;
    for kind in [Kind::Float, Kind::BFloat16] {
        operations(&group, kind, gpu)?;
    }
    // What lies on the processor still goes by Gloo.
    operations(&group, Kind::Float, Device::Cpu)?;
    reducer(&group, gpu)?;
    group.barrier()?;
    println!("all_reduce, broadcast, all_gather, reduce_scatter and the reducer agree");
    Ok(())
}

/// What each operation leaves of a tensor where nobody else is there: the tensor.
fn operations(group: &ProcessGroup, kind: Kind, device: Device) -> Result<(), Box<dyn Error>> {
    let own = Tensor::f_randn([3 << 20], (kind, device))?;
    let copy = || -> Result<Tensor, tch::TchError> {
        let mut copy = own.f_empty_like()?;
        copy.f_copy_(&own)?;
        Ok(copy)
    };
    let (sum, largest, first) = (copy()?, copy()?, copy()?);
    let (all, part) = (own.f_zeros_like()?, own.f_zeros_like()?);
    group.all_reduce(&sum)?;
    group.all_reduce_largest(&largest)?;
    group.broadcast(&first, 0)?;
    group.all_gather(&all, &own)?;
    group.reduce_scatter(&part, &own)?;
    let results = [sum, largest, first, all, part];
    for (name, result) in ["sum", "largest", "broadcast", "all_gather", "reduce_scatter"].iter().zip(results) {
        if !result.f_equal(&own)? {
            return Err(format!("{name} of {kind:?} on {device:?} is not what went in").into());
        }
    }
    Ok(())
}

/// The reducer's gradients of the sum of squares, which are twice the parameters.
fn reducer(group: &ProcessGroup, device: Device) -> Result<(), Box<dyn Error>> {
    let parameter = |size: i64| Tensor::f_randn([size], (Kind::Float, device)).map(|made| made.set_requires_grad(true));
    let parameters = [parameter(1)?, parameter(1000)?, parameter(9 << 20)?];
    let backward = |factor: f64| {
        sdtrain_torch::catch(|| {
            let squares = parameters.iter().map(|parameter| parameter.square().sum(Kind::Float) * factor);
            if let Some(loss) = squares.reduce(|sum, square| sum + square) {
                loss.backward();
            }
        })
    };
    // A reducer takes parameters that have gradients.
    backward(0.0)?;
    let mut reducer = Reducer::new(group, &parameters)?;
    for pass in 0..3 {
        reducer.begin_pass()?;
        backward(1.0)?;
        reducer.end_pass()?;
        for parameter in &parameters {
            let mut gradient = parameter.grad();
            if !gradient.f_equal(&parameter.f_detach()?.f_mul_scalar(2.0)?)? {
                return Err(
                    format!("pass {pass} of the reducer: {:?} numbers have other gradients", parameter.size()).into()
                );
            }
            let _ = gradient.f_zero_()?;
        }
    }
    Ok(())
}
