//! Small pictures that stand in the page itself.

use std::collections::HashMap;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use sdtrain_data_loader::{Placement, examine};
use sdtrain_recipe::{DataConfig, Subset};

use super::escaped;
use crate::perceptual::fit_within;
use crate::survey::ImageFacts;

/// Longer side in pixels; shown at half of it, so that it is crisp on fine screens.
const SIDE: usize = 240;
const QUALITY: u8 = 72;

/// Makes the pictures of a page.
pub(super) struct Thumbnails<'a> {
    config: &'a DataConfig,
    subsets: &'a [Subset],
    /// Those that were made already: an image may be shown in several places.
    made: HashMap<String, Option<String>>,
}

impl<'a> Thumbnails<'a> {
    /// For images of these subsets.
    pub(super) fn new(config: &'a DataConfig, subsets: &'a [Subset]) -> Thumbnails<'a> {
        Thumbnails { config, subsets, made: HashMap::new() }
    }

    /// What a run cuts out of the image, or without a placement the whole image, as an `img` element; a grey box where it cannot
    /// be decoded.
    pub(super) fn element(&mut self, facts: &ImageFacts, placement: Option<Placement>) -> String {
        let name = facts.name();
        let key = format!("{}{name}", placement.is_some());
        if !self.made.contains_key(&key) {
            let picture = self.picture(facts, placement).ok();
            self.made.insert(key.clone(), picture);
        }
        match &self.made[&key] {
            Some(source) => format!("<img loading=\"lazy\" alt=\"{}\" src=\"{source}\">", escaped(&name)),
            None => "<span class=\"nopicture\">no picture</span>".to_owned(),
        }
    }

    fn picture(&self, facts: &ImageFacts, placement: Option<Placement>) -> Result<String, String> {
        let image = examine::decode(&facts.location, &self.config.alpha)?;
        let kernel = self.subsets[facts.subset].resize_kernel.unwrap_or(self.config.resize_kernel);
        let image = match placement {
            Some(placement) => examine::cut(image, placement, kernel)?,
            None => image,
        };
        let small: RgbImage = fit_within(image, SIDE)?;
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&small).map_err(|e| e.to_string())?;
        Ok(format!("data:image/jpeg;base64,{}", base64(&bytes)))
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_padding = digit > chunk.len();
            text.push(if is_padding { '=' } else { DIGITS[(word >> (18 - 6 * digit) & 63) as usize] as char });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xFF, 0xEF, 0xBE]), "/+++");
    }
}
