//! Whether a GPU may round the factors of fp32 products to TF32.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;

/// Allows or forbids TF32 in matrix products and convolutions on CUDA, from now on and for the whole process. Until it is called,
/// libtorch's own rule holds: convolutions alone. Processors are not concerned.
pub fn allow_tf32(allowed: bool) -> Result<()> {
    #[expect(unsafe_code, reason = "FFI: sets two flags of libtorch's global context, for which tch has no call")]
    check(unsafe { ffi::sd_allow_tf32(allowed.into()) })
}
