//! The file of a manifest: a head, then blocks of records, each block with its length and digest.
//!
//! ```text
//! head    MAGIC, settings [32], number of records u64, digest of these [16]
//! block   length u32, digest [16], records
//! record  bytes shared with the name before u16, rest of the name u32 + bytes, key [16], value u32 + bytes
//! ```
//! Numbers are little-endian.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sdtrain_files::{PendingFile, remove_abandoned};

use super::Digest;

/// Another number: another form of the file. Count up when a header that was fine may now be refused, or is read otherwise.
const MAGIC: &[u8; 16] = b"sdtrain scan  2\n";
const HEAD: usize = 16 + 32 + 8 + 16;
/// A block is closed once it is as long.
const BLOCK: usize = 64 * 1024;
/// No block is longer; a record holds the captions of one image.
const LONGEST_BLOCK: usize = 64 * 1024 * 1024;

/// Where the records of one folder lie.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    settings: [u8; 32],
}

impl Manifest {
    /// The manifest in `folder` of what `kind` and `settings` say; other settings have another file.
    pub fn of(folder: &Path, kind: &str, settings: &[u8]) -> Manifest {
        let mut hasher = blake3::Hasher::new();
        for part in [kind.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes(), &[u8::from(cfg!(feature = "jpeg-xl"))]] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let settings = *hasher.update(settings).finalize().as_bytes();
        let name: String = settings[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        Manifest { path: folder.join(format!("{kind}-{name}")), settings }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The records; none where the file is absent, of another version or damaged.
    pub fn read(&self) -> Known {
        let opened = || {
            let mut file = BufReader::with_capacity(BLOCK, File::open(&self.path).ok()?);
            let mut head = [0; HEAD];
            file.read_exact(&mut head).ok()?;
            (head == self.head(number(&head[48..56])?)).then_some((file, number(&head[48..56])?))
        };
        let (file, records) = match opened() {
            Some((file, records)) => (Some(file), records),
            None => (None, 0),
        };
        Known { file, records, block: Vec::new(), at: 0, current: None, found: 0 }
    }

    /// Begins a new file; the old one stays until this one is complete.
    pub fn write(&self) -> io::Result<Writer<'_>> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        remove_abandoned(folder);
        let mut file = BufWriter::with_capacity(BLOCK, PendingFile::create(folder)?);
        file.write_all(&[0; HEAD])?;
        Ok(Writer { manifest: self, file, block: Vec::new(), last: Vec::new(), records: 0 })
    }

    fn head(&self, records: u64) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..16].copy_from_slice(MAGIC);
        head[16..48].copy_from_slice(&self.settings);
        head[48..56].copy_from_slice(&records.to_le_bytes());
        let digest = digest_of(&head[..56]);
        head[56..].copy_from_slice(&digest);
        head
    }
}

/// The records of an earlier scan, asked for by rising names.
#[derive(Debug)]
pub(crate) struct Known {
    file: Option<BufReader<File>>,
    records: u64,
    block: Vec<u8>,
    at: usize,
    current: Option<Record>,
    found: u64,
}

#[derive(Debug, Default)]
struct Record {
    name: Vec<u8>,
    key: Digest,
    value: Vec<u8>,
}

impl Known {
    /// What was found for this name, if its key is still the same.
    pub fn find(&mut self, name: &[u8], key: &Digest) -> Option<&[u8]> {
        while self.current.as_ref().is_none_or(|current| current.name.as_slice() < name) {
            if self.next().is_none() {
                // Damaged or at its end: nothing behind it is believed.
                (self.file, self.current, self.at) = (None, None, 0);
                self.block.clear();
                return None;
            }
        }
        let current = self.current.as_ref().filter(|current| current.name == name && current.key == *key)?;
        self.found += 1;
        Some(&current.value)
    }

    /// The next record behind those that were asked for: its name, key and value.
    pub fn take_next(&mut self) -> Option<(&[u8], &Digest, &[u8])> {
        self.next()?;
        let record = self.current.as_ref()?;
        Some((&record.name, &record.key, &record.value))
    }

    /// Whether every record was found again, so that the file is as good as a new one.
    pub fn is_all_found(&self) -> bool {
        self.found == self.records
    }

    fn next(&mut self) -> Option<()> {
        if self.at == self.block.len() {
            self.next_block()?;
        }
        let record = self.current.get_or_insert_default();
        let mut rest = &self.block[self.at..];
        let shared = usize::from(u16::from_le_bytes(take(&mut rest, 2)?.try_into().ok()?));
        let length = length(&mut rest)?;
        if shared > record.name.len() {
            return None;
        }
        record.name.truncate(shared);
        record.name.extend_from_slice(take(&mut rest, length)?);
        record.key = take(&mut rest, 16)?.try_into().ok()?;
        record.value.clear();
        let length = self::length(&mut rest)?;
        record.value.extend_from_slice(take(&mut rest, length)?);
        self.at = self.block.len() - rest.len();
        Some(())
    }

    fn next_block(&mut self) -> Option<()> {
        let file = self.file.as_mut()?;
        let mut head = [0; 4 + 16];
        file.read_exact(&mut head).ok()?;
        let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
        if length == 0 || length > LONGEST_BLOCK {
            return None;
        }
        self.block.clear();
        file.take(length as u64).read_to_end(&mut self.block).ok()?;
        self.at = 0;
        // A name never shares anything with one in another block.
        if let Some(record) = &mut self.current {
            record.name.clear();
        }
        (self.block.len() == length && digest_of(&self.block) == head[4..]).then_some(())
    }
}

