//! An image's view, an encoder and an entry, as tests need them.

use sdtrain_data_loader::{PIXELS_VERSION, StillView};
use sdtrain_feature_cache::{EncoderIdentity, EntryName, LatentEntry, LatentKey, Moments, Origin};
use sdtrain_recipe::{AlphaConfig, ResizeKernel};
use sdtrain_state_dict::Dtype;

/// Of latents of a 64 × 64 bucket.
pub const SHAPE: [usize; 3] = [4, 8, 8];

/// 96 × 64 pixels, cut to 64 × 64 at the centre.
pub fn view() -> StillView {
    StillView {
        original_size: (96, 64),
        resized: (96, 64),
        corner: (16, 0),
        bucket: (64, 64),
        resize_kernel: ResizeKernel::Auto,
        alpha: AlphaConfig::default(),
        pixels_version: PIXELS_VERSION,
    }
}

pub fn encoder() -> EncoderIdentity {
    EncoderIdentity { digest: [7; 32], compute: Dtype::F32, latent_channels: 4, downscale_factor: 8 }
}

/// The name of the entry of an image with this digest.
pub fn name_of(image: u8) -> EntryName {
    LatentKey { image: &[image; 32], view: &view(), encoder: &encoder() }.name()
}

pub fn moments(first: f32) -> Moments {
    let count = SHAPE.iter().product::<usize>();
    let numbers = |from: f32| (0..count).map(|index| from + index as f32 / 100.0).collect();
    Moments { mean: numbers(first), logvar: numbers(-first) }
}

pub fn entry(first: f32) -> LatentEntry {
    LatentEntry { shape: SHAPE, plain: moments(first), mirrored: None, origin: Origin::Encoded }
}
