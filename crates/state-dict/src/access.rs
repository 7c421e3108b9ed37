//! Which files may be mapped into memory: those on a disk of this machine.

use sdtrain_files::is_of_this_machine;
use std::fs::File;

/// How the bytes of a file are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Through a memory map, without a copy.
    Mapped,
    /// By reading, since the file may be cut short or vanish on another machine, and the network may fail: under a map that is a
    /// SIGBUS, which nobody can catch, and to whoever reads it is an error.
    Read,
}

impl Access {
    /// What the file system of an open file allows. Where that cannot be told, it is read.
    pub(crate) fn of(file: &File) -> Access {
        match is_of_this_machine(file) {
            true => Access::Mapped,
            false => Access::Read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn files_of_file_systems_that_are_no_disk_of_this_machine_are_read() {
        let file = File::open("/proc/self/status").expect("a process has one");
        assert_eq!(Access::of(&file), Access::Read);
    }
}
