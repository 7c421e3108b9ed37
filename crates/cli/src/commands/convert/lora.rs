//! Adapter files between kohya's names and PEFT's.
//!
//! kohya's form has an alpha for each layer as a tensor, PEFT's has them in the metadata; the numbers are the same. Kinds
//! that mean other numbers in the other form are refused.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use sdtrain_state_dict::maps::adapter_family::{adapter_key, family_of_adapters};
use sdtrain_state_dict::maps::lora_kohya::{KohyaNaming, is_original_name, kohya_name};
use sdtrain_state_dict::maps::lora_peft::{LoraKey, LoraKind, LoraTensor, Part, alpha_that_counts, peft_name};
use sdtrain_state_dict::maps::peft_metadata::{self, AdaptedLayer, PeftConfig};
use sdtrain_state_dict::maps::textual_inversion::{BUNDLE_PREFIX, bundled_words};
use sdtrain_state_dict::metadata::{ModelSpec, sshs_hashes};
use sdtrain_state_dict::{Dtype, Family, Reader, TensorEntry, read_floats, write};

use super::{kept_metadata, left_out};
use crate::{ExitCode, Failure};

/// One adapted layer.
struct Layer {
    part: Part,
    module: String,
    tensors: BTreeMap<LoraTensor, TensorEntry>,
    rank: usize,
    alpha: f64,
}

impl Layer {
    fn key(&self, tensor: LoraTensor) -> LoraKey {
        LoraKey { part: self.part, module: self.module.clone(), tensor }
    }

    fn kind(&self) -> LoraKind {
        LoraKind::of(self.tensors.keys().copied())
    }

    /// Of the layer that is adapted, where a tensor shows them.
    fn inputs(&self) -> Option<usize> {
        self.tensors.iter().find_map(|(tensor, entry)| tensor.inputs(&entry.shape))
    }

    /// Magnitudes multiply the rows of the weight in kohya's form, `[n, 1]` or `[n, 1, 1, 1]`, and the channels of the
    /// output in PEFT's, `[n]` or `[1, n, 1, 1]`.
    fn shape_magnitude(&mut self, for_rows: bool) {
        let is_convolution = self.tensors.get(&LoraTensor::Down).is_some_and(|down| down.shape.len() == 4);
        if let Some(magnitude) = self.tensors.get_mut(&LoraTensor::Magnitude) {
            let count = magnitude.shape.iter().product();
            magnitude.shape = match (for_rows, is_convolution) {
                (true, true) => vec![count, 1, 1, 1],
                (true, false) => vec![count, 1],
                (false, true) => vec![1, count, 1, 1],
                (false, false) => vec![count],
            };
        }
    }
}

/// In kohya's form. Words that come along stay where they are: programs that read that form take them from there.
pub(super) fn to_kohya(file: &dyn Reader, output: &Path) -> Result<(), Failure> {
    let layers = read(file)?;
    let inputs = layers.iter().map(|layer| (layer.part, layer.module.as_str(), layer.inputs()));
    let naming = KohyaNaming::of_adapters(inputs, file.metadata());
    let mut metadata = kept_metadata(file);
    tell_architecture(&mut metadata, &layers, output);
    let mut tensors = Vec::new();
    for mut layer in layers {
        // Of two whole factors kohya's form takes the scale for 1.
        let is_whole =
            layer.tensors.contains_key(&LoraTensor::LokrW1) && layer.tensors.contains_key(&LoraTensor::LokrW2);
        if is_whole && layer.alpha != layer.rank as f64 {
            let message = format!("`{}`: `{}.{}` has a scale", file.path().display(), layer.part, layer.module);
            return Err(Failure::new(ExitCode::Model, message).hint("kohya's form has none for two whole factors"));
        }
        if layer.alpha == 0.0 {
            let message = format!("`{}`: `{}.{}` has the alpha 0", file.path().display(), layer.part, layer.module);
            return Err(
                Failure::new(ExitCode::Model, message).hint("kohya's form takes 0 for the rank; leave the layer out")
            );
        }
        layer.shape_magnitude(true);
        let dtype = layer.tensors.values().next().map_or(Dtype::F32, |tensor| tensor.dtype);
        tensors.push(TensorEntry {
            name: kohya_name(&layer.key(LoraTensor::Alpha), &naming),
            dtype,
            shape: Vec::new(),
            bytes: floats_to_bytes(&[layer.alpha as f32], dtype),
        });
        let named = layer.tensors.iter();
        tensors.extend(
            named
                .map(|(&tensor, entry)| TensorEntry { name: kohya_name(&layer.key(tensor), &naming), ..entry.clone() }),
        );
    }
    for name in file.names().into_iter().filter(|name| name.starts_with(BUNDLE_PREFIX)) {
        tensors.push(entry(file, name)?);
    }
    let (model_hash, legacy_hash) = sshs_hashes(tensors.as_slice(), &metadata)?;
    metadata.insert("sshs_model_hash".to_owned(), model_hash);
    metadata.insert("sshs_legacy_hash".to_owned(), legacy_hash);
    Ok(write(output, &tensors, &metadata)?)
}

