//! The two 8-bit floats of Micikevicius et al. 2022 (arXiv:2209.05433), as torch has them.

use half::f16;

/// `float8_e4m3fn`: 4 bits of exponent with a bias of 7, no infinities; all ones are no number.
pub(crate) fn from_e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7) / 8.0);
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-6),
        0xf if byte & 7 == 7 => f32::NAN,
        _ => (1.0 + fraction) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// `float8_e5m2`: the upper byte of an IEEE half.
pub(crate) fn from_e5m2(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}
