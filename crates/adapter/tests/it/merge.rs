//! Adapters merged into a model and with each other: the sum of their weight changes, and nothing else.

use crate::tiny_model;
use sdtrain_adapter::{
    AdapterSum, Lora, LoraFile, MergedLayer, Networks, WeightedAdapter, describe, fold, save_merged_full,
    save_merged_kohya, save_merged_peft,
};
use sdtrain_recipe::{AdapterKind, LoraConfig};
use sdtrain_state_dict::maps::lora_peft::Part;
use sdtrain_state_dict::{FromReader, Reader, SafetensorsFile, write_source};
use sdtrain_torch_test_support::{Golden, assert_near, fixture_folder};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// fp32: one product and one sum for each number.
const EXACT: f64 = 1e-6;
const STRENGTHS: [f64; 2] = [0.7, -0.4];

/// The two files of the golden file: of rank 4 and, with convolutions, of rank 2; alphas are neither rank.
fn files(folder: &Path) -> [PathBuf; 2] {
    let second = folder.join("second.safetensors");
    let golden = Golden::open("merging.safetensors");
    write_source(&second, &FromReader(&golden.under("second.")), &BTreeMap::new()).expect("there is room");
    [fixture_folder().join("lora_kohya.safetensors"), second]
}

fn weighted(files: &[PathBuf; 2]) -> Vec<WeightedAdapter> {
    let weighted = files.iter().zip(STRENGTHS);
    weighted.map(|(path, weight)| WeightedAdapter { path: path.clone(), weight }).collect()
}

fn open(path: &Path) -> SafetensorsFile {
    SafetensorsFile::open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The weighted sum of the two files.
fn sum(files: &[PathBuf; 2]) -> AdapterSum {
    let mut sum = AdapterSum::default();
    for (path, weight) in files.iter().zip(STRENGTHS) {
        sum.add_file(&open(path), weight).unwrap_or_else(|error| panic!("{error}"));
    }
    sum
}

/// What `path` changes each layer by, f64, as a reader of the file would have it.
fn deltas(path: &Path) -> BTreeMap<(Part, String), Tensor> {
    let model = tiny_model();
    let networks = Networks::of(&model);
    let lora = LoraFile::read(&open(path), &networks).and_then(|file| file.into_lora(&networks));
    let lora = lora.unwrap_or_else(|error| panic!("{error}"));
    let delta = |module: &sdtrain_adapter::LoraModule| module.layer.weight_delta().to_kind(Kind::Double);
    lora.modules().iter().map(|module| ((module.part, module.path.clone()), delta(module))).collect()
}

/// `Σ strength · ΔW` of the two files.
fn expected(files: &[PathBuf; 2]) -> BTreeMap<(Part, String), Tensor> {
    let mut sum: BTreeMap<(Part, String), Tensor> = BTreeMap::new();
    for (path, strength) in files.iter().zip(STRENGTHS) {
        for (layer, delta) in deltas(path) {
            let delta = delta * strength;
            let whole = sum.get(&layer).map_or_else(|| delta.shallow_clone(), |before| before + &delta);
            sum.insert(layer, whole);
        }
    }
    sum
}

fn save(layers: &[MergedLayer], folder: &Path, form: &str) -> PathBuf {
    let path = folder.join(format!("merged-{form}.safetensors"));
    match form {
        "kohya" => save_merged_kohya(&path, layers, Kind::Float, &BTreeMap::new()),
        _ => save_merged_peft(&path, layers, Kind::Float, &BTreeMap::new()),
    }
    .expect("there is room");
    path
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.norm().double_value(&[])
}

#[test]
fn folded_weights_are_those_of_diffusers_fuse_lora() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let golden = Golden::open("merging.safetensors");
    let model = tiny_model();
    let before = tiny_model();
    fold(&model, &weighted(&files(folder.path()))).expect("they fit");
    let fused = golden.names_under("output.");
    assert!(fused.len() > 60);
    let networks = [("unet", &model.unet.parameters(), &before.unet.parameters())];
    let text =
        ("text_encoder", &model.text_encoders[0].network.parameters(), &before.text_encoders[0].network.parameters());
    for (part, parameters, bare) in networks.into_iter().chain([text]) {
        for (name, tensor) in parameters.iter() {
            let full_name = format!("{part}.{name}");
            match fused.contains(&full_name.as_str()) {
                true => drop(assert_near(&full_name, tensor, &golden.tensor(&format!("output.{full_name}")), EXACT)),
                false => assert!(tensor.equal(bare.get(name).expect("the same network")), "{full_name} is left alone"),
            }
        }
    }
}

