//! Dropout of an adapter's numbers: a function of seed, pass and layer, and off outside training.

use crate::{text_output, tiny_model, unet_output};
use sdtrain_adapter::{Lora, Networks, kohya_metadata};
use sdtrain_model::LayerAdapter;
use sdtrain_recipe::{AdapterKind, DropoutPlace, LoraConfig};
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use sdtrain_torch_test_support::{Golden, assert_equal};
use tch::{Kind, Tensor};

#[test]
fn inputs_are_dropped_only_in_announced_passes_and_the_same_in_each() {
    let golden = Golden::open("lora.safetensors");
    let model = tiny_model();
    let networks = Networks::of(&model);
    let config = LoraConfig { rank: 4, dropout: 0.5, train_text_encoder: true, ..LoraConfig::default() };
    let lora = Lora::new(&config, 7, &networks).expect("there are such layers");
    lora.set_dropout(&config, 3);
    for module in lora.modules() {
        module.layer.adapter().parameters().into_iter().for_each(|(_, tensor)| {
            let _ = tch::no_grad(|| tensor.shallow_clone().fill_(0.05));
        });
    }
    lora.attach(&networks);
    let outputs = || (unet_output(&model, &golden), text_output(&model, &golden));
    let (unet, text) = outputs();
    lora.set_pass(Some(5));
    let (dropped_unet, dropped_text) = outputs();
    assert!(!dropped_unet.equal(&unet) && !dropped_text.equal(&text), "something is dropped");
    let again = outputs();
    assert_equal("UNet in the same pass", &again.0, &dropped_unet);
    assert_equal("text encoder in the same pass", &again.1, &dropped_text);
    lora.set_pass(Some(6));
    assert!(!unet_output(&model, &golden).equal(&dropped_unet), "another pass drops others");
    lora.set_pass(None);
    let after = outputs();
    assert_equal("UNet outside training", &after.0, &unet);
    assert_equal("text encoder outside training", &after.1, &text);
}

#[test]
fn the_two_places_drop_an_input_for_all_ranks_or_each_rank_by_itself() {
    let model = tiny_model();
    let networks = Networks::of(&model);
    let target = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    // What each of two ranks makes of ones, each number half as often and twice as much: `[places, 2]`.
    let ranks = |dropout_at| {
        let targets = Some(vec![target.to_string()]);
        let config = LoraConfig { rank: 2, dropout: 0.5, dropout_at, targets, ..LoraConfig::default() };
        let lora = Lora::new(&config, 7, &networks).expect("there is such a layer");
        lora.set_dropout(&config, 3);
        lora.set_pass(Some(5));
        let [module] = lora.modules() else { panic!("one target") };
        for (tensor, value) in module.layer.adapter().parameters() {
            tch::no_grad(|| match tensor {
                // The outputs show the ranks.
                LoraTensor::Up => value.shallow_clone().copy_(&Tensor::eye_m(16, 2, (Kind::Float, value.device()))),
                _ => drop(value.shallow_clone().fill_(1.0)),
            });
        }
        let input = Tensor::ones([1, 400, 16], (Kind::Float, tch::Device::Cpu));
        let added = module.layer.added(&input, &input.zeros_like()).expect("it is there");
        added.narrow(2, 0, 2).squeeze_dim(0)
    };
    let same =
        |ranks: &Tensor| ranks.select(1, 0).eq_tensor(&ranks.select(1, 1)).to_kind(Kind::Float).mean(Kind::Float);
    let (of_input, of_ranks) = (ranks(DropoutPlace::Input), ranks(DropoutPlace::RankActivations));
    assert_eq!(same(&of_input).double_value(&[]), 1.0, "both ranks miss the same inputs");
    assert!(of_input.unique_dim(0, true, false, false).0.size()[0] > 4, "they miss some of the sixteen");
    let share = same(&of_ranks).double_value(&[]);
    assert!((share - 0.5).abs() < 0.1, "each rank is dropped by itself, so they agree half of the time: {share}");
    let all_or_nothing = of_ranks.eq(0.0).logical_or(&of_ranks.eq(32.0)).all().int64_value(&[]);
    assert_eq!(all_or_nothing, 1, "a rank is there, twice as much, or it is not");
}

#[test]
fn a_file_says_network_dropout_where_it_is_kohyas() {
    let model = tiny_model();
    let mut config = LoraConfig { rank: 2, dropout: 0.25, kind: AdapterKind::Lora, ..LoraConfig::default() };
    let lora = Lora::new(&config, 7, &Networks::of(&model)).expect("there are such layers");
    assert_eq!(kohya_metadata(&lora, &config)["ss_network_dropout"], "None");
    config.dropout_at = DropoutPlace::RankActivations;
    assert_eq!(kohya_metadata(&lora, &config)["ss_network_dropout"], "0.25");
}
