//! Dropout of an adapter's input: a function of seed, pass and layer, and off outside training.

use crate::{text_output, tiny_model, unet_output};
use sdtrain_adapter::{Lora, Networks};
use sdtrain_recipe::LoraConfig;
use sdtrain_torch_test_support::{Golden, assert_equal};

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
