//! How much a disk still takes.

use std::path::Path;

/// Free bytes of the disk that a folder lies on or will lie on; none where that is not known.
#[cfg(target_os = "linux")]
pub fn free_space(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Not known here: a full disk shows when it is full.
#[cfg(not(target_os = "linux"))]
pub fn free_space(_: &Path) -> Option<u64> {
    None
}

/// A number of bytes as a message says it.
pub fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_room_is_that_of_the_disk_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_space(folder.path()).expect("a folder has a disk");
        assert!(free > 0);
        assert!(free_space(&folder.path().join("not/there/yet")).expect("its parent has a disk") > 0);
        assert_eq!(free_space(Path::new("/proc")), Some(0));
    }

    #[test]
    fn sizes_are_said_in_the_largest_unit_that_fits() {
        let said: Vec<String> = [0, 512, 1 << 20, 1536 << 20, 5 << 50].into_iter().map(in_words).collect();
        assert_eq!(said, ["0.0 KiB", "0.5 KiB", "1.0 MiB", "1.5 GiB", "5120.0 TiB"]);
    }
}
