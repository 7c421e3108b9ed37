//! The device a run uses, and late loading of the CUDA backend into a binary that is linked for the CPU.

use crate::error::{Error, Result};
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
                eprintln!("warning: there is an NVIDIA driver, but this computes on the processor: {error}");
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

/// How many processor threads libtorch computes with from now on; the bits of a result depend on it.
pub fn set_threads(threads: u32) {
    tch::set_num_threads(threads as i32);
}

/// Loads `libtorch_cuda.so`, whose start-up code registers CUDA's kernels with the libtorch in this process.
///
/// Looked for in `$SDTRAIN_LIBTORCH/lib` and where the dynamic loader looks. Must run before the first call that asks
/// libtorch for CUDA.
fn load_cuda() -> Result<()> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    let name = "libtorch_cuda.so";
    let candidates = std::env::var_os("SDTRAIN_LIBTORCH")
        .map(|folder| PathBuf::from(folder).join("lib").join(name))
        .into_iter()
        .chain([PathBuf::from(name)]);
    let mut reasons = Vec::new();
    for candidate in candidates {
        #[expect(unsafe_code, reason = "runs libtorch_cuda's static initialisers: that is what we load it for")]
        match unsafe { Library::open(Some(&candidate), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                // Its kernels stay registered for the life of the process, so it is never unloaded.
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(Error::Cuda(format!(
        "the CUDA backend of libtorch is not installed ({}); set SDTRAIN_LIBTORCH to the torch folder of a full install",
        reasons.join("; ")
    )))
}
