//! Every kind of adapter: the numbers and files of LyCORIS and PEFT, merging, gradients, dropouts, limits, new ones.

use crate::{FP32, text_output, tiny_model, unet_output};
use sdtrain_adapter::{Form, Lora, LoraFile, Networks, kohya_metadata};
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::{AdapterKind, AdapterNumbers, LokrConfig, LoraConfig};
use sdtrain_state_dict::maps::lora_peft::Part;
use sdtrain_state_dict::maps::peft_metadata;
use sdtrain_state_dict::{FromReader, Reader, SafetensorsFile, write_source};
use sdtrain_torch_test_support::{Golden, assert_equal, assert_near, difference};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use tempfile::TempDir;

const KINDS: [AdapterKind; 6] =
    [AdapterKind::Lora, AdapterKind::Loha, AdapterKind::Lokr, AdapterKind::Dora, AdapterKind::Ia3, AdapterKind::Full];

/// The cases of the golden file, each as an adapter file.
struct Cases {
    golden: Golden,
    folder: TempDir,
}

impl Cases {
    fn open() -> Cases {
        Cases { golden: Golden::open("adapters.safetensors"), folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn names(&self) -> Vec<String> {
        let config = self.golden.config();
        config["cases"].as_object().expect("cases by name").keys().cloned().collect()
    }

    fn form(&self, case: &str) -> Form {
        match self.golden.config()["cases"][case]["form"].as_str() {
            Some("kohya") => Form::Kohya,
            _ => Form::Peft,
        }
    }

    /// The case as a file.
    fn file(&self, case: &str) -> SafetensorsFile {
        let path = self.folder.path().join(case);
        let metadata = self.golden.config()["cases"][case]["metadata"].as_str().map(str::to_owned);
        let metadata = metadata.map(|text| (peft_metadata::KEY.to_string(), text)).into_iter().collect();
        let tensors = self.golden.under(&format!("{case}.file."));
        write_source(&path, &FromReader(&tensors), &metadata).expect("there is room");
        open(&path)
    }

    /// The case's adapters, attached.
    fn attached(&self, case: &str, model: &StableDiffusion) -> Lora {
        let networks = Networks::of(model);
        let read = LoraFile::read(&self.file(case), &networks).and_then(|file| file.into_lora(&networks));
        let lora = read.unwrap_or_else(|error| panic!("{case}: {error}"));
        lora.attach(&networks);
        lora
    }

    fn expected(&self, case: &str, what: &str) -> Tensor {
        self.golden.tensor(&format!("output.{case}.{what}"))
    }

    fn assert_outputs(&self, what: &str, case: &str, model: &StableDiffusion) {
        let unet = unet_output(model, &self.golden);
        assert_near(&format!("{what}: {case}"), &unet, &self.expected(case, "sample"), FP32);
        if let Some(expected) = self.golden.find(&format!("output.{case}.last_hidden_state")) {
            assert_near(&format!("{what}: {case}, text"), &text_output(model, &self.golden), &expected, FP32);
        }
    }
}

fn open(path: &Path) -> SafetensorsFile {
    SafetensorsFile::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn save(lora: &Lora, form: Form, folder: &Path) -> PathBuf {
    let path = folder.join("saved.safetensors");
    let metadata = kohya_metadata(lora, &LoraConfig::default());
    match form {
        Form::Kohya => lora.save_kohya(&path, Kind::Float, &metadata),
        Form::Peft => lora.save_peft(&path, Kind::Float, &metadata),
    }
    .unwrap_or_else(|error| panic!("{error}"));
    path
}

#[test]
fn outputs_match_lycoris_and_peft() {
    let cases = Cases::open();
    let bare = unet_output(&tiny_model(), &cases.golden);
    for case in cases.names() {
        let model = tiny_model();
        let lora = cases.attached(&case, &model);
        cases.assert_outputs("attached", &case, &model);
        lora.set_strength(0.0);
        assert_equal(&case, &unet_output(&model, &cases.golden), &bare);
    }
}

#[test]
fn merged_weights_match_lycoris_and_peft_and_give_the_output_of_attached_adapters() {
    let cases = Cases::open();
    for case in cases.names() {
        let model = tiny_model();
        let lora = cases.attached(&case, &model);
        let mut compared = 0;
        for module in lora.modules().iter().filter(|module| module.part == Part::Unet) {
            if let Some(expected) = cases.golden.find(&format!("output.{case}.merged.{}", module.path)) {
                assert_near(&format!("{case}: {}", module.path), &module.layer.merged().0, &expected, FP32);
                compared += 1;
            }
        }
        assert!(compared >= 2, "{case}");
        let networks = Networks::of(&model);
        networks.layers().for_each(|(_, _, layer)| layer.detach_all());
        lora.merge(&networks).expect("it fits");
        cases.assert_outputs("merged", &case, &model);
    }
}

#[test]
fn half_of_an_adapter_attached_is_half_of_it_merged() {
    let cases = Cases::open();
    for case in cases.names() {
        let model = tiny_model();
        let lora = cases.attached(&case, &model);
        lora.set_strength(0.5);
        let attached = unet_output(&model, &cases.golden);
        let apart = difference(&attached, &cases.expected(&case, "sample")).0;
        assert!(apart > 1e-3, "{case}: half of it is {apart} from all of it");
        let networks = Networks::of(&model);
        networks.layers().for_each(|(_, _, layer)| layer.detach_all());
        lora.merge(&networks).expect("it fits");
        assert_near(&case, &unet_output(&model, &cases.golden), &attached, FP32);
    }
}

#[test]
fn files_come_back_to_the_bit() {
    let cases = Cases::open();
    for case in cases.names() {
        let model = tiny_model();
        let (theirs, lora) = (cases.file(&case), cases.attached(&case, &model));
        let ours = open(&save(&lora, cases.form(&case), cases.folder.path()));
        assert_eq!(ours.names(), theirs.names(), "{case}");
        for name in theirs.names() {
            assert_eq!(ours.info(name), theirs.info(name), "{case}: {name}");
            assert_eq!(ours.bytes(name).expect("listed"), theirs.bytes(name).expect("listed"), "{case}: {name}");
        }
        // What the metadata says of the scale has to come back as well.
        let again = LoraFile::read(&ours, &Networks::of(&model)).expect("adapters").into_lora(&Networks::of(&model));
        for (again, first) in again.expect("they fit").modules().iter().zip(lora.modules()) {
            assert_equal(&first.path, &again.layer.weight_delta(), &first.layer.weight_delta());
        }
    }
}

#[test]
fn gradients_match_peft() {
    let cases = Cases::open();
    let has_gradients = |case: &String| !cases.golden.names_under(&format!("output.{case}.gradient.")).is_empty();
    let peft: Vec<String> = cases.names().into_iter().filter(has_gradients).collect();
    assert!(peft.len() >= 5, "{peft:?}");
    for case in peft {
        let model = tiny_model();
        let lora = cases.attached(&case, &model);
        let parameters: BTreeMap<String, Tensor> = lora.parameters(Part::Unet).into_iter().collect();
        parameters.values().for_each(|parameter| drop(parameter.set_requires_grad(true)));
        unet_output(&model, &cases.golden).square().mean(Kind::Float).backward();
        let names = cases.golden.names_under(&format!("output.{case}.gradient."));
        assert_eq!(names, parameters.keys().collect::<Vec<_>>(), "{case}");
        for name in names {
            let expected = cases.expected(&case, &format!("gradient.{name}"));
            assert_near(&format!("{case}: {name}"), &parameters[name].grad(), &expected, FP32);
        }
    }
}

fn config(kind: AdapterKind) -> LoraConfig {
    let lokr = LokrConfig { factor: Some(2), ..LokrConfig::default() };
    LoraConfig { kind, rank: 2, lokr, convolutions: true, train_text_encoder: true, ..LoraConfig::default() }
}

/// New adapters whose parameters have been moved, so that they change something.
fn moved(config: &LoraConfig, networks: &Networks) -> Lora {
    let lora = Lora::new(config, 7, networks).expect("there are such layers");
    let parameters = [Part::Unet, Part::TextEncoder].into_iter().flat_map(|part| lora.parameters(part));
    for (number, (_, tensor)) in parameters.enumerate() {
        tch::manual_seed(number as i64);
        let noise = tensor.randn_like() * 0.1;
        let _ = tch::no_grad(|| tensor.shallow_clone().g_add_(&noise));
    }
    lora
}

#[test]
fn new_adapters_change_nothing_at_first_and_are_as_large_as_the_configuration_says() {
    let golden = Golden::open("lora.safetensors");
    for kind in KINDS {
        let model = tiny_model();
        let networks = Networks::of(&model);
        let config = config(kind);
        let lora = Lora::new(&config, 7, &networks).expect("there are such layers");
        let (unet, text) = (unet_output(&model, &golden), text_output(&model, &golden));
        lora.attach(&networks);
        assert_equal(kind.name(), &unet_output(&model, &golden), &unet);
        assert_equal(kind.name(), &text_output(&model, &golden), &text);
        for module in lora.modules() {
            let parameters = module.layer.adapter().parameters();
            let count = |counts: fn(&Tensor) -> bool| -> usize {
                parameters.iter().map(|(_, tensor)| tensor).filter(|tensor| counts(tensor)).map(|t| t.numel()).sum()
            };
            let found = AdapterNumbers {
                all: count(|_| true),
                in_matrices: count(|tensor| tensor.dim() == 2),
                zeros: count(|tensor| tensor.abs().max().double_value(&[]) == 0.0),
            };
            let (site, path) = (module.layer.site(), format!("{}.{}", module.part, module.path));
            let shape: Vec<usize> = site.shape().iter().map(|&side| side as usize).collect();
            assert_eq!(found, kind.numbers(&config, &path, 2, &shape, site.bias().is_some()), "{path}");
        }
        let again = Lora::new(&config, 7, &networks).expect("as before");
        for ((name, tensor), (_, expected)) in again.parameters(Part::Unet).iter().zip(lora.parameters(Part::Unet)) {
            assert_equal(name, tensor, &expected);
        }
        assert_eq!(lora.modules()[0].kind, kind);
    }
}

#[test]
fn gradient_checkpointing_changes_no_kind_by_a_bit_whatever_is_dropped() {
    let golden = Golden::open("lora.safetensors");
    for kind in KINDS {
        let model = tiny_model();
        let networks = Networks::of(&model);
        let dropout = if kind == AdapterKind::Ia3 { 0.0 } else { 0.2 };
        let config = LoraConfig { dropout, rank_dropout: 0.2, module_dropout: 0.2, ..config(kind) };
        let lora = moved(&config, &networks);
        lora.set_dropout(&config, 3);
        lora.attach(&networks);
        lora.set_pass(Some(5));
        let parameters = lora.parameters(Part::Unet);
        parameters.iter().for_each(|(_, parameter)| drop(parameter.set_requires_grad(true)));
        let [sample, timesteps, states] =
            ["sample", "timesteps", "encoder_hidden_states"].map(|name| golden.tensor(&format!("input.{name}")));
        let [plain, checkpointed] = [false, true].map(|checkpointing| {
            parameters.iter().for_each(|(_, parameter)| parameter.shallow_clone().zero_grad());
            let output = model.unet.forward(&sample, &timesteps, &states, checkpointing);
            output.square().mean(Kind::Float).backward();
            // A module that was left out has no gradient.
            let gradients = parameters.iter().map(|(_, parameter)| parameter.grad());
            let gradients: Vec<Tensor> = gradients.filter(Tensor::defined).map(|gradient| gradient.copy()).collect();
            (output, gradients)
        });
        assert_equal(kind.name(), &checkpointed.0, &plain.0);
        assert!(plain.1.iter().any(|gradient| gradient.abs().max().double_value(&[]) > 0.0), "{}", kind.name());
        for (checkpointed, plain) in checkpointed.1.iter().zip(&plain.1) {
            assert_equal(kind.name(), checkpointed, plain);
        }
    }
}

#[test]
fn ranks_and_modules_are_dropped_only_in_announced_passes_and_the_same_in_each() {
    let golden = Golden::open("lora.safetensors");
    for kind in KINDS {
        for (rank_dropout, module_dropout) in [(0.5, 0.0), (0.0, 0.5)] {
            let model = tiny_model();
            let networks = Networks::of(&model);
            let config = LoraConfig { rank_dropout, module_dropout, ..config(kind) };
            let lora = moved(&config, &networks);
            lora.set_dropout(&config, 3);
            lora.attach(&networks);
            let output = || unet_output(&model, &golden);
            let whole = output();
            lora.set_pass(Some(1));
            let dropped = output();
            assert!(!dropped.equal(&whole), "{}", kind.name());
            assert_equal(kind.name(), &output(), &dropped);
            lora.set_pass(Some(2));
            assert!(!output().equal(&dropped), "{}: another pass drops others", kind.name());
            lora.set_pass(None);
            assert_equal(kind.name(), &output(), &whole);
        }
    }
}

#[test]
fn dropped_ranks_leave_the_mean_where_it_was() {
    let golden = Golden::open("lora.safetensors");
    let model = tiny_model();
    let networks = Networks::of(&model);
    let path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k";
    let (_, layer) = model.unet.parameters().layers().find(|(name, _)| *name == path).expect("the model has it");
    let sdtrain_model::Adaptable::Linear(layer) = layer else { panic!("{path} is linear") };
    let states = golden.tensor("input.encoder_hidden_states");
    for kind in KINDS {
        let config = LoraConfig { rank_dropout: 0.5, ..config(kind) };
        let lora = moved(&config, &networks);
        lora.set_dropout(&config, 3);
        let bare = layer.forward(&states);
        lora.attach(&networks);
        let whole = layer.forward(&states) - &bare;
        let passes = 400;
        let sum = (0..passes).fold(Tensor::zeros_like(&whole), |sum, pass| {
            lora.set_pass(Some(pass));
            sum + (layer.forward(&states) - &bare)
        });
        networks.layers().for_each(|(_, _, layer)| layer.detach_all());
        // DoRA's length is not dropped with the ranks.
        if kind != AdapterKind::Dora {
            let mean = sum / passes as f64;
            let apart = ((&mean - &whole).norm() / whole.norm()).double_value(&[]);
            // Of 400 draws that are 0 or 2, the mean is 0.05 from 1.
            assert!(apart < 0.2, "{}: {apart}", kind.name());
        }
    }
}

#[test]
fn long_weight_changes_are_shrunk_to_the_limit_and_short_ones_left_alone() {
    for kind in KINDS {
        let model = tiny_model();
        let networks = Networks::of(&model);
        let lora = moved(&config(kind), &networks);
        let norms = |lora: &Lora| -> Vec<f64> {
            let norm = |m: &sdtrain_adapter::LoraModule| m.layer.adapter().product(m.layer.site()).norm();
            lora.modules().iter().map(|module| norm(module).double_value(&[])).collect()
        };
        let before = norms(&lora);
        let mut sorted = before.clone();
        sorted.sort_by(f64::total_cmp);
        let limit = sorted[sorted.len() / 2];
        let kept: Vec<Tensor> = lora.parameters(Part::Unet).iter().map(|(_, tensor)| tensor.copy()).collect();
        lora.cap_norms(sorted[sorted.len() - 1] * 1.01).expect("they are finite");
        for ((name, tensor), kept) in lora.parameters(Part::Unet).iter().zip(&kept) {
            assert_equal(name, tensor, kept);
        }
        lora.cap_norms(limit).expect("they are finite");
        for (before, after) in before.iter().zip(norms(&lora)) {
            let expected = before.min(limit);
            assert!((after - expected).abs() <= 1e-5 * expected, "{}: {before} became {after}", kind.name());
        }
    }
}

#[test]
fn a_limit_leaves_adapters_of_zero_alone() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    for kind in KINDS {
        let lora = Lora::new(&config(kind), 7, &networks).expect("there are such layers");
        lora.cap_norms(1.0).expect("zero is no reason to fail");
        let finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        assert!(lora.parameters(Part::Unet).iter().all(|(_, tensor)| finite(tensor)), "{}", kind.name());
    }
}

#[test]
fn metadata_names_the_network_as_kohyas_scripts_would() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    for (kind, module, arguments) in [
        (AdapterKind::Lora, "networks.lora", r#"{"conv_alpha":"2","conv_dim":"2"}"#),
        (AdapterKind::Loha, "lycoris.kohya", r#"{"algo":"loha","conv_alpha":"2","conv_dim":"2"}"#),
        (
            AdapterKind::Dora,
            "lycoris.kohya",
            r#"{"algo":"lora","conv_alpha":"2","conv_dim":"2","dora_wd":"True","wd_on_output":"True"}"#,
        ),
        (AdapterKind::Ia3, "lycoris.kohya", r#"{"algo":"ia3"}"#),
    ] {
        let config = config(kind);
        let metadata = kohya_metadata(&Lora::new(&config, 7, &networks).expect("there are such layers"), &config);
        assert_eq!(metadata["ss_network_module"], module);
        assert_eq!(metadata["ss_network_args"], arguments);
        let dim = if kind == AdapterKind::Ia3 { "None" } else { "2" };
        assert_eq!(metadata["ss_network_dim"], dim);
    }
    let config = LoraConfig { rank_stabilized: true, alpha: Some(3.0), rank: 4, ..LoraConfig::default() };
    let lora = Lora::new(&config, 7, &networks).expect("there are such layers");
    let metadata = kohya_metadata(&lora, &config);
    assert_eq!((metadata["ss_network_alpha"].as_str(), lora.modules()[0].alpha()), ("3", Some(6.0)));
    assert_eq!(metadata["ss_network_args"], r#"{"algo":"lora","rs_lora":"True"}"#);
}

#[test]
fn tensors_that_do_not_fit_are_refused_with_the_layer_and_a_reason() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    for (tensors, reason) in [
        (&[("hada_w1_a", &[8i64, 2][..]), ("hada_w1_b", &[2, 32])][..], "one of its four matrices is missing"),
        (
            &[("hada_w1_a", &[8, 2]), ("hada_w1_b", &[2, 31]), ("hada_w2_a", &[8, 2]), ("hada_w2_b", &[2, 32])],
            "beside a weight [8, 32]",
        ),
        (&[("lokr_w1", &[2, 2]), ("lokr_w2", &[4, 15])], "factors [[2, 2], [4, 15]] beside a weight [8, 32]"),
        (&[("lokr_w1", &[2, 2])], "its large factor is incomplete"),
        (&[("lokr_w1", &[2, 2]), ("lokr_w2_a", &[4, 3]), ("lokr_w2_b", &[2, 16])], "beside a weight [8, 32]"),
        (&[("dora_scale", &[8, 1])], "it has magnitudes, but nothing that they belong to"),
        (&[("dora_scale", &[7, 1]), ("lora_down.weight", &[2, 32]), ("lora_up.weight", &[8, 2])], "magnitudes [7, 1]"),
        (&[("diff", &[8, 31])], "a difference [8, 31]"),
        (&[("diff", &[8, 32]), ("diff_b", &[8])], "a difference [8, 32] (of the bias Some([8]))"),
        (&[("weight", &[9]), ("on_input", &[])], "a vector [9]"),
        (&[("weight", &[8])], "its vector, or the side that it is for, is missing"),
        (&[("diff", &[8, 32]), ("hada_t1", &[2, 2])], "one of its four matrices is missing"),
        (
            &[("diff", &[8, 32]), ("lora_down.weight", &[2, 32]), ("lora_up.weight", &[8, 2])],
            "`.diff` does not belong to the other tensors",
        ),
        (&[("alpha", &[])], "it has no tensors of a kind that is known"),
    ] {
        let path = folder.path().join("other.safetensors");
        let zeros: Vec<(String, Tensor)> = tensors
            .iter()
            .map(|(name, shape)| (format!("{layer}.{name}"), Tensor::zeros(*shape, (Kind::Float, tch::Device::Cpu))))
            .collect();
        let reader = sdtrain_model::TensorReader::new(zeros.iter().map(|(name, tensor)| (name.clone(), tensor)), None);
        write_source(&path, &reader, &BTreeMap::new()).expect("there is room");
        let read = LoraFile::read(&open(&path), &networks).and_then(|file| file.into_lora(&networks));
        let message = read.expect_err("it does not fit").to_string();
        assert!(message.contains(reason) && message.contains("attn2.to_k"), "{message}");
    }
}

#[test]
fn a_form_without_a_place_for_a_kind_says_so() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    let full = Lora::new(&config(AdapterKind::Full), 7, &networks).expect("there are such layers");
    let error = full.check_form(Form::Peft).expect_err("PEFT has no such thing");
    assert!(error.to_string().contains("no place for whole differences") && error.hint().is_some(), "{error}");
    full.check_form(Form::Kohya).expect("LyCORIS' form has it");
    // Keys, values and the end of the feed-forward mean the same in both forms; a bias on the output does not.
    let ia3 = LoraConfig { kind: AdapterKind::Ia3, ..LoraConfig::default() };
    let lora = Lora::new(&ia3, 7, &networks).expect("there are such layers");
    lora.check_form(Form::Peft).expect("PEFT's form has it");
    let ia3 = LoraConfig { targets: Some(vec!["unet.*.to_out.0".into()]), ..ia3 };
    let error = Lora::new(&ia3, 7, &networks).expect("there are such layers").check_form(Form::Peft);
    assert!(error.expect_err("the bias").to_string().contains("bias"));
}
