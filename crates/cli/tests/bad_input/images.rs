//! Files that are no images, not whole ones, or not what they say.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};

use crate::corpus::{Case, Verdict};

/// Formats by the ending of their files.
const FORMATS: [(&str, ImageFormat); 6] = [
    ("jpg", ImageFormat::Jpeg),
    ("png", ImageFormat::Png),
    ("webp", ImageFormat::WebP),
    ("bmp", ImageFormat::Bmp),
    ("tiff", ImageFormat::Tiff),
    ("gif", ImageFormat::Gif),
];

const TRUNCATED: Verdict = Verdict::LeftOut("truncated: the file ends before its image does");

/// A picture of 64 × 64 pixels that does not compress to nothing.
pub fn encoded(format: ImageFormat) -> Vec<u8> {
    let noise = |x: u32, y: u32| (x * 7 + y * 13 + (x * y) % 31 * 5) as u8;
    let image = RgbImage::from_fn(64, 64, |x, y| Rgb([noise(x, y), noise(y, x), (x * 4) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub fn png() -> Vec<u8> {
    encoded(ImageFormat::Png)
}

/// A file of the data loader's tests.
fn jxl() -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data-loader/tests/it/files/lossy.jxl");
    fs::read(file).unwrap()
}

pub fn cases() -> Vec<Case> {
    let mut cases = cut_off();
    cases.extend(bombs());
    cases.extend(no_images());
    cases.extend(damaged());
    cases.extend(unusual());
    cases
}

fn cut_off() -> Vec<Case> {
    let mut seeds: Vec<(&str, Vec<u8>)> = FORMATS.iter().map(|(name, format)| (*name, encoded(*format))).collect();
    seeds.push(("jxl", jxl()));
    let mut cases = Vec::new();
    for (ending, whole) in &seeds {
        let name = format!("a.{ending}");
        let parts = [("a header of 16 bytes", 16), ("26 bytes", 26)].into_iter();
        let of_hundred = [10, 25, 50, 75, 90, 99].map(|part| (part, whole.len() * part / 100));
        let last = whole.len() - if *ending == "gif" { 2 } else { 1 };
        let cuts = parts
            .map(|(what, length)| (what.to_owned(), length))
            .chain(of_hundred.map(|(part, length)| (format!("{part} %"), length)))
            .chain([("all but its end".to_owned(), last)]);
        for (what, length) in cuts {
            cases.push(Case::new(format!("{ending} cut to {what}"), TRUNCATED).image(&name, &whole[..length]));
        }
    }
    let gif = encoded(ImageFormat::Gif);
    let without_trailer = &gif[..gif.len() - 1];
    cases.push(Case::new("gif without its last byte", Verdict::Accepted("1 kept")).image("a.gif", without_trailer));
    for (ending, mut bytes) in seeds {
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        let verdict = match ending {
            "jpg" | "png" => TRUNCATED,
            // Nothing in a BMP tells black pixels from missing ones, nothing in a lossless WebP one code from another.
            "bmp" | "webp" => Verdict::Accepted("1 kept"),
            "tiff" => Verdict::LeftOut(""),
            _ => Verdict::LeftOutWhenRead(""),
        };
        cases.push(
            Case::new(format!("{ending} with a second half of zeros"), verdict).image(&format!("a.{ending}"), bytes),
        );
    }
    cases
}

fn bombs() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, file: &str, part: &'static str, bytes: Vec<u8>| {
        cases.push(Case::new(name, Verdict::LeftOut(part)).image(file, bytes));
    };
    for (width, height) in [(65_500_u16, 65_500_u16), (16_000, 11_000)] {
        let mut jpeg = encoded(ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
        jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
        add(&format!("jpg of {width} × {height}"), "a.jpg", "bytes cannot hold as many", jpeg);
    }
    for (width, height) in [(u32::MAX / 2, u32::MAX / 2), (65_500, 65_500), (16_000, 11_000)] {
        add(&format!("png of {width} × {height}"), "a.png", "bytes cannot hold as many", png_of(width, height));
    }
    add("png of 0 × 64", "a.png", "", png_of(0, 64));
    for (width, height) in [(60_000_i32, 60_000_i32), (16_000, 11_000), (64, i32::MIN), (i32::MAX, 1)] {
        add(&format!("bmp of {width} × {height}"), "a.bmp", "", bmp_of(width, height));
    }
    add("bmp of 0 × 64", "a.bmp", "", bmp_of(0, 64));
    let mut gif = encoded(ImageFormat::Gif);
    gif[6..10].fill(0xFF);
    add("gif with a screen of 65535 × 65535", "a.gif", "", gif);
    for (name, side) in [("tiff of 60000 × 60000", 60_000_u32), ("tiff of 0 × 0", 0)] {
        add(name, "a.tiff", "", tiff_of(side));
    }
    // An extended header whose canvas has 24 bits a side.
    let canvas = [&b"VP8X\x0a\0\0\0\0\0\0\0"[..], &[0xFF; 6]].concat();
    add("webp with a canvas of 16777216 × 16777216", "a.webp", "", riff(&canvas));
    // A lossless header: its mark, 14 bits of width less one, 14 bits of height less one.
    for (name, part, size) in [
        ("webp of 16383 × 16383", "16383 × 16383 pixels are more than is read", b"\xfe\xbf\xff\x0f"),
        ("webp of 16384 × 16384", "", b"\xff\xff\xff\x0f"),
    ] {
        add(name, "a.webp", part, riff(&[&b"VP8L\x06\0\0\0\x2f"[..], size, b"\0"].concat()));
    }
    add("jxl of 1073741824 × 1073741824", "a.jxl", "", jxl_of(1 << 30));
    cases.push(
        Case::new("png of two gibibytes", Verdict::LeftOut("2147483648 bytes are too many for an image"))
            .image("a.png", png())
            .prepare(|root| {
                fs::File::options().write(true).open(root.join("data/a.png")).unwrap().set_len(1 << 31).unwrap();
            }),
    );
    cases
}

/// A PNG that says it has another size, with a right checksum of its header.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut png = png();
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    png
}

/// ISO 3309, as PNG uses it.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 })
    };
    !bytes.iter().fold(u32::MAX, step)
}

