//! A file system in memory that remembers what was forced to disk, and what a power cut would leave.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Entry, Vfs, VfsFile};

/// What of the un-synced work is on the disk after the power cut. A real one leaves some mixture; these are its corners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Only what was forced to disk.
    Synced,
    /// Everything, as after a kill.
    Everything,
    /// All names, but un-synced files are empty: what journals do that write names before contents.
    NamesOnly,
    /// All names, and the first half of un-synced files.
    NamesAndHalves,
    /// All contents, but only the names that were forced to disk.
    ContentsOnly,
    /// As this number decides, for each file on its own: all of it, only what was forced to disk, that and a part of the rest,
    /// or that and zeros, as where lengths are written before contents. For each folder: any selection of the changes to its
    /// names since it was forced to disk, in their order; a rename happens wholly or not at all.
    Mixture(u64),
}

impl Survives {
    /// The corners.
    pub const CORNERS: [Survives; 5] =
        [Survives::Synced, Survives::Everything, Survives::NamesOnly, Survives::NamesAndHalves, Survives::ContentsOnly];
}

/// What is left of work that was not forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    All,
    Part,
    None,
    /// The state as last forced to disk.
    Synced,
    /// The state as last forced to disk and this share, of 256, of what was written since.
    Share(u8),
    /// The length, with zeros for what was written since.
    Zeros,
    /// Of the changes to the names of a folder those whose bit is set, counted around.
    Selection(u64),
}

impl Survives {
    /// What is left of the contents of a file, and of the names in a folder.
    fn of(self, node: usize) -> (Kept, Kept) {
        match self {
            Survives::Synced => (Kept::Synced, Kept::Synced),
            Survives::Everything => (Kept::All, Kept::All),
            Survives::NamesOnly => (Kept::None, Kept::All),
            Survives::NamesAndHalves => (Kept::Part, Kept::All),
            Survives::ContentsOnly => (Kept::All, Kept::Synced),
            Survives::Mixture(seed) => {
                let hash = blake3::hash(&[seed.to_le_bytes(), (node as u64).to_le_bytes()].concat());
                let byte = |index: usize| hash.as_bytes()[index];
                let contents = [Kept::All, Kept::Share(byte(1)), Kept::None, Kept::Synced, Kept::Zeros];
                let bits = u64::from_le_bytes(hash.as_bytes()[8..16].try_into().expect("eight bytes"));
                let names = [Kept::All, Kept::Synced, Kept::Selection(bits), Kept::Selection(bits)];
                (contents[usize::from(byte(0)) % contents.len()], names[usize::from(byte(2)) % names.len()])
            }
        }
    }
}

/// The file system; clones share it.
#[derive(Clone, Debug)]
pub struct CrashVfs {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Clone, Debug)]
struct Disk {
    nodes: Vec<Node>,
    calls: u64,
    /// From this call on, counted from 1, nothing works any more.
    power_cut_at: u64,
}

/// A file or folder, now and as last forced to disk. The root is node 0.
#[derive(Clone, Debug)]
enum Node {
    File { now: Vec<u8>, synced: Option<Vec<u8>> },
    Folder { now: BTreeMap<String, usize>, synced: BTreeMap<String, usize>, changes: Vec<Change> },
}

/// A change to the names of a folder that is not forced to disk yet.
#[derive(Clone, Debug)]
enum Change {
    Add(String, usize),
    Remove(String, usize),
    /// To this name, which takes it away from where the file or folder was.
    Rename(String, usize),
}

