//! Which libtorch computes.

use crate::ffi;
use std::ffi::CStr;

/// The version of libtorch that the program was built against, such as `2.11.0`.
pub fn torch_version() -> &'static str {
    #[expect(unsafe_code, reason = "FFI: a string literal of the shim, which lives as long as the program")]
    let version = unsafe { CStr::from_ptr(ffi::sd_torch_version()) };
    version.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_has_three_numbers() {
        let version = torch_version();
        let numbers: Vec<&str> = version.split(['.', '+']).take(3).collect();
        assert!(numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()), "{version}");
    }
}
