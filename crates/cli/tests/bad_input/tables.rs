//! `metadata.jsonl`, `metadata.csv` and the tables of kohya's scripts that lead elsewhere or are broken.

use std::fs;
use std::process::Command;

use crate::corpus::{Case, Verdict};
use crate::images::png;

pub fn cases() -> Vec<Case> {
    let mut cases = json_lines();
    cases.extend(places());
    cases.extend(csv());
    cases.extend(kohya());
    cases
}

const JSONL: &str = "data/metadata.jsonl";
const CSV: &str = "data/metadata.csv";
const META: &str = "data/meta_cap.json";

fn refused(name: &str, part: &'static str) -> Case {
    Case::new(name, Verdict::Refused(3, part)).data("a.png", png())
}

fn json_lines() -> Vec<Case> {
    let table = |name: &str, part, text: &[u8]| refused(name, part).data("metadata.jsonl", text).names(JSONL);
    let mut long = b"{\"file_name\": \"a.png\", \"text\": \"".to_vec();
    long.resize(2 << 20, b'x');
    vec![
        table("jsonl: nothing", "names no image", b""),
        table("jsonl: NaN as a caption", ":1: is no JSON", b"{\"file_name\": \"a.png\", \"text\": NaN}\n"),
        table(
            "jsonl: NaN in a column beside",
            ":1: is no JSON",
            b"{\"file_name\": \"a.png\", \"text\": \"a\", \"score\": NaN}",
        ),
        table(
            "jsonl: infinity",
            ":2: is no JSON",
            b"{\"file_name\": \"a.png\", \"text\": \"a\"}\n{\"score\": -Infinity}\n",
        ),
        table("jsonl: a number beyond all", ":1: is no JSON", b"{\"file_name\": \"a.png\", \"score\": 1e999}"),
        table(
            "jsonl: a line cut off",
            ":2: is no JSON",
            b"{\"file_name\": \"a.png\", \"text\": \"a\"}\n{\"file_name\": \"b",
        ),
        table("jsonl: single quotes", ":1: is no JSON", b"{'file_name': 'a.png'}"),
        table("jsonl: a comma too many", ":1: is no JSON", b"{\"file_name\": \"a.png\",}"),
        table("jsonl: two rows in a line", ":1: is no JSON", b"{\"file_name\": \"a.png\"} {\"file_name\": \"b.png\"}"),
        table("jsonl: a list", ":1: is JSON but no table", b"[\"a.png\", \"a\"]"),
        table(
            "jsonl: no column of images",
            "names no image: there is no `file_name` among `text`",
            b"{\"text\": \"a\"}",
        ),
        table("jsonl: not UTF-8", ":1: is no JSON", b"{\"file_name\": \"a.png\", \"text\": \"caf\xe9\"}"),
        table(
            "jsonl: half of a surrogate pair",
            ":1: is no JSON",
            b"{\"file_name\": \"a.png\", \"text\": \"\\ud800\"}",
        ),
        table("jsonl: UTF-16", ":1: is no JSON", b"\xff\xfe{\0}\0"),
        table("jsonl: tables in tables", ":1: is no JSON", &b"{\"a\":".repeat(100_000)),
        table("jsonl: a line of two mebibytes", "longer than 1048576 bytes", &long),
        table("jsonl: zeros", ":1: is no JSON", &[0; 1000]),
        table(
            "jsonl: a caption that is a number",
            "is the number 7, not text",
            b"{\"file_name\": \"a.png\", \"text\": 7}",
        )
        .names("data/a.png"),
        table("jsonl: a caption that is a table", "is a table, not text", b"{\"file_name\": \"a.png\", \"text\": {}}")
            .names("data/a.png"),
        table("jsonl: a caption with a NUL", "NUL character", b"{\"file_name\": \"a.png\", \"text\": \"a\\u0000\"}")
            .names("data/a.png"),
        table("jsonl: no caption", "1 of 1 images have no caption", b"{\"file_name\": \"a.png\", \"text\": null}")
            .names("data/a.png"),
        table(
            "jsonl: a column that is not there",
            "has no column `words`",
            b"{\"file_name\": \"a.png\", \"text\": \"a\"}",
        )
        .subset("caption_column = \"words\""),
        table("jsonl: a long caption", "100000 bytes are too many", &caption_of(100_000)).names("data/a.png"),
        refused("jsonl: a csv beside it", "only one of them can be meant")
            .data("metadata.jsonl", caption_of(3))
            .data("metadata.csv", "file_name,text\na.png,a\n")
            .names("data/metadata"),
        refused("jsonl: a pipe in its place", "is a pipe or a device, not a file")
            .subset("metadata_file = \"data/m.jsonl\"")
            .names("data/m.jsonl")
            .prepare(|root| {
                assert!(Command::new("mkfifo").arg(root.join("data/m.jsonl")).status().unwrap().success());
            }),
        Case::new("jsonl: no such table", Verdict::Refused(2, "does not exist"))
            .subset("metadata_file = \"data/m.jsonl\"")
            .names("data/m.jsonl"),
        Case::new("jsonl: a byte order mark and blank lines", Verdict::Accepted("1 from files"))
            .data("a.png", png())
            .data("metadata.jsonl", "\u{feff}\n\n{\"file_name\": \"a.png\", \"text\": \"a\"}\r\n\n"),
        Case::new(
            "jsonl: an image that the table does not name",
            Verdict::Accepted("1 images are not named in the table"),
        )
        .data("a.png", png())
        .data("b.png", png())
        .data("metadata.jsonl", caption_of(3)),
    ]
}

