//! Formats that the `image` crate decodes.

use std::io::{Cursor, SeekFrom};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::format::{Decoded, Format, Header, LONGEST_SIDE, MOST_MEMORY, Pixels, sensible};
use super::jpeg::TRUNCATED;
use super::profile::{Kind, is_ignored};
use crate::source::ReadSeek;

/// A format that the `image` crate decodes, with what it does not tell.
pub(super) struct ByImageCrate {
    pub format: ImageFormat,
    pub name: &'static str,
    pub begins: fn(&[u8]) -> bool,
    /// Whether the image moves; an error where the end of the file is missing and the format says where it should be.
    pub is_animated: fn(&mut dyn ReadSeek) -> Result<bool, String>,
}

impl Format for ByImageCrate {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begins(&self, start: &[u8]) -> bool {
        (self.begins)(start)
    }

    fn look(&self, file: &mut dyn ReadSeek) -> Result<Header, String> {
        let animated = (self.is_animated)(file)?;
        file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
        let mut decoder = self.reader(file).into_decoder().map_err(describe)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let (width, height) = decoder.dimensions();
        let kind = if decoder.color_type().has_color() { Kind::Rgb } else { Kind::Grey };
        let ignores_profile = match decoder.icc_profile() {
            Ok(profile) => profile.is_some_and(|profile| is_ignored(&profile, kind)),
            Err(_) => true,
        };
        Ok(Header { width, height, orientation, animated, ignores_profile })
    }

    fn decode(&self, bytes: &[u8]) -> Result<Decoded, String> {
        let mut cursor = Cursor::new(bytes);
        (self.is_animated)(&mut cursor)?;
        cursor.set_position(0);
        let mut decoder = self.reader(cursor).into_decoder().map_err(describe)?;
        let (width, height) = decoder.dimensions();
        sensible(width, height, Orientation::NoTransforms)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let profile = decoder.icc_profile().unwrap_or(None);
        let image = DynamicImage::from_decoder(decoder).map_err(describe)?;
        Ok(Decoded { pixels: Pixels::Light(image), profile, orientation })
    }
}

impl ByImageCrate {
    fn reader<R: std::io::BufRead + std::io::Seek>(&self, file: R) -> ImageReader<R> {
        let mut limits = Limits::default();
        limits.max_image_width = Some(LONGEST_SIDE);
        limits.max_image_height = Some(LONGEST_SIDE);
        limits.max_alloc = Some(MOST_MEMORY);
        let mut reader = ImageReader::with_format(file, self.format);
        reader.limits(limits);
        reader
    }
}

/// A decoder's error in one line.
fn describe(error: image::ImageError) -> String {
    match error {
        image::ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => TRUNCATED.to_owned(),
        other => other.to_string().replace('\n', " "),
    }
}
