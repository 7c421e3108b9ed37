//! Low-rank adapters: one layer's delta, whole outputs, gradients, convolutions, merging, new ones.

use crate::{FP32, attached, text_output, tiny_model, unet_output};
use sdtrain_adapter::{Lora, Networks};
use sdtrain_model::Adaptable;
use sdtrain_recipe::LoraConfig;
use sdtrain_state_dict::maps::lora_peft::Part;
use sdtrain_torch_test_support::{Golden, assert_equal, assert_near, difference};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

fn rank(golden: &Golden) -> u32 {
    golden.config()["rank"].as_u64().expect("a rank") as u32
}

fn alpha(golden: &Golden) -> f64 {
    golden.config()["alpha"].as_f64().expect("an alpha")
}

/// The golden file's tensors under PEFT's names say nothing of alpha, which therefore goes into the strength.
fn with_alpha(lora: &Lora, golden: &Golden) {
    lora.set_strength(alpha(golden) / f64::from(rank(golden)));
}

#[test]
fn the_delta_of_one_layer_matches_peft() {
    let golden = Golden::open("lora.safetensors");
    let model = tiny_model();
    let config = golden.config();
    let path = config["layer"].as_str().expect("a path");
    let (_, layer) = model.unet.parameters().layers().find(|(name, _)| *name == path).expect("the model has it");
    let Adaptable::Linear(layer) = layer else { panic!("{path} is linear") };
    let states = golden.tensor("input.encoder_hidden_states");
    let base = layer.forward(&states);
    assert_near("without adapter", &base, &golden.tensor("output.layer_base"), FP32);
    let lora = attached(&golden.under("kohya."), &model);
    assert_near("delta", &(layer.forward(&states) - &base), &golden.tensor("output.layer_delta"), FP32);
    let module = lora.modules().iter().find(|module| module.path == path).expect("it has an adapter");
    let of_weight = states.matmul(&module.layer.weight_delta().tr());
    assert_near("delta by the weights", &of_weight, &golden.tensor("output.layer_delta"), FP32);
}

#[test]
fn outputs_match_peft_under_both_namings() {
    let golden = Golden::open("lora.safetensors");
    let bare = unet_output(&tiny_model(), &golden);
    assert_near("without adapter", &bare, &golden.tensor("output.sample_without_adapter"), FP32);
    for naming in ["peft.", "kohya."] {
        let model = tiny_model();
        let lora = attached(&golden.under(naming), &model);
        if naming == "peft." {
            with_alpha(&lora, &golden);
        }
        assert_near(naming, &unet_output(&model, &golden), &golden.tensor("output.sample"), FP32);
        assert_near(naming, &text_output(&model, &golden), &golden.tensor("output.last_hidden_state"), FP32);
        lora.set_strength(0.0);
        assert_equal("switched off", &unet_output(&model, &golden), &bare);
    }
}

#[test]
fn gradients_match_peft() {
    let golden = Golden::open("lora.safetensors");
    let model = tiny_model();
    let lora = attached(&golden.under("kohya."), &model);
    let parameters: BTreeMap<String, Tensor> = lora.parameters(Part::Unet).into_iter().collect();
    parameters.values().for_each(|parameter| drop(parameter.set_requires_grad(true)));
    unet_output(&model, &golden).square().mean(Kind::Float).backward();
    let names = golden.names_under("output.gradient.");
    assert_eq!(names, parameters.keys().collect::<Vec<_>>(), "the same tensors under the same names");
    for name in names {
        assert_near(name, &parameters[name].grad(), &golden.tensor(&format!("output.gradient.{name}")), FP32);
    }
}

#[test]
fn convolutions_match_peft() {
    let golden = Golden::open("lora.safetensors");
    let model = tiny_model();
    let lora = attached(&golden.under("peft_convolutions."), &model);
    with_alpha(&lora, &golden);
    assert!(lora.modules().iter().any(|module| module.layer.site().convolution() == Some((2, 1))), "one has a stride");
    assert_near("output", &unet_output(&model, &golden), &golden.tensor("output.sample_convolutions"), FP32);
}

#[test]
fn merged_weights_give_the_output_of_attached_adapters() {
    let golden = Golden::open("lora.safetensors");
    for (adapters, expected) in [("kohya.", "output.sample"), ("peft_convolutions.", "output.sample_convolutions")] {
        let model = tiny_model();
        let networks = Networks::of(&model);
        let lora = attached(&golden.under(adapters), &model);
        if adapters != "kohya." {
            with_alpha(&lora, &golden);
        }
        networks.layers().for_each(|(_, _, layer)| layer.detach_all());
        lora.merge(&networks).expect("it fits");
        assert_near(adapters, &unet_output(&model, &golden), &golden.tensor(expected), FP32);
    }
}

