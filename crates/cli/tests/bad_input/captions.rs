//! Caption files that are no text, too long, or not there.

use std::fs;
use std::process::Command;

use crate::corpus::{Case, Verdict};
use crate::images::png;

pub fn cases() -> Vec<Case> {
    let mut cases = broken();
    cases.extend(missing());
    cases.extend(fine());
    cases
}

fn refused(part: &'static str) -> Verdict {
    Verdict::Refused(3, part)
}

/// `data/a.png` with this caption.
fn with(name: &str, verdict: Verdict, caption: impl Into<Vec<u8>>) -> Case {
    Case::new(name, verdict).data("a.png", png()).data("a.txt", caption).names("data/a.txt")
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

fn broken() -> Vec<Case> {
    vec![
        with("100,000 characters", refused("100000 bytes are too many for a caption"), "x".repeat(100_000)),
        with("65,537 bytes", refused("65537 bytes are too many"), "y".repeat(65_537)),
        with("Latin-1", refused("is not UTF-8: byte 4 is 0xe9"), b"caf\xe9"),
        with("Shift-JIS", refused("is not UTF-8: byte 1 is 0x93"), b"\x93\xfa\x96\x7b"),
        with("an overlong slash", refused("is not UTF-8"), b"a \xc0\xaf"),
        with("half of a surrogate pair in UTF-8", refused("is not UTF-8"), b"\xed\xa0\x80"),
        with("UTF-8 cut in a character", refused("is not UTF-8"), &"瓶".as_bytes()[..2]),
        with("a NUL in the middle", refused("NUL character"), "a\0b"),
        with("only NULs", refused("NUL character"), [0; 64]),
        with("UTF-16 without its mark", refused("NUL character"), utf16("a red bottle", u16::to_le_bytes)),
        with("UTF-16 of an odd length", refused("is broken UTF-16"), b"\xff\xfea\0b"),
        with("UTF-16 with half of a pair", refused("is broken UTF-16"), b"\xff\xfe\x00\xd8a\0"),
        with("UTF-16 with a NUL", refused("NUL character"), utf16("\u{feff}a\0b", u16::to_be_bytes)),
        with("UTF-32", refused("NUL character"), b"\xff\xfe\0\0a\0\0\0"),
        with("a picture as its caption", refused("is not UTF-8"), png()),
        with("a caption without end", refused("2147483648 bytes are too many"), "a").prepare(|root| {
            fs::File::options().write(true).open(root.join("data/a.txt")).unwrap().set_len(1 << 31).unwrap();
        }),
        with("a broken caption of several", refused("is not UTF-8"), "fine")
            .data("a.long", b"\xff")
            .names("data/a.long")
            .subset("captions = [{ extension = \".txt\" }, { extension = \".long\" }]"),
        with("a broken caption is no missing one", refused("1 caption files cannot be read"), b"\xff")
            .subset("class_tokens = \"a thing\""),
    ]
}

fn missing() -> Vec<Case> {
    let none = |name: &str| {
        Case::new(name, Verdict::Refused(3, "1 of 1 images have no caption, the first is")).data("a.png", png())
    };
    let empty = "[data]\nresolution = 64\ncaption.missing = \"empty\"\n[[data.subsets]]\npath = \"data\"\n[train]\nmax_steps = 1\n";
    vec![
        none("no caption"),
        none("a caption with another ending").data("a.caption", "text"),
        none("a caption in capitals").data("A.txt", "text"),
        none("a caption without ending").data("a", "text"),
        none("a hidden caption").data(".a.txt", "text"),
        none("a folder in place of the caption").prepare(|root| fs::create_dir(root.join("data/a.txt")).unwrap()),
        none("a link that leads nowhere in place of the caption")
            .prepare(|root| std::os::unix::fs::symlink("nowhere", root.join("data/a.txt")).unwrap())
            .verdict(refused("is a link that leads nowhere"))
            .names("data/a.txt"),
        none("a device in place of the caption")
            .prepare(|root| std::os::unix::fs::symlink("/dev/zero", root.join("data/a.txt")).unwrap())
            .verdict(refused("is a pipe or a device, not a file"))
            .names("data/a.txt"),
        none("a pipe in place of the caption")
            .prepare(|root| {
                assert!(Command::new("mkfifo").arg(root.join("data/a.txt")).status().unwrap().success());
            })
            .verdict(refused("is a pipe or a device, not a file"))
            .names("data/a.txt"),
        none("no caption where that is allowed")
            .config(empty)
            .verdict(Verdict::Accepted("1 missing, trained on the empty prompt")),
    ]
}

fn fine() -> Vec<Case> {
    let fine = |name: &str, part, caption: Vec<u8>| with(name, Verdict::Accepted(part), caption);
    vec![
        fine("a byte order mark", "1 from files", "\u{feff}a red bottle".into()),
        fine("line ends of Windows", "1 captions of 3.0 tokens", "a red bottle\r\n\r\n".into()),
        fine("line ends of old Macs", "1 captions", "a red\rbottle".into()),
        fine("UTF-16, low byte first", "1 captions of 3.0 tokens", utf16("\u{feff}a red bottle", u16::to_le_bytes)),
        fine("UTF-16, high byte first", "1 captions of 3.0 tokens", utf16("\u{feff}a red bottle", u16::to_be_bytes)),
        fine("an empty file", "1 caption files are empty, the first is that of", Vec::new()),
        fine("blanks alone", "1 caption files are empty", " \n\t\r\n".into()),
        fine("a byte order mark alone", "1 caption files are empty", "\u{feff}".into()),
        fine("65,536 bytes", "1 captions lose what is behind their first 75 tokens", "z ".repeat(32_768).into()),
        fine("writing from right to left", "1 from files", "\u{202e}\u{05d0}\u{05d1}\u{200b}".into()),
        fine("control characters", "1 from files", "\x1b[31mred\x07\x08".into()),
        fine("accents piled up", "1 from files", format!("e{}", "\u{301}".repeat(5_000)).into()),
        fine("several lines", "1 captions in", "one\ntwo\nthree".into()),
        fine("a caption of nobody", "1 without an image", "a".into()).data("b.txt", "nobody's"),
        fine("braces that are never closed", "1 captions", "{a|".repeat(20_000).into())
            .subset("enable_wildcard = true"),
        fine("braces within braces", "1 captions", ("{a|".repeat(10_000) + &"}".repeat(10_000)).into())
            .subset("enable_wildcard = true"),
        fine("only separators", "1 captions", ",".repeat(60_000).into())
            .subset("shuffle_caption = true\nkeep_tokens = 4000000000\ncaption_tag_dropout_rate = 1.0"),
        fine("marks without end", "1 captions", "|||".repeat(20_000).into())
            .subset("shuffle_caption = true\nkeep_tokens_separator = \"|||\""),
    ]
}