#[test]
fn adapters_set_side_by_side_change_weights_by_the_sum_of_their_changes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let layers = sum(&files).concatenated().expect("both are plain");
    let expected = expected(&files);
    for form in ["kohya", "peft"] {
        let found = deltas(&save(&layers, folder.path(), form));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (layer, delta) in &found {
            assert_near(&format!("{form}: {layer:?}"), delta, &expected[layer], EXACT);
        }
    }
}

/// kohya's `merge_lora.py --concat` stacks the ranks but keeps the first file's alpha, so that alpha/rank shrinks: two files of
/// one rank come out at half their strength.
#[test]
fn side_by_side_keeps_the_strength_that_kohyas_concat_halves() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = fixture_folder().join("lora_kohya.safetensors");
    let mut sum = AdapterSum::default();
    (0..2).for_each(|_| sum.add_file(&open(&file), 0.5).expect("a plain LoRA"));
    let layers = sum.concatenated().expect("plain");
    let (alone, merged) = (deltas(&file), deltas(&save(&layers, folder.path(), "kohya")));
    for layer in &layers {
        let key = (layer.part, layer.path.clone());
        assert_eq!(layer.rank(), 8, "two of rank 4");
        assert_near("half of it twice is the whole", &merged[&key], &alone[&key], EXACT);
        // By kohya's rule the file would say alpha 2, as the first one does, beside rank 8.
        let stacked = layer.up.flatten(1, -1).matmul(&layer.down.flatten(1, -1)).to_kind(Kind::Double);
        let theirs = norm(&stacked) * 2.0 / 4.0;
        assert!((norm(&merged[&key]) / theirs - 2.0).abs() < 1e-5, "{key:?}");
    }
}

/// Without `--concat` kohya adds the matrices, which makes products of one file's up with the other's down.
#[test]
fn merging_makes_no_products_across_files_as_kohyas_plain_sum_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    // One adapter and its negative: added matrix by matrix they would leave something, as changes they leave nothing.
    let mut sum = AdapterSum::default();
    sum.add_file(&open(&files[0]), 1.0).expect("plain");
    sum.add_file(&open(&files[0]), -1.0).expect("plain");
    for (layer, delta) in deltas(&save(&sum.concatenated().expect("plain"), folder.path(), "kohya")) {
        assert!(delta.abs().max().double_value(&[]) < 1e-7, "{layer:?}");
    }
    // And twice the weight is twice the change, where kohya's ratios count as their squares.
    let at = |weight: f64| {
        let mut sum = AdapterSum::default();
        sum.add_file(&open(&files[0]), weight).expect("plain");
        deltas(&save(&sum.concatenated().expect("plain"), folder.path(), "kohya"))
    };
    let (one, half) = (at(1.0), at(0.5));
    for (layer, delta) in &one {
        assert_near("half", &(&half[layer] * 2.0), delta, EXACT);
    }
}

#[test]
fn a_rank_that_holds_everything_loses_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let (layers, lost) = sum(&files).truncated(64, 64).expect("numbers");
    assert!(lost.total < 1e-12, "{lost:?}");
    let expected = expected(&files);
    for (layer, delta) in deltas(&save(&layers, folder.path(), "kohya")) {
        // Rounded to f32 from f64.
        assert_near(&format!("{layer:?}"), &delta, &expected[&layer], EXACT);
    }
}

#[test]
fn a_smaller_rank_is_the_nearest_one_and_says_what_it_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let expected = expected(&files);
    let (layers, lost) = sum(&files).truncated(3, 1).expect("numbers");
    let merged = deltas(&save(&layers, folder.path(), "peft"));
    let (mut gone, mut all, mut worst) = (0.0, 0.0, (0.0, String::new()));
    for layer in &layers {
        let key = (layer.part, layer.path.clone());
        let is_convolution = layer.down.size().get(2).is_some_and(|&kernel| kernel > 1);
        assert!(layer.rank() <= if is_convolution { 1 } else { 3 }, "{key:?}");
        let (apart, whole) = (norm(&(&merged[&key] - &expected[&key])), norm(&expected[&key]));
        // Eckart and Young: no matrix of this rank is nearer than the singular values that are left out.
        let (_, singular, _) = expected[&key].flatten(1, -1).svd(true, true);
        let rest = singular.narrow(0, layer.rank(), singular.size()[0] - layer.rank());
        assert!((apart - norm(&rest)).abs() < 1e-5 * whole, "{key:?}: {apart:e} of {whole:e}");
        (gone, all) = (gone + apart * apart, all + whole * whole);
        if apart / whole > worst.0 {
            worst = (apart / whole, format!("{}.{}", layer.part, layer.path));
        }
    }
    let total: f64 = gone / all;
    assert!((lost.total - total.sqrt()).abs() < 1e-6 && lost.total > 0.01, "{lost:?}");
    assert!((lost.worst - worst.0).abs() < 1e-6, "{lost:?} {worst:?}");
    assert_eq!(lost.worst_layer, worst.1);
}

