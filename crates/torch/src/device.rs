//! The device a run uses, and late loading of the CUDA backend into a binary that is linked for the CPU.

use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::c_int;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tch::Device;

/// The device that `name` asks for: `cpu`, `cuda`, `cuda:N`, or `auto` (CUDA where a driver and a full torch are).
pub fn device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" if !Path::new("/proc/driver/nvidia/version").exists() => Ok(Device::Cpu),
        "auto" => Ok(match load_cuda() {
            Ok(()) => Device::cuda_if_available(),
            Err(error) => {
                let warning = "warning: there is an NVIDIA driver, but this computes on the processor";
                // Nobody is left to tell where stderr cannot be written.
                let _ = writeln!(io::stderr(), "{warning}: {error}");
                Device::Cpu
            }
        }),
        _ => {
            let index = match name.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
                None => None,
            };
            let index = index.ok_or_else(|| {
                Error::Cuda(format!("unknown device `{name}`: `auto`, `cpu`, `cuda` and `cuda:N` are known"))
            })?;
            load_cuda()?;
            match tch::Cuda::device_count() {
                0 => Err(Error::Cuda("no CUDA device answers: `nvidia-smi` should list one".into())),
                n if index as i64 >= n => Err(Error::Cuda(format!("there is no device {index}: {n} are visible"))),
                _ => Ok(Device::Cuda(index)),
            }
        }
    }
}

/// Lets libtorch compute with so many processor threads from now on, this thread and those that it starts; absent: with as many as it
/// would take by itself. The bits of a result depend on their number, and until somebody names it MKL takes fewer as it sees fit
/// (`mkl_set_dynamic`), so that even equal runs would differ.
pub fn use_threads(threads: Option<u32>) {
    tch::set_num_threads(threads.map_or_else(tch::get_num_threads, |threads| threads as i32));
}

/// Loads `libtorch_cuda.so`, whose start-up code registers CUDA's kernels with the libtorch in this process.
///
/// Looked for in `$SDTRAIN_LIBTORCH/lib` and where the dynamic loader looks. Must run before the first call that asks
/// libtorch for CUDA.
fn load_cuda() -> Result<()> {
    let name = "libtorch_cuda.so";
    let candidates = std::env::var_os("SDTRAIN_LIBTORCH")
        .map(|folder| PathBuf::from(folder).join("lib").join(name))
        .into_iter()
        .chain([PathBuf::from(name)]);
    let Err(reasons) = open_first(candidates, RTLD_NOW | RTLD_GLOBAL) else { return Ok(()) };
    Err(Error::Cuda(format!(
        "the CUDA backend of libtorch is not installed ({reasons}); set SDTRAIN_LIBTORCH to the torch folder of a full install"
    )))
}

/// Opens the first of `candidates` that can be opened, for the life of the process: what it registers with libtorch stays there. Where
/// none can, the reason of each.
pub(crate) fn open_first(
    candidates: impl IntoIterator<Item = PathBuf>,
    flags: c_int,
) -> std::result::Result<&'static Library, String> {
    let mut reasons = Vec::new();
    for candidate in candidates {
        #[expect(
            unsafe_code,
            reason = "runs static initialisers, of libtorch_cuda or of what is built on it: that is what we open it for"
        )]
        match unsafe { Library::open(Some(&candidate), flags) } {
            Ok(library) => return Ok(Box::leak(Box::new(library))),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(reasons.join("; "))
}
