//! Tar files that are none, are cut off, or hold what no folder of images holds.

use crate::corpus::{Case, Verdict};
use crate::images::png;

/// The shard of every case.
const SHARD: &str = "data/a.tar";

pub fn cases() -> Vec<Case> {
    let mut cases = hostile();
    cases.extend(no_tar());
    cases.extend(captions());
    cases
}

/// A header and its content; `change` may lie, and the sum is right all the same.
fn entry(name: &[u8], content: &[u8], change: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name);
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut header);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut entry = [&header[..], content].concat();
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn plain(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), content, |_| {})
}

fn pax(record: &str) -> Vec<u8> {
    let length =
        (1..).find(|length: &usize| length.to_string().len() + 2 + record.len() == *length).unwrap_or_default();
    entry(b"pax", format!("{length} {record}\n").as_bytes(), |header| header[156] = b'x')
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &[0; 1024]].concat()
}

fn shard(name: &str, verdict: Verdict, bytes: Vec<u8>) -> Case {
    Case::new(name, verdict).data("a.tar", bytes).names(SHARD).subset("path = \"data/a.tar\"")
}

/// One entry that is no plain file with a plain name.
fn hostile() -> Vec<Case> {
    let kind = |kind: u8| move |header: &mut [u8; 512]| header[156] = kind;
    let size = |size: &'static [u8]| move |header: &mut [u8; 512]| header[124..124 + size.len()].copy_from_slice(size);
    let png = png();
    let out = "its name leads out of the archive";
    let alone = |name: &str, part, bytes: Vec<u8>| {
        let case = shard(name, Verdict::LeftOut(part), archive(&[bytes]));
        case.names("data/a.tar/")
    };
    let mut cases = vec![
        alone("tar: an absolute name", out, plain("/etc/a.png", &png)),
        alone("tar: a name that goes up", out, plain("../../a.png", &png)),
        alone("tar: a name that goes in and up", out, plain("in/../../a.png", &png)),
        alone("tar: a symbolic link", "is a link, and links are not followed", entry(b"a.png", b"", kind(b'2'))),
        alone("tar: a hard link", "is a link, and links are not followed", entry(b"a.png", b"", kind(b'1'))),
        alone("tar: a character device", "is a device, not a file", entry(b"a.png", b"", kind(b'3'))),
        alone("tar: a block device", "is a device, not a file", entry(b"a.png", b"", kind(b'4'))),
        alone("tar: a pipe", "is a device, not a file", entry(b"a.png", b"", kind(b'6'))),
        alone("tar: a file with holes", "is stored with holes", entry(b"a.png", b"", kind(b'S'))),
        alone("tar: an unknown kind", "is of an unknown kind, Z", entry(b"a.png", &png, kind(b'Z'))),
        alone("tar: a name that is not UTF-8", "its name is not UTF-8", entry(b"\xff\xfe.png", &png, |_| {})),
        alone(
            "tar: a size of eight gibibytes",
            "are missing at the end of the file",
            entry(b"a.png", &png, size(b"77777777777")),
        ),
        alone(
            "tar: a size beyond all",
            "are missing at the end",
            entry(b"a.png", &png, size(&[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])),
        ),
        alone("tar: a size that is negative", "the header has no size", entry(b"a.png", &png, size(&[255; 12]))),
        alone("tar: a size that is no number", "the header has no size", entry(b"a.png", &png, size(b"12x45"))),
        alone(
            "tar: a size of its attributes",
            "are missing at the end",
            [pax("size=99999999999999"), plain("a.png", &png)].concat(),
        ),
        alone(
            "tar: a name of its attributes that goes up",
            out,
            [pax("path=../../a.png"), plain("b.png", &png)].concat(),
        ),
        alone("tar: attributes that are too long", "too long", entry(b"pax", &[b'x'; 70_000], kind(b'x'))),
        alone("tar: an empty image", "is an empty file", [plain("a.png", b""), plain("a.txt", b"a")].concat()),
        alone("tar: text for an image", "is not an image", [plain("a.png", b"text"), plain("a.txt", b"a")].concat()),
        alone(
            "tar: half of an image",
            "truncated",
            [plain("a.png", &png[..png.len() / 2]), plain("a.txt", b"a")].concat(),
        ),
        alone(
            "tar: a long name that goes up",
            out,
            [entry(b"././@LongLink", b"../../../a.png", kind(b'L')), plain("short", &png)].concat(),
        ),
        alone(
            "tar: an image twice",
            "the name is there twice; the first one counts",
            [plain("a.png", &png), plain("a.txt", b"a"), plain("a.png", &png)].concat(),
        ),
        alone(
            "tar: a damaged header in the middle",
            "the header is damaged; nothing behind it is read",
            [plain("a.png", &png), plain("a.txt", b"a"), vec![b'?'; 512]].concat(),
        ),
    ];
    let example = [plain("a.txt", b"a"), plain("a.png", &png)].concat();
    let said = |name: &str, part, bytes: Vec<u8>| shard(name, Verdict::Accepted(part), bytes);
    cases.extend([
        said("tar: cut between two entries", "has no mark at its end", example.clone()),
        said(
            "tar: two in one file",
            "holds more behind the mark",
            [archive(std::slice::from_ref(&example)), example.clone()].concat(),
        ),
        said("tar: a HEIC", "are of kinds that are not read", archive(&[example.clone(), plain("b.heic", b"x")])),
        said(
            "tar: two images of a name",
            "beside another one of their name",
            archive(&[example.clone(), plain("a.jpg", &png)]),
        ),
        said("tar: a name without ending", "have no ending", archive(&[example.clone(), plain("b", &png)])),
    ]);
    let whole = archive(&[example]);
    for (what, length) in [("a header", 1024 + 100), ("an image", 1024 + 512 + 700)] {
        let case = shard(&format!("tar: cut in {what}"), Verdict::LeftOut(""), whole[..length].to_vec());
        cases.push(case.names("data/a.tar/"));
    }
    cases
}

