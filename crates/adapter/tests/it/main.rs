//! The same numbers and files as PEFT and diffusers, from the golden files in `tests/fixtures`.

mod dropout;
mod files;
mod kinds;
mod learned_tokens;
mod lora;
mod merge;

use sdtrain_adapter::{Lora, LoraFile, Networks};
use sdtrain_model::{LoadOptions, StableDiffusion, load};
use sdtrain_state_dict::Reader;
use sdtrain_torch_test_support::{Golden, fixture_folder};
use tch::{Device, Kind, Tensor};

/// fp32 on a CPU: ten times what was measured, a tenth of what is promised; leaves room for other instruction sets.
const FP32: f64 = 1e-5;

/// The model that the golden files were made with, new and without adapters.
fn tiny_model() -> StableDiffusion {
    let folder = fixture_folder().join("tiny_sd1");
    load(&folder.display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).expect("a fixture")
}

/// The adapters of `reader`, in their layers' slots.
fn attached(reader: &dyn Reader, model: &StableDiffusion) -> Lora {
    let networks = Networks::of(model);
    let file = LoraFile::read(reader, &networks).expect("adapters of this model");
    let lora = file.into_lora(&networks).expect("they fit");
    lora.attach(&networks);
    lora
}

/// The UNet's output for the golden file's inputs.
fn unet_output(model: &StableDiffusion, golden: &Golden) -> Tensor {
    let [sample, timesteps, states] =
        ["sample", "timesteps", "encoder_hidden_states"].map(|name| golden.tensor(&format!("input.{name}")));
    model.unet.forward(&sample, &timesteps, &states, false)
}

/// The text encoder's output for the golden file's ids.
fn text_output(model: &StableDiffusion, golden: &Golden) -> Tensor {
    let layer = sdtrain_model::TextLayer { from_end: 1, final_norm: true };
    let network = &model.text_encoders[0].network;
    network.encode(&golden.tensor("input.ids"), 0, Kind::Float, layer, false).0
}
