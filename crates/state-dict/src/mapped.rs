//! The bytes of a file: mapped into memory, without keeping there what was read from it, or in memory from the start.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Mmap, UncheckedAdvice};

use crate::access::Access;
use crate::error::{Error, Result};

/// The one memory map of this crate.
pub(crate) struct Mapped {
    map: Mmap,
    /// Bytes that were handed out since pages were last given back.
    handed_out: AtomicUsize,
}

impl Mapped {
    /// Maps an open file.
    fn new(file: &File, path: &Path) -> Result<Mapped> {
        let map = map(file).map_err(|source| Error::io("map", path, source))?;
        Ok(Mapped { map, handed_out: AtomicUsize::new(0) })
    }

    /// Gives pages back now and then: whoever loads a model has copied the earlier tensors by now, and two copies of it would be
    /// in memory at the end. A tensor that is still looked at is read from the file again.
    #[expect(unsafe_code, reason = "giving back the pages of a map is only harmless where they can be read again")]
    pub(crate) fn hand_out(&self, bytes: usize) {
        const OFTEN_ENOUGH: usize = 64 << 20;
        if self.handed_out.fetch_add(bytes, Ordering::Relaxed) + bytes > OFTEN_ENOUGH {
            self.handed_out.store(0, Ordering::Relaxed);
            // SAFETY: the map is read-only and of a file, so its pages hold nothing that the file does not; one that is needed
            // again is read again. A failure only means that memory stays in use.
            let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// A whole file.
pub(crate) enum Content {
    Mapped(Mapped),
    Memory(Cow<'static, [u8]>),
}

impl Content {
    /// All of a file that was just opened: a map, or a copy in memory.
    pub(crate) fn whole(file: &File, access: Access, path: &Path) -> Result<Content> {
        match access {
            Access::Mapped => Ok(Content::Mapped(Mapped::new(file, path)?)),
            Access::Read => {
                let (mut file, mut bytes) = (file, Vec::new());
                file.read_to_end(&mut bytes).map_err(|source| Error::io("read", path, source))?;
                Ok(Content::Memory(bytes.into()))
            }
        }
    }

    /// See [`Mapped::hand_out`].
    pub(crate) fn hand_out(&self, bytes: usize) {
        if let Content::Mapped(mapped) = self {
            mapped.hand_out(bytes);
        }
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Content::Mapped(mapped) => mapped,
            Content::Memory(memory) => memory,
        }
    }
}

/// Opens a regular file and says how long it is.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
    let metadata = file.metadata().map_err(|source| Error::io("read", path, source))?;
    match metadata.is_file() {
        true => Ok((file, metadata.len())),
        false => Err(Error::WrongKind { path: path.to_path_buf(), reason: "is not a regular file".to_string() }),
    }
}

#[expect(unsafe_code, reason = "a memory map is only sound while nobody shortens the file")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and this program replaces model files by renaming, which leaves an open map intact; files that other
    // machines may change are not mapped (`Access`). Another program that shortens the file in place would end this process with SIGBUS;
    // one that rewrites it would change tensor values. Neither can lead outside the map: all offsets were checked against its length.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_stays_when_the_file_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.ckpt");
        std::fs::write(&path, [7u8; 5000]).unwrap();
        let (file, _) = open_regular(&path).unwrap();
        let whole = |access| Content::whole(&file, access, &path).unwrap();
        assert_eq!(*whole(Access::Mapped), [7u8; 5000]);
        let read = whole(Access::Read);
        File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
        assert_eq!(*read, [7u8; 5000]);
    }
}
