//! How near two tensors are.

use sdtrain_test_support::Tolerance;
use tch::{Device, Kind, Tensor};

/// The largest difference between two tensors of one shape, as a share of the largest expected number, and its place
/// in row-major order. A tensor with a number that is not finite is infinitely far from everything.
pub fn difference(found: &Tensor, expected: &Tensor) -> (f64, i64) {
    let [found, expected] = [found, expected].map(numbers);
    let Some(worst) = sdtrain_test_support::difference(&found, &expected, Tolerance::OfScale(1.0)) else {
        return (0.0, 0);
    };
    let finite = found.iter().all(|number| number.is_finite());
    (if finite { worst.of_limit } else { f64::INFINITY }, worst.index as i64)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let row = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double).reshape([-1]);
    Vec::try_from(row).expect("a row of f64 is a list of them")
}

/// Fails, saying where, unless all differences are within `tolerance` of the largest expected number; returns the
/// largest in that measure. With `SDTRAIN_SHOW_DIFFERENCES` set each is also printed (`--nocapture` shows them).
#[track_caller]
pub fn assert_near(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) -> f64 {
    assert_eq!(found.size(), expected.size(), "{what}: shape");
    let (largest, place) = difference(found, expected);
    if std::env::var_os("SDTRAIN_SHOW_DIFFERENCES").is_some() {
        println!("{largest:.1e} of {tolerance:.0e}  {what}");
    }
    let at = |tensor: &Tensor| numbers(tensor)[place as usize];
    assert!(
        largest <= tolerance,
        "{what}: differs by {largest:.2e} of the largest number, at index {place}: {} instead of {}; tolerance \
         {tolerance:.0e}",
        at(found),
        at(expected),
    );
    largest
}

/// Fails unless both tensors have one shape, one dtype and the same numbers.
#[track_caller]
pub fn assert_equal(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()), "{what}: shape and dtype");
    let (largest, place) = difference(found, expected);
    assert!(found.equal(expected), "{what}: differs by {largest:.2e} of the largest number, at index {place}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measure_is_a_share_of_the_largest_number() {
        let expected = Tensor::from_slice(&[10f32, 1.0]);
        assert!((difference(&Tensor::from_slice(&[10f32, 1.1]), &expected).0 - 0.01).abs() < 1e-6);
        assert!(assert_near("near", &expected, &expected, 0.0) == 0.0);
    }

    #[test]
    #[should_panic(expected = "loss: differs by 5.00e-1 of the largest number, at index 1: 3 instead of 2")]
    fn the_message_names_the_worst_element() {
        assert_near("loss", &Tensor::from_slice(&[1f32, 3.0]), &Tensor::from_slice(&[1f32, 2.0]), 1e-4);
    }

    #[test]
    #[should_panic(expected = "differs by inf")]
    fn a_number_is_never_near_none() {
        assert_near("nan", &Tensor::from_slice(&[f32::NAN]), &Tensor::from_slice(&[0f32]), 1e9);
    }
}
