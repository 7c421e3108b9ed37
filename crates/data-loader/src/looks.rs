//! Size and length of every image: as an earlier scan found them, or read from the images' headers.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use crate::DataError;
use crate::extra_images;
use crate::image::{self, Look};
use crate::manifest::{self, Digest, LEAST, Manifest, Stamp, key_of};
use crate::second_read::read_twice;
use crate::source::{ImageLocation, SourceExample};

/// What there is to know of an image before it is decoded, or why it cannot be used.
pub(crate) type Looked = Result<(Look, u64), String>;

/// All images of a listing, in its order.
pub(crate) struct Looks {
    pub looked: Vec<Looked>,
    /// A number for the file, or part of one, behind each image: two names of one file have the same.
    pub identities: Vec<u64>,
    /// How long the images are that belong to each one, in the order of their columns, where they are files of their own.
    pub extra_lengths: Vec<Box<[Option<u64>]>>,
    /// Why what was found is not there for the next time.
    pub warning: Option<String>,
    /// What the disk did not give.
    pub refused: Vec<DataError>,
}

/// An image's file, and those that belong to it, as they are now.
#[derive(Clone, Default)]
struct Now {
    /// Absent where the system does not state it; then the image is read, and says why.
    key: Option<Digest>,
    identity: u64,
    /// Whether a further change would show.
    is_settled: bool,
    extra_lengths: Box<[Option<u64>]>,
}

/// Looks at every image, on as many threads as the machine has; the result does not depend on them.
/// Of many images those that `manifest` knows are not read, and it is brought up to date.
pub(crate) fn look_at_all(examples: &[SourceExample], manifest: Option<&Manifest>) -> Looks {
    let started = SystemTime::now();
    let mut now = vec![Now::default(); examples.len()];
    in_parallel(examples, &mut now, |example, now| *now = state_of(example, started));
    let manifest = manifest.filter(|_| examples.len() >= LEAST);
    let mut looked: Vec<Option<Result<Looked, DataError>>> = vec![None; examples.len()];
    let mut is_current = false;
    if let Some(manifest) = manifest {
        let mut known = manifest.read();
        for (((name, _), now), looked) in names(examples).zip(&now).zip(&mut looked) {
            let value = now.key.and_then(|key| known.find(&name, &key));
            *looked = value.and_then(look_in).map(|look| Ok(Ok(look)));
        }
        is_current = known.is_all_found();
    }
    let is_known: Vec<bool> = looked.iter().map(Option::is_some).collect();
    in_parallel(examples, &mut looked, |example, looked| {
        looked.get_or_insert_with(|| look_at(example));
    });
    let mut refused = Vec::new();
    let known = |looked: Option<Result<Looked, DataError>>| {
        looked.unwrap_or_else(|| Ok(Err("was not looked at".to_owned()))).unwrap_or_else(|error| {
            let reason = error.to_string();
            refused.push(error);
            Err(reason)
        })
    };
    let looked: Vec<Looked> = looked.into_iter().map(known).collect();

    let worth_keeping = |index: usize| looked[index].is_ok() && now[index].is_settled && now[index].key.is_some();
    is_current &= (0..examples.len()).all(|index| is_known[index] || !worth_keeping(index));
    let mut warning = None;
    if let Some(manifest) = manifest.filter(|_| !is_current) {
        let written = manifest.write().and_then(|mut writer| {
            for (index, (name, _)) in names(examples).enumerate() {
                if let (Some(key), Ok(found), true) = (&now[index].key, &looked[index], worth_keeping(index)) {
                    writer.add(&name, key, &value_of(found))?;
                }
            }
            writer.finish()
        });
        warning = written.err().map(|error| manifest::not_kept(manifest, &error));
    }
    let (identities, extra_lengths) = now.into_iter().map(|now| (now.identity, now.extra_lengths)).unzip();
    Looks { looked, identities, extra_lengths, warning, refused }
}

/// Fills in `results`, each from the example at its place.
pub(crate) fn in_parallel<T: Sync, R: Send>(examples: &[T], results: &mut [R], work: impl Fn(&T, &mut R) + Sync) {
    /// Fewer files than this are not worth a thread.
    const PER_THREAD: usize = 32;
    let threads =
        thread::available_parallelism().map_or(1, usize::from).min(examples.len().div_ceil(PER_THREAD)).max(1);
    let share = examples.len().div_ceil(threads).max(1);
    let work = &work;
    thread::scope(|scope| {
        for (examples, results) in examples.chunks(share).zip(results.chunks_mut(share)) {
            scope.spawn(move || examples.iter().zip(results).for_each(|(example, result)| work(example, result)));
        }
    });
}

