//! Adapter files in both forms: others' are read, ours come back unchanged, those of another model are refused.

use crate::{FP32, attached, text_output, tiny_model, unet_output};
use sdtrain_adapter::{Error, Lora, LoraFile, Networks, kohya_metadata};
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::LoraConfig;
use sdtrain_state_dict::maps::lora_peft::{LoraTensor, Part};
use sdtrain_state_dict::{Dtype, Reader, SafetensorsFile, TensorEntry, open_file, write};
use sdtrain_torch_test_support::{Golden, assert_equal, assert_near, fixture_folder};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Kind;

fn open(path: &Path) -> SafetensorsFile {
    SafetensorsFile::open(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn files_of_kohyas_scripts_and_of_peft_give_diffusers_output() {
    let golden = Golden::open("lora.safetensors");
    for file in ["lora_kohya.safetensors", "lora_peft.safetensors"] {
        let model = tiny_model();
        attached(&open(&fixture_folder().join(file)), &model);
        assert_near(file, &unet_output(&model, &golden), &golden.tensor("output.sample"), FP32);
        assert_near(file, &text_output(&model, &golden), &golden.tensor("output.last_hidden_state"), FP32);
    }
}

/// Of a pickle as PAI-Diffusion's are, in which alpha is the rank.
#[test]
fn attention_processors_of_earlier_diffusers_are_what_they_are_merged_into_a_model() {
    let golden = Golden::open("attention_processors/merged.safetensors");
    let path = fixture_folder().join("attention_processors/pytorch_model.bin");
    let file = open_file(&path).unwrap_or_else(|error| panic!("{error}"));
    let model = tiny_model();
    let networks = Networks::of(&model);
    let lora = attached(&*file, &model);
    assert_eq!(lora.modules().len(), 32, "four layers of eight attentions");
    let output = golden.tensor("output.sample");
    assert_near("beside the weights", &unet_output(&model, &golden), &output, FP32);
    let config = golden.config();
    let attention = config["attention"].as_str().expect("a path");
    let layers = golden.names_under("output.merged.");
    assert_eq!(layers.len(), 4);
    for layer in layers {
        let path = format!("{attention}.{layer}");
        let module = lora.modules().iter().find(|module| module.path == path).expect("it has an adapter");
        let expected = golden.tensor(&format!("output.merged.{layer}"));
        // One product and one sum for each number.
        assert_near(&path, &module.layer.merged().0, &expected, 1e-6);
    }
    networks.layers().for_each(|(_, _, layer)| layer.detach_all());
    lora.merge(&networks).expect("it fits");
    assert_near("in the weights", &unet_output(&model, &golden), &output, FP32);
}

/// Adapters of two ranks and two alphas in both networks, none of them zero.
fn varied_lora(model: &StableDiffusion) -> Lora {
    let config = LoraConfig {
        rank: 4,
        alpha: Some(1.0),
        train_text_encoder: true,
        convolutions: true,
        conv_rank: Some(3),
        conv_alpha: Some(6.0),
        ..LoraConfig::default()
    };
    let lora = Lora::new(&config, 7, &Networks::of(model)).expect("there are such layers");
    for (number, module) in lora.modules().iter().enumerate() {
        tch::manual_seed(number as i64);
        for (_, tensor) in module.layer.adapter().parameters().into_iter().filter(|(name, _)| *name == LoraTensor::Up) {
            let noise = tensor.randn_like() * 0.3;
            tensor.shallow_clone().copy_(&noise);
        }
    }
    lora
}

#[test]
fn saved_files_of_both_forms_load_as_the_same_adapters() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let model = tiny_model();
    let lora = varied_lora(&model);
    let networks = Networks::of(&model);
    let (kohya, peft) = (scratch.path().join("kohya.safetensors"), scratch.path().join("peft.safetensors"));
    let metadata = BTreeMap::from([("ss_output_name".to_string(), "a test".to_string())]);
    lora.save_kohya(&kohya, Kind::Float, &metadata).expect("there is room");
    lora.save_peft(&peft, Kind::Float, &metadata).expect("there is room");
    for path in [&kohya, &peft] {
        let file = open(path);
        assert_eq!(file.metadata()["ss_output_name"], "a test");
        let read = LoraFile::read(&file, &networks).expect("adapters of this model").into_lora(&networks);
        let read = read.expect("they fit");
        let scale = |lora: &Lora| -> Vec<(String, Option<f64>, Option<i64>)> {
            lora.modules().iter().map(|m| (m.path.clone(), m.alpha(), m.rank())).collect()
        };
        assert_eq!(scale(&read), scale(&lora), "{}", path.display());
        for part in [Part::Unet, Part::TextEncoder] {
            for ((name, found), (expected_name, expected)) in read.parameters(part).iter().zip(lora.parameters(part)) {
                assert_eq!(*name, expected_name);
                assert_equal(name, found, &expected);
            }
        }
    }
}

#[test]
fn names_and_shapes_are_those_that_kohyas_scripts_and_peft_write() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let model = tiny_model();
    for (form, theirs) in [("kohya", "lora_kohya.safetensors"), ("peft", "lora_peft.safetensors")] {
        let theirs = open(&fixture_folder().join(theirs));
        let networks = Networks::of(&model);
        let lora = LoraFile::read(&theirs, &networks).expect("adapters of this model").into_lora(&networks);
        let lora = lora.expect("they fit");
        let path = scratch.path().join(form);
        match form {
            "kohya" => lora.save_kohya(&path, Kind::Float, &kohya_metadata(&lora, &LoraConfig::default())),
            _ => lora.save_peft(&path, Kind::Float, &BTreeMap::new()),
        }
        .expect("there is room");
        let ours = open(&path);
        assert_eq!(ours.names(), theirs.names());
        for name in theirs.names() {
            assert_eq!(ours.info(name), theirs.info(name), "{name}");
            assert_eq!(ours.bytes(name).expect("listed"), theirs.bytes(name).expect("listed"), "{name}");
        }
        for (key, value) in theirs.metadata().iter().filter(|(key, _)| key.starts_with("ss_")) {
            // kohya's scripts write whole alphas as `2.0` or `2`, depending on their version.
            let number = |text: &str| text.parse::<f64>().ok();
            let found = &ours.metadata()[key];
            assert!(found == value || number(found).is_some() && number(found) == number(value), "{key}: {found}");
        }
    }
}

