//! NCCL, by which tensors travel between GPUs: in a shared object of its own, made where its headers are (`scripts/build_nccl`).
//!
//! Not yet run on a GPU.

use crate::device::open_first;
use crate::error::{Error, Result};
use libloading::os::unix::{RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

const FILE: &str = "libsdtrain_nccl.so";

type AddNccl = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> c_int;
type LastError = unsafe extern "C" fn() -> *const c_char;

/// NCCL, opened for the life of the process; [`crate::ProcessGroup::add_nccl`] makes use of it.
#[derive(Debug, Clone, Copy)]
pub struct Nccl {
    add: AddNccl,
    last_error: LastError,
}

impl Nccl {
    /// Opens `libsdtrain_nccl.so` beside the program; after the CUDA backend, which `device` loads.
    ///
    /// # Errors
    /// Where it is not there, or was made for another libtorch.
    pub fn open() -> Result<Nccl> {
        let program = std::env::current_exe().map_err(|error| Error::Cuda(format!("where the program is: {error}")))?;
        Nccl::open_in(program.parent().unwrap_or(Path::new("")))
    }

    fn open_in(folder: &Path) -> Result<Nccl> {
        let unusable = |reason: String| {
            Error::Cuda(format!(
                "`{FILE}` cannot be opened ({reason}); `scripts/build_nccl` puts it beside the program"
            ))
        };
        let library = open_first([folder.join(FILE)], RTLD_NOW | RTLD_LOCAL).map_err(unusable)?;
        let missing = |error: libloading::Error| unusable(error.to_string());
        #[expect(
            unsafe_code,
            reason = "the types are those of cuda/process_group_nccl.cpp, and the library is never closed"
        )]
        unsafe {
            Ok(Nccl {
                add: *library.get::<AddNccl>(b"sd_group_add_nccl\0").map_err(missing)?,
                last_error: *library.get::<LastError>(b"sd_nccl_last_error\0").map_err(missing)?,
            })
        }
    }

    /// Adds NCCL to a group of the shim that met at `store`, both its own pointers.
    pub(crate) fn add_to(&self, group: *mut c_void, store: *mut c_void, device: usize) -> Result<()> {
        #[expect(
            unsafe_code,
            reason = "FFI: group and store live through the call, and were made by the same version of the shim"
        )]
        let status = unsafe { (self.add)(group, store, device as c_int) };
        if status == 0 {
            return Ok(());
        }
        #[expect(unsafe_code, reason = "a NUL-terminated string of this thread that lives until its next call")]
        let message = unsafe { CStr::from_ptr((self.last_error)()) }.to_string_lossy().into_owned();
        Err(Error::from_message(&message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_object_is_told_with_the_way_to_it() {
        let error = Nccl::open_in(Path::new("/nowhere")).expect_err("there is none").to_string();
        assert!(error.contains("/nowhere/libsdtrain_nccl.so") && error.contains("scripts/build_nccl"), "{error}");
    }
}