/// In PEFT's form; what that cannot hold, in words.
pub(super) fn to_peft(file: &dyn Reader, output: &Path) -> Result<Vec<String>, Failure> {
    let layers = read(file)?;
    let mut described: BTreeMap<Part, Vec<AdaptedLayer>> = BTreeMap::new();
    for layer in &layers {
        let entry = AdaptedLayer { module: &layer.module, rank: layer.rank, alpha: layer.alpha };
        described.entry(layer.part).or_default().push(entry);
    }
    let kind = layers.first().map_or(LoraKind::Lora, Layer::kind);
    if layers.iter().any(|layer| layer.kind() != kind) {
        let message = format!("`{}` holds adapters of several kinds, PEFT's form has one", file.path().display());
        return Err(Failure::new(ExitCode::Model, message));
    }
    let peft_kind = match kind {
        LoraKind::Loha => Some("LOHA".to_owned()),
        LoraKind::Lokr => Some("LOKR".to_owned()),
        _ => None,
    };
    let describe = |layers: &Vec<AdaptedLayer>| PeftConfig {
        use_dora: kind == LoraKind::Dora,
        kind: peft_kind.clone(),
        ..PeftConfig::describing(layers)
    };
    let configs = described.iter().map(|(part, layers)| (*part, describe(layers))).collect();
    let mut metadata = kept_metadata(file);
    // Which of kohya's two ways of naming layers the file had would be lost where its tensors do not tell the family.
    if file.names().into_iter().any(is_original_name) {
        let version = || Family::Sdxl.kohya_version(false).to_owned();
        metadata.entry("ss_base_model_version".to_owned()).or_insert_with(version);
    }
    tell_architecture(&mut metadata, &layers, output);
    metadata.insert("format".to_owned(), "pt".to_owned());
    metadata.insert(peft_metadata::KEY.to_owned(), peft_metadata::to_json(&configs));
    let mut tensors = Vec::new();
    for mut layer in layers {
        layer.shape_magnitude(false);
        let named = layer.tensors.iter();
        tensors
            .extend(named.map(|(&tensor, entry)| TensorEntry { name: peft_name(&layer.key(tensor)), ..entry.clone() }));
    }
    write(output, &tensors, &metadata)?;
    Ok(left_out::bundled(&bundled_words(file)))
}

/// Adds to the `metadata` of a file at `output` what model its `layers` are for, where they show it and nothing says it yet.
fn tell_architecture(metadata: &mut BTreeMap<String, String>, layers: &[Layer], output: &Path) {
    if metadata.contains_key("modelspec.architecture") {
        return;
    }
    let adapted = layers.iter().map(|layer| (layer.part, layer.module.as_str(), layer.inputs()));
    if let Some(family) = family_of_adapters(adapted, metadata) {
        for (key, value) in ModelSpec::of_adapter(family, "lora", metadata, output).keys() {
            metadata.entry(key).or_insert(value);
        }
    }
}

