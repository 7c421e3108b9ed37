//! What the tests of our own kernels share.

use tch::{Kind, Tensor};

/// The kinds that have a kernel, and what is allowed beyond libtorch's own distance from the formula.
pub const KINDS: [(Kind, f64); 2] = [(Kind::BFloat16, 1e-3), (Kind::Float, 1e-6)];

/// The largest distance, in parts of the largest number.
pub fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let largest = expected.abs().max().double_value(&[]);
    (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]) / largest
}

/// Fails unless one thread and seven give the tensors that as many as there are give. Returns these.
#[track_caller]
pub fn same_bits_by_threads<const N: usize>(what: &str, passes: impl Fn() -> [Tensor; N]) -> [Tensor; N] {
    let found = passes();
    let threads = tch::get_num_threads();
    for count in [1, 7] {
        tch::set_num_threads(count);
        let other = passes();
        tch::set_num_threads(threads);
        assert!(found.iter().zip(&other).all(|(one, other)| one.equal(other)), "{what}, {count} threads");
    }
    found
}
