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
use tch::{Device, Kind, Tensor};

/// fp32 on a CPU: ten times what was measured, a tenth of what is promised; leaves room for other instruction sets.
const FP32: f64 = 1e-5;
/// In bf16 every layer rounds, each implementation in places of its own, so that two of them may be twice as far from each other as
/// they are from the truth. So this is what is compared: how far from the output in fp32 ours is in the mean, and theirs.
/// Measured: 0.97 to 1.06 times as far.
const BF16: f64 = 1.15;

/// A builder that takes a network's weights from a golden file.
fn from_weights(weights: &dyn Reader, kind: Kind) -> Builder<'_> {
    Builder::new(Source::File(weights), kind, Device::Cpu)
}

/// Fails where `found`, computed in bf16, is further than `theirs` from what both would be without rounding.
#[track_caller]
fn assert_rounds_as_well(what: &str, found: &Tensor, theirs: &Tensor, exact: &Tensor) {
    assert_eq!((found.size(), found.kind()), (exact.size(), Kind::BFloat16), "{what}");
    let distance =
        |narrow: &Tensor| (narrow.to_kind(Kind::Float) - exact).square().mean(Kind::Float).sqrt().double_value(&[]);
    let [found, theirs] = [found, theirs].map(distance);
    assert!(
        found <= BF16 * theirs,
        "{what}: {found:.2e} from the output in fp32, where theirs is {theirs:.2e} from it"
    );
}