fn read(file: &dyn Reader) -> Result<Vec<Layer>, Failure> {
    let path = file.path().display();
    let mut found: BTreeMap<(Part, String), BTreeMap<LoraTensor, &str>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for name in file.names().into_iter().filter(|name| !name.starts_with(BUNDLE_PREFIX)) {
        match adapter_key(name) {
            Some(key) => drop(found.entry((key.part, key.module)).or_default().insert(key.tensor, name)),
            None => unknown.push(format!("`{name}`")),
        }
    }
    if let Some(first) = unknown.first() {
        let message = format!("`{path}` has {} tensors that belong to no adapter, the first is {first}", unknown.len());
        return Err(Failure::new(ExitCode::Model, message));
    }
    let described = file.metadata().get(peft_metadata::KEY).and_then(|text| peft_metadata::from_json(text));
    let mut layers = Vec::new();
    for ((part, module), mut names) in found {
        let wrong = |reason: &str| Failure::new(ExitCode::Model, format!("`{path}`: `{part}.{module}` {reason}"));
        let alpha = names.remove(&LoraTensor::Alpha);
        let kind = LoraKind::of(names.keys().copied());
        refuse(kind, &names).map_err(wrong)?;
        let mut tensors = BTreeMap::new();
        for (tensor, name) in names {
            tensors.insert(tensor, entry(file, name)?);
        }
        let described = described.as_ref().and_then(|configs| configs.get(&part));
        let shown = tensors.iter().find_map(|(tensor, entry)| tensor.rank(&entry.shape));
        let alpha = match alpha {
            Some(name) => read_floats(file, name)?.first().map(|&alpha| f64::from(alpha)),
            None => None,
        };
        if let Some(alpha) = alpha.filter(|alpha| !alpha.is_finite()) {
            return Err(wrong(&format!("has the alpha {alpha}, which is no number to scale it by")));
        }
        if shown == Some(0) {
            return Err(wrong("has matrices of rank 0"));
        }
        // Two whole factors of LoKr show no rank, and kohya's alpha is then what the rank was.
        let told = described.map(|config| config.rank_of(&module)).or(alpha.map(|alpha| alpha.round() as usize));
        let rank = shown.or(told).unwrap_or(1).max(1);
        let alpha = alpha.and_then(|alpha| alpha_that_counts(alpha, rank as f64));
        let alpha = alpha.or(described.map(|config| config.effective_alpha(&module, rank))).unwrap_or(rank as f64);
        layers.push(Layer { part, module, tensors, rank, alpha });
    }
    Ok(layers)
}

