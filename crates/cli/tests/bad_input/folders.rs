//! Folders that are not there, hold no image, lead in circles, or hold things that are no files.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::corpus::{Case, Verdict};
use crate::images::png;

const NO_IMAGES: Verdict = Verdict::Refused(3, "no images found in");
const ONE: Verdict = Verdict::Accepted("1 image found, 1 kept");
const NOWHERE: Verdict = Verdict::LeftOut("is a link that leads nowhere");
const NO_FILE: Verdict = Verdict::LeftOut("is a pipe or a device, not a file");

pub fn cases() -> Vec<Case> {
    let mut cases = nothing_there();
    cases.extend(links());
    cases.extend(no_files());
    cases.extend(dreambooth());
    cases
}

fn nothing_there() -> Vec<Case> {
    let case = |name: &str, verdict| Case::new(name, verdict).names("data");
    vec![
        case("an empty folder", NO_IMAGES),
        case("no folder", Verdict::Refused(2, "does not exist")).subset("path = \"data/gone\"").names("data/gone"),
        case("an empty path", Verdict::Refused(2, "is empty")).subset("path = \"\"").names("run.toml"),
        case("a path with a NUL", Verdict::Refused(2, "")).subset("path = \"a\\u0000b\"").names("run.toml"),
        case("a path longer than any", Verdict::Refused(2, ""))
            .subset(&format!("path = \"{}\"", "x/".repeat(5000)))
            .names("run.toml"),
        case("a text file in place of a folder", Verdict::Refused(2, "is a file, not a folder"))
            .data("a.md", "text")
            .subset("path = \"data/a.md\""),
        case("an address", Verdict::Refused(2, "")).subset("path = \"ftp://example.org/data\"").names("example.org"),
        case("captions without images", NO_IMAGES).data("a.txt", "text").data("b.txt", "text"),
        case("endings that are not read", Verdict::Refused(3, "1 .heic, 1 .psd"))
            .data("a.heic", "x")
            .data("b.psd", "x"),
        case(
            "an image and one that ends in what is not read",
            Verdict::Accepted("1 images are of kinds that are not read"),
        )
        .data("a.png", png())
        .data("a.txt", "a")
        .data("b.HEIC", "x"),
        case("hidden images alone", NO_IMAGES).data(".a.png", png()).data(".b/a.png", png()),
        case("folders without end and no image", NO_IMAGES).data(&format!("{}a.md", "d/".repeat(100)), "x"),
        case("images only in folders within, where these are not looked into", NO_IMAGES)
            .data("in/a.png", png())
            .subset("recursive = false"),
        case(
            "columns of a folder",
            Verdict::Refused(3, "has `caption_column`, which is not read where `format` is \"folder\""),
        )
        .data("a.png", png())
        .subset("caption_column = \"text\""),
        case("masks beside the images of a table", Verdict::Refused(3, "has `extra_images`, which is not read"))
            .data("a.png", png())
            .data("metadata.jsonl", b"{\"file_name\": \"a.png\", \"text\": \"a\"}")
            .subset("[[data.subsets.extra_images]]\ncolumn = \"mask\"\nsuffix = \"-mask\""),
        case("masks and no images", Verdict::Refused(3, ""))
            .data("a-mask.png", png())
            .subset("[[data.subsets.extra_images]]\ncolumn = \"mask\"\nsuffix = \"-mask\""),
    ]
}

