//! Tar files: where each entry lies, without unpacking anything, and a verdict for everything that is not a plain file.
//!
//! The format is POSIX.1-2017's pax and ustar (`pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html`), with GNU's long names.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::Container;
use super::location::LARGEST;

const BLOCK: u64 = 512;
/// Longest name that a header of its own may give an entry.
const LONGEST_NAME: u64 = 4096;
/// Longest block of pax attributes.
const LONGEST_ATTRIBUTES: u64 = 64 * 1024;

/// A plain file in a tar file.
#[derive(Debug)]
pub(super) struct Member {
    pub name: String,
    pub start: u64,
    pub length: u64,
}

/// What a tar file holds.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub members: Vec<Member>,
    /// Name and reason of every entry that cannot be had.
    pub rejected: Vec<(String, String)>,
    /// What may be missing although every entry that is there is whole.
    pub notes: Vec<String>,
}

/// Where the entries of a tar file lie; the entry number is the place in this list.
#[derive(Debug)]
pub(super) struct Tar {
    pub path: PathBuf,
    pub spans: Vec<(u64, u64)>,
}

impl Container for Tar {
    fn file(&self) -> &Path {
        &self.path
    }

    fn read(&self, entry: u64) -> io::Result<Vec<u8>> {
        let (start, length) = self.span(entry)?;
        read_span(&self.path, start, length)
    }

    fn length(&self, entry: u64) -> io::Result<u64> {
        Ok(self.span(entry)?.1)
    }
}

impl Tar {
    fn span(&self, entry: u64) -> io::Result<(u64, u64)> {
        self.spans.get(entry as usize).copied().ok_or_else(|| io::Error::other("there is no such entry"))
    }
}

/// A part of a file. The file is opened anew each time, so that threads do not share a position.
pub(super) fn read_span(path: &Path, start: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")),
    }
}

/// Finds every entry. An error means that the file is no tar file at all; damage further on is an entry's verdict.
pub(super) fn index(path: &Path) -> Result<Index, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    let mut index = Index::default();
    // What headers in front of an entry say about it.
    let mut next = Attributes::default();
    let mut at = 0;
    while at < length {
        let place = |what: &str| (format!("byte {at}"), what.to_owned());
        let mut header = [0; BLOCK as usize];
        if length - at < BLOCK || read_at(&mut file, at, &mut header).is_err() {
            if at == 0 {
                return Err(no_tar(&header));
            }
            index.rejected.push(place("the file ends in the middle of a header"));
            break;
        }
        if header.iter().all(|&byte| byte == 0) {
            index.notes.extend(behind_the_end(&mut file, at, length)?);
            break;
        }
        if !checksum_fits(&header) {
            if at == 0 {
                return Err(no_tar(&header));
            }
            index.rejected.push(place("the header is damaged; nothing behind it is read"));
            break;
        }
        // What was said about an entry passes over further headers of this kind.
        let said = match header[156] {
            b'x' | b'g' | b'L' | b'K' => Attributes::default(),
            _ => std::mem::take(&mut next),
        };
        let name = said.name.unwrap_or_else(|| name_of(&header));
        let size = match said.size.or_else(|| number(&header[124..136])) {
            Some(size) => size,
            None => {
                index.rejected.push(place("the header has no size; nothing behind it is read"));
                break;
            }
        };
        let start = at + BLOCK;
        let shown = match &name {
            Ok(name) | Err(name) => name.clone(),
        };
        if size > length - start {
            let missing = size - (length - start);
            index.rejected.push((shown, format!("{missing} of its {size} bytes are missing at the end of the file")));
            break;
        }
        match header[156] {
            b'x' | b'L' if size > if header[156] == b'x' { LONGEST_ATTRIBUTES } else { LONGEST_NAME } => {
                index.rejected.push(place("the name or the attributes of an entry are too long"));
            }
            b'x' => {
                let bytes = read_block(&mut file, start, size)?;
                next = next.with_pax(&bytes);
            }
            b'L' => {
                let bytes = read_block(&mut file, start, size)?;
                next.name = Some(text(&bytes));
            }
            // Attributes of all entries, a long link's target, a folder.
            b'g' | b'K' | b'5' => {}
            b'0' | 0 | b'7' if size > LARGEST => {
                index.rejected.push((shown, format!("{size} bytes are too many for an image")));
            }
            b'0' | 0 | b'7' => match name.map(plain_name) {
                Ok(Some(name)) => index.members.push(Member { name, start, length: size }),
                Ok(None) => index.rejected.push((shown, "its name leads out of the archive".to_owned())),
                Err(_) => index.rejected.push((shown, "its name is not UTF-8".to_owned())),
            },
            b'1' | b'2' => index.rejected.push((shown, "is a link, and links are not followed".to_owned())),
            b'3' | b'4' | b'6' => index.rejected.push((shown, "is a device, not a file".to_owned())),
            b'S' => index.rejected.push((shown, "is stored with holes (`tar --sparse`), which is not read".to_owned())),
            other => {
                index.rejected.push((shown, format!("is of an unknown kind, {}", char::from(other).escape_default())))
            }
        }
        at = start + size.div_ceil(BLOCK) * BLOCK;
    }
    // Whatever ended the walk before says so itself.
    if at >= length && length > 0 {
        let note = "has no mark at its end, as every whole tar file has: if it was cut off, entries are missing behind its last";
        index.notes.push(note.to_owned());
    }
    Ok(index)
}

