//! Colour profiles: from the colours a file means to those of sRGB, which models were trained on.
//!
//! A profile that is broken or is for another kind of pixels is ignored, as browsers do, and a look at the image says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use image::RgbImage;
use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};

/// What there is to do for a profile.
#[derive(Clone)]
enum Conversion {
    /// Nothing: its colours are those of sRGB.
    None,
    By(Arc<Transform8BitExecutor>),
    /// It is broken, or for other pixels.
    Impossible,
}

/// Conversions by the digest of their profile.
type Conversions = BTreeMap<([u8; 32], Kind), Conversion>;

/// What one kind of pixels is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Rgb,
    Grey,
    Cmyk,
}

/// Whether a profile has to be ignored for pixels of this kind. Grey ones may have one for colours.
pub(super) fn is_ignored(icc: &[u8], kind: Kind) -> bool {
    let is_impossible = |kind| matches!(conversion(icc, kind), Conversion::Impossible);
    is_impossible(kind) && (kind != Kind::Grey || is_impossible(Kind::Rgb))
}

/// Converts the colours; `is_grey` when all three channels are the same and the profile is one for grey.
pub(super) fn rgb_to_srgb(image: &mut RgbImage, is_grey: bool, icc: &[u8]) {
    if is_grey && let Conversion::By(conversion) = conversion(icc, Kind::Grey) {
        // One byte a pixel has 256 values: the table of all of them is the conversion.
        let greys: Vec<u8> = (0..=255).collect();
        let mut table = vec![0; 3 * 256];
        if conversion.transform(&greys, &mut table).is_ok() {
            for pixel in image.pixels_mut() {
                let grey = usize::from(pixel.0[0]);
                pixel.0.copy_from_slice(&table[3 * grey..3 * grey + 3]);
            }
        }
    } else if let Conversion::By(conversion) = conversion(icc, Kind::Rgb) {
        let mut converted = vec![0; image.as_raw().len()];
        if conversion.transform(image.as_raw(), &mut converted).is_ok() {
            image.copy_from_slice(&converted);
        }
    }
}

/// Red, green and blue of inks: by their profile, or each ink as a filter where there is none.
pub(super) fn cmyk_to_srgb(cmyk: &[u8], icc: Option<&[u8]>) -> Vec<u8> {
    let mut rgb = vec![0; cmyk.len() / 4 * 3];
    if let Some(Conversion::By(conversion)) = icc.map(|icc| conversion(icc, Kind::Cmyk))
        && conversion.transform(cmyk, &mut rgb).is_ok()
    {
        return rgb;
    }
    for (rgb, inks) in rgb.chunks_exact_mut(3).zip(cmyk.chunks_exact(4)) {
        let paper = |ink: u8| u32::from(255 - ink);
        for (value, ink) in rgb.iter_mut().zip(inks) {
            *value = ((paper(*ink) * paper(inks[3]) + 127) / 255) as u8;
        }
    }
    rgb
}

/// The conversion of a profile. Making one takes milliseconds and most files of a data set have the same, so they are kept.
fn conversion(icc: &[u8], kind: Kind) -> Conversion {
    const KEPT: usize = 64;
    static CONVERSIONS: OnceLock<Mutex<Conversions>> = OnceLock::new();
    let key = (*blake3::hash(icc).as_bytes(), kind);
    let conversions = CONVERSIONS.get_or_init(Mutex::default);
    if let Some(known) = conversions.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return known.clone();
    }
    let made = make(icc, kind).unwrap_or(Conversion::Impossible);
    let mut conversions = conversions.lock().unwrap_or_else(PoisonError::into_inner);
    if conversions.len() >= KEPT {
        conversions.clear();
    }
    conversions.insert(key, made.clone());
    made
}

fn make(icc: &[u8], kind: Kind) -> Option<Conversion> {
    let profile = ColorProfile::new_from_slice(icc).ok()?;
    let (space, layout) = match kind {
        Kind::Rgb => (DataColorSpace::Rgb, Layout::Rgb),
        Kind::Grey => (DataColorSpace::Gray, Layout::Gray),
        Kind::Cmyk => (DataColorSpace::Cmyk, Layout::Rgba),
    };
    if profile.color_space != space {
        return None;
    }
    let conversion = profile
        .create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, TransformOptions::default())
        .ok()?;
    Some(match kind != Kind::Rgb || changes_something(&*conversion) {
        true => Conversion::By(conversion),
        false => Conversion::None,
    })
}

/// Whether any of 1000 colours all over the cube moves by more than rounding; the many versions of sRGB do not.
fn changes_something(conversion: &Transform8BitExecutor) -> bool {
    let level = |step: usize| (step * 255 / 9) as u8;
    let colours: Vec<u8> = (0..1000).flat_map(|i| [level(i % 10), level(i / 10 % 10), level(i / 100)]).collect();
    let mut converted = vec![0; colours.len()];
    conversion.transform(&colours, &mut converted).is_ok()
        && colours.iter().zip(&converted).any(|(before, after)| before.abs_diff(*after) > 1)
}
