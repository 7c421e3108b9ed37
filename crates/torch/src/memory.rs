//! Memory of the host: what is freed goes back to the system.

use crate::ffi;
use std::ffi::c_int;

/// Blocks of this size and more go back at once.
const BLOCK: c_int = 1 << 20;

/// From here on tensors of a megabyte and more leave no holes behind: where weights are made in fp32 and kept in bf16, every hole has
/// the wrong size for what comes next, and a third of a run's memory was holes. Each such tensor costs a system call.
pub fn return_freed_memory() {
    #[expect(unsafe_code, reason = "FFI: sets a number in the allocator")]
    let _ = unsafe { ffi::sd_return_blocks_of(BLOCK) };
}
