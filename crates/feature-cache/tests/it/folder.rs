//! What lies under a name is whole and is what was written, or it is made again.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sdtrain_feature_cache::{Entry, Found, LatentEntry, LatentFolder, Origin, Pruned, file_bytes};
use tempfile::TempDir;

use crate::sample::{SHAPE, entry, moments, name_of};

fn cache() -> (TempDir, LatentFolder) {
    let folder = tempfile::tempdir().unwrap();
    let cache = LatentFolder::open(&folder.path().join("cache")).unwrap();
    (folder, cache)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn an_entry_comes_back_to_the_bit() {
    let (_folder, cache) = cache();
    let mut strange = moments(0.1);
    strange.mean[..4].copy_from_slice(&[-0.0, f32::MIN_POSITIVE / 4.0, f32::MAX, 1.0 + f32::EPSILON]);
    let entry = LatentEntry { mirrored: Some(strange), ..entry(3.0) };
    cache.write(&name_of(1), &entry).unwrap();
    let Found::Entry(back) = cache.read(&name_of(1), SHAPE).unwrap() else { panic!("it was just written") };
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let mirrored = |entry: &LatentEntry| bits(&entry.mirrored.as_ref().unwrap().mean);
    assert_eq!((&back, mirrored(&back)), (&entry, mirrored(&entry)));
    assert_eq!(files_below(cache.root()), [cache.path(&name_of(1))]);
}

#[test]
fn a_damaged_entry_is_named_deleted_and_can_be_made_again() {
    let (_folder, cache) = cache();
    let path = cache.path(&name_of(1));
    cache.write(&name_of(1), &entry(1.0)).unwrap();
    cache.write(&name_of(2), &entry(2.0)).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut turned_bit = whole.clone();
    *turned_bit.last_mut().unwrap() ^= 1;
    let another = fs::read(cache.path(&name_of(2))).unwrap();
    let renamed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let text = String::from_utf8_lossy(&whole).replace(from, to);
        // Only the header is text, and it keeps its length.
        let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
        [&text.as_bytes()[..header.min(text.len())], &whole[header..]].concat()
    };
    for (content, reason) in [
        (Vec::new(), "is empty"),
        (whole[..100].to_vec(), "its header should be"),
        (whole[..whole.len() - 1].to_vec(), "truncated"),
        (turned_bit, "another checksum"),
        (another, "another entry"),
        ([&whole[..], &[0; 9000][..]].concat(), "is longer than"),
        (renamed("\"mean\"", "\"maen\""), "has no tensor `mean`"),
        (renamed("\"version\":\"1\"", "\"version\":\"2\""), "no entry of version 1"),
        (renamed("\"origin\":\"encoded\"", "\"origin\":\"decoded\""), "does not say where it comes from"),
        (renamed("[4,8,8]", "[8,8,4]"), "[8, 8, 4], not F32 [4, 8, 8]"),
    ] {
        fs::write(&path, content).unwrap();
        let Found::Damaged { path: named, reason: found } = cache.read(&name_of(1), SHAPE).unwrap() else {
            panic!("{reason}: taken for whole")
        };
        assert!(found.contains(reason), "{found}, not {reason}");
        assert_eq!((named.as_path(), path.exists()), (path.as_path(), false));
        assert_eq!(cache.read(&name_of(1), SHAPE).unwrap(), Found::Missing);
        cache.write(&name_of(1), &entry(1.0)).unwrap();
        assert_eq!(cache.read(&name_of(1), SHAPE).unwrap(), Found::Entry(entry(1.0)));
    }
}

#[test]
fn equal_entries_are_equal_bytes() {
    let ((_a, one), (_b, other)) = (cache(), cache());
    one.write(&name_of(1), &entry(1.0)).unwrap();
    other.write(&name_of(1), &entry(1.0)).unwrap();
    assert_eq!(fs::read(one.path(&name_of(1))).unwrap(), fs::read(other.path(&name_of(1))).unwrap());
}

#[test]
fn several_writers_and_readers_never_see_half_an_entry() {
    let (_folder, cache) = cache();
    let large = |first: f32| LatentEntry { mirrored: Some(moments(-first)), ..entry(first) };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..50u8 {
                    let name = name_of(round % 5);
                    cache.write(&name, &large(f32::from(round % 5))).unwrap();
                    let found = cache.read(&name, SHAPE).unwrap();
                    assert_eq!(found, Found::Entry(large(f32::from(round % 5))));
                }
            });
        }
    });
    assert_eq!(files_below(cache.root()).len(), 5, "and nothing half-written is left");
}

#[test]
fn what_another_process_mirrored_is_not_lost() {
    let (_folder, cache) = cache();
    let both = LatentEntry { mirrored: Some(moments(9.0)), ..entry(1.0) };
    cache.write(&name_of(1), &entry(1.0)).unwrap();
    cache.write(&name_of(1), &both).unwrap();
    cache.write(&name_of(1), &entry(1.0)).unwrap();
    assert_eq!(cache.read(&name_of(1), SHAPE).unwrap(), Found::Entry(both));
    // But the encoder's own numbers replace those of another program.
    let imported = LatentEntry { origin: Origin::KohyaNpz, mirrored: Some(moments(3.0)), ..entry(2.0) };
    cache.write(&name_of(2), &imported).unwrap();
    cache.write(&name_of(2), &entry(1.0)).unwrap();
    assert_eq!(cache.read(&name_of(2), SHAPE).unwrap(), Found::Entry(entry(1.0)));
}

#[test]
fn only_what_a_killed_process_left_is_removed() {
    let (_folder, cache) = cache();
    let [left, fresh] = ["1-0.part", "2-0.part"].map(|name| cache.root().join(".tmp").join(name));
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    for path in [&left, &fresh] {
        fs::write(path, "half").unwrap();
    }
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    fs::File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
    LatentFolder::open(cache.root()).unwrap();
    assert_eq!((left.exists(), fresh.exists()), (false, true));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = LatentFolder::open(&folder.path().join("file")).unwrap_err();
    assert!(error.to_string().starts_with("cannot create `"), "{error}");
}

#[test]
fn what_no_name_asks_for_is_removed_unless_it_is_new_or_no_entry() {
    let (_folder, cache) = cache();
    let names = [1, 2, 3].map(name_of);
    for name in &names {
        cache.write(name, &entry(1.0)).unwrap();
    }
    let notes = cache.path(&names[0]).with_file_name("notes.safetensors");
    fs::write(&notes, "somebody's").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    for path in [cache.path(&names[0]), cache.path(&names[1]), notes.clone()] {
        fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    let bytes = fs::metadata(cache.path(&names[1])).unwrap().len();
    let kept = HashSet::from([names[0]]);
    assert_eq!(cache.prune(&kept).unwrap(), Pruned { entries: 1, bytes });
    let there = names.map(|name| cache.path(&name).exists());
    assert_eq!((there, notes.exists()), ([true, false, true], true));
    assert_eq!(cache.prune(&kept).unwrap(), Pruned::default());
}

#[test]
fn the_size_said_beforehand_is_enough() {
    let (_folder, cache) = cache();
    for mirrored in [None, Some(moments(1.0))] {
        let entry = LatentEntry { mirrored, ..entry(1.0) };
        cache.write(&name_of(1), &entry).unwrap();
        let length = fs::metadata(cache.path(&name_of(1))).unwrap().len();
        let said = file_bytes(SHAPE, entry.mirrored.is_some());
        assert!(length <= said && length + 700 > said, "{length} {said}");
        assert!(said <= LatentEntry::most_bytes(SHAPE));
    }
}
