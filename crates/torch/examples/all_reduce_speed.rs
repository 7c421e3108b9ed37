//! How long sums over two ranks take, by size: a line of JSON for each. `scripts/bench --only ranks` runs it.

use sdtrain_torch::{ProcessGroup, Result, Store, StoreAddress};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Numbers of 32 bits: what a rank-16 LoRA has, and more.
const SIZES: [usize; 5] = [1 << 10, 1 << 16, 1 << 20, 3_200_000, 1 << 24];
const TURNS: usize = 7;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let timeout = Duration::from_secs(60);
    let address = StoreAddress { host: "127.0.0.1".into(), port, prefix: "speed".into(), timeout };
    let ranks: Vec<_> = (0..2)
        .map(|rank| {
            let address = address.clone();
            thread::spawn(move || measure(&address, rank))
        })
        .collect();
    for (rank, handle) in ranks.into_iter().enumerate() {
        let medians = handle.join().map_err(|_| "a rank panicked")??;
        for (numbers, seconds) in medians.iter().filter(|_| rank == 0) {
            println!("{{\"bytes\": {}, \"seconds\": {seconds:.6}}}", numbers * 4);
        }
    }
    Ok(())
}

/// The median time of each size.
fn measure(address: &StoreAddress, rank: usize) -> Result<Vec<(usize, f64)>> {
    let store = Store::connect(address, rank == 0)?;
    let group = ProcessGroup::gloo(&store, rank, 2, address.timeout, Some("127.0.0.1"))?;
    let mut medians = Vec::new();
    for numbers in SIZES {
        let values = Tensor::ones([numbers as i64], (Kind::Float, Device::Cpu));
        let mut times = Vec::new();
        for _ in 0..TURNS {
            group.barrier()?;
            let began = Instant::now();
            group.all_reduce(&values)?;
            times.push(began.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        medians.push((numbers, times[TURNS / 2]));
    }
    Ok(medians)
}