#[test]
fn half_precision_files_hold_the_rounded_adapters() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let model = tiny_model();
    let lora = varied_lora(&model);
    let path = scratch.path().join("half.safetensors");
    lora.save_kohya(&path, Kind::Half, &BTreeMap::new()).expect("there is room");
    let networks = Networks::of(&model);
    let read = LoraFile::read(&open(&path), &networks).expect("adapters").into_lora(&networks).expect("they fit");
    for ((name, found), (_, expected)) in read.parameters(Part::Unet).iter().zip(lora.parameters(Part::Unet)) {
        assert_equal(name, found, &expected.to_kind(Kind::Half).to_kind(Kind::Float));
    }
}

/// The error that a file with `tensors` gives.
fn refused(tensors: &[(&str, &[usize])]) -> Error {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let path = scratch.path().join("other.safetensors");
    let entries: Vec<TensorEntry> = tensors
        .iter()
        .map(|(name, shape)| TensorEntry {
            name: name.to_string(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: vec![0; shape.iter().product::<usize>() * 4],
        })
        .collect();
    write(&path, &entries, &BTreeMap::new()).expect("there is room");
    let model = tiny_model();
    let networks = Networks::of(&model);
    LoraFile::read(&open(&path), &networks).and_then(|file| file.into_lora(&networks)).expect_err("it does not fit")
}

#[test]
fn a_file_for_another_model_is_refused_with_the_first_layer_that_does_not_fit() {
    const TO_K: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k";
    let (down, up) = (format!("unet.{TO_K}.lora_A.weight"), format!("unet.{TO_K}.lora_B.weight"));
    let kohya = format!("lora_unet_{}.lora_down.weight", TO_K.replace('.', "_").replacen("blocks_0", "blocks_7", 1));
    const ANOTHER: &str = "another base model";
    for (tensors, reason, hint) in [
        // SD2's context is 1024 wide.
        (vec![(down.as_str(), &[4usize, 1024][..]), (up.as_str(), &[8, 4])], TO_K, "a model of the SD2 family"),
        (vec![(&down, &[4, 32])], "one of its two matrices is missing", ANOTHER),
        (vec![(&down, &[4, 32]), (&up, &[8, 2])], "matrices [4, 32] and [8, 2] beside a weight [8, 32]", ANOTHER),
        (
            vec![("unet.down_blocks.5.lora_A.weight", &[4, 32]), ("unet.down_blocks.5.lora_B.weight", &[8, 4])],
            "no such layer",
            ANOTHER,
        ),
        (vec![(&kohya, &[4, 32])], "1 tensors have no layer in it", ANOTHER),
        (
            vec![("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", &[4, 32])],
            "have no layer in it",
            "a model of the SDXL family",
        ),
        (vec![("conv_in.weight", &[4, 32])], "have no layer in it", ANOTHER),
        (vec![("emb_params", &[2, 768])], "is a textual inversion embedding, no adapter", "`--embedding`"),
    ] {
        let error = refused(&tensors);
        let message = error.to_string();
        assert!(message.contains(reason) && message.contains("other.safetensors"), "{message}");
        assert!(error.hint().expect("a way out").contains(hint), "{message}");
    }
}

/// A LoRA of rank 2 beside one layer of the tiny model, whose alpha is `alpha`.
fn with_alpha(alpha: f32) -> SafetensorsFile {
    with_numbers(alpha, 1.0)
}

/// The same with `last` as the last number of its second matrix.
fn with_numbers(alpha: f32, last: f32) -> SafetensorsFile {
    const LAYER: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    let tensor = |name: &str, shape: &[usize], values: &[f32]| TensorEntry {
        name: format!("{LAYER}.{name}"),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let mut up = [1.0; 16];
    up[15] = last;
    let tensors = [
        tensor("alpha", &[], &[alpha]),
        tensor("lora_down.weight", &[2, 32], &[1.0; 64]),
        tensor("lora_up.weight", &[8, 2], &up),
    ];
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let path = scratch.path().join("alpha.safetensors");
    write(&path, &tensors, &BTreeMap::new()).expect("there is room");
    open(&path)
}

#[test]
fn a_matrix_with_a_number_that_is_none_is_refused_by_name() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    for last in [f32::NAN, f32::INFINITY] {
        let error = LoraFile::read(&with_numbers(2.0, last), &networks).expect_err("it would spoil the weights");
        let message = error.to_string();
        assert!(message.contains("lora_up.weight` holds 1 of 16 numbers that are not finite"), "{message}");
    }
}

#[test]
fn an_alpha_of_zero_counts_as_the_rank_and_one_that_is_no_number_is_refused_by_name() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    let lora = LoraFile::read(&with_alpha(0.0), &networks).and_then(|file| file.into_lora(&networks));
    assert_eq!(lora.expect("kohya's scripts take it").modules()[0].alpha(), Some(2.0));
    for alpha in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = LoraFile::read(&with_alpha(alpha), &networks).expect_err("it would be the strength");
        let message = error.to_string();
        assert!(matches!(error, Error::NoScale { .. }), "{message}");
        assert!(message.contains("attn2.to_k") && message.contains("alpha.safetensors"), "{message}");
        let merged = sdtrain_adapter::AdapterSum::default().add_file(&with_alpha(alpha), 1.0);
        assert!(matches!(merged, Err(Error::NoScale { .. })), "{merged:?}");
    }
}