#[test]
fn new_adapters_stand_where_pefts_do_and_change_nothing_at_first() {
    let golden = Golden::open("lora.safetensors");
    let model = tiny_model();
    let networks = Networks::of(&model);
    let config = LoraConfig { rank: rank(&golden), train_text_encoder: true, ..LoraConfig::default() };
    let lora = Lora::new(&config, 7, &networks).expect("there are such layers");
    let new: BTreeMap<String, Tensor> =
        [Part::TextEncoder, Part::Unet].into_iter().flat_map(|part| lora.parameters(part)).collect();
    let shapes: Vec<(&str, Vec<i64>)> = new.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect();
    let expected: Vec<(&str, Vec<i64>)> = golden
        .names_under("peft.")
        .into_iter()
        .map(|name| (name, golden.tensor(&format!("peft.{name}")).size()))
        .collect();
    assert_eq!(shapes, expected);

    let (unet, text) = (unet_output(&model, &golden), text_output(&model, &golden));
    lora.attach(&networks);
    assert_equal("UNet", &unet_output(&model, &golden), &unet);
    assert_equal("text encoder", &text_output(&model, &golden), &text);
    // PEFT draws A from U(-1/√inputs, 1/√inputs).
    for (name, down) in new.iter().filter(|(name, _)| name.contains("lora_A")) {
        let bound = 1.0 / (down.size()[1] as f64).sqrt();
        let largest = down.abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.5 * bound, "{name}: {largest} of {bound}");
    }
    let again: BTreeMap<String, Tensor> =
        Lora::new(&config, 7, &networks).expect("as before").parameters(Part::Unet).into_iter().collect();
    again.iter().for_each(|(name, tensor)| assert_equal(name, tensor, &new[name]));
}

#[test]
fn convolutions_get_their_own_rank_and_alpha() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    let config = LoraConfig {
        rank: 4,
        alpha: Some(2.0),
        convolutions: true,
        conv_rank: Some(2),
        conv_alpha: Some(0.5),
        ..LoraConfig::default()
    };
    let lora = Lora::new(&config, 7, &networks).expect("there are such layers");
    let (convolutions, linears): (Vec<_>, Vec<_>) =
        lora.modules().iter().partition(|module| module.layer.site().is_convolution());
    assert!(!convolutions.is_empty() && !linears.is_empty());
    assert!(convolutions.iter().all(|module| (module.rank(), module.alpha()) == (Some(2), Some(0.5))));
    assert!(linears.iter().all(|module| (module.rank(), module.alpha()) == (Some(4), Some(2.0))));
    let places: Vec<&str> = convolutions.iter().map(|module| module.path.as_str()).collect();
    assert!(places.contains(&"down_blocks.0.downsamplers.0.conv") && !places.contains(&"conv_in"), "{places:?}");
}

#[test]
fn targets_that_match_nothing_are_an_error_with_a_hint() {
    let model = tiny_model();
    let config = LoraConfig { targets: Some(vec!["unet.*.to_x".into()]), ..LoraConfig::default() };
    let error = Lora::new(&config, 7, &Networks::of(&model)).expect_err("there is no such layer");
    assert!(error.to_string().contains("`lora.targets` matches no layer") && error.hint().is_some(), "{error}");
}

#[test]
fn adapters_in_fp32_beside_a_layer_in_bf16_follow_the_activations() {
    let golden = Golden::open("lora.safetensors");
    let model = tiny_model();
    attached(&golden.under("kohya."), &model);
    let [sample, states] = ["input.sample", "input.encoder_hidden_states"].map(|name| golden.tensor(name));
    let timesteps = golden.tensor("input.timesteps");
    let output = model.unet.forward(&sample.to_kind(Kind::BFloat16), &timesteps, &states, false);
    assert_eq!(output.kind(), Kind::BFloat16);
    // Sums of rounded numbers in another order: no farther from fp32 than PEFT's own output in bf16 is.
    let expected = golden.tensor("output.sample");
    let (ours, _) = difference(&output, &expected);
    let (peft, _) = difference(&golden.tensor("output.sample_bf16"), &expected);
    assert!(ours < 1.2 * peft, "{ours:.2e}, PEFT {peft:.2e}");
}
