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

/// The nearest number of `float8_e4m3fn`, of two equally near ones that with an even last bit; `None` where it would become no number: it
/// is infinite, or rounds to more than 448.
pub(crate) fn to_e4m3(number: f32) -> Option<u8> {
    const NAN: u8 = 0x7f;
    match number.is_nan() {
        true => Some(sign(number) | NAN),
        false => nearest(number, -6, 3).filter(|&code| code < NAN).map(|code| sign(number) | code),
    }
}

/// The same of `float8_e5m2`, which has infinities: `None` for a finite number that would become one.
pub(crate) fn to_e5m2(number: f32) -> Option<u8> {
    const INFINITY: u8 = 0x7c;
    if !number.is_finite() {
        return Some(sign(number) | if number.is_nan() { 0x7f } else { INFINITY });
    }
    nearest(number, -14, 2).filter(|&code| code < INFINITY).map(|code| sign(number) | code)
}

fn sign(number: f32) -> u8 {
    if number.is_sign_negative() { 0x80 } else { 0 }
}

/// Exponent and fraction of the number nearest to the magnitude of `number`, in a format whose normal numbers begin at 2 to the power of
/// `least`; `None` where they are more than 7 bits.
fn nearest(number: f32, least: i32, fraction_bits: i32) -> Option<u8> {
    if !number.is_finite() {
        return None;
    }
    let exponent = ((number.to_bits() >> 23) as i32 & 0xff) - 127;
    let above = exponent.max(least) - least;
    // A power of two: the product is exact, and rounded once. What rounds up to the next power of two carries into the exponent.
    let steps = (number.abs() * 2f32.powi(fraction_bits - least - above)).round_ties_even() as i32;
    let code = (above << fraction_bits) + steps;
    u8::try_from(code).ok().filter(|&code| code < 0x80)
}
