//! Tiny models for inpainting and for editing: one of the fixtures with more input channels, which need no file of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sdtrain_state_dict::{Dtype, Reader, SafetensorsFile, TensorEntry, read_floats, read_json, write};

use crate::{copy_folder, fixture_folder};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const CONV_IN: &str = "conv_in.weight";
/// One for the mask, four for the latents of the masked picture.
const ADDED_CHANNELS: usize = 5;
/// Those of the latents of the picture that is edited.
const EDITING_CHANNELS: usize = 4;

/// Writes the diffusers folder of the fixture `name` into `target`, its UNet made one of 9 input channels with the weights of
/// `scripts/fixtures/inpainting_unet.py`: ((37 i) mod 101 − 50) / 500 of the element's place i.
pub fn write_inpainting_folder(name: &str, target: &Path) {
    write_wider_folder(name, target, ADDED_CHANNELS);
}

/// The same for editing by instruction, with a UNet of 8 input channels, as InstructPix2Pix has.
pub fn write_editing_folder(name: &str, target: &Path) {
    write_wider_folder(name, target, EDITING_CHANNELS);
}

fn write_wider_folder(name: &str, target: &Path, added: usize) {
    copy_folder(&fixture_folder().join(name), target);
    let config = target.join("unet/config.json");
    let mut json = read_json(&config).expect("a fixture");
    json["in_channels"] = (4 + added).into();
    fs::write(config, json.to_string()).expect("there is room");
    let file = SafetensorsFile::open(fixture_folder().join(name).join(UNET)).expect("a fixture");
    let entries = file.names().into_iter().map(|tensor| {
        let info = file.info(tensor).expect("it is listed");
        let (dtype, shape, bytes) = match tensor {
            CONV_IN => (Dtype::F32, widened_shape(&info.shape, added), widened(&info.shape, added, &file)),
            _ => (info.dtype, info.shape.clone(), file.bytes(tensor).expect("a fixture").into_owned()),
        };
        TensorEntry { name: tensor.to_owned(), dtype, shape, bytes }
    });
    write(&target.join(UNET), &entries.collect::<Vec<_>>(), &BTreeMap::new()).expect("there is room");
}

fn widened_shape(shape: &[usize], added: usize) -> Vec<usize> {
    vec![shape[0], shape[1] + added, shape[2], shape[3]]
}

/// The elements of the first convolution, fp32, with the new channels behind its own.
fn widened(shape: &[usize], added: usize, file: &SafetensorsFile) -> Vec<u8> {
    let (own, extra) = (shape[1] * 9, added * 9);
    let number = |place: usize| (((place * 37 % 101) as f64 - 50.0) / 500.0) as f32;
    let weights = read_floats(file, CONV_IN).expect("a fixture");
    let rows = weights.chunks_exact(own).enumerate();
    let rows = rows.flat_map(|(row, own)| own.iter().copied().chain((row * extra..(row + 1) * extra).map(number)));
    rows.flat_map(f32::to_le_bytes).collect()
}
