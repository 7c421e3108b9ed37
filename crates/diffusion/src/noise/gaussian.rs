//! Standard normal noise, one keyed stream an example.

use sdtrain_random::{Purpose, Stream};
use tch::Tensor;

use crate::ExampleKey;

/// Standard normal noise for a batch, drawn on the host and left on the CPU.
///
/// Row `i` depends on `(seed, purpose, keys[i])` and on the shape of one example, never on its neighbours.
///
/// # Shapes
/// shape: of one example, as `[channels, height, width]`; result: `[batch, channels, height, width]`, fp32
pub fn gaussian(seed: u64, purpose: Purpose, keys: &[ExampleKey], shape: &[i64]) -> Tensor {
    let size = shape.iter().product::<i64>() as usize;
    let mut values = vec![0f32; keys.len() * size];
    for (key, row) in keys.iter().zip(values.chunks_exact_mut(size.max(1))) {
        Stream::new(seed, purpose, key.epoch, key.example).fill_normal(row);
    }
    let batch_shape: Vec<i64> = std::iter::once(keys.len() as i64).chain(shape.iter().copied()).collect();
    Tensor::from_slice(&values).view(&batch_shape[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ExampleKey = ExampleKey { epoch: 2, example: 7 };
    const B: ExampleKey = ExampleKey { epoch: 2, example: 8 };

    #[test]
    fn an_example_gets_the_same_noise_in_any_batch() {
        let draw = |keys: &[ExampleKey]| gaussian(3, Purpose::Noise, keys, &[4, 2, 3]);
        let (both, swapped) = (draw(&[A, B]), draw(&[B, A]));
        assert_eq!(both.size(), [2, 4, 2, 3]);
        assert_eq!(both.get(0), swapped.get(1));
        assert_eq!(both.get(1), draw(&[B]).get(0));
        assert_ne!(both.get(0), both.get(1));
    }

    #[test]
    fn purposes_do_not_share_noise() {
        let draw = |purpose| gaussian(3, purpose, &[A], &[4]);
        assert_ne!(draw(Purpose::Noise), draw(Purpose::Validation));
    }
}
