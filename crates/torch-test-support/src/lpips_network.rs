//! A network of LPIPS: a VGG16 is too large for a golden file.

use sdtrain_state_dict::{Dtype, TensorEntry, write};
use std::collections::BTreeMap;
use std::path::Path;

/// The numbers of `scripts/fixtures/lpips_distance.py`: uniform in [-1, 1), by the place of the tensor and the element's index.
fn numbers(place: usize, count: usize) -> impl Iterator<Item = f64> {
    (0..count).map(move |index| {
        let hashed = ((index + place * 1_000_003) as u32).wrapping_mul(2_654_435_761);
        let hashed = (hashed ^ (hashed >> 15)).wrapping_mul(2_246_822_519);
        f64::from((f64::from(hashed) / f64::from(1u32 << 31) - 1.0) as f32)
    })
}

/// Writes the state dict of `lpips.LPIPS(net="vgg")` with numbers that a formula makes, the same as the golden file's script.
pub fn write_lpips_network(path: &Path) {
    let mut shapes = BTreeMap::new();
    let slices: [&[(usize, usize, usize)]; 5] = [
        &[(0, 3, 64), (2, 64, 64)],
        &[(5, 64, 128), (7, 128, 128)],
        &[(10, 128, 256), (12, 256, 256), (14, 256, 256)],
        &[(17, 256, 512), (19, 512, 512), (21, 512, 512)],
        &[(24, 512, 512), (26, 512, 512), (28, 512, 512)],
    ];
    for (slice, convolutions) in slices.iter().enumerate() {
        for &(place, inputs, outputs) in *convolutions {
            shapes.insert(format!("net.slice{}.{place}.weight", slice + 1), vec![outputs, inputs, 3, 3]);
            shapes.insert(format!("net.slice{}.{place}.bias", slice + 1), vec![outputs]);
        }
        let channels = convolutions.last().expect("a slice has convolutions").2;
        shapes.insert(format!("lin{slice}.model.1.weight"), vec![1, channels, 1, 1]);
    }
    let entries = shapes.into_iter().enumerate().map(|(place, (name, shape))| {
        let fan_in: usize = shape[1..].iter().product();
        let scale = match name.as_str() {
            lin if lin.starts_with("lin") => 1.0,
            weight if weight.ends_with("weight") => (6.0 / fan_in as f64).sqrt() as f32,
            _ => 0.1,
        };
        let value = |number: f64| match name.starts_with("lin") {
            true => number.abs() as f32,
            false => number as f32 * scale,
        };
        let bytes = numbers(place, shape.iter().product()).flat_map(|number| value(number).to_le_bytes()).collect();
        TensorEntry { name: name.clone(), dtype: Dtype::F32, shape, bytes }
    });
    write(path, &entries.collect::<Vec<_>>(), &BTreeMap::new()).expect("a writable folder");
}
