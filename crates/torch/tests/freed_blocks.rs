//! Memory of large tensors that is kept for the next ones: a process of its own, as every tensor in it is made that way.
#![cfg(target_os = "linux")]

use sdtrain_torch::{keep_freed_blocks, return_freed_blocks};
use std::fs;
use tch::{Device, Kind, Tensor};

const MIB: i64 = 1 << 20;

/// Bytes that are resident now.
fn resident() -> i64 {
    let text = fs::read_to_string("/proc/self/statm").expect("Linux has it");
    text.split_whitespace().nth(1).expect("the second number").parse::<i64>().expect("pages") * 4096
}

fn bytes(mebibytes: i64, value: i64) -> Tensor {
    Tensor::full([mebibytes * MIB], value, (Kind::Uint8, Device::Cpu))
}

/// Compares without another tensor of the same size.
fn holds(tensor: &Tensor, value: i64) -> bool {
    tensor.min().int64_value(&[]) == value && tensor.max().int64_value(&[]) == value
}

#[test]
fn no_more_is_held_than_was_in_use_at_once_and_nothing_is_written_over() {
    keep_freed_blocks().expect("libtorch takes it");
    // What the first operations of a process take.
    assert!(holds(&bytes(2, 1), 1));
    return_freed_blocks();
    let before = resident();
    let about = |mebibytes: i64| {
        let held = (resident() - before) / MIB;
        assert!((held - mebibytes).abs() <= 16, "{held} MiB are held where {mebibytes} are meant");
    };
    let first: Vec<Tensor> = (0..16).map(|value| bytes(16, value)).collect();
    about(256);
    // Two neighbours become room for a larger one, and a large one for many.
    let kept: Vec<Tensor> = first.into_iter().enumerate().filter(|(at, _)| at % 4 == 0).map(|(_, it)| it).collect();
    about(256);
    let second: Vec<Tensor> = (0..4).map(|value| bytes(40, 100 + value)).collect();
    let third: Vec<Tensor> = (0..16).map(|value| bytes(2, 200 + value)).collect();
    about(256);
    for (value, tensor) in kept.iter().enumerate() {
        assert!(holds(tensor, 4 * value as i64), "of the first: {value}");
    }
    for (value, tensor) in second.iter().enumerate() {
        assert!(holds(tensor, 100 + value as i64), "of the second: {value}");
    }
    for (value, tensor) in third.iter().enumerate() {
        assert!(holds(tensor, 200 + value as i64), "of the third: {value}");
    }
    drop((second, third));
    // One that fits into nothing that is free takes the place of as much of it.
    let large = bytes(192, 7);
    about(256);
    assert!(holds(&large, 7) && holds(&kept[3], 12));
    drop((large, kept));
    about(256);
    return_freed_blocks();
    about(0);
}