fn caption_of(length: usize) -> Vec<u8> {
    format!("{{\"file_name\": \"a.png\", \"text\": \"{}\"}}", "x".repeat(length)).into()
}

/// A table whose only row names this.
fn naming(name: &str, file: &str, part: &'static str) -> Case {
    let row = format!("{{\"file_name\": \"{file}\", \"text\": \"a\"}}");
    let case = Case::new(format!("jsonl: names {name}"), Verdict::LeftOut(part)).data("metadata.jsonl", row);
    case.file("outside.png", png()).names("data/metadata.jsonl:1")
}

fn places() -> Vec<Case> {
    vec![
        naming("a file above", "../outside.png", "leads out of"),
        naming("a file above by a detour", "in/../../outside.png", "leads out of"),
        naming("a file within that goes up", "in/../a.png", "leads out of"),
        naming("an absolute path", "/etc/passwd", "leads out of"),
        naming("nothing", "", "is no file name"),
        naming("a NUL", "a.png\\u0000.txt", "is no file name"),
        naming("a file that is not there", "gone.png", "No such file").names("data/gone.png"),
        naming("a folder", "folder.png", "is a folder, not a file")
            .names("data/folder.png")
            .prepare(|root| fs::create_dir(root.join("data/folder.png")).unwrap()),
        naming("a pipe", "pipe.png", "is a pipe or a device, not a file").names("data/pipe.png").prepare(|root| {
            assert!(Command::new("mkfifo").arg(root.join("data/pipe.png")).status().unwrap().success());
        }),
        naming("a device by a link", "zero.png", "is a pipe or a device, not a file")
            .names("data/zero.png")
            .prepare(|root| std::os::unix::fs::symlink("/dev/zero", root.join("data/zero.png")).unwrap()),
        naming("itself", "metadata.jsonl", "is not an image").names("data/metadata.jsonl"),
        naming("a name that is too long", &"n".repeat(5000), "").names("nnn"),
        Case::new("jsonl: names a number", Verdict::LeftOut("is the number 5, not a file name"))
            .data("metadata.jsonl", "{\"file_name\": 5, \"text\": \"a\"}")
            .names("data/metadata.jsonl:1"),
        Case::new("jsonl: names an image twice", Verdict::LeftOut("named by several rows; the first one counts"))
            .data("a.png", png())
            .data(
                "metadata.jsonl",
                b"{\"file_name\": \"a.png\", \"text\": \"a\"}\n{\"file_name\": \"./a.png\", \"text\": \"b\"}\n",
            ),
        Case::new("jsonl: names a control image above", Verdict::LeftOut("`edges` `../outside.png` leads out of"))
            .file("outside.png", png())
            .data("a.png", png())
            .data("metadata.jsonl", b"{\"file_name\": \"a.png\", \"text\": \"a\", \"edges\": \"../outside.png\"}")
            .subset("conditioning_image_column = \"edges\""),
    ]
}

