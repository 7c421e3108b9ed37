//! What tells one picture from another whatever it is called: a digest of the bytes of its file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use sdtrain_recipe::Subset;

use crate::looks::{entry_of, in_parallel};
use crate::manifest::{self, Manifest, Stamp, key_of};
use crate::scan::Image;
use crate::source::ImageLocation;

/// Digest of an image's bytes as they are stored.
pub(crate) type Digest = [u8; 32];

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// The digest of every image; none for one that cannot be read.
pub(crate) fn digests(images: &[Image], subsets: &[Subset]) -> Vec<Option<Digest>> {
    let all: Vec<Member> = members(images, subsets).collect();
    digests_of(&all, &(0..all.len()).collect::<Vec<_>>())
}

/// The same, and those of the masks and other images that belong to the images, in the order of the images and of their columns.
pub(crate) fn digests_with_extra(images: &[Image], subsets: &[Subset]) -> (Vec<Option<Digest>>, Vec<Option<Digest>>) {
    let all: Vec<Member> = members(images, subsets).chain(extra_members(images, subsets)).collect();
    let mut digests = digests_of(&all, &(0..all.len()).collect::<Vec<_>>());
    let of_extra = digests.split_off(images.len());
    (digests, of_extra)
}

/// For each image the number of the first one with the same bytes, its own where there is none before it.
pub(crate) fn first_copies(images: &[Image], subsets: &[Subset]) -> Vec<usize> {
    let all: Vec<Member> = members(images, subsets).collect();
    let digests = digests_where_lengths_agree(&all);
    let mut first = BTreeMap::new();
    digests
        .iter()
        .enumerate()
        .map(|(index, digest)| digest.map_or(index, |d| *first.entry(d).or_insert(index)))
        .collect()
}

/// Pairs of an image of `some` and the first one of `others` with the same bytes; each images and their subsets.
pub(crate) fn shared<'a>(
    some: (&'a [Image], &'a [Subset]),
    others: (&'a [Image], &'a [Subset]),
) -> Vec<(&'a Image, &'a Image)> {
    let all: Vec<Member> = members(others.0, others.1).chain(members(some.0, some.1)).collect();
    let digests = digests_where_lengths_agree(&all);
    let (of_others, of_some) = digests.split_at(others.0.len());
    let mut first = BTreeMap::new();
    for (image, digest) in others.0.iter().zip(of_others) {
        if let Some(digest) = digest {
            first.entry(*digest).or_insert(image);
        }
    }
    some.0.iter().zip(of_some).filter_map(|(image, digest)| Some((image, *first.get(&(*digest)?)?))).collect()
}

/// An image, or one that belongs to it, its length, and the path of its subset.
#[derive(Clone, Copy)]
struct Member<'a> {
    location: &'a ImageLocation,
    length: u64,
    root: &'a Path,
}

fn members<'a>(images: &'a [Image], subsets: &'a [Subset]) -> impl Iterator<Item = Member<'a>> {
    images.iter().map(|image| member(image, &image.location, subsets))
}

/// Those that belong to the images, taken for as long as these are: some can only be told their length by reading them.
fn extra_members<'a>(images: &'a [Image], subsets: &'a [Subset]) -> impl Iterator<Item = Member<'a>> {
    images.iter().flat_map(|image| image.extra_images.values().map(|extra| member(image, extra, subsets)))
}

fn member<'a>(image: &Image, location: &'a ImageLocation, subsets: &'a [Subset]) -> Member<'a> {
    Member { location, length: image.file_length, root: &subsets[image.subset].path }
}

/// Digests of the images that have the length of another one: only these can be copies, so only these are read. None as well
/// for an image that can no longer be read.
fn digests_where_lengths_agree(images: &[Member]) -> Vec<Option<Digest>> {
    let mut by_length: BTreeMap<u64, usize> = BTreeMap::new();
    for member in images {
        *by_length.entry(member.length).or_default() += 1;
    }
    let has_another = |index: &usize| by_length[&images[*index].length] > 1;
    let wanted: Vec<usize> = (0..images.len()).filter(has_another).collect();
    digests_of(images, &wanted)
}

/// Digests of the wanted ones of `images`; none for the others.
fn digests_of(images: &[Member], wanted: &[usize]) -> Vec<Option<Digest>> {
    let mut by_root: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
    for &index in wanted {
        by_root.entry(images[index].root).or_default().push(index);
    }
    let mut digests = vec![None; images.len()];
    for (root, indices) in by_root {
        let of_root: Vec<&ImageLocation> = indices.iter().map(|&index| images[index].location).collect();
        let bytes = indices.iter().map(|&index| images[index].length).sum();
        let found = digests_of_folder(&of_root, manifest_of(root, bytes).as_ref());
        indices.into_iter().zip(found).for_each(|(index, digest)| digests[index] = digest);
    }
    digests
}

