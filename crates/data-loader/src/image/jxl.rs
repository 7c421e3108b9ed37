//! JPEG XL, by `jxl-oxide`; without the feature `jpeg-xl` only recognised.

use super::format::{Decoded, Format, Header};
use crate::source::ReadSeek;

pub(super) struct JpegXl;

impl Format for JpegXl {
    fn name(&self) -> &'static str {
        "JPEG XL"
    }

    fn begins(&self, start: &[u8]) -> bool {
        // A bare codestream, or the container of ISO/IEC 18181-2.
        start.starts_with(&[0xFF, 0x0A]) || start.starts_with(b"\0\0\0\x0cJXL \r\n\x87\n")
    }

    fn look(&self, file: &mut dyn ReadSeek) -> Result<Header, String> {
        decoder::look(file)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Decoded, String> {
        decoder::decode(bytes)
    }
}

#[cfg(feature = "jpeg-xl")]
mod decoder {
    use std::io::Read;

    use image::DynamicImage;
    use image::metadata::Orientation;
    use jxl_oxide::{
        AllocTracker, EnumColourEncoding, InitializeResult, JxlImage, JxlThreadPool, PixelFormat, RenderingIntent,
        UninitializedJxlImage,
    };

    use crate::image::format::{Decoded, Header, MOST_MEMORY, Pixels, sensible};
    use crate::image::jpeg::TRUNCATED;
    use crate::image::profile::{Kind, is_ignored};
    use crate::source::ReadSeek;

    pub(super) fn look(file: &mut dyn ReadSeek) -> Result<Header, String> {
        let mut image = empty();
        // What is not consumed is offered again, with more behind it.
        let mut waiting = Vec::new();
        loop {
            let count = file.take(4096).read_to_end(&mut waiting).map_err(|e| e.to_string())?;
            if count == 0 {
                return Err(TRUNCATED.to_owned());
            }
            let consumed = image.feed_bytes(&waiting).map_err(describe)?;
            waiting.drain(..consumed);
            match image.try_init().map_err(describe)? {
                InitializeResult::NeedMoreData(same) => image = same,
                InitializeResult::Initialized(image) => return to_first_frame(file, image, waiting),
            }
        }
    }

    /// Reads on until the whole of the first image has been seen, which decodes none of it.
    fn to_first_frame(file: &mut dyn ReadSeek, mut image: JxlImage, mut waiting: Vec<u8>) -> Result<Header, String> {
        let header = header(&image);
        // A size that is refused anyway is not worth reading for.
        header.size()?;
        loop {
            let consumed = image.feed_bytes(&waiting).map_err(describe)?;
            waiting.drain(..consumed);
            if image.num_loaded_keyframes() > 0 {
                return Ok(header);
            }
            if file.take(1 << 16).read_to_end(&mut waiting).map_err(|e| e.to_string())? == 0 {
                return Err(TRUNCATED.to_owned());
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
        let mut image = empty();
        image.feed_bytes(bytes).map_err(describe)?;
        let InitializeResult::Initialized(mut image) = image.try_init().map_err(describe)? else {
            return Err(TRUNCATED.to_owned());
        };
        let Header { width, height, .. } = header(&image);
        sensible(width, height, Orientation::NoTransforms)?;
        if image.num_loaded_keyframes() == 0 {
            return Err(TRUNCATED.to_owned());
        }
        // What was made from light has no profile of its own any more; the decoder gives any colours that are asked for.
        let profile = profile_of(&image).map(<[u8]>::to_vec);
        let format = image.pixel_format();
        if profile.is_none() {
            let intent = RenderingIntent::Relative;
            image.request_color_encoding(match format.is_grayscale() {
                true => EnumColourEncoding::gray_srgb(intent),
                false => EnumColourEncoding::srgb(intent),
            });
        }
        let render = image.render_frame(0).map_err(describe)?;
        let mut stream = render.stream();
        let (width, height) = (stream.width(), stream.height());
        let mut samples = vec![0u8; width as usize * height as usize * stream.channels() as usize];
        stream.write_to_buffer(&mut samples);
        let light = match format {
            PixelFormat::Gray => image::GrayImage::from_raw(width, height, samples).map(DynamicImage::ImageLuma8),
            PixelFormat::Graya => {
                image::GrayAlphaImage::from_raw(width, height, samples).map(DynamicImage::ImageLumaA8)
            }
            PixelFormat::Rgb => image::RgbImage::from_raw(width, height, samples).map(DynamicImage::ImageRgb8),
            PixelFormat::Rgba => image::RgbaImage::from_raw(width, height, samples).map(DynamicImage::ImageRgba8),
            PixelFormat::Cmyk | PixelFormat::Cmyka => {
                return Err("is JPEG XL with inks (CMYK), which is not read; convert it to RGB".to_owned());
            }
        };
        let light = light.ok_or("has another number of channels than its header says")?;
        // The decoder has turned it.
        Ok(Decoded { pixels: Pixels::Light(light), profile, orientation: Orientation::NoTransforms })
    }

    /// Images are decoded by several threads at once already.
    fn empty() -> UninitializedJxlImage {
        let tracker = AllocTracker::with_limit(MOST_MEMORY as usize);
        JxlImage::builder().pool(JxlThreadPool::none()).alloc_tracker(tracker).build_uninit()
    }

    fn profile_of(image: &JxlImage) -> Option<&[u8]> {
        image.original_icc().filter(|_| !image.image_header().metadata.xyb_encoded)
    }

    fn header(image: &JxlImage) -> Header {
        let kind = if image.pixel_format().is_grayscale() { Kind::Grey } else { Kind::Rgb };
        Header {
            width: image.width(),
            height: image.height(),
            // It is in these numbers already.
            orientation: Orientation::NoTransforms,
            animated: image.image_header().metadata.animation.is_some(),
            ignores_profile: profile_of(image).is_some_and(|profile| is_ignored(profile, kind)),
        }
    }

    fn describe(error: Box<dyn std::error::Error + Send + Sync>) -> String {
        error.to_string().replace('\n', " ")
    }
}

#[cfg(not(feature = "jpeg-xl"))]
mod decoder {
    use crate::image::format::{Decoded, Header};
    use crate::source::ReadSeek;

    const REFUSAL: &str = "is JPEG XL, which this program was built without (feature `jpeg-xl`)";

    pub(super) fn look(_: &mut dyn ReadSeek) -> Result<Header, String> {
        Err(REFUSAL.to_owned())
    }

    pub(super) fn decode(_: &[u8]) -> Result<Decoded, String> {
        Err(REFUSAL.to_owned())
    }
}
