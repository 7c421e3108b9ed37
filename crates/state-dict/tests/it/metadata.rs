//! Hashes and ModelSpec keys as other programs compute and read them.

use std::collections::BTreeMap;
use std::fs;

use sdtrain_state_dict::metadata::{
    ModelSpec, architecture, full_model_hash, legacy_model_hash, sshs_hashes, sshs_model_hash,
};
use sdtrain_state_dict::{Dtype, Family, TensorEntry, write, write_to};
use sha2::{Digest, Sha256};

use crate::fixtures::entry;

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn large() -> Vec<TensorEntry> {
    vec![entry("b", Dtype::F32, &[400, 1000]), entry("a", Dtype::F16, &[7, 11])]
}

#[test]
fn hashes_cover_the_bytes_that_kohyas_scripts_cover() {
    let tensors = large();
    let metadata: BTreeMap<String, String> = [("ss_seed", "1"), ("modelspec.title", "mine"), ("ss_epoch", "2")]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into();
    let only_ss = metadata.iter().filter(|(key, _)| key.starts_with("ss_"));
    let only_ss: BTreeMap<String, String> = only_ss.map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors.as_slice(), &only_ss).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (model, legacy) = sshs_hashes(tensors.as_slice(), &metadata).unwrap();
    assert_eq!(model, hex(&bytes[8 + header..]));
    assert_eq!(legacy, hex(&bytes[0x100000..0x110000])[..8]);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    write(&path, &tensors, &metadata).unwrap();
    let saved = fs::read(&path).unwrap();
    assert_eq!(sshs_model_hash(&path).unwrap(), model, "titles do not change the hash of the weights");
    assert_eq!(legacy_model_hash(&path).unwrap(), hex(&saved[0x100000..0x110000])[..8]);
    assert_eq!(full_model_hash(&path).unwrap(), hex(&saved));
}

#[test]
fn small_files_have_the_legacy_hash_of_nothing() {
    let (_, legacy) = sshs_hashes([entry("a", Dtype::F16, &[1])].as_slice(), &BTreeMap::new()).unwrap();
    assert_eq!(legacy, "e3b0c442");
}

#[test]
fn model_spec_keys_are_complete_and_unset_ones_absent() {
    let spec = ModelSpec {
        architecture: architecture(Family::Sd1, false, Some("lora")),
        implementation: "diffusers".to_string(),
        title: "posters".to_string(),
        resolution: Some((512, 768)),
        timestep_range: Some((0, 1000)),
        encoder_layer: Some(2),
        ..ModelSpec::default()
    };
    let expected = [
        ("modelspec.architecture", "stable-diffusion-v1/lora"),
        ("modelspec.encoder_layer", "2"),
        ("modelspec.implementation", "diffusers"),
        ("modelspec.resolution", "512x768"),
        ("modelspec.sai_model_spec", "1.0.1"),
        ("modelspec.timestep_range", "0,1000"),
        ("modelspec.title", "posters"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(key, value)| (key.to_string(), value.to_string())).into();
    assert_eq!(spec.keys(), expected);
    assert_eq!(architecture(Family::Sd2, true, None), "stable-diffusion-v2-768-v");
}

#[test]
fn an_adapter_says_of_its_base_what_its_metadata_say() {
    let output = std::path::Path::new("out/style.v2.safetensors");
    let spec = |said: &[(&str, &str)]| {
        let metadata = said.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        ModelSpec::of_adapter(Family::Sd2, "lora", &metadata, output)
    };
    for (said, architecture, prediction) in [
        (&[("ss_base_model_version", "sd_v2")][..], "stable-diffusion-v2-512/lora", Some("epsilon")),
        (&[("ss_base_model_version", "sd_v2_v")], "stable-diffusion-v2-768-v/lora", Some("v")),
        (
            &[("ss_base_model_version", "sd_v2_v"), ("modelspec.prediction_type", "epsilon")],
            "stable-diffusion-v2-512/lora",
            Some("epsilon"),
        ),
        (&[], "stable-diffusion-v2/lora", None),
    ] {
        let spec = spec(said);
        assert_eq!((&*spec.architecture, spec.prediction_type.as_deref()), (architecture, prediction), "{said:?}");
        assert_eq!(spec.title, "style.v2");
    }
}
