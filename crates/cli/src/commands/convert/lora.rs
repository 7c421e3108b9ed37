//! LoRA files between kohya's names and PEFT's.
//!
//! kohya's form has an alpha for each layer as a tensor, PEFT's has them in the metadata; the matrices are the same.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use sdtrain_state_dict::maps::lora_kohya::{TextEncoders, is_kohya_name, kohya_name, parse_by_words};
use sdtrain_state_dict::maps::lora_peft::{self, LoraKey, LoraTensor, Part, peft_name};
use sdtrain_state_dict::maps::peft_metadata::{self, AdaptedLayer, PeftConfig};
use sdtrain_state_dict::metadata::sshs_hashes;
use sdtrain_state_dict::{Dtype, Reader, TensorEntry, read_floats, write};

use crate::{ExitCode, Failure};

/// One adapted layer.
struct Layer {
    part: Part,
    module: String,
    down: TensorEntry,
    up: TensorEntry,
    alpha: f64,
}

impl Layer {
    fn rank(&self) -> usize {
        self.down.shape.first().copied().unwrap_or(1).max(1)
    }

    fn key(&self, tensor: LoraTensor) -> LoraKey {
        LoraKey { part: self.part, module: self.module.clone(), tensor }
    }
}

pub(super) fn to_kohya(file: &dyn Reader, output: &Path) -> Result<(), Failure> {
    let layers = read(file)?;
    let two = layers.iter().any(|layer| layer.part == Part::TextEncoder2);
    let text_encoders = if two { TextEncoders::Two } else { TextEncoders::One };
    let mut tensors = Vec::new();
    for layer in layers {
        let name = |tensor| kohya_name(&layer.key(tensor), text_encoders);
        let alpha = TensorEntry {
            name: name(LoraTensor::Alpha),
            dtype: layer.down.dtype,
            shape: Vec::new(),
            bytes: floats_to_bytes(&[layer.alpha as f32], layer.down.dtype),
        };
        tensors.push(TensorEntry { name: name(LoraTensor::Down), ..layer.down.clone() });
        tensors.push(TensorEntry { name: name(LoraTensor::Up), ..layer.up.clone() });
        tensors.push(alpha);
    }
    let mut metadata = kept_metadata(file);
    let (model_hash, legacy_hash) = sshs_hashes(tensors.as_slice(), &metadata)?;
    metadata.insert("sshs_model_hash".to_owned(), model_hash);
    metadata.insert("sshs_legacy_hash".to_owned(), legacy_hash);
    Ok(write(output, &tensors, &metadata)?)
}

pub(super) fn to_peft(file: &dyn Reader, output: &Path) -> Result<(), Failure> {
    let layers = read(file)?;
    let mut described: BTreeMap<Part, Vec<AdaptedLayer>> = BTreeMap::new();
    for layer in &layers {
        let entry = AdaptedLayer { module: &layer.module, rank: layer.rank(), alpha: layer.alpha };
        described.entry(layer.part).or_default().push(entry);
    }
    let configs = described.iter().map(|(part, layers)| (*part, PeftConfig::describing(layers))).collect();
    let mut metadata = kept_metadata(file);
    metadata.insert("format".to_owned(), "pt".to_owned());
    metadata.insert(peft_metadata::KEY.to_owned(), peft_metadata::to_json(&configs));
    let mut tensors = Vec::new();
    for layer in layers {
        let [down, up] = [LoraTensor::Down, LoraTensor::Up].map(|tensor| peft_name(&layer.key(tensor)));
        tensors.push(TensorEntry { name: down, ..layer.down });
        tensors.push(TensorEntry { name: up, ..layer.up });
    }
    Ok(write(output, &tensors, &metadata)?)
}

/// Hashes belong to the old bytes, and PEFT's description to its own form.
fn kept_metadata(file: &dyn Reader) -> BTreeMap<String, String> {
    let mut metadata = file.metadata().clone();
    metadata.retain(|key, _| !key.starts_with("sshs_") && key != peft_metadata::KEY && key != "modelspec.hash_sha256");
    metadata
}

