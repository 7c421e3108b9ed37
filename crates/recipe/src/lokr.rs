//! `[lora.lokr]`: how a weight is split into the two factors of a Kronecker product.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The factors of LoKr. A weight of `outputs × inputs` becomes `C ⊗ D`, where `C` is the smaller one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LokrConfig {
    /// The largest side of the small factor; a smaller one makes a larger adapter. Absent: as square as the sizes allow,
    /// which makes the smallest. Typical: 4 to 16.
    pub factor: Option<u32>,

    /// Split the small factor into two matrices of `lora.rank` as well, where that makes it smaller.
    pub decompose_both: bool,

    /// Leave both factors whole: `lora.rank` and `lora.alpha` mean nothing then.
    pub full_matrix: bool,
}

/// Sizes of the two factors beside one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LokrFactors {
    /// Rows and columns of the small factor.
    pub small: (usize, usize),
    /// Rows and columns of the large factor.
    pub large: (usize, usize),
    /// Numbers in a kernel of the large factor, 1 beside a linear layer.
    pub kernel: usize,
    /// The small factor is a product of two matrices.
    pub small_is_split: bool,
    /// The large factor is a product of two matrices.
    pub large_is_split: bool,
}

impl LokrConfig {
    /// The factors beside a weight of `outputs × inputs` with `kernel` numbers each. A factor is split where `rank` is
    /// less than half of its larger side. (LyCORIS, modules/lokr.py)
    pub fn factors(&self, outputs: usize, inputs: usize, kernel: usize, rank: usize) -> LokrFactors {
        let factor = self.factor.map(|factor| factor as usize);
        let ((out_small, out_large), (in_small, in_large)) = (split(outputs, factor), split(inputs, factor));
        let is_split = |rows: usize, columns: usize| !self.full_matrix && 2 * rank < rows.max(columns);
        LokrFactors {
            small: (out_small, in_small),
            large: (out_large, in_large),
            kernel,
            small_is_split: self.decompose_both && is_split(out_small, in_small),
            large_is_split: is_split(out_large, in_large),
        }
    }
}

impl LokrFactors {
    /// How many numbers the small and the large one are made of.
    pub fn parameter_counts(&self, rank: usize) -> (usize, usize) {
        let count = |(rows, columns): (usize, usize), is_split: bool| match is_split {
            true => rank * (rows + columns),
            false => rows * columns,
        };
        let large = (self.large.0, self.large.1 * self.kernel);
        (count(self.small, self.small_is_split), count(large, self.large_is_split))
    }
}

/// `size` as a product of two numbers, the smaller one first: `factor` where it divides `size`, else the largest divisor
/// up to it, up to the square root. (LyCORIS, functional/general.py, `factorization`)
fn split(size: usize, factor: Option<usize>) -> (usize, usize) {
    let wanted = factor.filter(|&factor| factor > 0 && size.is_multiple_of(factor));
    let smaller = wanted.unwrap_or_else(|| {
        let limit = factor.unwrap_or(size);
        (1..=size.isqrt()).rev().find(|divisor| size.is_multiple_of(*divisor) && *divisor <= limit).unwrap_or(1)
    });
    let larger = size / smaller;
    (smaller.min(larger), smaller.max(larger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_split_as_lycoris_does() {
        let cases = [
            (127, [(1, 127), (1, 127), (1, 127), (1, 127)]),
            (128, [(8, 16), (2, 64), (4, 32), (8, 16)]),
            (250, [(10, 25), (2, 125), (2, 125), (5, 50)]),
            (360, [(18, 20), (2, 180), (4, 90), (8, 45)]),
            (1024, [(32, 32), (2, 512), (4, 256), (8, 128)]),
        ];
        for (size, expected) in cases {
            for (factor, expected) in [None, Some(2), Some(4), Some(8)].into_iter().zip(expected) {
                assert_eq!(split(size, factor), expected, "{size} by {factor:?}");
            }
        }
        assert_eq!(split(12, Some(6)), (2, 6), "a factor that divides is taken, whichever side it becomes");
    }

    #[test]
    fn the_large_factor_is_split_where_that_is_smaller() {
        let config = LokrConfig { factor: Some(8), ..LokrConfig::default() };
        let factors = config.factors(320, 768, 1, 4);
        assert_eq!((factors.small, factors.large), ((8, 8), (40, 96)));
        assert!(factors.large_is_split && !factors.small_is_split);
        assert_eq!(factors.parameter_counts(4), (64, 4 * (40 + 96)));
        assert!(!config.factors(320, 768, 1, 48).large_is_split);
        let whole = LokrConfig { full_matrix: true, ..config };
        assert_eq!(whole.factors(320, 768, 9, 4).parameter_counts(4), (64, 40 * 96 * 9));
    }
}
