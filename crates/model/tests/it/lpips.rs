//! LPIPS against the lpips package, with weights that a formula makes: a VGG16 is too large for a golden file.

use crate::FP32;
use sdtrain_model::Lpips;
use sdtrain_torch_test_support::{Golden, assert_near, fixture_folder, write_lpips_network};
use tch::{Device, Kind, Tensor};

#[test]
fn distance_and_gradient_match_the_lpips_package() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let path = scratch.path().join("lpips.safetensors");
    write_lpips_network(&path);
    let lpips = Lpips::open(&path, Device::Cpu).expect("a complete file");
    let golden = Golden::open("lpips.safetensors");
    let picture = golden.tensor("input.picture").set_requires_grad(true);
    let reference = golden.tensor("input.reference").set_requires_grad(true);
    let distance = lpips.distance(&picture, &reference);
    assert_near("distance", &distance, &golden.tensor("output.distance"), FP32);
    (distance * Tensor::from_slice(&[1.0f32, 3.0])).sum(Kind::Float).backward();
    // Of 13 convolutions with maxima between them: the last digits of a gradient are those of the order of addition.
    assert_near("gradient", &picture.grad(), &golden.tensor("output.gradient"), 10.0 * FP32);
    assert!(!reference.grad().defined(), "the picture that is to be reached does not move");

    // Pictures without a difference, and one without a feature of any length, have a gradient of zero and not of nothing.
    let even = Tensor::zeros([1, 3, 16, 16], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let none = lpips.distance(&even, &even.detach());
    assert_eq!(none.double_value(&[0]), 0.0);
    none.sum(Kind::Float).backward();
    assert_eq!(even.grad().abs().max().double_value(&[]), 0.0);
}

#[test]
fn a_file_of_something_else_is_refused_by_what_it_lacks() {
    let found = Lpips::open(&fixture_folder().join("vae.safetensors"), Device::Cpu).expect_err("a VAE").to_string();
    assert!(found.contains("is not the state dict of `lpips.LPIPS(net=\"vgg\")`"), "{found}");
    assert!(found.contains("net.slice1.0.weight"), "{found}");
}
