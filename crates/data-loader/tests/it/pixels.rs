//! The pixels that are made of every kind of file, pinned: caches hold what was made from them.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat};
use sdtrain_data_loader::{DataSet, PIXELS_VERSION};
use sdtrain_recipe::{DataConfig, ResizeKernel};

use crate::folder::{Folder, picture};

/// Files, the size that they are brought to and by which kernel.
type Case = (&'static str, Vec<u8>, (u32, u32), ResizeKernel);

const OWN_SIZE: (u32, u32) = (48, 32);

fn cases() -> Vec<Case> {
    let image = DynamicImage::from(picture(OWN_SIZE.0, OWN_SIZE.1, 77));
    let encoded = |format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let mut cases = Vec::new();
    for (name, bytes) in [
        ("progressive.jpg", include_bytes!("files/progressive.jpg").to_vec()),
        ("restarts.jpg", include_bytes!("files/restarts.jpg").to_vec()),
        ("cmyk.jpg", include_bytes!("files/cmyk.jpg").to_vec()),
        ("cmyk_profile.jpg", include_bytes!("files/cmyk_profile.jpg").to_vec()),
        ("ycck.jpg", include_bytes!("files/ycck.jpg").to_vec()),
        ("grey.jpg", include_bytes!("files/grey.jpg").to_vec()),
        ("lossy.webp", include_bytes!("files/lossy.webp").to_vec()),
        ("palette.png", include_bytes!("files/palette.png").to_vec()),
        ("adobe_rgb.png", include_bytes!("files/adobe_rgb.png").to_vec()),
        ("grey_profile.png", include_bytes!("files/grey_profile.png").to_vec()),
        ("animated.gif", include_bytes!("files/animated.gif").to_vec()),
        ("animated.webp", include_bytes!("files/animated.webp").to_vec()),
        #[cfg(feature = "jpeg-xl")]
        ("lossy.jxl", include_bytes!("files/lossy.jxl").to_vec()),
        #[cfg(feature = "jpeg-xl")]
        ("lossless.jxl", include_bytes!("files/lossless.jxl").to_vec()),
        #[cfg(feature = "jpeg-xl")]
        ("alpha.jxl", include_bytes!("files/alpha.jxl").to_vec()),
        ("plain.bmp", encoded(ImageFormat::Bmp)),
        ("plain.tiff", encoded(ImageFormat::Tiff)),
    ] {
        cases.push((name, bytes, OWN_SIZE, ResizeKernel::Auto));
    }
    cases.push((
        "turned.jpg",
        include_bytes!("files/turned.jpg").to_vec(),
        (OWN_SIZE.1, OWN_SIZE.0),
        ResizeKernel::Auto,
    ));
    for kernel in [
        ResizeKernel::Auto,
        ResizeKernel::Lanczos,
        ResizeKernel::Bicubic,
        ResizeKernel::Bilinear,
        ResizeKernel::Area,
        ResizeKernel::Nearest,
    ] {
        for size in [(20, 14), (112, 80)] {
            cases.push(("plain.png", encoded(ImageFormat::Png), size, kernel));
        }
    }
    cases
}

/// The version these digests belong to, and the start of the digest of the pixels of each case.
const PINNED: (u32, &[(&str, &str)]) = (
    1,
    &[
        ("progressive.jpg", "7e85b874bc5d8bb3"),
        ("restarts.jpg", "7e85b874bc5d8bb3"),
        ("cmyk.jpg", "1fa4904ed295c8e3"),
        ("cmyk_profile.jpg", "26aab49eb5ba3342"),
        ("ycck.jpg", "03c8c302c5b54a88"),
        ("grey.jpg", "4479c0c90a44dfff"),
        ("lossy.webp", "53fe10472003abec"),
        ("palette.png", "cb99e373339233e0"),
        ("adobe_rgb.png", "dbc1f43b11e4c437"),
        ("grey_profile.png", "9f66016cad20f97c"),
        ("animated.gif", "9ac24cfea9b90ffc"),
        ("animated.webp", "1fa4904ed295c8e3"),
        ("lossy.jxl", "7ee76736af0a08e5"),
        ("lossless.jxl", "1fa4904ed295c8e3"),
        ("alpha.jxl", "435e53206e2a80d6"),
        ("plain.bmp", "40611668f63e5f1a"),
        ("plain.tiff", "40611668f63e5f1a"),
        ("turned.jpg", "177ff2396c5a5df2"),
        ("plain.png 20 Auto", "26f990eb415f114d"),
        ("plain.png 112 Auto", "806f90502ca09084"),
        ("plain.png 20 Lanczos", "fbfb30ac40e359f9"),
        ("plain.png 112 Lanczos", "806f90502ca09084"),
        ("plain.png 20 Bicubic", "e366474cfea18fe9"),
        ("plain.png 112 Bicubic", "92b5f677424b07b0"),
        ("plain.png 20 Bilinear", "3810bd56dd40dbfa"),
        ("plain.png 112 Bilinear", "2cee10d9dca54783"),
        ("plain.png 20 Area", "26f990eb415f114d"),
        ("plain.png 112 Area", "914bdd4768d1f011"),
        ("plain.png 20 Nearest", "5e1d98796da07bfd"),
        ("plain.png 112 Nearest", "f6e00ec6eb546151"),
    ],
);

/// Decoders and kernels choose their arithmetic by the processor; what is pinned is that of one with AVX2.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_change_of_any_pixel_counts_up_the_version() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        return;
    }
    let mut found = Vec::new();
    for (name, bytes, (width, height), kernel) in cases() {
        let folder = Folder::new();
        folder.file(name, &bytes);
        folder.file(&format!("{}.txt", name.split('.').next().unwrap()), b"a");
        let config = DataConfig { resize_kernel: kernel, ..folder.config_of_size(width, height) };
        let pixels = DataSet::open(&config, 0, 64).unwrap().load_image(0, false).unwrap().pixels;
        let bytes: Vec<u8> = pixels.iter().map(|value| ((value + 1.0) * 127.5).round() as u8).collect();
        let case = if size_is_its_own(name) { name.to_owned() } else { format!("{name} {width} {kernel:?}") };
        found.push((case, blake3::hash(&bytes).to_hex()[..16].to_owned()));
    }
    let (version, pinned) = PINNED;
    let pinned = pinned.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned()));
    let changed: Vec<String> = {
        let pinned: Vec<(String, String)> = pinned.collect();
        found.iter().filter(|case| !pinned.contains(case)).map(|(name, _)| name.clone()).collect()
    };
    let list: String = found.iter().map(|(name, digest)| format!("        (\"{name}\", \"{digest}\"),\n")).collect();
    assert!(
        changed.is_empty() && version == PIXELS_VERSION,
        "the pixels of {changed:?} are others than those of version {version}, and caches hold what was made of the old ones: \
         if this is meant, raise PIXELS_VERSION in src/data_set/still.rs by one, so that they are made anew, and write that \
         number and these digests into PINNED of this file:\n{list}"
    );
}

fn size_is_its_own(name: &str) -> bool {
    name != "plain.png"
}
