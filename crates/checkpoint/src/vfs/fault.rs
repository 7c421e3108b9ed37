//! A file system whose n-th call fails, for tests that fail at every one.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, Vfs, VfsFile};

/// Whether a fault passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// One call fails, as with a network hiccup.
    Once,
    /// That call and every one after it fail, as with a dead disk.
    Always,
}

/// Passes every call on to another file system, but for those that are to fail.
///
/// Everything counts as a call, each `write` of a file too. A failing write has written half of its bytes.
pub struct FaultVfs<V> {
    inner: V,
    fails_at: u64,
    error: i32,
    repeat: Repeat,
    calls: AtomicU64,
    /// Bytes that still fit on the disk.
    room: AtomicU64,
}

/// Linux: no space left on device.
const ENOSPC: i32 = 28;

impl<V: Vfs> FaultVfs<V> {
    /// Call number `fails_at`, counted from 1, fails with this `errno`.
    pub fn new(inner: V, fails_at: u64, error: i32, repeat: Repeat) -> Self {
        FaultVfs { inner, fails_at, error, repeat, calls: AtomicU64::new(0), room: AtomicU64::new(u64::MAX) }
    }

    /// No call fails; they are only counted.
    pub fn counting(inner: V) -> Self {
        FaultVfs::new(inner, u64::MAX, 0, Repeat::Once)
    }

    /// A disk with room for so many more bytes.
    pub fn with_room(inner: V, bytes: u64) -> Self {
        FaultVfs { room: AtomicU64::new(bytes), ..FaultVfs::counting(inner) }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn call(&self) -> io::Result<()> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let fails = match self.repeat {
            Repeat::Once => number == self.fails_at,
            Repeat::Always => number >= self.fails_at,
        };
        if fails { Err(io::Error::from_raw_os_error(self.error)) } else { Ok(()) }
    }
}

struct FaultFile<'a, V> {
    vfs: &'a FaultVfs<V>,
    inner: Box<dyn VfsFile + 'a>,
}

impl<V: Vfs> Write for FaultFile<'_, V> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.vfs.call() {
            self.inner.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        let room = self.vfs.room.load(Ordering::SeqCst);
        let fitting = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if fitting.is_empty() && !bytes.is_empty() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let written = self.inner.write(fitting)?;
        self.vfs.room.fetch_sub(written as u64, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<V: Vfs> VfsFile for FaultFile<'_, V> {
    fn sync(&mut self) -> io::Result<()> {
        self.vfs.call()?;
        self.inner.sync()
    }
}

impl<V: Vfs> Vfs for FaultVfs<V> {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.inner.create_folder(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>> {
        self.call()?;
        Ok(Box::new(FaultFile { vfs: self, inner: self.inner.create_file(path)? }))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.inner.sync_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.inner.sync_folder(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.inner.remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.inner.remove_folder(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.call()?;
        self.inner.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.call()?;
        self.inner.exists(path)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.call()?;
        self.inner.is_link(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        self.call()?;
        self.inner.length(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        self.call()?;
        self.inner.open(path)
    }
}
