//! Comparison of numbers within a tolerance, with a message that helps to find the cause.

use std::fmt;

/// How far two numbers may be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// At most this much, whatever their size.
    Absolute(f64),
    /// At most this share of the largest expected number: fits tensors whose small elements are sums of large ones.
    OfScale(f64),
    /// At most `relative` × the expected number + `absolute`, element by element.
    Elementwise {
        /// The share of the expected number.
        relative: f64,
        /// What is allowed beside it, for numbers near zero.
        absolute: f64,
    },
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tolerance::Absolute(limit) => write!(f, "{limit:e}"),
            Tolerance::OfScale(share) => write!(f, "{share:e} of the largest"),
            Tolerance::Elementwise { relative, absolute } => write!(f, "{relative:e} of each + {absolute:e}"),
        }
    }
}

/// The worst element of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Its place.
    pub index: usize,
    /// What was computed there.
    pub actual: f64,
    /// What should have been.
    pub expected: f64,
    /// By how much they differ; infinite if only one of them is a number.
    pub difference: f64,
    /// The share of the limit that this is; above 1 it is too much.
    pub of_limit: f64,
    /// How many elements are beyond the limit.
    pub beyond: usize,
}

/// The worst element, `None` for empty lists.
pub fn difference<T: Copy + Into<f64>>(actual: &[T], expected: &[T], tolerance: Tolerance) -> Option<Difference> {
    let scale = expected.iter().map(|&number| number.into().abs()).fold(0.0, f64::max);
    let mut worst: Option<Difference> = None;
    let mut beyond = 0;
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let (actual, expected): (f64, f64) = (actual.into(), expected.into());
        let same = actual == expected || (actual.is_nan() && expected.is_nan());
        let difference = match actual - expected {
            _ if same => 0.0,
            difference if difference.is_nan() => f64::INFINITY,
            difference => difference.abs(),
        };
        let limit = match tolerance {
            Tolerance::Absolute(limit) => limit,
            Tolerance::OfScale(share) => share * scale,
            Tolerance::Elementwise { relative, absolute } => relative * expected.abs() + absolute,
        };
        let of_limit = if difference == 0.0 { 0.0 } else { difference / limit };
        // A limit that is itself no number (infinite scale) allows nothing.
        let too_much = of_limit.is_nan() || of_limit > 1.0;
        beyond += usize::from(too_much);
        let of_limit = if of_limit.is_nan() { f64::INFINITY } else { of_limit };
        if worst.is_none_or(|worst| of_limit > worst.of_limit) {
            worst = Some(Difference { index, actual, expected, difference, of_limit, beyond: 0 });
        }
    }
    worst.map(|worst| Difference { beyond, ..worst })
}

/// Fails unless the numbers agree within the tolerance, naming the worst element.
#[track_caller]
pub fn assert_close<T: Copy + Into<f64>>(what: &str, actual: &[T], expected: &[T], tolerance: Tolerance) {
    assert_eq!(actual.len(), expected.len(), "{what}: other number of elements");
    let Some(worst) = difference(actual, expected, tolerance) else {
        return;
    };
    assert!(
        worst.beyond == 0,
        "{what}: {} of {} elements differ by more than {tolerance}; the worst, at index {}, is {} and should be {} \
         (difference {:.3e}, {:.1} times the limit)",
        worst.beyond,
        actual.len(),
        worst.index,
        worst.actual,
        worst.expected,
        worst.difference,
        worst.of_limit,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_are_close_within_nothing() {
        assert_close(
            "same",
            &[1.0f32, f32::NAN, f32::INFINITY],
            &[1.0, f32::NAN, f32::INFINITY],
            Tolerance::Absolute(0.0),
        );
        assert_close::<f32>("empty", &[], &[], Tolerance::Absolute(0.0));
    }

    #[test]
    fn each_tolerance_measures_in_its_own_way() {
        let (actual, expected) = ([100.0f64, 0.01], [100.0, 0.0]);
        assert_eq!(difference(&actual, &expected, Tolerance::Absolute(0.1)).unwrap().beyond, 0);
        assert_eq!(difference(&actual, &expected, Tolerance::OfScale(1e-3)).unwrap().beyond, 0);
        assert_eq!(difference(&actual, &expected, Tolerance::OfScale(1e-5)).unwrap().beyond, 1);
        let elementwise = Tolerance::Elementwise { relative: 0.5, absolute: 0.001 };
        let worst = difference(&actual, &expected, elementwise).unwrap();
        assert_eq!((worst.index, worst.beyond), (1, 1));
    }

    #[test]
    #[should_panic(
        expected = "loss: 1 of 2 elements differ by more than 1e-3; the worst, at index 1, is 2.5 and should be 2"
    )]
    fn the_message_names_the_worst_element() {
        assert_close("loss", &[1.0f64, 2.5], &[1.0, 2.0], Tolerance::Absolute(1e-3));
    }

    #[test]
    #[should_panic(expected = "1 of 1 elements")]
    fn a_number_is_never_close_to_none() {
        assert_close("nan", &[f32::NAN], &[0.0], Tolerance::Absolute(1e9));
    }

    #[test]
    #[should_panic(expected = "other number of elements")]
    fn lists_of_other_lengths_differ() {
        assert_close("lengths", &[1.0f32], &[1.0, 1.0], Tolerance::Absolute(1.0));
    }
}
