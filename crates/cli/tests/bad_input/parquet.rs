//! Parquet files that are none, are cut off, or lack what is looked for.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::corpus::{Case, Verdict};
use crate::images::png;

const FILE: &str = "data/a.parquet";

/// Rows of bytes and text under the columns of `schema`.
fn table(schema: &str, rows: &[(&[u8], &[u8])]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::builder().build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for cells in [rows.iter().map(|row| row.0).collect::<Vec<_>>(), rows.iter().map(|row| row.1).collect()] {
        let Some(mut column) = group.next_column().unwrap() else { break };
        let values: Vec<ByteArray> = cells.into_iter().map(|cell| ByteArray::from(cell.to_vec())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

const USUAL: &str = "message schema { required binary image; required binary text; }";

fn file(name: &str, verdict: Verdict, bytes: impl Into<Vec<u8>>) -> Case {
    Case::new(name, verdict).data("a.parquet", bytes).subset("path = \"data/a.parquet\"").names(FILE)
}

pub fn cases() -> Vec<Case> {
    let png = png();
    let good = table(USUAL, &[(&png, b"a")]);
    let refused = |name: &str, part, bytes: &[u8]| file(name, Verdict::Refused(3, part), bytes);
    let damaged = "is damaged or no Parquet file";
    let row = |name: &str, part, image: &[u8]| {
        file(name, Verdict::LeftOut(part), table(USUAL, &[(image, b"a")])).names("data/a.parquet/000000000")
    };
    let caption = |name: &str, part, text: &[u8]| refused(name, part, &table(USUAL, &[(&png, text)]));
    let end = good.len();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let asking = |lines: &str| format!("path = \"data/a.parquet\"\n{lines}");
    let mut cases = vec![
        refused("parquet: nothing", damaged, b""),
        refused("parquet: text", damaged, &[b't'; 500]),
        refused("parquet: a wrong mark at the end", damaged, &with(end - 4, b"PARX")),
        refused("parquet: a footer longer than the file", damaged, &with(end - 8, &[0xFF, 0xFF, 0xFF, 0x7F])),
        refused("parquet: a footer of nothing", damaged, &with(end - 8, &[0; 4])),
        refused("parquet: a footer of zeros", damaged, &with(end - 60, &[0; 50])),
        refused("parquet: no rows", "has no rows", &table(USUAL, &[])),
        refused(
            "parquet: no column of images",
            "has no column of images that is called as usual",
            &table("message schema { required binary words; required binary more; }", &[(b"a", b"b")]),
        ),
        refused("parquet: a column that is not there", "has no column `picture`", &good)
            .subset(&asking("image_column = \"picture\"")),
        refused("parquet: a caption column that is not there", "has no column `words`", &good)
            .subset(&asking("caption_column = \"words\"")),
        refused(
            "parquet: no captions",
            "1 of 1 images have no caption",
            &table("message schema { required binary image; required binary label; }", &[(&png, b"x")]),
        ),
        caption("parquet: a caption in Latin-1", "is not UTF-8 text", b"caf\xe9"),
        caption("parquet: a caption with a NUL", "NUL character", b"a\0b").names("data/a.parquet/000000000"),
        caption("parquet: a caption of 100,000 characters", "bytes are too many for a caption", &[b'x'; 100_000])
            .names("data/a.parquet/000000000"),
        row("parquet: an empty image", "is an empty file", b""),
        row("parquet: text for an image", "is not an image", b"text"),
        row("parquet: half of an image", "truncated", &png[..png.len() / 2]),
    ];
    for part in [25, 50, 75, 99] {
        cases.push(refused(&format!("parquet: cut to {part} %"), damaged, &good[..end * part / 100]));
    }
    // The bytes of the image are there, but not where the page's header says.
    let mut page = good.clone();
    page[4..24].fill(0xFF);
    cases.push(file("parquet: a damaged page", Verdict::LeftOut(""), page).names("data/a.parquet/000000000"));
    cases
}