/// Where digests of the images of a subset are kept for the next time; nowhere where they are read faster than anyone notices.
fn manifest_of(root: &Path, bytes: u64) -> Option<Manifest> {
    const LEAST_BYTES: u64 = 16 << 20;
    let folder = manifest::folder().filter(|_| bytes >= LEAST_BYTES)?;
    Some(Manifest::of(&folder, "digests", root.as_os_str().as_encoded_bytes()))
}

/// One image on its way to its digest.
#[derive(Clone, Default)]
struct Search {
    /// The name of its record.
    name: Vec<u8>,
    /// What must be unchanged for the record to hold; absent where the system does not state it.
    key: Option<manifest::Digest>,
    /// Whether a further change of its file would show.
    is_settled: bool,
    digest: Option<Digest>,
    is_known: bool,
}

fn digests_of_folder(images: &[&ImageLocation], manifest: Option<&Manifest>) -> Vec<Option<Digest>> {
    let started = SystemTime::now();
    let mut searches = vec![Search::default(); images.len()];
    if manifest.is_some() {
        in_parallel(images, &mut searches, |image, search| *search = look(image, started));
    }
    // Records are sorted by name; entries of one container need not be.
    let mut by_name: Vec<usize> = (0..images.len()).collect();
    by_name.sort_by(|&a, &b| searches[a].name.cmp(&searches[b].name));
    if let Some(manifest) = manifest {
        let mut known = manifest.read();
        for &index in &by_name {
            let search = &mut searches[index];
            let value = search.key.and_then(|key| known.find(&search.name, &key));
            search.digest = value.and_then(|value| value.try_into().ok());
            search.is_known = search.digest.is_some();
        }
    }
    in_parallel(images, &mut searches, |image, search| {
        if search.digest.is_none() {
            search.digest = image.read().ok().map(|bytes| digest(&bytes));
        }
    });
    if let Some(manifest) = manifest {
        let fresh = by_name.iter().map(|&index| &searches[index]).filter(|search| !search.is_known);
        let fresh: Vec<&Search> =
            fresh.filter(|search| search.is_settled && search.key.is_some() && search.digest.is_some()).collect();
        if !fresh.is_empty() {
            // Without it the next start takes longer, and nothing else.
            let _ = add_to(manifest, &fresh);
        }
    }
    searches.into_iter().map(|search| search.digest).collect()
}

fn look(image: &ImageLocation, started: SystemTime) -> Search {
    let (file, _) = image.file_and_entry();
    let entry = entry_of(image);
    let mut name = file.as_os_str().as_encoded_bytes().to_vec();
    if entry > 0 {
        name.push(0);
        name.extend_from_slice(&entry.to_be_bytes());
    }
    let stamp = Stamp::of(file).ok();
    let key = stamp.map(|stamp| key_of([(entry.to_le_bytes().as_slice(), stamp)]));
    Search { name, key, is_settled: stamp.is_some_and(|stamp| stamp.is_settled(started)), ..Search::default() }
}

/// Writes the manifest anew with `fresh` records, sorted by name, among those that it has. Others of the folder stay, even where
/// nobody asked for them now: those of images that are held out, say. Those of files that are gone do not.
fn add_to(manifest: &Manifest, fresh: &[&Search]) -> std::io::Result<()> {
    let mut writer = manifest.write()?;
    let mut fresh = fresh.iter().peekable();
    let mut known = manifest.read();
    loop {
        let old = known.take_next();
        while let Some(search) = fresh.next_if(|search| old.is_none_or(|(name, ..)| search.name.as_slice() <= name)) {
            if let (Some(key), Some(digest)) = (&search.key, &search.digest) {
                writer.add(&search.name, key, digest)?;
            }
        }
        match old {
            // One of the same name was replaced just now: names only rise.
            Some((name, key, value)) if is_there(name) => writer.add(name, key, value)?,
            Some(_) => {}
            None => return writer.finish(),
        }
    }
}

#[cfg(unix)]
fn is_there(name: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let file = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Path::new(std::ffi::OsStr::from_bytes(file)).exists()
}

