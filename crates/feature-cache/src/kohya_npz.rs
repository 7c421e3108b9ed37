//! Latents as kohya's sd-scripts keep them beside the images: `NAME_0512x0768_sd.npz` or, by older versions, `NAME.npz`.
//!
//! Such a file holds one draw from the autoencoder's distribution, unscaled, and not the distribution; it does not say which
//! autoencoder, which resize kernel or which version of the image it was made of. What it does say is held against the image's
//! place here. Newer versions keep several sizes in a file, with names that end in `_HEIGHTxWIDTH` of the latents.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sdtrain_data_loader::StillView;
use zip::ZipArchive;

use crate::latents::{LatentEntry, Moments, Origin};
use crate::npy::{self, Array};

/// The log-variance that stands for no randomness: the smallest that an autoencoder can state, a deviation of 3·10⁻⁷.
pub const NO_RANDOMNESS: f32 = -30.0;

/// More numbers than any image's latents have; what claims to hold more is not read.
const MOST_NUMBERS: usize = 1 << 24;

/// The file that belongs to an image of this size (`(width, height)` in pixels), if there is one.
pub fn find(image: &Path, original_size: (usize, usize)) -> Option<PathBuf> {
    let stem = image.file_stem()?.to_string_lossy();
    let (width, height) = original_size;
    [format!("{stem}_{width:04}x{height:04}_sd.npz"), format!("{stem}.npz")]
        .into_iter()
        .map(|name| image.with_file_name(name))
        .find(|path| path.is_file())
}

/// Reads the latents of `image` from its file, as an entry without randomness; or says why they are not those of this image at
/// this place. `shape` is that of its latents here; `mirrored` whether those of the mirrored image are needed too.
pub fn read(
    file: &Path,
    image: &Path,
    view: &StillView,
    shape: [usize; 3],
    mirrored: bool,
) -> Result<LatentEntry, String> {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if modified(file) < modified(image) {
        return Err("is older than its image, which may have been edited since".to_owned());
    }
    let archive = File::open(file).map_err(|error| error.to_string())?;
    let archive = ZipArchive::new(archive).map_err(|error| format!("is no `.npz` file: {error}"))?;
    let mut arrays = Arrays { archive, suffix: format!("_{}x{}", shape[1], shape[2]) };

    let Some(latents) = arrays.get("latents")? else {
        return Err(format!("holds no `latents` of {} × {}", shape[2], shape[1]));
    };
    let plain = arrays.moments("latents", latents, shape)?;
    let (width, height) = view.original_size;
    let size = arrays.get("original_size")?.ok_or("does not say the `original_size` of its image")?;
    if size.values != [width as f64, height as f64] {
        let of = size.values.iter().map(f64::to_string).collect::<Vec<_>>().join(" × ");
        return Err(format!("is of an image of {of} pixels, this one has {width} × {height}"));
    }
    let crop = arrays.get("crop_ltrb")?.ok_or("does not say its `crop_ltrb`")?;
    let expected = crop_ltrb(view.bucket, view.original_size);
    // Some versions round to whole pixels.
    let fits = |(a, b): (&f64, &f64)| (a - b).abs() <= 1.0;
    if crop.values.len() != 4 || !crop.values.iter().zip(&expected).all(fits) {
        return Err(format!("was cut at {:?}, which is not how this image is cut: {expected:?}", crop.values));
    }
    if view.is_squeezed() {
        return Err("is of an image that kept its shape, and here it is squeezed (`data.resize`)".to_owned());
    }
    let flipped = arrays.get("latents_flipped")?;
    if mirrored && flipped.is_none() {
        return Err("holds no `latents_flipped`, and `flip` is on".to_owned());
    }
    let mirrored = flipped.map(|flipped| arrays.moments("latents_flipped", flipped, shape)).transpose()?;
    Ok(LatentEntry { shape, plain, mirrored, origin: Origin::KohyaNpz })
}

/// What those scripts note of a crop, a function of the two sizes alone: where the image lies when it is made to fit into the
/// bucket (not: cover it), left, top, right and bottom.
fn crop_ltrb(bucket: (usize, usize), image: (usize, usize)) -> [f64; 4] {
    let (width, height) = (bucket.0 as f64, bucket.1 as f64);
    let aspect = image.0 as f64 / image.1 as f64;
    let inside = if width / height > aspect { (height * aspect, height) } else { (width, width / aspect) };
    let left = ((width - inside.0) / 2.0).floor();
    let top = ((height - inside.1) / 2.0).floor();
    [left, top, left + inside.0, top + inside.1]
}

struct Arrays {
    archive: ZipArchive<File>,
    /// Of the names of arrays of the wanted size.
    suffix: String,
}

impl Arrays {
    /// The array of this name for the wanted size, or the one of a file that has one size only.
    fn get(&mut self, name: &str) -> Result<Option<Array>, String> {
        let sized = format!("{name}{}.npy", self.suffix);
        let entry =
            [sized, format!("{name}.npy")].into_iter().find(|entry| self.archive.index_for_name(entry).is_some());
        let Some(entry) = entry else { return Ok(None) };
        let of_array = |reason: String| format!("`{name}` in it {reason}");
        let mut source = self.archive.by_name(&entry).map_err(|error| of_array(format!("cannot be read: {error}")))?;
        npy::read(&mut source, MOST_NUMBERS).map(Some).map_err(of_array)
    }

    fn moments(&self, name: &str, array: Array, shape: [usize; 3]) -> Result<Moments, String> {
        if array.shape != shape {
            return Err(format!("`{name}` in it has the shape {:?}, the image's latents have {shape:?}", array.shape));
        }
        let mean: Vec<f32> = array.values.iter().map(|&value| value as f32).collect();
        if mean.iter().any(|value| !value.is_finite()) {
            return Err(format!("`{name}` in it has numbers that are not finite"));
        }
        let logvar = vec![NO_RANDOMNESS; mean.len()];
        Ok(Moments { mean, logvar })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noted_crop_is_where_the_image_fits_into_its_bucket() {
        // Wider than its bucket: bars above and below; narrower: at the sides.
        assert_eq!(crop_ltrb((512, 512), (1024, 512)), [0.0, 128.0, 512.0, 384.0]);
        assert_eq!(crop_ltrb((512, 512), (400, 500)), [51.0, 0.0, 51.0 + 409.6, 512.0]);
        assert_eq!(crop_ltrb((768, 512), (1536, 1024)), [0.0, 0.0, 768.0, 512.0]);
    }
}
