//! The name of an entry: a digest of everything that decides its content.

use std::fmt;

use sdtrain_data_loader::StillView;
use sdtrain_recipe::{AlphaConfig, ResizeKernel};
use sdtrain_state_dict::Dtype;

/// Version of the files. Files of another version have other names.
pub const FORMAT_VERSION: u32 = 1;

/// The network that makes latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderIdentity {
    /// A digest of the weights that take part in encoding, and of how they are put together.
    pub digest: [u8; 32],
    /// The number format that it computes in.
    pub compute: Dtype,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Pixels a side for each place of the latents.
    pub downscale_factor: usize,
}

impl EncoderIdentity {
    /// `[channels, height, width]` of the latents of an image of `bucket` (`(width, height)` in pixels).
    pub fn latent_shape(&self, bucket: (usize, usize)) -> [usize; 3] {
        let factor = self.downscale_factor.max(1);
        [self.latent_channels, bucket.1 / factor, bucket.0 / factor]
    }
}

/// Everything that decides the latents of an image.
#[derive(Clone, Copy, Debug)]
pub struct LatentKey<'a> {
    /// BLAKE3 of the image's bytes.
    pub image: &'a [u8; 32],
    /// How it is scaled and cut.
    pub view: &'a StillView,
    /// What encodes it.
    pub encoder: &'a EncoderIdentity,
}

impl LatentKey<'_> {
    /// The name of the entry.
    pub fn name(&self) -> EntryName {
        // Taken apart without `..`, so that a new field cannot be forgotten here.
        let LatentKey { image, view, encoder } = self;
        let StillView { original_size, resized, corner, bucket, resize_kernel, alpha, pixels_version } = view;
        let AlphaConfig { background, ignore } = alpha;
        let EncoderIdentity { digest, compute, latent_channels, downscale_factor } = encoder;
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(b"sdtrain latents");
        field(&FORMAT_VERSION.to_le_bytes());
        field(*image);
        for (width, height) in [original_size, resized, corner, bucket] {
            field(&(*width as u64).to_le_bytes());
            field(&(*height as u64).to_le_bytes());
        }
        field(kernel_name(*resize_kernel).as_bytes());
        field(background);
        field(&[u8::from(*ignore)]);
        field(&pixels_version.to_le_bytes());
        field(digest);
        field(compute.to_string().as_bytes());
        field(&(*latent_channels as u64).to_le_bytes());
        field(&(*downscale_factor as u64).to_le_bytes());
        EntryName(*hasher.finalize().as_bytes())
    }
}

/// Part of the files' names, so never changed.
fn kernel_name(kernel: ResizeKernel) -> &'static str {
    match kernel {
        ResizeKernel::Auto => "auto",
        ResizeKernel::Lanczos => "lanczos",
        ResizeKernel::Bicubic => "bicubic",
        ResizeKernel::Bilinear => "bilinear",
        ResizeKernel::Area => "area",
        ResizeKernel::Nearest => "nearest",
    }
}

/// The name of an entry; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryName([u8; 32]);

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