fn no_tar() -> Vec<Case> {
    let refused = |name: &str, part, bytes: &[u8]| shard(name, Verdict::Refused(3, part), bytes.to_vec());
    let png = png();
    vec![
        refused("tar: nothing", "holds no image", b""),
        refused("tar: zeros", "holds no image", &[0; 10_240]),
        refused("tar: text", "is no tar file", &[b't'; 2000]),
        refused("tar: a sum in binary", "is no tar file", &{
            let mut bytes = archive(&[plain("a.png", &png)]);
            bytes[148] = 0xFF;
            bytes
        }),
        refused("tar: shorter than a header", "is no tar file", b"short"),
        refused("tar: gzip", "gunzip", &[&b"\x1f\x8b\x08"[..], &[7; 600]].concat()),
        refused("tar: zstd", "unzstd", &[&b"\x28\xb5\x2f\xfd"[..], &[7; 600]].concat()),
        refused("tar: ZIP", "is a ZIP file", &[&b"PK\x03\x04"[..], &[7; 600]].concat()),
        refused("tar: a picture", "is no tar file", &png),
        refused("tar: no images", "its entries end in `md`", &archive(&[plain("a.md", b"x")])),
        refused("tar: no caption", "1 of 1 images have no caption", &archive(&[plain("a.png", &png)])),
        refused("tar: shards that are not there", "files do not exist", b"x")
            .subset("path = \"data/a-{0..3}.tar\"")
            .names("data/a-"),
        refused("tar: a pattern that counts down", "does not count up", b"x")
            .subset("path = \"data/{3..1}.tar\"")
            .names("data/{3..1}.tar"),
        refused("tar: a pattern without end", "more than 100000 files", b"x")
            .subset("path = \"data/{0..9999999999}.tar\"")
            .names("data/{0..9999999999}.tar"),
        refused("tar: patterns that multiply", "more than 100000 files", b"x")
            .subset("path = \"data/{0..9999}{0..9999}{0..9999}.tar\"")
            .names("data/{0..9999}"),
        refused(
            "tar: an ending that is not there",
            "has no entry that ends in `.depth.png`",
            &archive(&[plain("a.png", &png), plain("a.txt", b"a")]),
        )
        .subset("path = \"data/a.tar\"\nimage_column = \"depth.png\""),
    ]
}

fn captions() -> Vec<Case> {
    let refused = |name: &str, part, ending: &str, text: &[u8]| {
        let bytes = archive(&[plain("a.png", &png()), plain(&format!("a.{ending}"), text)]);
        shard(name, Verdict::Refused(3, part), bytes).names(&format!("data/a.tar/a.{ending}"))
    };
    vec![
        refused("tar: a caption in Latin-1", "is not UTF-8", "txt", b"caf\xe9"),
        refused("tar: a caption with a NUL", "NUL character", "txt", b"a\0b"),
        refused("tar: a caption of 100,000 characters", "100000 bytes are too many", "txt", &[b'x'; 100_000]),
        refused("tar: JSON with NaN", "is no JSON", "json", b"{\"caption\": NaN}"),
        refused("tar: JSON that is a list", "is JSON but no table", "json", b"[1]"),
        refused("tar: JSON that is cut off", "is no JSON", "json", b"{\"caption\": \"a"),
        refused("tar: JSON with a number as caption", "its caption is the number 3", "json", b"{\"caption\": 3}"),
    ]
}
