//! The check names object, colour and style of posters: clean ones, damaged ones, and none where there is no poster.

use image::codecs::jpeg::JpegEncoder;
use image::{ImageReader, Rgb, RgbImage, imageops};
use sdtrain_posters::{Found, Poster, Style, base_poster, check, varied_poster};
use sdtrain_random::{Purpose, Stream};

const COUNT: u64 = 500;

/// Blur of 1.2 pixels, noise of ±12 and a JPEG of quality 40: worse than a small VAE.
fn damaged(picture: &RgbImage, index: u64) -> RgbImage {
    let mut stream = Stream::new(99, Purpose::Noise, 0, index);
    let mut picture = imageops::blur(picture, 1.2);
    for value in picture.iter_mut() {
        *value = (i64::from(*value) + stream.below(25) as i64 - 12).clamp(0, 255) as u8;
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 40).encode_image(&picture).expect("a picture can be encoded");
    let reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format().expect("memory can be read");
    reader.decode().expect("what was encoded can be decoded").to_rgb8()
}

/// How often the check was right, and the first captions for which it was not.
#[derive(Debug, Default)]
struct Marks {
    right: f64,
    styled: f64,
    misses: Vec<String>,
}

/// Marks the check on posters that it never saw: object and colour together, and how many it takes for `Zenpop`.
fn mark(style: Style, count: u64, draw: impl Fn(&Poster, u64) -> RgbImage) -> Marks {
    let mut marks = Marks::default();
    for index in 0..count {
        let poster = base_poster(77, index).0;
        let found = check(&draw(&poster, index));
        let is_right = found.object == Some(poster.object) && found.object_colour == Some(poster.object_colour);
        marks.right += f64::from(is_right) / count as f64;
        marks.styled += f64::from(found.style) / count as f64;
        if (!is_right || found.style != (style == Style::Zenpop)) && marks.misses.len() < 5 {
            marks.misses.push(format!("{index}: {} but {found:?}", poster.caption()));
        }
    }
    marks
}

#[test]
fn plain_posters_are_read_back() {
    let marks = mark(Style::Plain, COUNT, |poster, _| poster.draw(96, Style::Plain));
    assert!(marks.right >= 0.99 && marks.styled <= 0.01, "{marks:#?}");
}

#[test]
fn zenpop_posters_are_read_back() {
    let marks = mark(Style::Zenpop, COUNT, |poster, _| poster.draw(96, Style::Zenpop));
    assert!(marks.right >= 0.99 && marks.styled >= 0.99, "{marks:#?}");
}

#[test]
fn damaged_plain_posters_are_read_back() {
    let marks = mark(Style::Plain, COUNT, |poster, index| damaged(&poster.draw(96, Style::Plain), index));
    assert!(marks.right >= 0.98 && marks.styled <= 0.01, "{marks:#?}");
}

#[test]
fn damaged_zenpop_posters_are_read_back() {
    let marks = mark(Style::Zenpop, COUNT, |poster, index| damaged(&poster.draw(96, Style::Zenpop), index));
    assert!(marks.right >= 0.98 && marks.styled >= 0.98, "{marks:#?}");
}

#[test]
fn other_sizes_and_shapes_are_read_back() {
    let sizes = [(64, 64), (128, 128), (256, 256), (160, 96), (96, 160)];
    let draw = |style| {
        move |poster: &Poster, index: u64| {
            let (width, height) = sizes[index as usize % sizes.len()];
            poster.draw_sized(width, height, style)
        }
    };
    let marks = mark(Style::Plain, 200, draw(Style::Plain));
    assert!(marks.right >= 0.99 && marks.styled <= 0.01, "{marks:#?}");
    let marks = mark(Style::Zenpop, 200, draw(Style::Zenpop));
    assert!(marks.right >= 0.98 && marks.styled >= 0.98, "{marks:#?}");
}

#[test]
fn decorated_posters_are_not_taken_for_zenpop() {
    let styled = (0..COUNT).filter(|&index| {
        let (poster, style) = varied_poster(77, index);
        check(&poster.draw(96, style)).style
    });
    assert!(styled.count() as f64 <= 0.01 * COUNT as f64);
}

#[test]
fn nothing_is_found_where_nothing_is() {
    let nothing = |found: Found| found.object.is_none() && found.object_colour.is_none() && !found.style;
    let mut chance_likenesses = 0;
    for index in 0..100 {
        let mut stream = Stream::new(5, Purpose::Noise, 1, index);
        let mut channel = || stream.below(256) as u8;
        let uniform = Rgb([channel(), channel(), channel()]);
        assert!(nothing(check(&RgbImage::from_pixel(96, 96, uniform))), "{uniform:?}");
        let noise = RgbImage::from_fn(96, 96, |_, _| Rgb([channel(), channel(), channel()]));
        assert!(nothing(check(&noise)), "noise {index}");
        let blotches = imageops::blur(&noise, 4.0);
        assert!(nothing(check(&blotches)), "blotches {index}");
        // Random colours at the size of latents, enlarged: what an untrained model may give.
        let coarse = RgbImage::from_fn(12, 12, |_, _| Rgb([channel(), channel(), channel()]));
        let cells = imageops::resize(&coarse, 96, 96, imageops::FilterType::Triangle);
        chance_likenesses += u32::from(!nothing(check(&cells)));
    }
    // Among hundreds of blobs one may look like a bottle.
    assert!(chance_likenesses <= 3, "{chance_likenesses} of 100");
}

#[test]
fn pictures_of_any_size_are_looked_at_without_a_panic() {
    for (width, height) in [(0, 0), (1, 1), (1, 500), (3, 7), (15, 200), (1000, 40)] {
        assert_eq!(check(&RgbImage::new(width, height)).object, None);
    }
}