#[test]
fn adapters_beside_a_model_merge_as_their_files_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let model = tiny_model();
    let networks = Networks::of(&model);
    let mut beside = AdapterSum::default();
    for (path, weight) in files.iter().zip(STRENGTHS) {
        let lora = LoraFile::read(&open(path), &networks).and_then(|file| file.into_lora(&networks)).expect("it fits");
        beside.add(&lora, weight, "a file").expect("it fits");
    }
    let [beside, alone] = [beside, sum(&files)].map(|sum| sum.concatenated().expect("plain"));
    assert_eq!(beside.len(), alone.len());
    for (beside, alone) in beside.iter().zip(&alone) {
        assert_eq!((beside.part, &beside.path), (alone.part, &alone.path));
        assert!(beside.up.equal(&alone.up) && beside.down.equal(&alone.down), "{}", alone.path);
    }
}

#[test]
fn a_merged_file_says_its_ranks_and_what_it_came_from() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let mixed = open(&save(&sum(&files).concatenated().expect("plain"), folder.path(), "kohya"));
    assert_eq!(
        (mixed.metadata()["ss_network_dim"].as_str(), mixed.metadata()["ss_network_alpha"].as_str()),
        ("Dynamic", "Dynamic")
    );
    assert_eq!(mixed.metadata()["sshs_model_hash"].len(), 64);
    let described = describe(&weighted(&files)).expect("files");
    assert!(described.starts_with("[{\"file\":\"lora_kohya.safetensors\",\"sha256\":\""), "{described}");
    assert!(described.contains("\"weight\":-0.4") && described.contains("second.safetensors"), "{described}");
}

#[test]
fn a_layer_of_another_size_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let other = folder.path().join("other.safetensors");
    let layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k";
    let tensors: Vec<sdtrain_state_dict::TensorEntry> = [("lora_A", vec![2usize, 1024]), ("lora_B", vec![8, 2])]
        .into_iter()
        .map(|(name, shape)| sdtrain_state_dict::TensorEntry {
            name: format!("{layer}.{name}.weight"),
            dtype: sdtrain_state_dict::Dtype::F32,
            bytes: vec![0; shape.iter().product::<usize>() * 4],
            shape,
        })
        .collect();
    sdtrain_state_dict::write(&other, &tensors, &BTreeMap::new()).expect("there is room");
    let mut sum = AdapterSum::default();
    sum.add_file(&open(&files[0]), 1.0).expect("plain");
    let message = sum.add_file(&open(&other), 1.0).expect_err("SD2's context is 1024 wide").to_string();
    assert!(message.contains("other.safetensors") && message.contains(layer) && message.contains("1024"), "{message}");
}

#[test]
fn adapters_of_every_kind_become_one_lora_by_their_singular_values() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    for kind in [AdapterKind::Loha, AdapterKind::Lokr, AdapterKind::Dora, AdapterKind::Ia3] {
        let config = LoraConfig { kind, rank: 2, ..LoraConfig::default() };
        let lora = Lora::new(&config, 7, &networks).expect("there are such layers");
        for (number, (_, parameter)) in lora.parameters(Part::Unet).iter().enumerate() {
            tch::manual_seed(number as i64);
            let noise = parameter.randn_like() * 0.2;
            let _ = parameter.shallow_clone().g_add_(&noise);
        }
        let mut sum = AdapterSum::default();
        sum.add(&lora, -0.5, "a file").expect("it fits");
        let message = sum.concatenated().expect_err("no product of two matrices").to_string();
        assert!(message.contains("has no low rank"), "{message}");
        let (layers, lost) = sum.truncated(128, 128).expect("numbers");
        assert!(lost.total < 1e-12, "{kind:?}: {lost:?}");
        for (layer, module) in layers.iter().zip(lora.modules()) {
            assert_eq!(layer.path, module.path);
            let expected = module.layer.weight_delta() * -0.5;
            let found = layer.up.flatten(1, -1).matmul(&layer.down.flatten(1, -1)).reshape(expected.size());
            // Two roundings to f32 and a product.
            assert_near(&format!("{kind:?} {}", layer.path), &found, &expected, 1e-5);
        }
    }
}

