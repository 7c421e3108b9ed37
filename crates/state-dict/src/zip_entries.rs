//! The entries of a zip that PyTorch wrote: stored as they are, told by its directory and by their own headers alike, and with a sum of
//! their bytes (APPNOTE.TXT, 4.3 and 4.4).

use std::collections::{HashMap, HashSet};
use std::io::Cursor;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

use crate::error::shown;
use crate::header::check_name;

/// Where bytes lie in a file, and what their sum is.
pub(crate) struct Entry {
    pub(crate) place: Range<usize>,
    /// None where nobody made one.
    crc32: Option<u32>,
    is_checked: AtomicBool,
}

impl Entry {
    pub(crate) fn new(place: Range<usize>, crc32: Option<u32>) -> Entry {
        Entry { place, crc32, is_checked: AtomicBool::new(false) }
    }

    /// Its bytes in `content`, which are summed up when they are first asked for; none where they are not those that were saved.
    pub(crate) fn bytes<'c>(&self, content: &'c [u8]) -> Option<&'c [u8]> {
        let bytes = &content[self.place.clone()];
        if let Some(crc32) = self.crc32
            && !self.is_checked.load(Ordering::Relaxed)
        {
            if crc32fast::hash(bytes) != crc32 {
                return None;
            }
            self.is_checked.store(true, Ordering::Relaxed);
        }
        Some(bytes)
    }
}

/// The files in `archive`, which is `content`, by their names.
///
/// # Errors
/// The first entry that is no stored file with a plain name of its own, or of which its header says something else than the directory.
pub(crate) fn entries(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    content: &[u8],
) -> Result<HashMap<String, Entry>, String> {
    if archive.has_duplicate_names() {
        let name = repeated_name(content, archive.central_directory_start()).unwrap_or_default();
        return Err(format!("`{}` is twice in it", shown(&name)));
    }
    let mut entries = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| error.to_string())?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(|error| error.to_string())?.into_owned();
        let wrong = |reason: &str| format!("`{}` in it {reason}", shown(&name));
        check_name(&name).map_err(|reason| wrong(&reason))?;
        // PyTorch compresses nothing, so nothing can unfold to more than the file has.
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(wrong("is compressed or encrypted"));
        }
        if !header_agrees(content, &entry) {
            return Err(wrong("is another in its own header than in the directory"));
        }
        let start = entry.data_start().ok_or_else(|| wrong("has no place"))?;
        let range = usize::try_from(start).ok().zip(usize::try_from(entry.size()).ok());
        let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
        let range = range.filter(|range| range.end <= content.len());
        // `torch.serialization.set_crc32_options(False)` writes 0 for all.
        let crc32 = Some(entry.crc32()).filter(|sum| *sum != 0);
        let entry = Entry::new(range.ok_or("an entry of it reaches past its end")?, crc32);
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// Whether the header in front of an entry says what the directory says. What is only known at the end of a stream may be 0 there.
fn header_agrees(content: &[u8], entry: &ZipFile<'_, Cursor<&[u8]>>) -> bool {
    const LENGTH: usize = 30;
    let rest = usize::try_from(entry.header_start()).ok().and_then(|start| content.get(start..));
    let Some((header, rest)) = rest.and_then(|rest| rest.split_first_chunk::<LENGTH>()) else { return false };
    let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let long = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (flags, method) = (short(6), short(8));
    let (is_encrypted, is_stream) = (flags & 1 != 0, flags & 8 != 0);
    let is_later = |said: u32| is_stream && said == 0;
    // A length that does not fit stands in a field of its own behind the name.
    let fits = |said: u32, length: u64| u64::from(said) == length || said == u32::MAX || is_later(said);
    let (crc32, name_length) = (long(14), usize::from(short(26)));
    header.starts_with(b"PK\x03\x04")
        && !is_encrypted
        && method == 0
        && (crc32 == entry.crc32() || is_later(crc32))
        && fits(long(18), entry.compressed_size())
        && fits(long(22), entry.size())
        && rest.get(..name_length) == Some(entry.name_raw())
}

/// The first name that the directory at `start` has a second time.
fn repeated_name(content: &[u8], start: u64) -> Option<String> {
    const LENGTH: usize = 46;
    let mut names = HashSet::new();
    let mut rest = content.get(usize::try_from(start).ok()?..)?;
    loop {
        let (header, behind) =
            rest.split_first_chunk::<LENGTH>().filter(|(header, _)| header.starts_with(b"PK\x01\x02"))?;
        let length = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let name = behind.get(..length(28))?;
        if !names.insert(name) {
            return Some(String::from_utf8_lossy(name).into_owned());
        }
        rest = behind.get(length(28) + length(30) + length(32)..)?;
    }
}
