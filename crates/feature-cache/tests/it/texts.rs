//! States of texts: found by what decides them, whole or made again.

use std::collections::BTreeSet;
use std::fs;

use sdtrain_feature_cache::{Entry, EntryName, Found, TextEncoderIdentity, TextEntry, TextFolder, TextForm, TextKey};
use sdtrain_state_dict::Dtype;

const FORM: TextForm = TextForm { shape: [3, 4], pooled: None, dtype: Dtype::Bf16 };

fn encoder() -> TextEncoderIdentity {
    TextEncoderIdentity { digest: [7; 32], compute: Dtype::Bf16, hidden_size: 4, states_version: 1 }
}

fn name_of(ids: &[i64]) -> EntryName {
    TextKey { ids, weights: None, windows: 1, clip_skip: 1, encoder: &encoder() }.name()
}

fn entry() -> TextEntry {
    TextEntry { form: FORM, states: (0..24).collect(), pooled: None }
}

#[test]
fn states_come_back_to_the_bit_and_are_as_large_as_said() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TextFolder::open(folder.path()).unwrap();
    let name = name_of(&[1, 2, 3]);
    assert_eq!(cache.read(&name, FORM).unwrap(), Found::Missing);
    cache.write(&name, &entry()).unwrap();
    assert_eq!(cache.read(&name, FORM).unwrap(), Found::Entry(entry()));
    let (length, said) = (fs::metadata(cache.path(&name)).unwrap().len(), TextEntry::most_bytes(FORM));
    assert!(length <= said && length + 1024 > said, "{length} {said}");
    assert!(cache.path(&name).starts_with(folder.path().join("texts")), "latents have a folder of their own");
}

#[test]
fn damaged_states_are_named_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TextFolder::open(folder.path()).unwrap();
    let name = name_of(&[1, 2, 3]);
    let path = cache.path(&name);
    let other_form = TextForm { shape: [4, 3], ..FORM };
    let other_numbers = TextForm { dtype: Dtype::F16, ..FORM };
    let turned_bit = |mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    type Change<'a> = &'a dyn Fn(Vec<u8>) -> Vec<u8>;
    let same: Change = &|bytes| bytes;
    let cut: Change = &|bytes| bytes[..bytes.len() - 1].to_vec();
    for (form, change, reason) in [
        (FORM, &turned_bit as Change, "another checksum"),
        (FORM, cut, "truncated"),
        (other_form, same, "BF16 [3, 4], not BF16 [4, 3]"),
        (other_numbers, same, "BF16 [3, 4], not F16 [3, 4]"),
    ] {
        cache.write(&name, &entry()).unwrap();
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
        let Found::Damaged { reason: found, .. } = cache.read(&name, form).unwrap() else { panic!("{reason}") };
        assert!(found.contains(reason), "{found}, not {reason}");
        assert!(!path.exists());
    }
}

/// The same with a vector beside the states, as SDXL's second text encoder makes one.
fn entry_with_vector() -> TextEntry {
    let form = TextForm { pooled: Some(5), ..FORM };
    TextEntry { form, pooled: Some((100..110).collect()), ..entry() }
}

#[test]
fn the_vector_of_a_text_comes_back_with_its_states_or_the_entry_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TextFolder::open(folder.path()).unwrap();
    let name = name_of(&[1, 2, 3]);
    let path = cache.path(&name);
    let (bare, whole) = (entry(), entry_with_vector());
    cache.write(&name, &whole).unwrap();
    assert_eq!(cache.read(&name, whole.form).unwrap(), Found::Entry(whole.clone()));
    let (length, said) = (fs::metadata(&path).unwrap().len(), TextEntry::most_bytes(whole.form));
    assert!(length <= said && length + 1024 > said, "{length} {said}");

    let shorter = TextForm { pooled: Some(4), ..FORM };
    for (written, form, turned, reason) in [
        (&whole, whole.form, true, "another checksum"),
        (&whole, FORM, false, "another checksum"),
        (&whole, shorter, false, "`pooled` is BF16 [5], not BF16 [4]"),
        (&bare, whole.form, false, "has no tensor `pooled`"),
    ] {
        cache.write(&name, written).unwrap();
        if turned {
            let (mut bytes, vector) = (fs::read(&path).unwrap(), whole.pooled.as_deref().unwrap());
            let place = bytes.windows(vector.len()).position(|window| window == vector).unwrap();
            bytes[place] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        let Found::Damaged { reason: found, .. } = cache.read(&name, form).unwrap() else { panic!("{reason}") };
        assert!(found.contains(reason), "{found}, not {reason}");
        assert!(!path.exists());
    }
}

#[test]
fn everything_that_decides_states_is_in_their_name() {
    let same = encoder();
    let first = TextKey { ids: &[1, 2, 3, 4], weights: None, windows: 2, clip_skip: 1, encoder: &same };
    let encoders = [
        TextEncoderIdentity { digest: [8; 32], ..encoder() },
        TextEncoderIdentity { compute: Dtype::F32, ..encoder() },
        TextEncoderIdentity { hidden_size: 5, ..encoder() },
        TextEncoderIdentity { states_version: 2, ..encoder() },
    ];
    let mut names = vec![
        first.name(),
        TextKey { ids: &[1, 2, 3, 5], ..first }.name(),
        TextKey { ids: &[1, 2, 3], ..first }.name(),
        TextKey { weights: Some(&[]), ..first }.name(),
        TextKey { weights: Some(&[1.0, 1.5]), ..first }.name(),
        TextKey { weights: Some(&[1.5, 1.0]), ..first }.name(),
        TextKey { windows: 1, ..first }.name(),
        TextKey { clip_skip: 2, ..first }.name(),
    ];
    names.extend(encoders.iter().map(|encoder| TextKey { encoder, ..first }.name()));
    let distinct: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), names.len());
    // A change here makes every cache anew: raise `FORMAT_VERSION` with it, or find what changed without being meant to.
    assert_eq!(first.name().to_string(), "319bd4f97bb11bdcf49d28fc973dd196109e90a249e72086a0be345fb17e481a");
}