#[cfg(not(unix))]
fn is_there(name: &[u8]) -> bool {
    let file = name.split(|&byte| byte == 0).next().unwrap_or_default();
    std::str::from_utf8(file).is_ok_and(|file| Path::new(file).exists())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use std::{fs, io, thread};

    use super::*;
    use crate::buckets::Placement;
    use crate::source::Container;

    fn image(path: &Path) -> ImageLocation {
        ImageLocation::file(path.to_owned())
    }

    /// Eight files, settled, and the manifest of their folder.
    fn folder() -> (tempfile::TempDir, Vec<ImageLocation>, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..8).map(|index| folder.path().join(format!("{index}.png"))).collect();
        for (index, path) in paths.iter().enumerate() {
            fs::write(path, [index as u8; 10]).unwrap();
        }
        thread::sleep(Duration::from_millis(60));
        let images = paths.iter().map(|path| image(path)).collect();
        let manifest = Manifest::of(&folder.path().join("scans"), "digests", b"");
        (folder, images, manifest)
    }

    fn of_content(index: usize) -> Option<Digest> {
        Some(digest(&[index as u8; 10]))
    }

    /// Exchanges every record for one that is wrong: what is then believed was not read.
    fn falsify(manifest: &Manifest, images: &[ImageLocation]) {
        let mut writer = manifest.write().unwrap();
        for image in images {
            let search = look(image, SystemTime::now());
            writer.add(&search.name, &search.key.unwrap(), &[9; 32]).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn only_files_that_changed_are_read_again() {
        let (_folder, images, manifest) = folder();
        let all: Vec<&ImageLocation> = images.iter().collect();
        let expected: Vec<Option<Digest>> = (0..8).map(of_content).collect();
        assert_eq!(digests_of_folder(&all, Some(&manifest)), expected);
        falsify(&manifest, &images);
        fs::write(images[3].path(), [3; 10]).unwrap();
        fs::remove_file(images[5].path()).unwrap();
        let mut now = vec![Some([9; 32]); 8];
        (now[3], now[5]) = (of_content(3), None);
        assert_eq!(digests_of_folder(&all, Some(&manifest)), now);
        assert_eq!(digests_of_folder(&all, None)[0], of_content(0), "nothing is believed without a manifest");
    }

    /// Each row of a file in one of its columns, which counts how often it is read.
    #[derive(Debug)]
    struct Column {
        file: PathBuf,
        number: u64,
        reads: AtomicUsize,
    }

    impl Container for Column {
        fn file(&self) -> &Path {
            &self.file
        }

        fn read(&self, entry: u64) -> io::Result<Vec<u8>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            Ok(vec![self.number as u8, entry as u8])
        }

        fn length(&self, _entry: u64) -> io::Result<u64> {
            Ok(2)
        }

        fn number_in_file(&self, entry: u64) -> u64 {
            (self.number << 40) + entry
        }
    }

    #[test]
    fn masks_of_a_table_are_read_once_and_are_not_taken_for_its_images() {
        let (_folder, files, manifest) = folder();
        let column =
            |number| Arc::new(Column { file: files[0].path().to_owned(), number, reads: AtomicUsize::default() });
        let (images, masks) = (column(1), column(2));
        let rows = |column: &Arc<Column>| {
            (0..4).map(|row| ImageLocation::part(PathBuf::new(), column.clone(), row)).collect::<Vec<_>>()
        };
        let all = [rows(&images), rows(&masks)].concat();
        let all: Vec<&ImageLocation> = all.iter().collect();
        let of_bytes: Vec<Option<Digest>> = all.iter().map(|entry| Some(digest(&entry.read().unwrap()))).collect();
        assert_eq!(digests_of_folder(&all, None), of_bytes);
        assert_eq!(digests_of_folder(&all, Some(&manifest)), of_bytes);
        let reads = || [&images, &masks].map(|column| column.reads.load(Ordering::Relaxed));
        let before = reads();
        assert_eq!(digests_of_folder(&all, Some(&manifest)), of_bytes);
        assert_eq!(reads(), before, "both are known");
    }

    #[test]
    fn what_belongs_to_an_image_has_the_digest_of_its_bytes() {
        let (_folder, files, _) = folder();
        let image = |own: usize, extra: &[usize]| Image {
            location: files[own].clone(),
            file_length: 10,
            subset: 0,
            size: (1, 1),
            placement: Placement { bucket: (1, 1), resized: (1, 1) },
            captions: Vec::new(),
            extra_images: extra.iter().map(|&extra| (extra.to_string(), files[extra].clone())).collect(),
            extra_lengths: Box::default(),
            loss_weight: 1.0,
        };
        let images = [image(0, &[1, 2]), image(3, &[]), image(4, &[5])];
        let (own, extra) = digests_with_extra(&images, &[Subset::default()]);
        assert_eq!(own, [0, 3, 4].map(of_content));
        assert_eq!(extra, [1, 2, 5].map(of_content));
    }

    #[test]
    fn two_parts_of_a_folder_do_not_push_each_other_out() {
        let (_folder, images, manifest) = folder();
        let part = |odd: usize| images.iter().skip(odd).step_by(2).collect::<Vec<&ImageLocation>>();
        digests_of_folder(&part(0), Some(&manifest));
        digests_of_folder(&part(1), Some(&manifest));
        let mut records = Vec::new();
        let mut known = manifest.read();
        while let Some((name, ..)) = known.take_next() {
            records.push(name.to_vec());
        }
        assert_eq!(records.len(), 8);
        assert!(records.is_sorted());
        // What is gone from the folder goes from the manifest, with the next change.
        fs::remove_file(images[2].path()).unwrap();
        fs::write(images[1].path(), [1; 11]).unwrap();
        thread::sleep(Duration::from_millis(60));
        digests_of_folder(&part(1), Some(&manifest));
        let mut known = manifest.read();
        let left = std::iter::from_fn(|| known.take_next().map(|(name, ..)| name.to_vec())).count();
        assert_eq!(left, 7);
    }
}
