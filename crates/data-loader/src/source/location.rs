//! Where an image's bytes lie: a file of its own, or a part of a larger one.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No image is longer, as it is stored.
pub(crate) const LARGEST: u64 = 1 << 30;

/// Opens a file that is one: a pipe would keep its reader waiting for ever, and a device never ends.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let metadata = fs::metadata(path)?;
    match metadata.is_file() {
        true => File::open(path),
        false if metadata.is_dir() => Err(io::Error::other("is a folder, not a file")),
        false => Err(io::Error::other("is a pipe or a device, not a file")),
    }
}

/// The whole of a file that is one.
pub(super) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len() as usize);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that holds many images: a tar shard, a parquet file. Read by several threads at once.
pub trait Container: Debug + Send + Sync {
    /// The file itself.
    fn file(&self) -> &Path;

    /// The bytes of an entry.
    fn read(&self, entry: u64) -> io::Result<Vec<u8>>;

    /// How many bytes an entry has.
    fn length(&self, entry: u64) -> io::Result<u64>;

    /// What tells an entry from all others of the file: its own number, where no other container of the same file has entries of
    /// that number.
    fn number_in_file(&self, entry: u64) -> u64 {
        entry
    }
}

/// Where an image lies.
#[derive(Clone, Debug)]
pub struct ImageLocation {
    // Without the spare length of a `PathBuf`: there may be a million of them.
    path: Box<Path>,
    part: Option<(Arc<dyn Container>, u64)>,
}

/// Two locations are the same when they have the same name and are the same entry.
impl PartialEq for ImageLocation {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.entry() == other.entry()
    }
}

impl Eq for ImageLocation {}

/// Bytes that can be looked at anywhere.
pub(crate) trait ReadSeek: BufRead + Seek {}
impl<R: BufRead + Seek> ReadSeek for R {}

impl ImageLocation {
    /// A file.
    pub fn file(path: PathBuf) -> ImageLocation {
        ImageLocation { path: path.into_boxed_path(), part: None }
    }

    /// An entry of a container; `path` names it for people and for the order: the container's path and the entry's name.
    pub fn part(path: PathBuf, container: Arc<dyn Container>, entry: u64) -> ImageLocation {
        ImageLocation { path: path.into_boxed_path(), part: Some((container, entry)) }
    }

    /// The file, or the container and the name in it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a file of its own, which can be moved.
    pub fn is_file(&self) -> bool {
        self.part.is_none()
    }

    /// Bytes of the image as it is stored.
    pub fn length(&self) -> io::Result<u64> {
        match &self.part {
            None => Ok(fs::metadata(&self.path)?.len()),
            Some((container, entry)) => container.length(*entry),
        }
    }

    /// The whole of it.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match &self.part {
            None => {
                self.check_length()?;
                read_regular(&self.path)
            }
            Some((container, entry)) => container.read(*entry),
        }
    }

    /// To look at a part of it; only a file of its own is not read whole.
    pub(crate) fn open(&self) -> io::Result<Box<dyn ReadSeek>> {
        match &self.part {
            None => {
                self.check_length()?;
                Ok(Box::new(BufReader::new(open_regular(&self.path)?)))
            }
            Some((container, entry)) => Ok(Box::new(Cursor::new(container.read(*entry)?))),
        }
    }

    /// Why the disk does not give it, where that is no property of the file: not where it is absent, forbidden, or not what it should be.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        /// Links that lead in a circle, on Linux.
        const LOOP: i32 = 40;
        let error = self.read().err()?;
        let is_of_file = match error.kind() {
            NotFound | NotADirectory | IsADirectory | PermissionDenied | InvalidFilename | InvalidInput => true,
            _ => error.raw_os_error() == Some(LOOP),
        };
        // One that this program made itself has no number.
        (error.raw_os_error().is_some() && !is_of_file).then_some(error)
    }

    fn check_length(&self) -> io::Result<()> {
        match self.length()? {
            length if length > LARGEST => Err(io::Error::other(format!("{length} bytes are too many for an image"))),
            _ => Ok(()),
        }
    }

    /// The file that holds it, and which part of that file it is.
    pub(crate) fn file_and_entry(&self) -> (&Path, Option<u64>) {
        match &self.part {
            None => (&self.path, None),
            Some((container, entry)) => (container.file(), Some(container.number_in_file(*entry))),
        }
    }

    fn entry(&self) -> Option<u64> {
        self.part.as_ref().map(|(_, entry)| *entry)
    }
}
