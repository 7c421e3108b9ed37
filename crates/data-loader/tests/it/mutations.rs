//! What fuzzing does for hours, done for a moment: seeded damage to small valid input, fed to the same functions.

#[path = "../../../../fuzz/src/data_sets.rs"]
mod data_sets;
#[path = "../../../../fuzz/src/target.rs"]
mod target;

/// What damage is made of besides the input itself.
const TOKENS: [&[u8]; 14] = [
    b"\0",
    b"\xff",
    b"\n",
    b"\"",
    b"{",
    b"}",
    b"|",
    b",",
    b"../",
    b"[[",
    b"= nan",
    b"99999999999999999999",
    b"ustar\x0000",
    "瓶".as_bytes(),
];

fn feed(name: &str, rounds: u64) {
    let target = data_sets::TARGETS.iter().find(|target| target.name == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    target.feed(folder.path(), rounds, &TOKENS);
}

#[test]
fn damaged_captions_are_read_or_named() {
    feed("captions", 3000);
}

#[test]
fn damaged_tar_files_are_read_or_named() {
    feed("tar", 3000);
}

#[test]
fn damaged_tables_are_read_or_named() {
    feed("tables", 3000);
}

#[test]
fn damaged_dataset_files_are_read_or_named() {
    feed("kohya_toml", 1000);
}
