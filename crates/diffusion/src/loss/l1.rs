//! Absolute error.

use tch::Tensor;

/// |d| in each place.
pub fn absolute(difference: &Tensor) -> Tensor {
    difference.abs()
}
