//! sd-scripts#818: no memory at save time. Saving makes no second copy of what it saves. A process of its own, since it looks at the
//! whole process.
#![cfg(target_os = "linux")]

use sdtrain_model::TensorReader;
use sdtrain_state_dict::write_source;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// The most memory that this process has had so far, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is said");
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
}

#[test]
fn sd_scripts_818_saving_takes_no_second_copy() {
    const COUNT: i64 = 64;
    const SIDE: i64 = 1024;
    let tensors: Vec<(String, Tensor)> = (0..COUNT)
        .map(|i| (format!("layer.{i}.weight"), Tensor::ones([SIDE, SIDE], (Kind::Float, Device::Cpu))))
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    // As they are, and as a file in half the precision.
    for kind in [None, Some(Kind::Half)] {
        let path = folder.path().join("state.safetensors");
        let before = peak();
        let reader = TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), kind);
        write_source(&path, &reader, &BTreeMap::new()).expect("there is room");
        let (grown, all) = (peak() - before, (COUNT * SIDE * SIDE * 4) as usize);
        assert!(grown < all / 8, "{kind:?}: {grown} bytes more for {all} bytes of weights");
    }
}
