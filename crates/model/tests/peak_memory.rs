//! A model is never held twice while it is loaded: the peak of the process, which has no other test in it.
#![cfg(target_os = "linux")]

use sdtrain_model::{LoadOptions, load};
use sdtrain_torch_test_support::copy_folder;
use std::fs;
use std::path::Path;
use tch::{Device, Kind};

/// A value of `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = text.lines().find(|line| line.starts_with(key)).expect("Linux has it");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") * 1024
}

#[test]
fn loading_holds_the_weights_once() {
    sdtrain_torch::keep_freed_blocks().expect("libtorch takes it");
    let tiny = sdtrain_torch_test_support::fixture_folder().join("tiny_sd1");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let large = folder.path().join("large");
    copy_folder(&tiny, &large);
    // The UNet of the fixture with channels enough to be seen beside everything else.
    let config = large.join("unet/config.json");
    let mut unet: serde_json::Value = serde_json::from_str(&fs::read_to_string(&config).expect("it is there")).unwrap();
    unet["block_out_channels"] = serde_json::json!([256, 512]);
    fs::write(&config, unet.to_string()).expect("it can be written");
    let load = |path: &Path, options: &LoadOptions| load(path.to_str().expect("plain"), options).expect("it loads");
    let random = LoadOptions { random: Some(1), ..LoadOptions::new(Device::Cpu, Kind::Float) };
    let written = folder.path().join("written");
    load(&large, &random).save_folder(&written, None, &std::collections::BTreeMap::new()).expect("it can be written");

    for kind in [Kind::Float, Kind::BFloat16] {
        // Else the memory of one model would be there for the next, and nothing would be seen of that.
        sdtrain_torch::return_freed_blocks();
        // Resets the peak to what is held now.
        fs::write("/proc/self/clear_refs", "5").expect("Linux allows it");
        let before = status("VmRSS");
        let model = load(&written, &LoadOptions::new(Device::Cpu, kind));
        let peak = status("VmHWM").saturating_sub(before);
        let size = (model.unet.parameters().count() * if kind == Kind::Float { 4 } else { 2 }) as u64;
        assert!(size > 60 << 20, "too small to be seen: {size} bytes");
        assert!(peak > size - size / 8, "{kind:?}: {size} bytes of weights are not seen in {peak} bytes");
        // Beside the weights: one tensor in conversion, and up to 64 MiB of the file that are not given back yet.
        assert!(peak < size + (80 << 20), "{kind:?}: {peak} bytes for {size} bytes of weights");
    }
}