/// Says so where there is more than zeros behind the end mark: tar files put one behind another.
fn behind_the_end(file: &mut File, at: u64, length: u64) -> Result<Option<String>, String> {
    /// Programs that write tar files fill up their last record with zeros; usual are 10 KiB.
    const LOOKED_AT: u64 = 64 * 1024;
    let rest = read_block(file, at, (length - at).min(LOOKED_AT))?;
    let note = "holds more behind the mark at its end, which is not read: it looks like several tar files in one; keep them apart";
    Ok(rest.iter().any(|&byte| byte != 0).then(|| note.to_owned()))
}

/// What a header of its own says about the entry behind it.
#[derive(Default)]
struct Attributes {
    name: Option<Result<String, String>>,
    size: Option<u64>,
}

impl Attributes {
    /// Records of the form `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
    fn with_pax(self, mut bytes: &[u8]) -> Attributes {
        let mut attributes = self;
        while let Some(space) = bytes.iter().position(|&byte| byte == b' ') {
            let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let Some(length) = length.filter(|length| (space + 2..=bytes.len()).contains(length)) else { break };
            let record = &bytes[space + 1..length - 1];
            if let Some(path) = record.strip_prefix(b"path=") {
                attributes.name = Some(text(path));
            } else if let Some(size) = record.strip_prefix(b"size=") {
                attributes.size = std::str::from_utf8(size).ok().and_then(|digits| digits.parse().ok());
            }
            bytes = &bytes[length..];
        }
        attributes
    }
}

/// Text up to the first NUL; an error has it with marks in the place of what is not UTF-8.
fn text(bytes: &[u8]) -> Result<String, String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[..end]) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(String::from_utf8_lossy(&bytes[..end]).into_owned()),
    }
}

fn name_of(header: &[u8; 512]) -> Result<String, String> {
    let name = text(&header[..100]);
    // GNU's own form (`ustar` and a blank) has other things where ustar has the start of a long name.
    if &header[257..263] != b"ustar\0" || header[345] == 0 {
        return name;
    }
    match (text(&header[345..500]), name) {
        (Ok(folder), Ok(name)) => Ok(format!("{folder}/{name}")),
        (Ok(folder) | Err(folder), Ok(name) | Err(name)) => Err(format!("{folder}/{name}")),
    }
}

/// The name without `./` in front; none if it is absolute or goes up, which no program that packs a folder writes.
fn plain_name(name: String) -> Option<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| *part != ".").collect();
    let is_bad = |part: &&str| part.is_empty() || *part == ".." || part.contains('\\');
    (!parts.is_empty() && !parts.iter().any(is_bad)).then(|| parts.join("/"))
}

/// A number in octal digits, or in binary where the first bit is set (GNU).
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        let fits = first == 0x80 && high.iter().all(|&byte| byte == 0);
        return fits.then(|| low.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(|c| c == ' ' || c == '\0');
    match digits.is_empty() {
        true => Some(0),
        false => u64::from_str_radix(digits, 8).ok(),
    }
}

/// The sum of the header's bytes with blanks in the place of the sum itself; old programs summed signed bytes.
fn checksum_fits(header: &[u8; 512]) -> bool {
    let Some(wanted) = number(&header[148..156]) else { return false };
    let byte = |at: usize| if (148..156).contains(&at) { b' ' } else { header[at] };
    let unsigned: u64 = (0..header.len()).map(|at| u64::from(byte(at))).sum();
    let signed: i64 = (0..header.len()).map(|at| i64::from(byte(at).cast_signed())).sum();
    wanted == unsigned || i64::try_from(wanted) == Ok(signed)
}

fn no_tar(header: &[u8]) -> String {
    match header {
        [0x1f, 0x8b, ..] => "is compressed with gzip: unpack it with `gunzip`, images do not get smaller".to_owned(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "is compressed with zstd: unpack it with `unzstd`, images do not get smaller".to_owned()
        }
        [b'P', b'K', ..] => "is a ZIP file, not a tar file".to_owned(),
        _ => "is no tar file".to_owned(),
    }
}

fn read_block(file: &mut File, at: u64, length: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length as usize];
    read_at(file, at, &mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn read_at(file: &mut File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}