fn read(file: &dyn Reader) -> Result<Vec<Layer>, Failure> {
    let path = file.path().display();
    let mut found: BTreeMap<(Part, String), [Option<&str>; 3]> = BTreeMap::new();
    let mut unknown = Vec::new();
    for name in file.names() {
        let key = if is_kohya_name(name) { parse_by_words(name) } else { lora_peft::parse(name) };
        match key {
            Some(LoraKey {
                part,
                module,
                tensor: tensor @ (LoraTensor::Down | LoraTensor::Up | LoraTensor::Alpha),
            }) => {
                let place = [LoraTensor::Down, LoraTensor::Up, LoraTensor::Alpha].iter().position(|&t| t == tensor);
                found.entry((part, module)).or_default()[place.expect("one of the three")] = Some(name);
            }
            _ => unknown.push(format!("`{name}`")),
        }
    }
    if let Some(first) = unknown.first() {
        let message =
            format!("`{path}` has {} tensors that belong to no plain LoRA, the first is {first}", unknown.len());
        return Err(Failure::new(ExitCode::Model, message));
    }
    let described = file.metadata().get(peft_metadata::KEY).and_then(|text| peft_metadata::from_json(text));
    let mut layers = Vec::new();
    for ((part, module), [down, up, alpha]) in found {
        let (Some(down), Some(up)) = (down, up) else {
            let message = format!("`{path}`: `{part}.{module}` lacks one of its two matrices");
            return Err(Failure::new(ExitCode::Model, message));
        };
        let (down, up) = (entry(file, down)?, entry(file, up)?);
        let rank = down.shape.first().copied().unwrap_or(1);
        let described = described.as_ref().and_then(|configs| configs.get(&part));
        let alpha = match (alpha, described) {
            (Some(name), _) => read_floats(file, name)?.first().map_or(rank as f64, |&alpha| f64::from(alpha)),
            (None, Some(config)) => config.effective_alpha(&module, rank),
            (None, None) => rank as f64,
        };
        layers.push(Layer { part, module, down, up, alpha });
    }
    Ok(layers)
}

fn entry(file: &dyn Reader, name: &str) -> Result<TensorEntry, Failure> {
    let info = file.info(name).expect("only listed tensors are read");
    if !matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
        let message =
            format!("`{}`: tensor `{name}` has type {}, not a floating-point one", file.path().display(), info.dtype);
        return Err(Failure::new(ExitCode::Model, message));
    }
    let bytes = file.bytes(name)?.into_owned();
    Ok(TensorEntry { name: name.to_owned(), dtype: info.dtype, shape: info.shape.clone(), bytes })
}

fn floats_to_bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F64 => values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&value| value.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use sdtrain_state_dict::SafetensorsFile;

    use super::*;

    fn tensor(name: &str, shape: &[usize], values: &[f32], dtype: Dtype) -> TensorEntry {
        TensorEntry { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes: floats_to_bytes(values, dtype) }
    }

    fn kohya_file(path: &Path, alpha: f32, dtype: Dtype) {
        let module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
        let tensors = [
            tensor(&format!("{module}.lora_down.weight"), &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype),
            tensor(&format!("{module}.lora_up.weight"), &[1, 2], &[7.0, 8.0], dtype),
            tensor(&format!("{module}.alpha"), &[], &[alpha], dtype),
        ];
        let metadata = [("ss_network_dim", "2"), ("sshs_model_hash", "old")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        write(path, &tensors, &metadata).expect("a writable folder");
    }

    #[test]
    fn a_lora_goes_to_peft_and_back_unchanged_whatever_its_alpha() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        let open = |name: &str| SafetensorsFile::open(place(name)).expect("it was just written");
        for (alpha, dtype) in [(1.0, Dtype::F32), (2.0, Dtype::F16), (0.5, Dtype::Bf16)] {
            kohya_file(&place("kohya"), alpha, dtype);
            to_peft(&open("kohya"), &place("peft")).expect("a LoRA");
            let (kohya, peft) = (open("kohya"), open("peft"));
            let module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
            assert_eq!(peft.names(), [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")]);
            let configs = peft_metadata::from_json(&peft.metadata()[peft_metadata::KEY]).expect("metadata");
            assert_eq!((configs[&Part::Unet].rank, configs[&Part::Unet].alpha), (2, f64::from(alpha)));
            assert_eq!(peft.metadata()["ss_network_dim"], "2");
            assert!(!peft.metadata().contains_key("sshs_model_hash"));

            to_kohya(&peft, &place("again")).expect("a LoRA");
            let again = open("again");
            assert_eq!(kohya.names(), again.names());
            for name in kohya.names() {
                assert_eq!(kohya.info(name), again.info(name), "{name}");
                assert_eq!(kohya.bytes(name).expect("listed"), again.bytes(name).expect("listed"), "{name}");
            }
            assert_eq!(again.metadata()["sshs_model_hash"].len(), 64);
            assert!(!again.metadata().contains_key(peft_metadata::KEY));
        }
    }

    #[test]
    fn a_relative_of_lora_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("loha");
        let tensors = [tensor("lora_unet_conv_in.hada_w1_a", &[1, 1], &[1.0], Dtype::F32)];
        write(&path, &tensors, &BTreeMap::new()).expect("a writable folder");
        let failure = to_peft(&SafetensorsFile::open(&path).expect("written"), &folder.path().join("out"))
            .expect_err("it is no plain LoRA");
        assert!(failure.problems.to_string().contains("`lora_unet_conv_in.hada_w1_a`"));
    }
}