fn look_at(example: &SourceExample) -> Result<Looked, DataError> {
    let files = std::iter::once(&example.image).chain(example.extra_images.values());
    read_twice(files, || {
        let length = example.image.length().map_err(|e| e.to_string())?;
        let look = image::look(&example.image)?;
        extra_images::look_at(example, look.size)?;
        Ok((look, length))
    })
}

fn state_of(example: &SourceExample, started: SystemTime) -> Now {
    let stamps = || -> io::Result<(Stamp, Vec<Stamp>)> {
        let extra = example.extra_images.values().map(|extra| Stamp::of(extra.file_and_entry().0));
        Ok((Stamp::of(example.image.file_and_entry().0)?, extra.collect::<io::Result<_>>()?))
    };
    let Ok((stamp, extra)) = stamps() else {
        return Now { identity: identity_of_name(example.image.path()), ..Now::default() };
    };
    let entry = entry_of(&example.image).to_le_bytes();
    let mut files = vec![(entry.as_slice(), stamp)];
    let words: Vec<Vec<u8>> = example.extra_images.iter().map(|(column, extra)| words_on(column, extra)).collect();
    files.extend(words.iter().map(Vec::as_slice).zip(extra.iter().copied()));
    let is_settled = files.iter().all(|(_, stamp)| stamp.is_settled(started));
    let identity = match stamp.inode {
        0 => identity_of_name(example.image.path()),
        _ => hash_of((stamp.device, stamp.inode, entry_of(&example.image))),
    };
    let length = |(location, stamp): (&ImageLocation, &Stamp)| location.is_file().then_some(stamp.length);
    let extra_lengths = example.extra_images.values().zip(&extra).map(length).collect();
    Now { key: Some(key_of(files)), identity, is_settled, extra_lengths }
}

/// Numbers of entries count from 1; a file of its own is none.
pub(crate) fn entry_of(image: &ImageLocation) -> u64 {
    image.file_and_entry().1.map_or(0, |entry| entry + 1)
}

fn words_on(column: &str, extra: &ImageLocation) -> Vec<u8> {
    let mut words = column.as_bytes().to_vec();
    words.push(0);
    words.extend_from_slice(extra.path().as_os_str().as_encoded_bytes());
    words.extend_from_slice(&entry_of(extra).to_le_bytes());
    words
}

