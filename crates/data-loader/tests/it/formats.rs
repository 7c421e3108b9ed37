//! Every image format: read right, and noticed where it is cut off.

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgba};
use sdtrain_data_loader::{DataSet, HostImage, ImageLocation, examine};

use crate::folder::{Folder, picture};

const WIDTH: u32 = 48;
const HEIGHT: u32 = 32;

/// The files of `tests/it/files`, made by `scripts/fixtures/images.py`; all show its gradient.
const FILES: &[(&str, &[u8])] = &[
    ("progressive.jpg", include_bytes!("files/progressive.jpg")),
    ("restarts.jpg", include_bytes!("files/restarts.jpg")),
    ("cmyk.jpg", include_bytes!("files/cmyk.jpg")),
    #[cfg(feature = "jpeg-xl")]
    ("lossy.jxl", include_bytes!("files/lossy.jxl")),
    #[cfg(feature = "jpeg-xl")]
    ("lossless.jxl", include_bytes!("files/lossless.jxl")),
    ("lossy.webp", include_bytes!("files/lossy.webp")),
    ("palette.png", include_bytes!("files/palette.png")),
    ("animated.gif", include_bytes!("files/animated.gif")),
    ("animated.webp", include_bytes!("files/animated.webp")),
];

fn load(name: &str, bytes: &[u8], size: (u32, u32)) -> Result<HostImage, String> {
    let folder = Folder::new();
    folder.file(name, bytes);
    folder.file(&format!("{}.txt", name.split('.').next().unwrap()), b"a");
    let data = DataSet::open(&folder.config_of_size(size.0, size.1), 0, 64).map_err(|e| e.to_string())?;
    data.load_image(0, false).map_err(|e| e.to_string())
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The channels at a place, 0 to 255.
fn at(image: &HostImage, x: usize, y: usize) -> [i32; 3] {
    let (width, height) = image.size;
    [0, 1, 2].map(|c| ((image.pixels[(c * height + y) * width + x] + 1.0) * 127.5).round() as i32)
}

fn assert_shows(image: &HostImage, x: usize, y: usize, expected: [i32; 3], tolerance: i32, what: &str) {
    let found = at(image, x, y);
    let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= tolerance);
    assert!(near, "{what} at {x}, {y}: {found:?}, expected {expected:?} within {tolerance}");
}

#[test]
fn lossless_formats_come_back_to_the_bit() {
    let image = DynamicImage::from(picture(WIDTH, HEIGHT, 77));
    for (name, format) in [
        ("a.png", ImageFormat::Png),
        ("a.webp", ImageFormat::WebP),
        ("a.bmp", ImageFormat::Bmp),
        ("a.tiff", ImageFormat::Tiff),
    ] {
        let loaded = load(name, &encoded(&image, format), (WIDTH, HEIGHT)).unwrap();
        for (x, y, pixel) in image.to_rgb8().enumerate_pixels() {
            assert_eq!(at(&loaded, x as usize, y as usize), pixel.0.map(i32::from), "{name}");
        }
    }
}

#[test]
fn lossy_and_unusual_files_show_the_gradient() {
    for (name, bytes) in FILES {
        let loaded = load(name, bytes, (WIDTH, HEIGHT)).unwrap();
        for (x, y) in [(8, 8), (40, 8), (8, 24), (40, 24)] {
            // Quantised colours: 16 shades, chroma at half resolution, or CMYK and back.
            assert_shows(&loaded, x, y, [x as i32 * 5, y as i32 * 7, 40], 45, name);
        }
    }
    let grey = load("grey.jpg", include_bytes!("files/grey.jpg"), (WIDTH, HEIGHT)).unwrap();
    let [r, g, b] = at(&grey, 40, 24);
    assert!(r == g && g == b && (r - 163).abs() < 6, "{r} {g} {b}");
}

#[test]
fn colours_are_those_of_the_profile() {
    let places = [(8, 8), (40, 8), (8, 24), (40, 24)];
    // As LittleCMS converts them, printed by `scripts/fixtures/images.py`.
    let adobe_rgb = [[25, 53, 34], [232, 53, 34], [0, 170, 2], [212, 170, 2]];
    let grey = [82, 133, 150, 189].map(|v| [v; 3]);
    let cmyk = [[101, 94, 76], [188, 112, 82], [113, 148, 88], [203, 173, 95]];
    // Ours rounds in other places; the JPEG goes through another inverse transform, and a steep lattice, as well.
    for (name, bytes, expected, tolerance) in [
        ("adobe_rgb.png", &include_bytes!("files/adobe_rgb.png")[..], adobe_rgb, 1),
        ("grey_profile.png", include_bytes!("files/grey_profile.png"), grey, 1),
        ("cmyk_profile.jpg", include_bytes!("files/cmyk_profile.jpg"), cmyk, 3),
    ] {
        let loaded = load(name, bytes, (WIDTH, HEIGHT)).unwrap();
        for ((x, y), expected) in places.into_iter().zip(expected) {
            assert_shows(&loaded, x, y, expected, tolerance, name);
        }
    }
}

