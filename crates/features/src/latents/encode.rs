//! Images → the distributions of their latents, while other threads read the images that come next.
//!
//! Each image is encoded by itself: in a batch its latents would depend, in the last bits, on which others were beside it, and
//! a cache filled in two goes would not be the one filled in one. Nor would a batch save time on a processor (see
//! docs/log.md), and on a GPU it takes gigabytes for the layers at the full size of the image.

use crate::error::{Error, Result};
use crate::seeded_bugs::blamed;
use sdtrain_data_loader::{DataError, DataSet, HostImage};
use sdtrain_model::StableDiffusion;
use sdtrain_model::vae::LatentDistribution;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use tch::Tensor;

/// Mean and log-variance of one image's latents, unscaled: each `[channels, height, width]`, f32 on the host.
#[derive(Debug)]
pub(super) struct Moments {
    pub mean: Tensor,
    pub logvar: Tensor,
}

impl Moments {
    pub fn shallow_clone(&self) -> Moments {
        Moments { mean: self.mean.shallow_clone(), logvar: self.logvar.shallow_clone() }
    }
}

/// One image, encoded.
#[derive(Debug)]
pub(super) struct Encoded {
    /// BLAKE3 of the bytes that were decoded, where it was asked for.
    pub digest: Option<[u8; 32]>,
    pub plain: Moments,
    /// Where visits of the image may be mirrored.
    pub mirrored: Option<Moments>,
}

/// Encodes `images`, and hands each with its number to `take` when it is ready, in any order; `None` for one that cannot be read.
pub(super) fn encode(
    model: &StableDiffusion,
    data: &DataSet,
    images: &[usize],
    with_digest: bool,
    workers: usize,
    take: &mut dyn FnMut(usize, Option<Encoded>) -> Result<()>,
) -> Result<()> {
    let workers = workers.clamp(1, images.len().max(1));
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(workers);
        for _ in 0..workers {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(&image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody listens any more once something failed.
                    if sender.send((image, load(data, image, with_digest))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (image, loaded) in receiver {
            let encoded = match loaded? {
                None => None,
                Some(Loaded { pixels, digest }) => Some(Encoded {
                    digest,
                    plain: moments(model, data, &pixels, false)?,
                    mirrored: match data.may_be_mirrored(pixels.image) {
                        true => Some(moments(model, data, &pixels, true)?),
                        false => None,
                    },
                }),
            };
            take(image, encoded)?;
        }
        Ok(())
    })
}

struct Loaded {
    pixels: HostImage,
    digest: Option<[u8; 32]>,
}

/// Why an image is no reason to go on without it.
enum Failed {
    Data(DataError),
    Changing(PathBuf),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Data(error) => error.into(),
            Failed::Changing(path) => Error::Image { path, reason: "changes while it is being read" },
        }
    }
}

/// An image and the digest of what it was decoded from; nothing where it cannot be read.
fn load(data: &DataSet, image: usize, with_digest: bool) -> std::result::Result<Option<Loaded>, Failed> {
    /// Somebody who saves an image does so once.
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let digest = || with_digest.then(|| data.image_digest(image).ok()).flatten();
        let before = digest();
        let pixels = data.load_image(image, false).map_err(Failed::Data)?;
        if pixels.image != image {
            return Ok(None);
        }
        if before == digest() && before.is_some() == with_digest {
            return Ok(Some(Loaded { pixels, digest: before }));
        }
    }
    Err(Failed::Changing(data.path(image).to_owned()))
}

fn moments(model: &StableDiffusion, data: &DataSet, image: &HostImage, mirrored: bool) -> Result<Moments> {
    let (width, height) = image.size;
    let pixels = Tensor::f_from_slice(&image.pixels)?.f_reshape([1, 3, height as i64, width as i64])?;
    let pixels = if mirrored { pixels.f_flip([3])? } else { pixels };
    let LatentDistribution { mean, logvar } = model.latent_distribution(&pixels)?;
    let is_finite = |t: &Tensor| t.f_isfinite()?.f_all()?.f_int64_value(&[]);
    if is_finite(&mean)? == 0 || is_finite(&logvar)? == 0 {
        return Err(Error::LatentsNotFinite { image: data.path(blamed(image.image)).to_owned() });
    }
    let of_image = |t: Tensor| t.f_squeeze_dim(0)?.f_contiguous();
    Ok(Moments { mean: of_image(mean)?, logvar: of_image(logvar)? })
}