fn bmp_of(width: i32, height: i32) -> Vec<u8> {
    let mut bmp = encoded(ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&width.to_le_bytes());
    bmp[22..26].copy_from_slice(&height.to_le_bytes());
    bmp
}

fn tiff_of(side: u32) -> Vec<u8> {
    let mut tiff = encoded(ImageFormat::Tiff);
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    let entries = u16::from_le_bytes(tiff[directory..directory + 2].try_into().unwrap()) as usize;
    for entry in (0..entries).map(|number| directory + 2 + 12 * number) {
        // Width and height.
        if matches!(u16::from_le_bytes([tiff[entry], tiff[entry + 1]]), 256 | 257) {
            tiff[entry + 2..entry + 4].copy_from_slice(&4_u16.to_le_bytes());
            tiff[entry + 8..entry + 12].copy_from_slice(&side.to_le_bytes());
        }
    }
    tiff
}

fn riff(chunks: &[u8]) -> Vec<u8> {
    [&b"RIFF"[..], &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", chunks].concat()
}

/// A bare codestream's size header: not in eighths, a height of 30 bits less one, as wide as high; then metadata that is all default.
fn jxl_of(side: u64) -> Vec<u8> {
    let bits = (side - 1) << 3 | 0b110 | 0b001 << 33 | 1 << 36;
    [&[0xFF, 0x0A][..], &bits.to_le_bytes(), &[0; 32]].concat()
}

fn no_images() -> Vec<Case> {
    let endings = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "jxl", "avif"];
    let empty = |ending: &str| {
        let case = Case::new(format!("empty {ending}"), Verdict::LeftOut("is an empty file"));
        case.image(&format!("a.{ending}"), "")
    };
    let mut cases: Vec<Case> = endings.into_iter().map(empty).collect();
    for (name, bytes) in [
        ("a page", &b"<!doctype html><title>404</title>"[..]),
        ("text", b"not an image at all"),
        ("a byte", b"\xff"),
        ("two bytes of a JPEG", b"\xff\xd8"),
        ("zeros", &[0; 4096]),
        ("a PDF", b"%PDF-1.7\n"),
        ("an SVG", b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>"),
        ("a gzip", b"\x1f\x8b\x08\0"),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0"),
        ("control characters", b"\x1b[2J\x07\r\n"),
        ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ] {
        cases.push(
            Case::new(format!("{name} as png"), Verdict::LeftOut("is not an image: it begins with"))
                .image("a.png", bytes),
        );
    }
    let avif = [&b"\0\0\0\x1cftypavif"[..], &[0; 64]].concat();
    cases.push(Case::new("AVIF as png", Verdict::LeftOut("is AVIF, which is not read")).image("a.png", avif));
    for (name, begin) in [
        ("jpg", &b"\xff\xd8\xff\xe0"[..]),
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("bmp", b"BM"),
        ("gif", b"GIF89a"),
        ("tiff", b"II*\0"),
        ("jxl", b"\xff\x0a"),
    ] {
        let junk: Vec<u8> = (0..2000_u32).map(|i| (i * i % 251) as u8).collect();
        // Any number is a size to a GIF, and what follows is only looked at when it is decoded.
        let verdict = if name == "gif" { Verdict::LeftOutWhenRead("") } else { Verdict::LeftOut("") };
        let case = Case::new(format!("junk behind the mark of a {name}"), verdict);
        cases.push(case.image(&format!("a.{name}"), [begin, &junk].concat()));
    }
    cases
}

fn damaged() -> Vec<Case> {
    let with = |at: usize, value: u8| {
        let mut png = png();
        png[at] ^= value;
        png
    };
    let mut pixels = png();
    let data = pixels.windows(4).position(|name| name == b"IDAT").unwrap() + 4;
    pixels[data + 10..data + 20].fill(0xAA);
    let mut no_header = png();
    no_header[12..16].copy_from_slice(b"JUNK");
    let mut webp = encoded(ImageFormat::WebP);
    let middle = webp.len() / 2;
    webp[middle..middle + 40].fill(0x55);
    let mut jpeg = encoded(ImageFormat::Jpeg);
    let table = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC4]).unwrap();
    jpeg[table + 5..table + 21].fill(0xFF);
    vec![
        Case::new("png with a wrong checksum of its header", Verdict::LeftOut("")).image("a.png", with(30, 1)),
        Case::new("png of colour type 9", Verdict::LeftOut("")).image("a.png", with(25, 9)),
        Case::new("png whose mark is damaged", Verdict::LeftOut("is not an image")).image("a.png", with(1, 32)),
        Case::new("png without a header", Verdict::LeftOut("has no header chunk")).image("a.png", no_header),
        Case::new("png with damaged pixels", Verdict::LeftOutWhenRead("")).image("a.png", pixels),
        Case::new("webp with damaged pixels", Verdict::LeftOutWhenRead("")).image("a.webp", webp),
        Case::new("jpg with impossible tables", Verdict::LeftOutWhenRead("")).image("a.jpg", jpeg),
    ]
}