/// Why a layer cannot be written in both forms, if so.
fn refuse(kind: LoraKind, names: &BTreeMap<LoraTensor, &str>) -> Result<(), &'static str> {
    let has = |tensor| names.contains_key(&tensor);
    match kind {
        LoraKind::Ia3 => Err("is an (IA)³, whose numbers mean something else in the other form"),
        LoraKind::Full => Err("is a full difference, which only kohya's form has a place for"),
        _ if has(LoraTensor::Mid) => Err("is a convolution with a core, which only kohya's form has a place for"),
        LoraKind::Dora if !has(LoraTensor::Down) => Err("is a DoRA over another kind, which PEFT does not have"),
        LoraKind::Lora | LoraKind::Dora if !has(LoraTensor::Down) || !has(LoraTensor::Up) => {
            Err("lacks one of its two matrices")
        }
        _ => Ok(()),
    }
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
    fn an_alpha_of_zero_is_the_rank_in_kohyas_form_and_nothing_in_pefts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        let open = |name: &str| SafetensorsFile::open(place(name)).expect("it was just written");
        kohya_file(&place("kohya"), 0.0, Dtype::F32);
        to_peft(&open("kohya"), &place("peft")).expect("a LoRA");
        let peft = open("peft");
        let description = &peft.metadata()[peft_metadata::KEY];
        assert_eq!(peft_metadata::from_json(description).expect("metadata")[&Part::Unet].alpha, 2.0);

        let tensors: Vec<TensorEntry> = peft.names().into_iter().map(|name| entry(&peft, name).unwrap()).collect();
        let zero = description.replace("\"unet.lora_alpha\": 2", "\"unet.lora_alpha\": 0");
        assert_ne!(&zero, description);
        let metadata = [(peft_metadata::KEY.to_owned(), zero)].into();
        write(&place("zero"), &tensors, &metadata).expect("a writable folder");
        let failure = to_kohya(&open("zero"), &place("again")).expect_err("it would be at full strength");
        assert!(failure.problems.to_string().contains("has the alpha 0"), "{}", failure.problems);
    }

    #[test]
    fn relatives_of_lora_go_to_peft_and_back_unchanged() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        let open = |name: &str| SafetensorsFile::open(place(name)).expect("it was just written");
        let ones = |name: &str, shape: &[usize]| {
            let name = format!("lora_unet_mid_block_resnets_0_conv1.{name}");
            tensor(&name, shape, &vec![1.0; shape.iter().product()], Dtype::F32)
        };
        let loha = [("hada_w1_a", [4, 2]), ("hada_w1_b", [2, 8]), ("hada_w2_a", [4, 2]), ("hada_w2_b", [2, 8])];
        let loha = loha.map(|(name, shape)| ones(name, &shape)).to_vec();
        let lokr = vec![ones("lokr_w1", &[2, 2]), ones("lokr_w2_a", &[2, 3]), ones("lokr_w2_b", &[3, 4])];
        let dora = vec![
            ones("lora_down.weight", &[2, 4, 3, 3]),
            ones("lora_up.weight", &[8, 2, 1, 1]),
            ones("dora_scale", &[8, 1, 1, 1]),
        ];
        for (kind, mut tensors, peft_kind, rank) in
            [("loha", loha, Some("LOHA"), 2), ("lokr", lokr, Some("LOKR"), 3), ("dora", dora, None, 2)]
        {
            tensors.push(tensor("lora_unet_mid_block_resnets_0_conv1.alpha", &[], &[1.5], Dtype::F32));
            write(&place(kind), &tensors, &BTreeMap::new()).expect("a writable folder");
            to_peft(&open(kind), &place("peft")).expect("PEFT has it");
            let configs = peft_metadata::from_json(&open("peft").metadata()[peft_metadata::KEY]).expect("metadata");
            let config = &configs[&Part::Unet];
            assert_eq!((config.rank, config.alpha, config.use_dora), (rank, 1.5, kind == "dora"), "{kind}");
            assert_eq!(config.kind.as_deref(), peft_kind);
            if kind == "dora" {
                let name = "unet.mid_block.resnets.0.conv1.lora_magnitude_vector";
                assert_eq!(open("peft").info(name).expect("PEFT's name").shape, [1, 8, 1, 1]);
            }
            to_kohya(&open("peft"), &place("again")).expect("kohya's form has it");
            let (before, after) = (open(kind), open("again"));
            assert_eq!(before.names(), after.names());
            for name in before.names() {
                assert_eq!(before.info(name), after.info(name), "{name}");
                assert_eq!(before.bytes(name).expect("listed"), after.bytes(name).expect("listed"), "{name}");
            }
        }
    }

    /// A LoRA of rank 1 in kohya's form, of layers with so many inputs.
    fn lora_beside(path: &Path, layers: &[(&str, usize)]) {
        let mut tensors = Vec::new();
        for &(layer, inputs) in layers {
            let ones = |name: &str, shape: &[usize]| {
                let values = vec![1.0; shape.iter().product()];
                tensor(&format!("{layer}.{name}"), shape, &values, Dtype::F32)
            };
            tensors.extend([
                ones("lora_down.weight", &[1, inputs]),
                ones("lora_up.weight", &[2, 1]),
                ones("alpha", &[]),
            ]);
        }
        write(path, &tensors, &BTreeMap::new()).expect("a writable folder");
    }

    #[test]
    fn a_lora_of_sdxls_unet_alone_goes_to_peft_and_back_under_the_same_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        let open = |name: &str| SafetensorsFile::open(place(name)).expect("it was just written");
        let cases = [
            // SDXL by the width of its text states.
            &[
                ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048),
                ("lora_unet_output_blocks_2_2_conv", 9),
                ("lora_unet_middle_block_2_out_layers_3", 9),
            ][..],
            // Its refiner, whose fourth level SDXL does not have.
            &[
                ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 1280),
                ("lora_unet_input_blocks_11_0_in_layers_2", 9),
                ("lora_unet_output_blocks_2_1_conv", 9),
                ("lora_unet_output_blocks_8_2_conv", 9),
            ],
            // No layer tells, but the names did.
            &[("lora_unet_input_blocks_1_0_in_layers_2", 9)],
        ];
        for layers in cases {
            lora_beside(&place("kohya"), layers);
            to_peft(&open("kohya"), &place("peft")).expect("a LoRA");
            let peft = open("peft");
            assert!(peft.names().iter().all(|name| name.contains("_block")), "{:?}", peft.names());
            to_kohya(&peft, &place("again")).expect("a LoRA");
            let (before, after) = (open("kohya"), open("again"));
            assert_eq!(before.names(), after.names());
            for name in before.names() {
                assert_eq!(before.bytes(name).expect("listed"), after.bytes(name).expect("listed"), "{name}");
            }
        }
    }

    #[test]
    fn a_peft_lora_gets_the_names_of_the_family_that_its_layers_show() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (peft, kohya) = (folder.path().join("peft"), folder.path().join("kohya"));
        let module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
        let [ours, original] = [
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        ];
        for (width, expected, architecture) in [
            (768, ours, "stable-diffusion-v1/lora"),
            (1024, ours, "stable-diffusion-v2/lora"),
            (1280, original, "stable-diffusion-xl-v1-refiner/lora"),
            (2048, original, "stable-diffusion-xl-v1-base/lora"),
        ] {
            let tensors = [
                tensor(&format!("unet.{module}.lora_A.weight"), &[1, width], &vec![1.0; width], Dtype::F32),
                tensor(&format!("unet.{module}.lora_B.weight"), &[2, 1], &[1.0, 2.0], Dtype::F32),
            ];
            write(&peft, &tensors, &BTreeMap::new()).expect("a writable folder");
            to_kohya(&SafetensorsFile::open(&peft).expect("written"), &kohya).expect("a LoRA");
            let written = SafetensorsFile::open(&kohya).expect("written");
            let names = ["alpha", "lora_down.weight", "lora_up.weight"].map(|name| format!("{expected}.{name}"));
            assert_eq!(written.names(), names, "{width}");
            let said = |key: &str| written.metadata().get(key).map(String::as_str);
            assert_eq!(said("modelspec.architecture"), Some(architecture), "{width}");
            // Not what nobody knows.
            assert_eq!((said("modelspec.title"), said("modelspec.prediction_type")), (Some("kohya"), None));
        }
    }

    #[test]
    fn what_means_something_else_in_the_other_form_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("other");
        for (names, reason) in [
            (&["weight", "on_input"][..], "(IA)³"),
            (&["diff"], "full difference"),
            (&["oft_blocks"], "`lora_unet_conv_in.oft_blocks`"),
        ] {
            let name = |name: &&str| tensor(&format!("lora_unet_conv_in.{name}"), &[1], &[1.0], Dtype::F32);
            write(&path, &names.iter().map(name).collect::<Vec<_>>(), &BTreeMap::new()).expect("a writable folder");
            let file = SafetensorsFile::open(&path).expect("written");
            let failure = to_peft(&file, &folder.path().join("out")).expect_err("PEFT has no such thing");
            assert!(failure.problems.to_string().contains(reason), "{}", failure.problems);
        }
    }
}
