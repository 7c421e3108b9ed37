//! Where the memory of large tensors on the host comes from, and where it goes.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;

/// Large blocks are kept and used again. glibc's own rule gives every tensor of more than 32 MiB back to the system, which then
/// clears its pages anew at each layer: a quarter of a step's time (docs/log.md). Call it before the first tensor is made.
///
/// What the user has set by `MALLOC_MMAP_THRESHOLD_` and the like, or by `GLIBC_TUNABLES`, stays; so in the next function.
pub fn keep_freed_memory() {
    const GIB: i32 = 1 << 30;
    const NEVER: i32 = -1;
    const TOP_PAD: i32 = 64 << 20;
    set(Setting::MmapThreshold, GIB);
    set(Setting::TrimThreshold, NEVER);
    set(Setting::TopPad, TOP_PAD);
}

/// From here on tensors of a megabyte and more leave no holes behind: where weights are made in fp32 and kept in bf16, every hole of
/// malloc's has the wrong size for what comes next, and a third of a run's memory was holes. What is freed is cut and joined for the next
/// tensors, as long as no more is held than was in use at once.
///
/// # Errors
/// What libtorch says.
pub fn keep_freed_blocks() -> Result<()> {
    const MIB: i32 = 1 << 20;
    // What is not a tensor's.
    set(Setting::MmapThreshold, MIB);
    #[expect(unsafe_code, reason = "FFI: takes nothing; what was allocated before is freed by whoever allocated it")]
    check(unsafe { ffi::sd_use_block_allocator() })
}

/// Gives back what is kept, where a phase begins that needs less.
pub fn return_freed_blocks() {
    #[expect(unsafe_code, reason = "FFI: takes nothing, and touches no memory that a tensor has")]
    unsafe {
        ffi::sd_return_freed_blocks();
    }
}

/// The numbers of `mallopt`(3).
#[derive(Clone, Copy)]
enum Setting {
    TrimThreshold = -1,
    TopPad = -2,
    MmapThreshold = -3,
}

impl Setting {
    /// The variable of the environment that sets it.
    fn variable(self) -> &'static str {
        match self {
            Setting::TrimThreshold => "MALLOC_TRIM_THRESHOLD_",
            Setting::TopPad => "MALLOC_TOP_PAD_",
            Setting::MmapThreshold => "MALLOC_MMAP_THRESHOLD_",
        }
    }

    fn is_set_by_the_user(self) -> bool {
        let tunables = std::env::var_os("GLIBC_TUNABLES").unwrap_or_default();
        let name = self.variable().trim_start_matches("MALLOC_").trim_end_matches('_').to_lowercase();
        std::env::var_os(self.variable()).is_some()
            || tunables.to_string_lossy().contains(&format!("glibc.malloc.{name}"))
    }
}

fn set(setting: Setting, value: i32) {
    if setting.is_set_by_the_user() {
        return;
    }
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "FFI: sets a number in the allocator; where it refuses, its own rule stays")]
    let _ = unsafe { libc::mallopt(setting as libc::c_int, value) };
    #[cfg(not(target_env = "gnu"))]
    let _ = value;
}
