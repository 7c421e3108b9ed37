//! Zips that hold no pickle, two, or entries that are no plain ones, and the older form cut and twisted.

use std::fs;

use crate::corpus::{Case, fixture};
use crate::pickles::FILE;

/// An entry of a zip, which may lie.
struct Entry<'e> {
    name: &'e str,
    content: &'e [u8],
    flags: u16,
    method: u16,
    /// How long it is said to be, where that is not how long it is.
    length: Option<u32>,
}

/// A zip of stored entries (APPNOTE.TXT, 4.3) without sums, as PyTorch can be told to write it.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let plain = entries.iter().map(|&(name, content)| Entry { name, content, flags: 0, method: 0, length: None });
    zip_of(&plain.collect::<Vec<_>>())
}

fn zip_of(entries: &[Entry]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let start = (file.len() as u32).to_le_bytes();
        let stored = (entry.content.len() as u32).to_le_bytes();
        let length = entry.length.map_or(stored, u32::to_le_bytes);
        // Flags and method, time, date and sum, then both lengths, those of the name and of nothing more.
        let common = [
            &entry.flags.to_le_bytes()[..],
            &entry.method.to_le_bytes(),
            &[0; 8],
            if entry.method == 0 { &length } else { &stored },
            &length,
            &(entry.name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        file.extend([b"PK\x03\x04\x14\0", &common[..], entry.name.as_bytes(), entry.content].concat());
        directory.extend([b"PK\x01\x02\x14\0\x14\0", &common[..], &[0; 10], &start, entry.name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (length, start) = ((directory.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
    [&file[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &length, &start, b"\0\0"].concat()
}

pub fn cases() -> Vec<Case> {
    let plain = |name, content| Entry { name, content, flags: 0, method: 0, length: None };
    let pickle = || plain("archive/data.pkl", b"\x80\x02}.");
    let case = |name: &str, entries: &[Entry], says: &str| Case::file(name, FILE, zip_of(entries), says);
    let good = zip(&[("archive/data.pkl", b"\x80\x02}."), ("archive/data/0", &[0; 16])]);
    let directory = good.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    // The first entry's own header is the first thing in it.
    let with_byte = |places: &[usize], byte: u8| {
        let mut changed = good.clone();
        places.iter().for_each(|&place| changed[place] = byte);
        changed
    };
    let deflated = |content| Entry { method: 8, length: Some(u32::MAX - 1), ..plain("archive/data/0", content) };
    let mut cases = vec![
        case("a zip that unfolds to four gigabytes", &[pickle(), deflated(&[0; 64])], "compressed or encrypted"),
        case("a compressed pickle", &[Entry { method: 8, ..pickle() }], "`archive/data.pkl` in it is compressed"),
        case(
            "an encrypted entry",
            &[pickle(), Entry { flags: 1, ..plain("archive/data/0", &[0; 16]) }],
            "compressed or encrypted",
        ),
        case(
            "an entry that says it is longer",
            &[pickle(), Entry { length: Some(1 << 30), ..plain("archive/data/0", &[0; 4]) }],
            "reaches past its end",
        ),
        case(
            "an entry up and out",
            &[pickle(), plain("archive/../../evil", b"")],
            "has a name that leads out of its folder",
        ),
        case(
            "an entry from the root",
            &[pickle(), plain("/etc/passwd", b"")],
            "has a name that leads out of its folder",
        ),
        case(
            "an entry with a line break in its name",
            &[pickle(), plain("a\nb", b"")],
            "has control characters in its name",
        ),
        case("a zip without a pickle", &[plain("readme.txt", b"no model")], "without exactly one `data.pkl`"),
        case(
            "a zip with two pickles",
            &[pickle(), plain("other/data.pkl", b"\x80\x02}.")],
            "without exactly one `data.pkl`",
        ),
        case(
            "numbers with their highest byte first",
            &[pickle(), plain("archive/byteorder", b"big")],
            "highest byte first",
        ),
        case(
            "an entry twice",
            &[pickle(), plain("archive/data/0", &[0; 4]), plain("archive/data/0", &[1; 4])],
            "`archive/data/0` is twice in it",
        ),
        Case::file(
            "an entry that its own header calls otherwise",
            FILE,
            with_byte(&[30], b'b'),
            "`archive/data.pkl` in it is another in its own header than in the directory",
        ),
        Case::file(
            "an entry that its own header says is longer",
            FILE,
            with_byte(&[18, 22], 5),
            "is another in its own header than in the directory",
        ),
        Case::file(
            "a pickle with the sum of another",
            FILE,
            with_byte(&[14, directory + 16], 1),
            "the bytes of `data.pkl` are not those that were saved",
        ),
        Case::file("a picture called a learned word", "a.pt", b"\x89PNG\r\n\x1a\n", "neither a zip nor a pickle")
            .and("learned words that lie in pictures are not read"),
        Case::file("a zip cut before its directory", FILE, &good[..directory], "is not a usable PyTorch file")
            .and("the download may be incomplete"),
        Case::file("a zip cut in its directory", FILE, &good[..directory + 30], "is not a usable PyTorch file"),
        Case::file("a zip whose directory lies elsewhere", FILE, moved(&good), "is not a usable PyTorch file"),
        Case::file("four bytes of a zip", FILE, "PK\u{3}\u{4}", "is not a usable PyTorch file"),
        Case::file(
            "a zip called safetensors",
            "a.safetensors",
            zip(&[("word/document.xml", b"<w/>")]),
            "without exactly one `data.pkl`",
        ),
    ];
    let legacy = fs::read(fixture("pickles/legacy.pt")).unwrap();
    let changed = |at: usize, byte: u8| [&legacy[..at], &[byte], &legacy[at + 1..]].concat();
    cases.extend([
        Case::file("the older form of another version", FILE, changed(18, 0xff), "another version than 1001"),
        Case::file("the older form cut in its pickles", FILE, &legacy[..40], "it ends in the middle")
            .and("the download may be incomplete"),
        Case::file("the older form cut in a storage", FILE, &legacy[..legacy.len() - 9], "in the middle of a storage")
            .and("the download may be incomplete"),
        Case::file(
            "a pickle of no file of PyTorch",
            FILE,
            b"\x80\x02}X\x01\0\0\0aK\x01s.",
            "neither a zip nor a pickle of PyTorch",
        ),
        Case::file("an empty checkpoint", "a.ckpt", "", "`a.ckpt`"),
        Case::file("a web page called checkpoint", "a.ckpt", "<!doctype html><html>404</html>", "this is a web page"),
        Case::file(
            "a pointer of git-lfs called checkpoint",
            "a.bin",
            "version https://git-lfs.github.com/spec/v1\n",
            "git lfs pull",
        ),
        Case::file("a text called checkpoint", "a.ckpt", "no model", "neither a zip nor a pickle of PyTorch"),
    ]);
    cases
}

/// A zip whose last record says that the directory begins a gigabyte later.
fn moved(zip: &[u8]) -> Vec<u8> {
    let mut moved = zip.to_vec();
    let place = moved.len() - 6;
    moved[place + 3] = 0x40;
    moved
}