/// A trained adapter of this kind, with numbers in all its tensors.
fn filled(kind: AdapterKind, seed: u64, networks: &Networks) -> Lora {
    let targets = Some(vec!["unet.mid_block.*".to_string()]);
    let config = LoraConfig { kind, rank: 2, alpha: Some(1.0), targets, ..LoraConfig::default() };
    let lora = Lora::new(&config, seed, networks).expect("there are such layers");
    for (index, (_, tensor)) in lora.parameters(Part::Unet).iter().enumerate() {
        let wave = Tensor::arange(tensor.numel() as i64, (Kind::Float, tensor.device())) * (index as f64 + seed as f64);
        let _ = tch::no_grad(|| tensor.shallow_clone().g_add_(&(wave.sin().reshape(tensor.size()) * 0.1)));
    }
    lora
}

#[test]
fn adapters_of_every_kind_are_summed_exactly_as_whole_differences() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("whole.safetensors");
    let model = tiny_model();
    let networks = Networks::of(&model);
    let kinds = [AdapterKind::Lora, AdapterKind::Loha, AdapterKind::Lokr, AdapterKind::Dora, AdapterKind::Full];
    let mut sum = AdapterSum::default();
    let mut expected: BTreeMap<String, (Tensor, Option<Tensor>)> = BTreeMap::new();
    for (seed, kind) in (1..).zip(kinds) {
        let (lora, weight) = (filled(kind, seed, &networks), 0.3 * seed as f64);
        sum.add(&lora, weight, kind.name()).expect("it fits");
        for module in lora.modules() {
            let entry = expected.entry(module.path.clone()).or_insert_with(|| {
                (Tensor::zeros(module.layer.site().shape(), (Kind::Double, tch::Device::Cpu)), None)
            });
            entry.0 += tch::no_grad(|| module.layer.weight_delta()).to_kind(Kind::Double) * weight;
            if let Some(bias) = module.layer.bias_delta() {
                entry.1 = Some(tch::no_grad(|| bias.to_kind(Kind::Double) * weight));
            }
        }
    }
    let refused = sum.concatenated().expect_err("a bias changes");
    let hint = refused.hint().expect("there is a way out");
    assert!(
        refused.to_string().contains("the bias of `unet.mid_block.") && hint.contains("`--full-diff`"),
        "{refused}"
    );

    let whole = sum.whole().expect("it has all of it");
    save_merged_full(&path, &whole, Kind::Float, &BTreeMap::new()).expect("there is room");
    let read =
        LoraFile::read(&open(&path), &networks).and_then(|file| file.into_lora(&networks)).expect("a file of ours");
    assert_eq!(read.modules().len(), expected.len());
    for module in read.modules() {
        let (weight, bias) = &expected[&module.path];
        assert_eq!(module.kind, AdapterKind::Full);
        assert_near(&module.path, &module.layer.weight_delta().to_kind(Kind::Double), weight, EXACT);
        assert_eq!(module.layer.bias_delta().is_some(), bias.is_some(), "{}", module.path);
        if let (Some(found), Some(bias)) = (module.layer.bias_delta(), bias) {
            assert_near(&module.path, &found.to_kind(Kind::Double), bias, EXACT);
        }
    }
    let whole = open(&path);
    assert_eq!(whole.metadata()["ss_network_args"], "{\"algo\":\"full\"}");
}

#[test]
fn merged_layers_of_sdxls_unet_alone_have_the_original_paths_in_kohyas_form() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (width, expected) in [(768, "lora_unet_down_blocks_1_attentions_0_"), (2048, "lora_unet_input_blocks_4_1_")] {
        let layer = MergedLayer {
            part: Part::Unet,
            path: "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k".into(),
            down: Tensor::zeros([1, width], (Kind::Float, tch::Device::Cpu)),
            up: Tensor::zeros([2, 1], (Kind::Float, tch::Device::Cpu)),
        };
        let file = open(&save(&[layer], folder.path(), "kohya"));
        for name in file.names() {
            assert!(name.starts_with(expected), "{width}: {name}");
        }
    }
}
