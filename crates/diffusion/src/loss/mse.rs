//! Mean squared error of each example.

use tch::{Kind, Tensor};

/// d² in each place.
pub fn squared(difference: &Tensor) -> Tensor {
    difference.square()
}

/// The mean of the squared difference over everything but the batch, computed in fp32: `[batch]`.
///
/// Its mean over the batch is the ordinary loss; weights of examples go in between.
pub fn mse(prediction: &Tensor, target: &Tensor) -> Tensor {
    let difference = prediction.to_kind(Kind::Float) - target.to_kind(Kind::Float);
    squared(&difference).flatten(1, -1).mean_dim(1, false, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_has_its_own_error() {
        let prediction = Tensor::from_slice(&[1f32, 3.0, 0.0, 0.0]).view([2, 2, 1, 1]);
        let target = Tensor::from_slice(&[0f32, 0.0, 0.0, 2.0]).view([2, 2, 1, 1]);
        assert_eq!(Vec::<f32>::try_from(mse(&prediction, &target)).unwrap(), [5.0, 2.0]);
    }

    #[test]
    fn half_precision_is_squared_in_full_precision() {
        let prediction = Tensor::from_slice(&[300f32, 300.0]).view([1, 2]).to_kind(Kind::Half);
        // 300² is beyond fp16's 65,504.
        assert_eq!(mse(&prediction, &prediction.zeros_like()).double_value(&[0]), 90_000.0);
    }
}