fn csv() -> Vec<Case> {
    let table = |name: &str, part, text: &[u8]| refused(name, part).data("metadata.csv", text).names(CSV);
    vec![
        table("csv: nothing", "names no image", b""),
        table("csv: only names of columns", "names no image", b"file_name,text\n"),
        table("csv: a cell too many", ":2: has 3 cells", b"file_name,text\na.png,a,b\n"),
        table("csv: a cell too few", ":2: has 1 cells", b"file_name,text\na.png\n"),
        table("csv: not UTF-8", "is not UTF-8 text", b"file_name,text\na.png,caf\xe9\n"),
        table("csv: semicolons", "names no image: there is no `file_name`", b"file_name;text\na.png;a\n"),
        table("csv: two columns of a name", "names the column `text` twice", b"file_name,text,text\na.png,a,b\n"),
        table("csv: zeros", "names no image", &[0; 100]),
        table("csv: a quote that is never closed", ":2: opens a quote", b"file_name,text\n\"a.png,a\na.png,b\n"),
        table(
            "csv: a quote before the last rows",
            ":3: opens a quote",
            b"file_name,text\na.png,a\na.png,\"b\na.png,c\n",
        ),
        table(
            "csv: a quote that the next row closes",
            ":2: begins a cell with",
            b"file_name,text\na.png,\"a\na.png,\"b\"\n",
        ),
        table("csv: a caption with a NUL", "NUL character", b"file_name,text\na.png,a\0b\n").names("data/a.png"),
        Case::new("csv: a file above", Verdict::LeftOut("leads out of"))
            .file("outside.png", png())
            .data("metadata.csv", "file_name,text\n../outside.png,a\n")
            .names("data/metadata.csv:2"),
        Case::new("csv: an image twice", Verdict::LeftOut("named by several rows"))
            .data("a.png", png())
            .data("metadata.csv", "file_name,text\na.png,a\na.png,b\n"),
        table("csv: a weight below zero", ":2: `weight` is -1", b"file_name,text,weight\na.png,a,-1\n")
            .subset("loss_weight_column = \"weight\""),
        table("csv: a weight that is NaN", ":2: `weight` is NaN", b"file_name,text,weight\na.png,a,nan\n")
            .subset("loss_weight_column = \"weight\""),
        table("csv: no such weights", "has no column `weigth`", b"file_name,text,weight\na.png,a,1\n")
            .subset("loss_weight_column = \"weigth\""),
        Case::new("csv: a byte order mark, line ends of Windows, NaN", Verdict::Accepted("1 from files"))
            .data("a.png", png())
            .data("metadata.csv", "\u{feff}file_name,text,score\r\na.png,a,NaN\r\n"),
    ]
}

fn kohya() -> Vec<Case> {
    let subset = "metadata_file = \"data/meta_cap.json\"";
    let table =
        |name: &str, part, text: &[u8]| refused(name, part).data("meta_cap.json", text).subset(subset).names(META);
    let left_out = |name: &str, part, text: &str| {
        let case = Case::new(name, Verdict::LeftOut(part)).data("meta_cap.json", text);
        case.data("a.png", png()).subset(subset)
    };
    vec![
        table("meta_cap: nothing", "is no JSON", b""),
        table("meta_cap: an empty table", "names no image", b"{}"),
        table("meta_cap: a list", "is a list, not a table", b"[{\"caption\": \"a\"}]"),
        table("meta_cap: text", "is text, not a table", b"\"a\""),
        table("meta_cap: cut off", "is no JSON", b"{\"a\": {\"caption\": \"a\""),
        table("meta_cap: NaN", ":1: is no JSON", b"{\"a\": {\"caption\": \"a\", \"score\": NaN}}"),
        table("meta_cap: not UTF-8", "is no JSON", b"{\"a\": {\"caption\": \"\xe9\"}}"),
        table("meta_cap: tables in tables", "is no JSON", &b"{\"a\":".repeat(100_000)),
        table("meta_cap: text behind the table", "is no JSON", b"{\"a\": {\"caption\": \"a\"}} more"),
        table("meta_cap: a caption that is a number", "its `caption` is the number 1", b"{\"a\": {\"caption\": 1}}")
            .names("data/a.png"),
        table("meta_cap: neither caption nor tags", "1 of 1 images have no caption", b"{\"a\": {}}")
            .names("data/a.png"),
        left_out("meta_cap: an image that is not there", "there is no such image", "{\"b\": {\"caption\": \"a\"}}")
            .names("data/b"),
        left_out("meta_cap: an entry that is text", "its entry is text, not a table", "{\"a\": \"caption\"}")
            .names("data/a"),
        left_out(
            "meta_cap: an image twice",
            "is named by several entries; the first one counts",
            "{\"a\": {\"caption\": \"one\"}, \"a\": {\"caption\": \"two\"}}",
        ),
        left_out(
            "meta_cap: an image by two names",
            "is named by several entries",
            "{\"a\": {\"caption\": \"one\"}, \"a.png\": {\"caption\": \"two\"}}",
        ),
        left_out("meta_cap: a name that is nothing", "there is no such image", "{\"\": {\"caption\": \"a\"}}")
            .names("data/"),
        left_out("meta_cap: a name with a NUL", "there is no such image", "{\"a\\u0000\": {\"caption\": \"a\"}}")
            .names("data/a"),
    ]
}
