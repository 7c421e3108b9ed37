//! The running mean of weights in a single-file checkpoint.

use std::path::PathBuf;
use std::sync::Arc;

use sdtrain_state_dict::{
    Dtype, Reader, SafetensorsFile, TensorEntry, ldm_single_file, open_file, read_floats, with_averaged_unet,
    without_averaged_unet, write,
};

const PREFIX: &str = "model.diffusion_model.";

/// The tiny model with a mean of its UNet beside it that is twice each weight, as LDM names it, but for the tensor `without`.
fn with_mean(folder: &tempfile::TempDir, without: Option<&str>) -> PathBuf {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sd1.safetensors");
    let tiny = SafetensorsFile::open(tiny).expect("a fixture");
    let mut tensors = Vec::new();
    for name in tiny.names() {
        let shape = tiny.info(name).expect("listed").shape.clone();
        let values = read_floats(&tiny, name);
        let mut put = |name: String, factor: f32| {
            let Ok(values) = &values else { return };
            let bytes = values.iter().flat_map(|value| (value * factor).to_le_bytes()).collect();
            tensors.push(TensorEntry { name, dtype: Dtype::F32, shape: shape.clone(), bytes });
        };
        put(name.to_owned(), 1.0);
        if let Some(inside) = name.strip_prefix("model.").filter(|_| name.starts_with(PREFIX) && Some(name) != without)
        {
            put(format!("model_ema.{}", inside.replace('.', "")), 2.0);
        }
    }
    let file = folder.path().join("trained.safetensors");
    write(&file, &tensors, tiny.metadata()).expect("a writable folder");
    file
}

fn open(path: &PathBuf) -> Arc<dyn Reader> {
    Arc::from(open_file(path).expect("it was just written"))
}

#[test]
fn the_mean_takes_the_place_of_the_unets_weights_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = with_mean(&folder, None);
    let raw = ldm_single_file(open(&path)).expect("a checkpoint");
    let mean = ldm_single_file(with_averaged_unet(open(&path)).expect("it has one")).expect("a checkpoint");
    assert_eq!(raw.unet.names(), mean.unet.names());
    for name in raw.unet.names() {
        let [raw, mean] = [&raw.unet, &mean.unet].map(|unet| read_floats(unet, name).expect("listed"));
        assert!(raw.iter().zip(&mean).all(|(raw, mean)| raw * 2.0 == *mean), "{name}");
    }
    let [raw, mean] = [raw.text_encoders, mean.text_encoders];
    for name in raw[0].names() {
        assert_eq!(raw[0].bytes(name).expect("listed"), mean[0].bytes(name).expect("listed"), "{name}");
    }
}

#[test]
fn a_mean_that_is_not_there_or_not_whole_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refused = |path: &PathBuf| with_averaged_unet(open(path)).err().expect("refused").to_string();
    let lacking = refused(&with_mean(&folder, Some("model.diffusion_model.out.2.bias")));
    assert!(lacking.contains("holds no running mean (`model_ema.…`) of 1 of its UNet's"), "{lacking}");
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sd1.safetensors");
    assert!(refused(&tiny).contains("holds no running mean of its UNet's weights (`model_ema.…`)"));
}

#[test]
fn without_its_mean_the_checkpoint_has_its_own_weights_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = with_mean(&folder, None);
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sd1.safetensors");
    let (plain, tiny) = (without_averaged_unet(open(&path)).expect("names stay"), open(&tiny));
    let is_of_mean = |name: &&str| name.starts_with("model_ema.");
    assert!(open(&path).names().iter().any(is_of_mean) && !plain.names().iter().any(is_of_mean));
    for name in tiny.names().into_iter().filter(|name| name.starts_with(PREFIX)) {
        assert_eq!(plain.bytes(name).expect("listed"), tiny.bytes(name).expect("listed"), "{name}");
    }
}
