//! Which file systems lie on this machine, and which another machine shares.

use std::fs::File;

/// The kinds of file systems (`f_type` of `statfs`, `linux/magic.h`) whose files lie on this machine. All others may be shared: NFS,
/// CIFS, FUSE, 9p, Lustre, Ceph and those that nobody has thought of.
const OF_THIS_MACHINE: [u32; 20] = [
    0x0000_3434, // nilfs
    0x0000_4D44, // vfat
    0x0000_9660, // iso9660
    0x0000_EF53, // ext2, ext3, ext4
    0x0102_1994, // tmpfs
    0x1501_3346, // udf
    0x2011_BAB0, // exfat
    0x2FC1_2FC1, // zfs
    0x3153_464A, // jfs
    0x5265_4973, // reiserfs
    0x5346_544E, // ntfs
    0x5846_5342, // xfs
    0x7366_746E, // ntfs3
    0x7371_7368, // squashfs
    0x794C_7630, // overlayfs: a container's, whose layers nearly always lie on this machine
    0x8584_58F6, // ramfs
    0x9123_683E, // btrfs
    0xCA45_1A4E, // bcachefs
    0xE0F5_E1E2, // erofs
    0xF2F5_2010, // f2fs
];

/// Whether an open file lies on a disk of this machine alone: it cannot be cut short or vanish because of another machine, nor can a
/// network fail under it. False where that cannot be told.
pub fn is_of_this_machine(file: &File) -> bool {
    kind(file).is_some_and(|kind| OF_THIS_MACHINE.contains(&kind))
}

#[cfg(target_os = "linux")]
fn kind(file: &File) -> Option<u32> {
    // The field is signed, and of another width on each machine; the numbers have 32 bits.
    rustix::fs::fstatfs(file).ok().map(|found| found.f_type as u32)
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn kind(_: &File) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_other_machines_and_unknown_ones_are_not_of_this_machine() {
        let own = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630];
        assert!(own.iter().all(|kind| OF_THIS_MACHINE.contains(kind)));
        let shared = [
            0x0000_6969, // nfs
            0x0000_517B, // smb
            0xFF53_4D42, // cifs
            0xFE53_4D42, // smb2
            0x6573_5546, // fuse
            0x0102_1997, // 9p
            0x0BD0_0BD0, // lustre
            0x00C3_6400, // ceph
            0x5346_414F, // afs
            0x4750_4653, // gpfs
            0x1234_5678, // nobody knows
        ];
        assert!(shared.iter().all(|kind| !OF_THIS_MACHINE.contains(kind)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_file_system_is_that_of_the_open_file() {
        let file = File::open("/proc/self/status").expect("a process has one");
        assert_eq!(kind(&file), Some(0x9FA0));
        assert!(!is_of_this_machine(&file));
    }
}
