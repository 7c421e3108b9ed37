//! Everything that decides the latents is in their name.

use std::collections::BTreeSet;

use sdtrain_data_loader::StillView;
use sdtrain_feature_cache::{EncoderIdentity, EntryName, Found, LatentFolder, LatentKey};
use sdtrain_recipe::{AlphaConfig, ResizeKernel};
use sdtrain_state_dict::Dtype;

use crate::sample::{SHAPE, encoder, entry, name_of, view};

#[test]
fn another_image_view_encoder_or_version_is_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    let cache = LatentFolder::open(folder.path()).unwrap();
    cache.write(&name_of(1), &entry(0.5)).unwrap();
    let (same_view, same_encoder) = (view(), encoder());
    let views = [
        StillView { original_size: (97, 64), ..view() },
        StillView { resized: (64, 96), ..view() },
        StillView { resized: (96, 65), ..view() },
        StillView { corner: (15, 0), ..view() },
        StillView { corner: (16, 1), ..view() },
        StillView { bucket: (64, 72), ..view() },
        StillView { resize_kernel: ResizeKernel::Area, ..view() },
        StillView { alpha: AlphaConfig { background: [255, 255, 254], ..AlphaConfig::default() }, ..view() },
        StillView { alpha: AlphaConfig { ignore: true, ..AlphaConfig::default() }, ..view() },
        StillView { pixels_version: view().pixels_version + 1, ..view() },
    ];
    let encoders = [
        EncoderIdentity { digest: [8; 32], ..encoder() },
        EncoderIdentity { compute: Dtype::Bf16, ..encoder() },
        EncoderIdentity { latent_channels: 16, ..encoder() },
        EncoderIdentity { downscale_factor: 4, ..encoder() },
    ];
    let mut others = vec![name_of(2)];
    others.extend(views.iter().map(|view| LatentKey { image: &[1; 32], view, encoder: &same_encoder }.name()));
    others.extend(encoders.iter().map(|encoder| LatentKey { image: &[1; 32], view: &same_view, encoder }.name()));
    for other in &others {
        assert_eq!(cache.read(other, SHAPE).unwrap(), Found::Missing);
    }
    let distinct: BTreeSet<String> = others.iter().map(ToString::to_string).chain([name_of(1).to_string()]).collect();
    assert_eq!(distinct.len(), others.len() + 1);
    assert_eq!(cache.read(&name_of(1), SHAPE).unwrap(), Found::Entry(entry(0.5)));
}

#[test]
fn names_stay_the_same_from_one_version_of_the_program_to_the_next() {
    // A change here makes every cache anew: raise `FORMAT_VERSION` with it, or find what changed without being meant to.
    assert_eq!(name_of(1).to_string(), "6f26164c12755eee2a85a1de8497160702e9a011188e416399346a9276454060");
}

#[test]
fn a_name_is_read_back_and_nothing_else_is_one() {
    let text = name_of(1).to_string();
    assert_eq!(EntryName::parse(&text), Some(name_of(1)));
    for other in [&text[1..], &text.to_uppercase(), &text.replace('6', "+"), &text.replace('6', "é"), ""] {
        assert_eq!(EntryName::parse(other), None, "{other}");
    }
}

#[test]
fn latents_are_as_large_as_the_bucket_makes_them() {
    assert_eq!(encoder().latent_shape((64, 96)), [4, 12, 8]);
}