fn links() -> Vec<Case> {
    let with_image = |name: &str| Case::new(name, ONE).image("a.png", png());
    vec![
        with_image("a link to its own folder").prepare(|root| symlink(".", root.join("data/loop")).unwrap()),
        with_image("a link to the folder above").prepare(|root| symlink("..", root.join("data/up")).unwrap()),
        with_image("two links to each other")
            .prepare(|root| {
                symlink("y.png", root.join("data/x.png")).unwrap();
                symlink("x.png", root.join("data/y.png")).unwrap();
            })
            .verdict(Verdict::Refused(3, "2 of 3 images cannot be read"))
            .names("data/x.png"),
        with_image("two folders with links to each other").prepare(|root| {
            for (folder, other) in [("one", "two"), ("two", "one")] {
                fs::create_dir(root.join("data").join(folder)).unwrap();
                symlink(format!("../{other}"), root.join("data").join(folder).join("link")).unwrap();
            }
        }),
        with_image("a link that leads nowhere")
            .prepare(|root| symlink("nowhere", root.join("data/b.png")).unwrap())
            .verdict(NOWHERE)
            .names("data/b.png"),
        with_image("a link to a device")
            .prepare(|root| symlink("/dev/zero", root.join("data/b.png")).unwrap())
            .verdict(NO_FILE)
            .names("data/b.png"),
        Case::new("the same image by a link", Verdict::Accepted("1 images are listed more than once"))
            .image("a.png", png())
            .prepare(|root| {
                symlink("a.png", root.join("data/b.png")).unwrap();
                symlink("a.txt", root.join("data/b.txt")).unwrap();
            }),
        Case::new("a link to a folder elsewhere", ONE).file("else/a.png", png()).file("else/a.txt", "a").prepare(
            |root| {
                symlink("../else", root.join("data/in")).unwrap();
            },
        ),
        Case::new("links to nothing else", NOWHERE).prepare(|root| {
            symlink("a.png", root.join("data/a.png")).unwrap();
        }),
    ]
}

/// Whether permissions keep this user out: they do not keep the superuser out.
fn permissions_count() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o0)).unwrap();
    fs::File::open(file.path()).is_err()
}

fn forbid(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
}

fn no_files() -> Vec<Case> {
    let with_image = |name: &str| Case::new(name, ONE).image("a.png", png());
    vec![
        with_image("a folder named like an image").prepare(|root| fs::create_dir(root.join("data/b.png")).unwrap()),
        Case::new("only a folder named like an image", NO_IMAGES)
            .names("data")
            .prepare(|root| fs::create_dir(root.join("data/a.png")).unwrap()),
        Case::new("an image in a folder named like an image", ONE).image("b.png/a.png", png()),
        with_image("a pipe named like an image")
            .prepare(|root| {
                assert!(Command::new("mkfifo").arg(root.join("data/b.png")).status().unwrap().success());
            })
            .verdict(NO_FILE)
            .names("data/b.png"),
        with_image("a socket named like an image")
            .prepare(|root| {
                // It stays behind its listener.
                std::os::unix::net::UnixListener::bind(root.join("data/b.png")).unwrap();
            })
            .verdict(NO_FILE)
            .names("data/b.png"),
        Case::new("names that are not UTF-8", ONE).prepare(|root| {
            let name = |ending: &str| {
                let bytes = [b"\xff\xfe".as_slice(), ending.as_bytes()].concat();
                root.join("data").join(std::ffi::OsStr::from_bytes(&bytes))
            };
            fs::write(name(".png"), png()).unwrap();
            fs::write(name(".txt"), "a").unwrap();
        }),
        Case::new("an image that may not be read", Verdict::LeftOut("Permission denied"))
            .image("a.png", png())
            .applies(permissions_count)
            .prepare(|root| forbid(&root.join("data/a.png"))),
        Case::new("a caption that may not be read", Verdict::Refused(3, "Permission denied"))
            .image("a.png", png())
            .names("data/a.txt")
            .applies(permissions_count)
            .prepare(|root| forbid(&root.join("data/a.txt"))),
        Case::new("a folder that may not be read", Verdict::Refused(3, "cannot read folder"))
            .image("a.png", png())
            .names("data")
            .applies(permissions_count)
            .prepare(|root| forbid(&root.join("data"))),
    ]
}

fn dreambooth() -> Vec<Case> {
    let format = "format = \"dreambooth\"";
    vec![
        Case::new("no folder with repeats", Verdict::Refused(3, "is named `N_token class`"))
            .data("dog/a.png", png())
            .subset(format)
            .names("data"),
        Case::new("a folder of four thousand million repeats", Verdict::Refused(3, "more than 100000 repeats"))
            .data("4000000000_dog/a.png", png())
            .subset(format)
            .names("data/4000000000_dog"),
        Case::new("repeats that overflow with those of the section", Verdict::Refused(3, "more than 100000 repeats"))
            .data("90000_dog/a.png", png())
            .subset(&format!("{format}\nrepeats = 90000"))
            .names("data/90000_dog"),
        Case::new("a folder with repeats and no image", NO_IMAGES)
            .data("3_dog/a.md", "x")
            .subset(format)
            .names("data/3_dog"),
    ]
}
