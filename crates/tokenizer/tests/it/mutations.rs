//! What fuzzing does for hours, done for a moment: seeded damage to the files of small tokenizers, fed to the same functions.

#[path = "../../../../fuzz/src/target.rs"]
#[expect(dead_code, reason = "other targets are named in messages and write files")]
mod target;
#[path = "../../../../fuzz/src/tokenizer_files.rs"]
mod tokenizer_files;

/// What damage is made of besides the input itself.
const TOKENS: [&[u8]; 16] = [
    b"\0",
    b"\xff",
    b"\n",
    b"\n\0\n",
    b"\"",
    b"{",
    b"}",
    b"[",
    b",",
    b"null",
    b"-1",
    b"4294967295",
    b"1e308",
    b"<|endoftext|>",
    b" ",
    "▁".as_bytes(),
];

#[test]
fn damaged_files_of_tokenizers_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    for target in tokenizer_files::TARGETS {
        target.feed(folder.path(), 4000, &TOKENS);
    }
}
