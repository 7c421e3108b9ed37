//! The number formats a safetensors file can hold.

use std::fmt;

/// The type of a tensor's elements. The order is that in which tensors are laid out in a file, widest first, so that
/// each is aligned; it is also the reference implementation's, so the same tensors give the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// 64-bit unsigned integer.
    U64,
    /// 64-bit signed integer.
    I64,
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 32-bit unsigned integer.
    U32,
    /// 32-bit signed integer.
    I32,
    /// The upper half of a 32-bit float.
    Bf16,
    /// IEEE half precision.
    F16,
    /// 16-bit unsigned integer.
    U16,
    /// 16-bit signed integer.
    I16,
    /// 8-bit float, 4 bits of exponent.
    F8E4m3,
    /// 8-bit float, 5 bits of exponent.
    F8E5m2,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

/// In the order of the variants.
const ROWS: [(Dtype, &str, usize); 15] = [
    (Dtype::U64, "U64", 8),
    (Dtype::I64, "I64", 8),
    (Dtype::F64, "F64", 8),
    (Dtype::F32, "F32", 4),
    (Dtype::U32, "U32", 4),
    (Dtype::I32, "I32", 4),
    (Dtype::Bf16, "BF16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::U16, "U16", 2),
    (Dtype::I16, "I16", 2),
    (Dtype::F8E4m3, "F8_E4M3", 1),
    (Dtype::F8E5m2, "F8_E5M2", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::Bool, "BOOL", 1),
];

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        ROWS[self as usize].2
    }

    /// The name in a safetensors header, such as `BF16`.
    pub fn name(self) -> &'static str {
        ROWS[self as usize].1
    }

    /// The format with this name in a safetensors header.
    pub fn from_name(name: &str) -> Option<Dtype> {
        ROWS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Whether the elements are floating point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F8E4m3 | Dtype::F8E5m2)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_variants() {
        for row in ROWS {
            assert_eq!(ROWS[row.0 as usize], row);
            assert_eq!(Dtype::from_name(row.1), Some(row.0));
        }
        assert!(ROWS.is_sorted_by_key(|row| std::cmp::Reverse(row.2)));
    }
}