#[test]
fn a_profile_that_is_broken_or_that_of_other_pixels_changes_nothing() {
    let image = picture(WIDTH, HEIGHT, 77);
    let grey_profile = include_bytes!("files/grey_profile.png");
    for profile in [&b"no profile at all"[..], &[0; 4096], grey_profile] {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        image::ImageEncoder::set_icc_profile(&mut encoder, profile.to_vec()).unwrap();
        image.write_with_encoder(encoder).unwrap();
        let loaded = load("a.png", &bytes, (WIDTH, HEIGHT)).unwrap();
        assert_eq!(at(&loaded, 40, 20), image.get_pixel(40, 20).0.map(i32::from));
        assert_eq!(ignored_profiles("a.png", &bytes), 1);
    }
    for (name, bytes) in [
        ("adobe_rgb.png", &include_bytes!("files/adobe_rgb.png")[..]),
        ("grey_profile.png", grey_profile),
        ("cmyk_profile.jpg", include_bytes!("files/cmyk_profile.jpg")),
    ] {
        assert_eq!(ignored_profiles(name, bytes), 0, "{name}");
    }
}

/// Files of which it is said that their colour profile is not followed.
fn ignored_profiles(name: &str, bytes: &[u8]) -> usize {
    let folder = Folder::new();
    folder.file(name, bytes);
    folder.file(&format!("{}.txt", name.split('.').next().unwrap()), b"a");
    let data = DataSet::open(&folder.config_of_size(WIDTH, HEIGHT), 0, 64).unwrap();
    data.report().warnings.iter().filter(|warning| warning.starts_with("1 files have a colour profile")).count()
}

#[test]
fn inks_stored_as_luma_and_chroma_are_read() {
    let loaded = load("ycck.jpg", include_bytes!("files/ycck.jpg"), (WIDTH, HEIGHT)).unwrap();
    // As Pillow reads it.
    let expected = [[255, 127, 255], [178, 0, 183], [255, 166, 144], [178, 6, 0]];
    for ((x, y), expected) in [(8, 8), (40, 8), (8, 24), (40, 24)].into_iter().zip(expected) {
        assert_shows(&loaded, x, y, expected, 4, "ycck.jpg");
    }
}

#[cfg(feature = "jpeg-xl")]
#[test]
fn jpeg_xl_is_read() {
    let lossless = load("a.jxl", include_bytes!("files/lossless.jxl"), (WIDTH, HEIGHT)).unwrap();
    let alpha = load("a.jxl", include_bytes!("files/alpha.jxl"), (WIDTH, HEIGHT)).unwrap();
    for (x, y) in [(0, 0), (47, 31), (20, 10)] {
        let colour = [x as i32 * 5, y as i32 * 7, 40];
        assert_eq!(at(&lossless, x, y), colour);
        // Transparent at the top and opaque at the bottom.
        let opacity = (y as f32 + 0.5) / HEIGHT as f32;
        let over_white = colour.map(|v| (v as f32 * opacity + 255.0 * (1.0 - opacity)) as i32);
        assert_shows(&alpha, x, y, over_white, 4, "alpha.jxl");
    }
}

