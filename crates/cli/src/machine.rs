//! What can be told of this machine without libtorch.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

/// What a process may use of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its name among other machines.
    pub host: String,
    /// How many processors there are.
    pub processors: usize,
    /// How many NVIDIA GPUs there are.
    pub gpus: usize,
    /// The first line that NVIDIA's driver says of itself, where there is one.
    pub driver: Option<String>,
}

impl Machine {
    /// The one that this process runs on.
    pub fn this() -> Machine {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
        let driver = driver.and_then(|said| said.lines().next().map(|line| line.trim().to_owned()));
        Machine {
            host: host.trim().to_owned(),
            processors: available_parallelism().map_or(1, usize::from),
            gpus: gpus_of(visible.as_deref(), Path::new("/dev")),
            driver,
        }
    }
}

/// Those that `CUDA_VISIBLE_DEVICES` names, if it is set: CUDA takes them up to the first that it cannot mean. Else those that the
/// system has files for, as `nvidia0`.
fn gpus_of(visible: Option<&str>, devices: &Path) -> usize {
    if let Some(visible) = visible {
        let names = visible.split(',').map(str::trim);
        return names.take_while(|name| !name.is_empty() && !name.starts_with('-')).count();
    }
    let names = fs::read_dir(devices).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    names.filter(|name| name.to_str().is_some_and(is_gpu)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_those_that_are_visible() {
        let devices = tempfile::tempdir().expect("a temporary folder");
        for name in ["nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm", "null"] {
            fs::write(devices.path().join(name), "").expect("a new file");
        }
        let count = |visible| gpus_of(visible, devices.path());
        assert_eq!((count(None), count(Some("")), count(Some("-1")), count(Some("0"))), (3, 0, 0, 1));
        assert_eq!((count(Some("0,1,-1,2")), count(Some("GPU-8f, MIG-2"))), (2, 2));
        assert_eq!(gpus_of(None, &devices.path().join("none")), 0);
    }
}
