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
        let mut fields = Fields::default();
        let mut field = |bytes: &[u8]| fields.add(bytes);
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
        fields.name()
    }
}

/// The networks that make states of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextEncoderIdentity {
    /// A digest of their weights, and of how they are put together.
    pub digest: [u8; 32],
    /// The number format that they compute in.
    pub compute: Dtype,
    /// Numbers of a state.
    pub hidden_size: usize,
    /// Counts the ways of making states from its layers.
    pub states_version: u32,
}

/// Everything that decides the states of a text. The text itself is not in it: two that have the same tokens have the same states.
#[derive(Clone, Copy, Debug)]
pub struct TextKey<'a> {
    /// Ids of all windows, each with its marks and padding; of each text encoder, one behind the other.
    pub ids: &'a [i64],
    /// What the states are multiplied by, where that is not 1.
    pub weights: Option<&'a [f32]>,
    /// How many windows the ids are.
    pub windows: usize,
    /// Layers from the end, 1 is the last.
    pub clip_skip: usize,
    /// What encodes it.
    pub encoder: &'a TextEncoderIdentity,
}

impl TextKey<'_> {
    /// The name of the entry.
    pub fn name(&self) -> EntryName {
        // Taken apart without `..`, so that a new field cannot be forgotten here.
        let TextKey { ids, weights, windows, clip_skip, encoder } = self;
        let TextEncoderIdentity { digest, compute, hidden_size, states_version } = encoder;
        let mut fields = Fields::default();
        let mut field = |bytes: &[u8]| fields.add(bytes);
        field(b"sdtrain text states");
        field(&FORMAT_VERSION.to_le_bytes());
        field(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        field(&[u8::from(weights.is_some())]);
        field(&weights.iter().copied().flatten().flat_map(|weight| weight.to_le_bytes()).collect::<Vec<u8>>());
        field(&(*windows as u64).to_le_bytes());
        field(&(*clip_skip as u64).to_le_bytes());
        field(digest);
        field(compute.to_string().as_bytes());
        field(&(*hidden_size as u64).to_le_bytes());
        field(&states_version.to_le_bytes());
        fields.name()
    }
}

/// A digest of fields, each with its length, so that none can run into the next.
#[derive(Default)]
struct Fields(blake3::Hasher);

impl Fields {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn name(&self) -> EntryName {
        EntryName(*self.0.finalize().as_bytes())
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName([u8; 32]);

impl EntryName {
    /// The name that is shown like this; none for anything else.
    pub fn parse(text: &str) -> Option<EntryName> {
        let mut name = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 64 || digits.iter().any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (place, byte) in name.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
        }
        Some(EntryName(name))
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