impl Change {
    /// Happens to a folder on its own, whether or not what came before it is on the disk. It is a change to one file or folder and
    /// not to whatever has its name: a lost creation does not make a rename give away something older that was so called.
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Change::Add(name, node) => {
                names.insert(name.clone(), *node);
            }
            Change::Remove(name, node) => {
                if names.get(name) == Some(node) {
                    names.remove(name);
                }
            }
            Change::Rename(to, node) => {
                names.retain(|_, there| there != node);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Node {
    fn empty_folder() -> Node {
        Node::Folder { now: BTreeMap::new(), synced: BTreeMap::new(), changes: Vec::new() }
    }
}

impl Default for CrashVfs {
    fn default() -> Self {
        CrashVfs::new()
    }
}

impl CrashVfs {
    /// An empty disk that never loses power.
    pub fn new() -> Self {
        CrashVfs {
            disk: Arc::new(Mutex::new(Disk { nodes: vec![Node::empty_folder()], calls: 0, power_cut_at: u64::MAX })),
        }
    }

    /// Another disk in the same state, with the same things forced to it.
    pub fn copy(&self) -> CrashVfs {
        CrashVfs { disk: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// The power goes at call number `call` from here, counted from 1: that one and all after it do nothing and fail.
    pub fn cut_power_at(&self, call: u64) {
        let mut disk = self.lock();
        disk.calls = 0;
        disk.power_cut_at = call;
    }

    /// Calls since the start, or since `cut_power_at`.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The disk as it is found after the power cut.
    pub fn after_power_cut(&self, survives: Survives) -> CrashVfs {
        let mut disk = self.lock().clone();
        for (index, node) in disk.nodes.iter_mut().enumerate() {
            let (contents, names) = survives.of(index);
            match node {
                Node::File { now, synced } => {
                    let kept = synced.take().unwrap_or_default();
                    match contents {
                        Kept::All => (),
                        Kept::Synced => *now = kept,
                        Kept::Part if kept == *now => (),
                        Kept::Part => now.truncate(now.len() / 2),
                        Kept::None if kept == *now => (),
                        Kept::None => now.clear(),
                        // Files are only ever added to, so what was forced to disk is their beginning.
                        Kept::Share(share) => {
                            let written = now.len() - kept.len();
                            now.truncate(kept.len() + written * usize::from(share) / 256);
                        }
                        Kept::Zeros => now[kept.len()..].fill(0),
                        Kept::Selection(_) => unreachable!("of names only"),
                    }
                    *synced = Some(now.clone());
                }
                Node::Folder { now, synced, changes } => {
                    match names {
                        Kept::All => (),
                        Kept::Selection(bits) => {
                            *now = synced.clone();
                            let selected =
                                changes.iter().enumerate().filter(|(index, _)| bits >> (index % 64) & 1 == 1);
                            selected.for_each(|(_, change)| change.apply(now));
                        }
                        _ => *now = synced.clone(),
                    }
                    *synced = now.clone();
                    changes.clear();
                }
            }
        }
        disk.calls = 0;
        disk.power_cut_at = u64::MAX;
        CrashVfs { disk: Arc::new(Mutex::new(disk)) }
    }

    /// XORs one byte of a file with a mask, as a failing disk does.
    pub fn damage(&self, path: &Path, at: usize, mask: u8) -> io::Result<()> {
        let mut disk = self.lock();
        let node = disk.find(path)?;
        match &mut disk.nodes[node] {
            Node::File { now, .. } => *now.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)? ^= mask,
            Node::Folder { .. } => return Err(io::ErrorKind::IsADirectory.into()),
        }
        disk.sync(node);
        Ok(())
    }

    /// A digest of all names and contents, by which two states of a disk are told apart.
    pub fn digest(&self) -> [u8; 32] {
        fn add(disk: &Disk, node: usize, hasher: &mut blake3::Hasher) {
            match &disk.nodes[node] {
                Node::File { now, .. } => {
                    hasher.update(&(now.len() as u64).to_le_bytes()).update(now);
                }
                Node::Folder { now, .. } => {
                    hasher.update(&(now.len() as u64).to_le_bytes()).update(b"/");
                    for (name, &node) in now {
                        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
                        add(disk, node, hasher);
                    }
                }
            }
        }
        let mut hasher = blake3::Hasher::new();
        add(&self.lock(), 0, &mut hasher);
        *hasher.finalize().as_bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.lock();
        disk.calls += 1;
        if disk.calls >= disk.power_cut_at { Err(io::Error::other("the power was cut")) } else { Ok(disk) }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk {
    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut node = 0;
        for name in names(path) {
            node = *self.folder(node)?.get(&name).ok_or_else(not_found)?;
        }
        Ok(node)
    }

    /// The folder a path lies in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = names(path).pop().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn folder(&self, node: usize) -> io::Result<&BTreeMap<String, usize>> {
        match &self.nodes[node] {
            Node::Folder { now, .. } => Ok(now),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn change(&mut self, node: usize, change: Change) -> io::Result<()> {
        match &mut self.nodes[node] {
            Node::Folder { now, changes, .. } => {
                change.apply(now);
                changes.push(change);
                Ok(())
            }
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (parent, name) = self.place(path)?;
        if self.folder(parent)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.change(parent, Change::Add(name, index))?;
        Ok(index)
    }

    fn sync(&mut self, node: usize) {
        match &mut self.nodes[node] {
            Node::File { now, synced } => *synced = Some(now.clone()),
            Node::Folder { now, synced, changes } => {
                *synced = now.clone();
                changes.clear();
            }
        }
    }

    fn is_folder(&self, node: usize) -> bool {
        matches!(self.nodes[node], Node::Folder { .. })
    }
}

fn names(path: &Path) -> Vec<String> {
    let name = |part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

struct CrashFile {
    vfs: CrashVfs,
    node: usize,
}

impl Write for CrashFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.vfs.call()?;
        let Node::File { now, .. } = &mut disk.nodes[self.node] else { unreachable!("a file stays a file") };
        now.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl VfsFile for CrashFile {
    fn sync(&mut self) -> io::Result<()> {
        self.vfs.call()?.sync(self.node);
        Ok(())
    }
}

impl Vfs for CrashVfs {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.call()?.add(path, Node::empty_folder()).map(|_| ())
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>> {
        let node = self.call()?.add(path, Node::File { now: Vec::new(), synced: None })?;
        Ok(Box::new(CrashFile { vfs: self.clone(), node }))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.call()?;
        let node = disk.find(path)?;
        disk.sync(node);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.sync_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.call()?;
        let node = disk.find(from)?;
        let ((from, old), (to, new)) = (disk.place(from)?, disk.place(to)?);
        if let Some(&there) = disk.folder(to)?.get(&new)
            && (disk.is_folder(there) || disk.is_folder(node))
        {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if from == to {
            return disk.change(from, Change::Rename(new, node));
        }
        disk.change(from, Change::Remove(old, node))?;
        disk.change(to, Change::Add(new, node))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.call()?;
        let node = disk.find(path)?;
        if disk.is_folder(node) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (parent, name) = disk.place(path)?;
        disk.change(parent, Change::Remove(name, node))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.call()?;
        let node = disk.find(path)?;
        if !disk.folder(node)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (parent, name) = disk.place(path)?;
        disk.change(parent, Change::Remove(name, node))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let disk = self.call()?;
        let entries = disk.folder(disk.find(path)?)?.iter();
        Ok(entries.map(|(name, &node)| Entry { name: name.clone(), is_folder: disk.is_folder(node) }).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.call()?.find(path).is_ok())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let disk = self.call()?;
        match &disk.nodes[disk.find(path)?] {
            Node::File { now, .. } => Ok(now.len() as u64),
            Node::Folder { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        let disk = self.call()?;
        match &disk.nodes[disk.find(path)?] {
            Node::File { now, .. } => Ok(Box::new(Cursor::new(now.clone()))),
            Node::Folder { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(vfs: &CrashVfs, path: &str, bytes: &[u8], sync: bool) {
        let mut file = vfs.create_file(Path::new(path)).unwrap();
        file.write_all(bytes).unwrap();
        if sync {
            file.sync().unwrap();
        }
    }

    fn read(vfs: &CrashVfs, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        vfs.open(Path::new(path)).ok()?.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    #[test]
    fn a_file_needs_both_its_content_and_its_name_synced() {
        let vfs = CrashVfs::new();
        write(&vfs, "a", b"1234", true);
        assert_eq!(read(&vfs.after_power_cut(Survives::Synced), "a"), None);
        vfs.sync_folder(Path::new("")).unwrap();
        assert_eq!(read(&vfs.after_power_cut(Survives::Synced), "a").unwrap(), b"1234");
    }

    #[test]
    fn a_rename_without_syncs_may_leave_an_empty_file() {
        let vfs = CrashVfs::new();
        write(&vfs, "tmp", b"1234", false);
        vfs.rename(Path::new("tmp"), Path::new("a")).unwrap();
        assert_eq!(read(&vfs.after_power_cut(Survives::NamesOnly), "a").unwrap(), b"");
        assert_eq!(read(&vfs.after_power_cut(Survives::NamesAndHalves), "a").unwrap(), b"12");
        assert_eq!(read(&vfs.after_power_cut(Survives::Everything), "a").unwrap(), b"1234");
        assert_eq!(read(&vfs.after_power_cut(Survives::ContentsOnly), "a"), None);
    }

    #[test]
    fn a_mixture_is_any_selection_of_changes_and_any_beginning_of_a_file() {
        let vfs = CrashVfs::new();
        write(&vfs, "old", b"1234", true);
        vfs.sync_folder(Path::new("")).unwrap();
        write(&vfs, "new", b"12345678", false);
        vfs.rename(Path::new("old"), Path::new("older")).unwrap();
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..2000 {
            let disk = vfs.after_power_cut(Survives::Mixture(seed));
            let names: Vec<String> = disk.list(Path::new("")).unwrap().into_iter().map(|entry| entry.name).collect();
            found.insert((names, read(&disk, "new")));
        }
        let of = |names: &[&str], new: Option<&[u8]>| {
            (names.iter().map(|name| name.to_string()).collect::<Vec<_>>(), new.map(<[u8]>::to_vec))
        };
        for length in 0..=8 {
            assert!(found.contains(&of(&["new", "old"], Some(&b"12345678"[..length]))), "{length} bytes");
        }
        assert!(found.contains(&of(&["new", "older"], Some(&[0; 8]))));
        assert!(found.contains(&of(&["old"], None)) && found.contains(&of(&["older"], None)));
        assert!(
            found.iter().all(|(names, _)| names.iter().any(|name| name.starts_with("old"))),
            "a rename is one step"
        );
    }

    #[test]
    fn a_rename_never_gives_away_what_had_the_name_before() {
        let vfs = CrashVfs::new();
        write(&vfs, "tmp", b"old", true);
        vfs.sync_folder(Path::new("")).unwrap();
        vfs.remove_file(Path::new("tmp")).unwrap();
        write(&vfs, "tmp", b"new", true);
        vfs.rename(Path::new("tmp"), Path::new("a")).unwrap();
        let found: std::collections::BTreeSet<_> =
            (0..500).map(|seed| read(&vfs.after_power_cut(Survives::Mixture(seed)), "a")).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [None, Some(b"new".to_vec())]);
    }

    #[test]
    fn after_the_power_cut_nothing_works() {
        let vfs = CrashVfs::new();
        vfs.cut_power_at(2);
        vfs.create_folder(Path::new("a")).unwrap();
        assert!(vfs.create_folder(Path::new("b")).is_err());
        assert!(vfs.list(Path::new("")).is_err());
        let after = vfs.after_power_cut(Survives::Everything);
        assert_eq!(after.list(Path::new("")).unwrap().len(), 1);
    }
}
