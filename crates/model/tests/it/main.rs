//! The same numbers, names and files as diffusers and transformers, from the golden files in `tests/fixtures`.

mod files;
mod full_size;
mod gradient_checkpointing;
mod long_window;
mod lpips;
mod mutations;
mod prompts;
mod text_encoder;
mod unet;
mod unet_blocks;
mod vae;

use sdtrain_model::{Builder, Source};
use sdtrain_state_dict::Reader;
use tch::{Device, Kind};

/// fp32 on a CPU: ten times what was measured, a tenth of what is promised; leaves room for other instruction sets.
const FP32: f64 = 1e-5;
/// bf16 has eight bits of mantissa, and every layer rounds.
const BF16: f64 = 2e-2;

/// A builder that takes a network's weights from a golden file.
fn from_weights(weights: &dyn Reader, kind: Kind) -> Builder<'_> {
    Builder::new(Source::File(weights), kind, Device::Cpu)
}
