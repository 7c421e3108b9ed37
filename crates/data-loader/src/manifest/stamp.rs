//! What of a file changes when its content does, without reading it.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length, times and identity of a file as the system states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub length: u64,
    /// Nanoseconds since 1970 of the last change of the content.
    modified: i128,
    /// The same of the content, the name or the rights; nobody can set it back. 0 where the system has none.
    changed: i128,
    pub device: u64,
    pub inode: u64,
}

/// Says which content was looked at: equal digests, equal files.
pub(crate) type Digest = [u8; 16];

impl Stamp {
    /// The file behind a path, links followed.
    pub fn of(path: &Path) -> io::Result<Stamp> {
        Ok(Stamp::from(&fs::metadata(path)?))
    }

    /// Whether a further change of the file would show: one made within the same tick of the file system's clock would not.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let last = self.modified.max(self.changed);
        // File systems that count whole seconds count up to two of them (FAT).
        let tick = if last % 1_000_000_000 == 0 { Duration::from_secs(2) } else { Duration::from_millis(50) };
        nanoseconds(now) - last > tick.as_nanos() as i128
    }

    fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.modified.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.changed.to_le_bytes());
        // Device numbers change when a disk is mounted anew.
        bytes[40..].copy_from_slice(&self.inode.to_le_bytes());
        bytes
    }
}

impl From<&Metadata> for Stamp {
    #[cfg(unix)]
    fn from(metadata: &Metadata) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        let time = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Stamp {
            length: metadata.len(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    #[cfg(not(unix))]
    fn from(metadata: &Metadata) -> Stamp {
        let modified = metadata.modified().map_or(0, nanoseconds);
        Stamp { length: metadata.len(), modified, changed: 0, device: 0, inode: 0 }
    }
}

/// The digest of several files, each with a word on what it is for.
pub(crate) fn key_of<'a>(files: impl IntoIterator<Item = (&'a [u8], Stamp)>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for (what, stamp) in files {
        hasher.update(&(what.len() as u64).to_le_bytes());
        hasher.update(what);
        hasher.update(&stamp.bytes());
    }
    let mut digest = Digest::default();
    hasher.finalize_xof().fill(&mut digest);
    digest
}

fn nanoseconds(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(modified: i128) -> Stamp {
        Stamp { length: 5, modified, changed: 0, device: 1, inode: 7 }
    }

    #[test]
    fn a_file_changed_just_now_may_change_again_unnoticed() {
        let now = UNIX_EPOCH + Duration::from_millis(10_500);
        assert!(stamp(10_400_000_001).is_settled(now));
        assert!(!stamp(10_460_000_001).is_settled(now));
        assert!(!stamp(11_500_000_001).is_settled(now), "a clock that runs ahead says nothing");
        // A whole second: the file system may count no finer.
        assert!(!stamp(9_000_000_000).is_settled(now));
        assert!(stamp(8_000_000_000).is_settled(now));
    }

    #[test]
    fn every_part_of_a_stamp_counts_but_the_disk() {
        let first = stamp(1);
        let key = |stamp: Stamp| key_of([(b"".as_slice(), stamp)]);
        for other in [
            Stamp { length: 6, ..first },
            Stamp { modified: 2, ..first },
            Stamp { changed: 2, ..first },
            Stamp { inode: 8, ..first },
        ] {
            assert_ne!(key(first), key(other));
        }
        assert_eq!(key(first), key(Stamp { device: 2, ..first }));
        assert_ne!(key(first), key_of([(b"mask".as_slice(), first)]));
    }
}