fn identity_of_name(path: &Path) -> u64 {
    hash_of(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

/// A collision would only make one image too many in a warning.
fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The name of each example's record, rising where the listing is sorted by path. Those in one container are counted, since
/// they need not be sorted by name.
fn names(examples: &[SourceExample]) -> impl Iterator<Item = (Vec<u8>, usize)> {
    let mut counted: Option<(&Path, u64)> = None;
    examples.iter().enumerate().map(move |(index, example)| {
        let (file, entry) = example.image.file_and_entry();
        let mut name = file.as_os_str().as_encoded_bytes().to_vec();
        if entry.is_some() {
            let number = counted.filter(|(counted, _)| *counted == file).map_or(0, |(_, number)| number + 1);
            counted = Some((file, number));
            name.push(0);
            name.extend_from_slice(&number.to_be_bytes());
        }
        (name, index)
    })
}

/// Width, height, whether it is animated (1), turned when it is decoded (2) and its profile ignored (4), length of the file.
fn value_of(&(Look { size, animated, turned, ignores_profile }, length): &(Look, u64)) -> [u8; 17] {
    let mut value = [0; 17];
    value[..4].copy_from_slice(&(size.0 as u32).to_le_bytes());
    value[4..8].copy_from_slice(&(size.1 as u32).to_le_bytes());
    value[8] = u8::from(animated) | u8::from(turned) << 1 | u8::from(ignores_profile) << 2;
    value[9..].copy_from_slice(&length.to_le_bytes());
    value
}

fn look_in(value: &[u8]) -> Option<(Look, u64)> {
    let value: &[u8; 17] = value.try_into().ok()?;
    let side = |at: usize| Some(u32::from_le_bytes(value[at..at + 4].try_into().ok()?) as usize);
    let length = u64::from_le_bytes(value[9..].try_into().ok()?);
    let has = |flag: u8| value[8] & flag != 0;
    let look = Look { size: (side(0)?, side(4)?), animated: has(1), turned: has(2), ignores_profile: has(4) };
    Some((look, length))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    /// A folder with `LEAST` small images, settled, and its examples.
    fn many() -> (tempfile::TempDir, Vec<SourceExample>) {
        let folder = tempfile::tempdir().unwrap();
        let image = ::image::RgbImage::new(3, 2);
        let paths: Vec<PathBuf> = (0..LEAST).map(|i| folder.path().join(format!("{i:05}.bmp"))).collect();
        image.save(&paths[0]).unwrap();
        for path in &paths[1..] {
            fs::copy(&paths[0], path).unwrap();
        }
        thread::sleep(Duration::from_millis(60));
        let examples = paths.into_iter().map(|path| SourceExample::of_file(path, None)).collect();
        (folder, examples)
    }

    fn sizes(looks: &Looks) -> Vec<Option<(usize, usize)>> {
        looks.looked.iter().map(|looked| looked.as_ref().ok().map(|(look, _)| look.size)).collect()
    }

    /// What a second look gives where every file has other content than its stamp says: only what is read again shows it.
    #[test]
    fn only_what_has_changed_is_read_again() {
        let (folder, examples) = many();
        let scans = tempfile::tempdir().unwrap();
        let manifest = Manifest::of(scans.path(), "images", b"");
        let first = look_at_all(&examples, Some(&manifest));
        assert_eq!(first.warning, None);
        assert_eq!(sizes(&first), vec![Some((3, 2)); LEAST]);
        // A record that says otherwise than the file shows that it was the record that was asked.
        let state: Vec<Now> = examples.iter().map(|example| state_of(example, SystemTime::now())).collect();
        let mut writer = manifest.write().unwrap();
        for (name, index) in names(&examples) {
            let found = (Look { size: (9, 9), animated: false, turned: true, ignores_profile: true }, 1);
            writer.add(&name, &state[index].key.unwrap(), &value_of(&found)).unwrap();
        }
        writer.finish().unwrap();
        ::image::RgbImage::new(5, 4).save(examples[7].image.path()).unwrap();
        fs::write(examples[8].image.path(), b"no image").unwrap();
        fs::remove_file(examples[9].image.path()).unwrap();
        let second = look_at_all(&examples, Some(&manifest));
        let mut expected = vec![Some((9, 9)); LEAST];
        (expected[7], expected[8], expected[9]) = (Some((5, 4)), None, None);
        assert_eq!(sizes(&second), expected);
        drop(folder);
    }

    #[test]
    fn a_manifest_is_written_anew_only_where_something_changed() {
        let (folder, mut examples) = many();
        let scans = tempfile::tempdir().unwrap();
        let manifest = Manifest::of(scans.path(), "images", b"");
        look_at_all(&examples, Some(&manifest));
        let written = || fs::metadata(manifest.path()).unwrap().modified().unwrap();
        let first = written();
        look_at_all(&examples, Some(&manifest));
        assert_eq!(written(), first);
        examples.push(SourceExample::of_file(folder.path().join("z.bmp"), None));
        fs::copy(examples[0].image.path(), examples[LEAST].image.path()).unwrap();
        thread::sleep(Duration::from_millis(60));
        look_at_all(&examples, Some(&manifest));
        assert_ne!(written(), first);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_warning() {
        let (_folder, examples) = many();
        let scans = tempfile::tempdir().unwrap();
        let file = scans.path().join("file");
        fs::write(&file, b"").unwrap();
        let looks = look_at_all(&examples, Some(&Manifest::of(&file, "images", b"")));
        assert_eq!(sizes(&looks), vec![Some((3, 2)); LEAST]);
        assert!(looks.warning.unwrap().contains("the next start reads every header"));
    }

    #[cfg(unix)]
    #[test]
    fn two_names_of_one_file_have_one_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        ::image::RgbImage::new(3, 2).save(path("a.bmp")).unwrap();
        fs::copy(path("a.bmp"), path("copy.bmp")).unwrap();
        std::os::unix::fs::symlink("a.bmp", path("link.bmp")).unwrap();
        let of = |name: &str| SourceExample::of_file(path(name), None);
        let looks = look_at_all(&[of("a.bmp"), of("copy.bmp"), of("link.bmp"), of("gone.bmp")], None);
        let [first, copy, link, gone] = looks.identities[..] else { panic!() };
        assert_eq!(first, link);
        assert!(first != copy && first != gone && copy != gone);
        assert!(looks.looked[3].is_err());
    }
}