/// Odd, and fine; or too small to learn from.
fn unusual() -> Vec<Case> {
    let fine = Verdict::Accepted("1 image found, 1 kept");
    let of_size = |width: u32, height: u32| {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::new(width, height).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let mut cases = vec![
        Case::new("png that ends in jpg", fine.clone()).image("a.jpg", png()),
        Case::new("jpg that ends in png", fine.clone()).image("a.png", encoded(ImageFormat::Jpeg)),
        Case::new("webp that ends in GIF", fine.clone()).image("a.GIF", encoded(ImageFormat::WebP)),
        Case::new("png with text behind its end", fine.clone()).image("a.png", [&png()[..], b"<script>"].concat()),
        Case::new("jpg with zeros behind its end", fine.clone())
            .image("a.jpg", [&encoded(ImageFormat::Jpeg)[..], &[0; 100]].concat()),
        Case::new("an image whose name holds quotes, blanks and brackets", fine.clone())
            .image("a \"b\" {c}; $(d).png", png()),
    ];
    for (width, height) in [(1, 1), (1, 4000), (4000, 1), (3, 3)] {
        let case = Case::new(format!("{width} × {height} pixels"), Verdict::LeftOut("would have to be enlarged"));
        cases.push(case.image("a.png", of_size(width, height)));
    }
    cases
}