/// A manifest that is being written.
pub(crate) struct Writer<'a> {
    manifest: &'a Manifest,
    file: BufWriter<PendingFile>,
    block: Vec<u8>,
    last: Vec<u8>,
    records: u64,
}

impl Writer<'_> {
    /// Appends a record. One whose name does not rise could never be found and is left out.
    pub fn add(&mut self, name: &[u8], key: &Digest, value: &[u8]) -> io::Result<()> {
        if self.records > 0 && name <= self.last.as_slice() {
            return Ok(());
        }
        let shared = match self.block.is_empty() {
            true => 0,
            false => name.iter().zip(&self.last).take_while(|(a, b)| a == b).count().min(usize::from(u16::MAX)),
        };
        self.block.extend_from_slice(&(shared as u16).to_le_bytes());
        self.block.extend_from_slice(&((name.len() - shared) as u32).to_le_bytes());
        self.block.extend_from_slice(&name[shared..]);
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(value);
        self.last.clear();
        self.last.extend_from_slice(name);
        self.records += 1;
        if self.block.len() >= BLOCK { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.file.write_all(&(self.block.len() as u32).to_le_bytes())?;
            self.file.write_all(&digest_of(&self.block))?;
            self.file.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }

    /// Puts the file in its place. It is not forced to disk: what a power cut leaves of it shows in the digests.
    pub fn finish(mut self) -> io::Result<()> {
        self.close_block()?;
        let head = self.manifest.head(self.records);
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&head)?;
        file.publish(&self.manifest.path)
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut digest);
    digest
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn length(bytes: &mut &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?) as usize)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KEY: Digest = [7; 16];

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("folder/{i:06}.png")).collect()
    }

    fn manifest(folder: &Path, names: &[String]) -> Manifest {
        let manifest = Manifest::of(folder, "test", b"settings");
        let mut writer = manifest.write().unwrap();
        for name in names {
            writer.add(name.as_bytes(), &KEY, name.to_uppercase().as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        manifest
    }

    fn found(manifest: &Manifest, names: &[String]) -> Vec<bool> {
        let mut known = manifest.read();
        let is_found = |name: &String| match known.find(name.as_bytes(), &KEY) {
            Some(value) => {
                assert_eq!(value, name.to_uppercase().as_bytes());
                true
            }
            None => false,
        };
        names.iter().map(is_found).collect()
    }

    #[test]
    fn everything_written_is_found_again_over_many_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(5000);
        let manifest = manifest(folder.path(), &names);
        assert!(fs::metadata(manifest.path()).unwrap().len() > 3 * BLOCK as u64);
        assert!(found(&manifest, &names).into_iter().all(|found| found));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn new_gone_and_changed_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(6);
        let manifest = manifest(folder.path(), &names[1..]);
        let mut known = manifest.read();
        assert!(known.find(names[0].as_bytes(), &KEY).is_none(), "it is new");
        assert!(known.find(names[1].as_bytes(), &KEY).is_some());
        assert!(known.find(names[2].as_bytes(), &[8; 16]).is_none(), "it has changed");
        assert!(known.find(b"folder/000002.z", &KEY).is_none(), "it is new");
        assert!(known.find(names[5].as_bytes(), &KEY).is_some(), "two in front of it are gone");
        assert!(!known.is_all_found());
        let mut known = manifest.read();
        assert!(names[1..].iter().all(|name| known.find(name.as_bytes(), &KEY).is_some()));
        assert!(known.is_all_found());
    }

    #[test]
    fn a_damaged_manifest_is_believed_up_to_the_damage() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(5000);
        let manifest = manifest(folder.path(), &names);
        let whole = fs::read(manifest.path()).unwrap();
        let mut seen = [0, 0];
        for at in (0..whole.len()).step_by(997) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(manifest.path(), &bytes).unwrap();
            let found = found(&manifest, &names);
            let first_lost = found.iter().position(|found| !found).expect("the damage is noticed");
            assert!(!found[first_lost..].contains(&true));
            seen[usize::from(first_lost > 0)] += 1;
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        for length in (0..whole.len()).step_by(997) {
            fs::write(manifest.path(), &whole[..length]).unwrap();
            assert!(found(&manifest, &names).contains(&false));
        }
    }

    #[test]
    fn other_settings_and_other_versions_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(3);
        let old = manifest(folder.path(), &names);
        let other = Manifest::of(folder.path(), "test", b"others");
        assert_ne!(old.path(), other.path());
        fs::copy(old.path(), other.path()).unwrap();
        assert!(!found(&other, &names).contains(&true));
        let mut bytes = fs::read(old.path()).unwrap();
        bytes[14] += 1;
        fs::write(old.path(), bytes).unwrap();
        assert!(!found(&old, &names).contains(&true));
    }

    #[test]
    fn an_unfinished_manifest_leaves_the_old_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(3);
        let manifest = manifest(folder.path(), &names);
        let mut writer = manifest.write().unwrap();
        writer.add(b"other", &KEY, b"").unwrap();
        drop(writer);
        assert_eq!(found(&manifest, &names), [true; 3]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
