//! What fuzzing does for hours, done for a moment: seeded damage to small valid model files, fed to the same functions.

#[path = "../../../../fuzz/src/model_files.rs"]
mod model_files;
#[path = "../../../../fuzz/src/target.rs"]
mod target;

/// What damage is made of besides the input itself.
const TOKENS: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\"",
    b"{",
    b"}",
    b"[",
    b",",
    b"../",
    b"nan",
    b"-1",
    b"18446744073709551615",
    b"9223372036854775808",
    b"\"F8_E5M2\"",
    b"__metadata__",
    b"0.",
    b"99999999999",
    b"cos\nsystem\n",
    b"ctorch\nDoubleStorage\n",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"]q\x01(h\x01h\x01e",
    b"X\xff\xff\xff\x7f",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"\xff\xff\xff\xff",
];

fn feed(name: &str, rounds: u64) {
    let target = model_files::TARGETS.iter().find(|target| target.name == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    target.feed(folder.path(), rounds, &TOKENS);
}

#[test]
fn damaged_safetensors_files_are_refused_wherever_the_reference_refuses_them() {
    feed("safetensors", 10_000);
}

#[test]
fn damaged_pickles_are_read_or_refused() {
    feed("unpickler", 20_000);
}

#[test]
fn damaged_files_of_pytorch_are_read_or_refused() {
    feed("torch_file", 10_000);
}

#[test]
fn damaged_configurations_are_read_or_refused() {
    feed("config_json", 10_000);
}

#[test]
fn damaged_indices_are_read_or_refused() {
    feed("shard_index", 2000);
}