#[test]
fn avif_is_named_with_the_way_out() {
    let error = load("a.avif", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1A", (WIDTH, HEIGHT)).unwrap_err();
    assert!(error.contains("is AVIF, which is not read; convert it to PNG"), "{error}");
}

#[test]
fn animations_show_their_first_image_and_are_reported() {
    for (name, bytes) in FILES {
        let folder = Folder::new();
        folder.file(name, bytes);
        folder.file(&format!("{}.txt", name.split('.').next().unwrap()), b"a");
        let data = DataSet::open(&folder.config_of_size(WIDTH, HEIGHT), 0, 64).unwrap();
        let warned = data.report().warnings.iter().any(|w| w.starts_with("1 files hold several images"));
        assert_eq!(warned, name.starts_with("animated"), "{name}: {:?}", data.report().warnings);
    }
}

#[test]
fn orientation_is_applied() {
    let turned = include_bytes!("files/turned.jpg");
    let loaded = load("turned.jpg", turned, (HEIGHT, WIDTH)).unwrap();
    assert_eq!(loaded.original_size, (32, 48));
    // Turned clockwise, what was at the lower left is at the upper left, and red rises downwards.
    assert_shows(&loaded, 1, 2, [10, 30 * 7, 40], 16, "upper left");
    assert_shows(&loaded, 30, 45, [225, 7, 40], 16, "lower right");
}

#[test]
fn transparency_shows_white() {
    let image = ImageBuffer::from_fn(WIDTH, HEIGHT, |x, _| Rgba([200, 0, 0, [0, 255, 128][(x / 16) as usize]]));
    for (name, format) in [("a.png", ImageFormat::Png), ("a.webp", ImageFormat::WebP)] {
        let loaded = load(name, &encoded(&DynamicImage::ImageRgba8(image.clone()), format), (WIDTH, HEIGHT)).unwrap();
        assert_eq!(at(&loaded, 0, 0), [255, 255, 255]);
        assert_eq!(at(&loaded, 20, 0), [200, 0, 0]);
        assert_eq!(at(&loaded, 40, 0), [227, 127, 127]);
    }
}

#[test]
fn sixteen_bits_are_scaled() {
    let image: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(WIDTH, HEIGHT, Luma([40_000]));
    let png = encoded(&DynamicImage::ImageLuma16(image), ImageFormat::Png);
    assert_eq!(at(&load("a.png", &png, (WIDTH, HEIGHT)).unwrap(), 3, 3), [156, 156, 156]);
}

#[test]
fn the_content_decides_and_not_the_name() {
    let png = encoded(&DynamicImage::from(picture(WIDTH, HEIGHT, 77)), ImageFormat::Png);
    assert_eq!(at(&load("a.jpg", &png, (WIDTH, HEIGHT)).unwrap(), 0, 0), [0, 0, 77]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let image = DynamicImage::from(picture(WIDTH, HEIGHT, 77));
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("a.jpg", encoded(&image, ImageFormat::Jpeg)),
        ("a.png", encoded(&image, ImageFormat::Png)),
        ("a.webp", encoded(&image, ImageFormat::WebP)),
        ("a.bmp", encoded(&image, ImageFormat::Bmp)),
        ("a.gif", encoded(&image, ImageFormat::Gif)),
    ];
    files.extend(FILES.iter().filter(|(name, _)| !name.starts_with("animated")).map(|(n, b)| (*n, b.to_vec())));
    for (name, bytes) in files {
        // Every length would take minutes for the large ones; 97 is prime, so no structure is stepped over in step.
        let step = (bytes.len() / 97).max(1);
        let whole = load(name, &bytes, (WIDTH, HEIGHT)).unwrap();
        for length in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            match load(name, &bytes[..length], (WIDTH, HEIGHT)) {
                Err(error) => assert!(error.contains(name), "{error}"),
                // The last bytes of a GIF, the ends of its blocks, hold no pixel.
                Ok(image) if name.ends_with("gif") => assert_eq!(image, whole),
                Ok(_) => panic!("{name} cut to {length} of {} bytes", bytes.len()),
            }
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_noticed_without_decoding_it() {
    let image = DynamicImage::from(picture(WIDTH, HEIGHT, 77));
    let formats =
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff];
    let mut files: Vec<(String, Vec<u8>)> =
        formats.iter().map(|format| (format!("{format:?}"), encoded(&image, *format))).collect();
    files.extend(FILES.iter().filter(|(n, _)| !n.starts_with("animated")).map(|(n, b)| ((*n).to_owned(), b.to_vec())));
    let folder = Folder::new();
    let location = ImageLocation::file(folder.join("image"));
    for (name, bytes) in files {
        let size = |length: usize| {
            folder.file("image", &bytes[..length]);
            examine::read_size(&location)
        };
        assert_eq!(size(bytes.len()), Ok((WIDTH as usize, HEIGHT as usize)), "{name}");
        // The last byte of a GIF only says that no image follows.
        let last = bytes.len() - usize::from(name.to_lowercase().ends_with("gif"));
        for length in (0..last).step_by((bytes.len() / 499).max(1)).chain([last - 1]) {
            assert!(size(length).is_err(), "{name} cut to {length} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn an_animation_cut_in_its_first_frame_is_refused() {
    for (name, bytes) in FILES.iter().filter(|(name, _)| name.starts_with("animated")) {
        for length in (0..bytes.len() / 2).step_by(7) {
            assert!(load(name, &bytes[..length], (WIDTH, HEIGHT)).is_err(), "{name} cut to {length}");
        }
    }
}

#[test]
fn what_is_no_image_is_named_as_what_it_is() {
    let html = b"<!DOCTYPE html><html><body>404</body></html>";
    let error = load("a.jpg", html, (WIDTH, HEIGHT)).unwrap_err();
    assert!(error.contains("is not an image: it begins with `<!DOCTYPE html><`"), "{error}");
    assert!(load("a.png", b"", (WIDTH, HEIGHT)).unwrap_err().contains("is an empty file"));
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    let mut png = encoded(&DynamicImage::from(picture(WIDTH, HEIGHT, 0)), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0x4E, 0x20, 0, 0, 0x4E, 0x20]);
    let error = load("a.png", &png, (WIDTH, HEIGHT)).unwrap_err();
    assert!(error.contains("a.png"), "{error}");
    let gif = include_bytes!("files/animated.gif");
    let mut large = gif.to_vec();
    large[6..10].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF]);
    let error = load("a.gif", &large, (WIDTH, HEIGHT)).unwrap_err();
    assert!(error.contains("a.gif"), "{error}");
}
