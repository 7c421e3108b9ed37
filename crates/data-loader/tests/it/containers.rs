//! Images inside larger files: tar shards and Parquet files, whole ones and hostile ones.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sdtrain_data_loader::{CONDITIONING_IMAGE, DataError, DataSet, open_source};
use sdtrain_recipe::{CaptionFile, DataConfig, ExtraImages, SourceFormat, Subset};

use crate::folder::{Folder, picture};
use crate::sources::captions;

fn png(blue: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture(64, 48, blue).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn at(path: PathBuf) -> Subset {
    Subset { path, ..Subset::default() }
}

fn open(subset: Subset) -> Result<DataSet, DataError> {
    let config = DataConfig { subsets: vec![subset], batch_size: 1, ..Folder::new().config() };
    DataSet::open(&config, 1, 16)
}

/// Pixels of every image in the order of the data set.
fn pixels(data: &DataSet) -> Vec<Vec<f32>> {
    (0..data.images()).map(|image| data.load_image(image, false).unwrap().pixels).collect()
}

/// The same pictures as files, which is what a container must give.
fn pixels_of_files(blues: &[u8]) -> Vec<Vec<f32>> {
    let folder = Folder::new();
    for (index, blue) in blues.iter().enumerate() {
        folder.image(&format!("{index:02}.png"), &picture(64, 48, *blue));
        folder.file(&format!("{index:02}.txt"), b"a");
    }
    pixels(&open(folder.subset()).unwrap())
}

fn shown(data: &DataSet, folder: &Path) -> Vec<String> {
    captions(data, folder).into_iter().map(|(name, caption)| format!("{name}: {caption}")).collect()
}

#[test]
fn entries_of_one_name_are_an_example() {
    let folder = Folder::new();
    let long = format!("{}/0003", "n".repeat(120));
    let json = br#"{"caption": ["from json"], "url": "x"}"#;
    folder.file(
        "shard-000.tar",
        &tar_of(&[
            ("./0002.txt", b"second"),
            ("./0001.PNG", &png(1)),
            ("0001.txt", "\u{feff}first\nline two".as_bytes()),
            ("0002.png", &png(2)),
            ("._0002.png", b"junk"),
            ("0002.depth.png", &png(9)),
        ]),
    );
    folder.file("shard-001.tar", &tar_of(&[(&format!("{long}.png"), &png(3)), (&format!("{long}.json"), json)]));
    folder.file("README.md", b"about");
    let data = open(folder.subset()).unwrap();
    let names = shown(&data, folder.path());
    assert!(names[0].starts_with("shard-000.tar/0001.PNG: first"), "{names:?}");
    assert_eq!(
        names[1..],
        ["shard-000.tar/0002.png: second".to_owned(), format!("shard-001.tar/{long}.png: from json")]
    );
    assert_eq!(pixels(&data), pixels_of_files(&[1, 2, 3]));

    let first = at(folder.join("shard-{000..000}.tar"));
    assert_eq!(open(first.clone()).unwrap().images(), 2);
    let both = open(at(folder.join("shard-*.tar"))).unwrap();
    assert_eq!(both.fingerprint().unwrap(), data.fingerprint().unwrap());
    let error = open(at(folder.join("shard-{000..003}.tar"))).unwrap_err().to_string();
    assert!(error.contains("2 of its 4 files do not exist, the first is"), "{error}");

    let depth = Subset { conditioning_image_column: Some("depth.png".to_owned()), ..first };
    let listing = open_source(&depth).list().unwrap();
    assert_eq!(listing.examples.len(), 1);
    let extra = &listing.examples[0].extra_images[CONDITIONING_IMAGE];
    assert_eq!(extra.read().unwrap(), png(9));
    assert!(listing.rejected[0].reason.contains("no entry with the ending `.depth.png`"));
}

#[test]
fn a_shard_says_which_of_its_endings_were_not_found() {
    let folder = Folder::new();
    folder.file("a.tar", &tar_of(&[("1.png", &png(1)), ("1.json", br#"{"words": "a"}"#)]));
    let error = open(folder.subset()).unwrap_err();
    assert!(error.hint().unwrap().contains("`json`, `png`, `words`"), "{:?}", error.hint());
    let asked = |column: &str| Subset { caption_column: Some(column.to_owned()), ..folder.subset() };
    assert_eq!(shown(&open(asked("words")).unwrap(), folder.path()), ["a.tar/1.png: a"]);
    let error = open(asked("word")).unwrap_err();
    assert!(error.to_string().contains("no entry that ends in `.word`"), "{error}");
    folder.file("a.tar", &tar_of(&[("1.txt", b"a")]));
    assert!(open(folder.subset()).unwrap_err().to_string().contains("holds no image; its entries end in `txt`"));
}

#[test]
fn what_a_shard_holds_beside_its_examples_is_said() {
    let folder = Folder::new();
    let warnings = |members: &[(&str, &[u8])], cut: usize, behind: &[u8]| {
        let mut bytes = tar_of(members);
        bytes.truncate(bytes.len() - cut);
        bytes.extend(behind);
        folder.file("a.tar", &bytes);
        let listing = open_source(&folder.subset()).list().unwrap();
        (listing.examples.len(), listing.captions_without_image.len(), listing.warnings)
    };
    let first: [(&str, &[u8]); 2] = [("1.png", &png(1)), ("1.txt", b"a")];
    assert_eq!(warnings(&first, 0, b""), (1, 0, Vec::new()));
    let said = |further: &[(&str, &[u8])]| warnings(&[&first[..], further].concat(), 0, b"");

    let (kept, without_image, heic) = said(&[("2.heic", b"x"), ("2.json", b"{}")]);
    assert_eq!((kept, without_image, heic.len()), (1, 1, 1), "{heic:?}");
    assert!(
        heic[0].starts_with("1 images are of kinds that are not read") && heic[0].contains("a.tar/2.heic"),
        "{heic:?}"
    );
    let (kept, _, twice) = said(&[("1.jpg", &png(2)), ("1.depth.png", &png(3))]);
    assert_eq!((kept, twice.len()), (1, 1), "{twice:?}");
    assert!(
        twice[0].starts_with("1 entries are images beside another one of their name") && twice[0].contains("1.png"),
        "{twice:?}"
    );
    let (_, _, nameless) = said(&[("2", &png(2)), ("in/README", b"x"), (".hidden", b"x")]);
    assert!(nameless.len() == 1 && nameless[0].starts_with("2 entries have no ending"), "{nameless:?}");

    // Exactly between two entries: nothing but the missing mark shows it.
    let (kept, _, cut) = warnings(&first, 1024, b"");
    assert!(kept == 1 && cut.len() == 1 && cut[0].contains("a.tar` has no mark at its end"), "{cut:?}");
    let (kept, _, joined) = warnings(&first, 0, &tar_of(&[("2.png", &png(2)), ("2.txt", b"b")]));
    assert!(
        kept == 1 && joined.len() == 1 && joined[0].contains("holds more behind the mark at its end"),
        "{joined:?}"
    );
}

/// A tar file with one good example, one entry as given, and another good one behind it.
fn with_entry(change: impl FnOnce(&mut tar::Header), content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8], change: Box<dyn FnOnce(&mut tar::Header) + '_>| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        change(&mut header);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    };
    add("a.png", &png(1), Box::new(|_| {}));
    add("bad.png", content, Box::new(change));
    add("c.png", &png(2), Box::new(|_| {}));
    builder.into_inner().unwrap()
}

#[test]
fn every_hostile_entry_gets_its_verdict() {
    let name = |name: &'static str| {
        move |header: &mut tar::Header| {
            header.as_mut_bytes()[..100].fill(0);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        }
    };
    let kind = |kind: tar::EntryType| move |header: &mut tar::Header| header.set_entry_type(kind);
    let good = png(3);
    let cases: [(&str, usize, Vec<u8>); 10] = [
        ("bad.png`: its name leads out of the archive", 2, with_entry(name("/etc/bad.png"), &good)),
        ("its name leads out of the archive", 2, with_entry(name("../../bad.png"), &good)),
        ("its name leads out of the archive", 2, with_entry(name("in/../bad.png"), &good)),
        ("the name is there twice", 2, with_entry(name("a.png"), &good)),
        ("bad.png`: is a link", 2, with_entry(kind(tar::EntryType::Symlink), b"")),
        ("bad.png`: is a link", 2, with_entry(kind(tar::EntryType::Link), b"")),
        ("bad.png`: is a device", 2, with_entry(kind(tar::EntryType::Fifo), b"")),
        ("bad.png`: is of an unknown kind, Z", 2, with_entry(kind(tar::EntryType::new(b'Z')), b"")),
        ("of its 8589934591 bytes are missing", 1, with_entry(|header| header.set_size(0o77777777777), &good)),
        (
            "its name is not UTF-8",
            2,
            with_entry(|header| header.as_mut_bytes()[..8].copy_from_slice(b"\xff\xfe\xff.png\0"), &good),
        ),
    ];
    for (verdict, kept, bytes) in cases {
        let folder = Folder::new();
        folder.file("a.tar", &bytes);
        let listing = open_source(&folder.subset()).list().unwrap();
        assert_eq!(listing.examples.len(), kept, "{verdict}");
        let rejected: Vec<String> = listing.rejected.iter().map(ToString::to_string).collect();
        assert!(rejected.len() == 1 && rejected[0].contains(verdict), "{verdict}: {rejected:?}");
    }
}

#[test]
fn a_shard_cut_anywhere_gives_what_is_whole_and_names_the_rest() {
    let whole = tar_of(&[("a.png", &png(1)), ("a.txt", b"a"), ("b.png", &png(2)), ("b.txt", b"b")]);
    let folder = Folder::new();
    for length in (1..whole.len()).step_by(97) {
        folder.file("a.tar", &whole[..length]);
        match open_source(&folder.subset()).list() {
            Ok(listing) => {
                for example in &listing.examples {
                    assert!(example.image.read().is_ok());
                }
                assert!(listing.examples.len() + listing.rejected.len() + listing.warnings.len() > 0);
            }
            Err(error) => assert!(error.to_string().contains("is no tar file"), "{length}: {error}"),
        }
    }
    for (bytes, reason) in
        [(&b"\x1f\x8b\x08"[..], "gunzip"), (b"<html>not found</html>", "is no tar file"), (b"PK\x03\x04", "ZIP")]
    {
        folder.file("a.tar", &[bytes, &[7; 600]].concat());
        let error = open(folder.subset()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// Image and caption.
type Row<'a> = (Option<Vec<u8>>, Option<&'a str>);

/// A Parquet file with Hugging Face's layout; a page holds two rows, a row group as many as are given at a time.
fn write_parquet(path: &Path, groups: &[&[Row<'_>]], compression: Compression) {
    let schema = "message schema {
        optional group image { optional binary bytes; optional binary path (UTF8); }
        optional binary text (UTF8);
        optional binary mask;
        required int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).set_data_page_row_count_limit(2);
    let file = std::fs::File::create(path).unwrap();
    let properties = Arc::new(properties.set_write_batch_size(2).set_dictionary_enabled(false).build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let images: Vec<Option<ByteArray>> = rows.iter().map(|(image, _)| image.clone().map(ByteArray::from)).collect();
        let paths = vec![Some(ByteArray::from("x.png")); rows.len()];
        let texts: Vec<Option<ByteArray>> = rows.iter().map(|(_, text)| text.map(ByteArray::from)).collect();
        let is_masked = |text: &Option<&str>| text.is_some_and(|text| text.starts_with("masked"));
        let masks =
            rows.iter().map(|(image, text)| image.clone().filter(|_| is_masked(text)).map(ByteArray::from)).collect();
        for (cells, depth) in [(images, 2), (paths, 2), (texts, 1), (masks, 1)] {
            let mut column = group.next_column().unwrap().unwrap();
            let levels: Vec<i16> = cells.iter().map(|cell| if cell.is_some() { depth } else { depth - 1 }).collect();
            let values: Vec<ByteArray> = cells.into_iter().flatten().collect();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let labels: Vec<i64> = (0..rows.len() as i64).collect();
        column.typed::<parquet::data_type::Int64Type>().write_batch(&labels, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn rows_of_a_parquet_file_are_examples() {
    let folder = Folder::new();
    let row = |blue: u8| (Some(png(blue)), Some(["zero", "one", "two\nlines", "three", "four"][blue as usize]));
    let (first, second) = ([row(0), row(1), row(2)], [row(3), row(4)]);
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(Default::default())] {
        write_parquet(&folder.join("train-0.parquet"), &[&first, &second], compression);
        let data = open(folder.subset()).unwrap();
        let names = shown(&data, folder.path());
        assert_eq!(names[4], "train-0.parquet/000000004: four");
        assert!(names[2].starts_with("train-0.parquet/000000002: two"));
        assert_eq!(pixels(&data), pixels_of_files(&[0, 1, 2, 3, 4]));
        // In any order, and by several threads at once.
        let data = Arc::new(data);
        std::thread::scope(|scope| {
            for start in 0..4 {
                let data = data.clone();
                scope.spawn(move || {
                    for image in (0..5).map(|index| (index * 3 + start) % 5) {
                        assert_eq!(data.load_image(image, false).unwrap().image, image);
                    }
                });
            }
        });
    }
    write_parquet(&folder.join("test-0.parquet"), &[&second], Compression::SNAPPY);
    let all = open(folder.subset()).unwrap();
    assert_eq!(all.images(), 7);
    assert!(all.report().warnings[0].contains("is trained on: train, test"), "{:?}", all.report().warnings);
    assert_eq!(open(at(folder.join("train-*.parquet"))).unwrap().images(), 5);
}

#[test]
fn a_row_of_a_parquet_file_may_have_a_mask() {
    let folder = Folder::new();
    let row = |blue: u8, text: &'static str| (Some(png(blue)), Some(text));
    let groups: [&[Row<'_>]; 2] =
        [&[row(0, "masked, zero"), row(1, "one"), row(2, "masked, two")], &[row(3, "three"), row(4, "masked, four")]];
    write_parquet(&folder.join("a.parquet"), &groups, Compression::SNAPPY);
    let mask = |column: &str| ExtraImages {
        column: column.to_owned(),
        source_column: Some("mask".to_owned()),
        ..ExtraImages::default()
    };
    let of = |column: &str| Subset { extra_images: vec![mask(column)], ..at(folder.join("a.parquet")) };
    let listing = open_source(&of("mask")).list().unwrap();
    let masks: Vec<Option<Vec<u8>>> =
        listing.examples.iter().map(|example| Some(example.extra_images.get("mask")?.read().unwrap())).collect();
    assert_eq!(masks, [Some(png(0)), None, Some(png(2)), None, Some(png(4))]);
    // Every image needs any other kind of image.
    let error = open(of("control")).unwrap_err().to_string();
    assert!(error.contains("2 of 5 images cannot be read") && error.contains("its `control` image"), "{error}");
}

#[test]
fn a_parquet_file_names_what_is_wrong() {
    let folder = Folder::new();
    let file = folder.join("a.parquet");
    write_parquet(&file, &[&[(Some(png(0)), None), (None, Some("no image"))]], Compression::SNAPPY);
    let error = open(at(file.clone())).unwrap_err().to_string();
    assert!(error.contains("a.parquet/000000001`: the row holds no image"), "{error}");
    assert!(error.contains("have no caption"), "{error}");
    let column = |name: &str| Some(name.to_owned());
    let error = open(Subset { image_column: column("label"), ..at(file.clone()) }).unwrap_err();
    assert!(error.to_string().ends_with("has no column `label`, which `image_column` names"), "{error}");
    assert_eq!(error.hint().unwrap(), "its columns are `image`, `text`, `mask`, `label`");
    assert!(open(Subset { caption_column: column("image"), ..at(file.clone()) }).is_err());

    // Cut at every stage, and with bytes of the footer damaged one by one: an error, never a panic.
    let whole = std::fs::read(&file).unwrap();
    let footer = u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    for length in (0..whole.len()).step_by(61) {
        std::fs::write(&file, &whole[..length]).unwrap();
        assert!(open(at(file.clone())).is_err(), "{length}");
    }
    for damaged in (whole.len() - 8 - footer..whole.len()).step_by(5) {
        let mut bytes = whole.clone();
        bytes[damaged] = bytes[damaged].wrapping_add(0x55);
        std::fs::write(&file, &bytes).unwrap();
        if let Ok(listing) = open_source(&at(file.clone())).list() {
            for example in listing.examples {
                let _ = example.image.read();
            }
        }
    }
}

/// A file that `scripts/fixtures/parquet.py` made.
fn by_pyarrow(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/files").join(name)
}

#[test]
fn every_compression_gives_the_same_images_and_captions() {
    let list = |name: &str| {
        let subset = Subset { caption_column: Some("captions".to_owned()), ..at(by_pyarrow(name)) };
        let examples = open_source(&subset).list().unwrap().examples;
        let read = examples.into_iter().map(|example| (example.image.read().unwrap(), example.captions));
        read.collect::<Vec<_>>()
    };
    let expected = list("images.parquet");
    assert_eq!(expected.len(), 6);
    for compression in ["zstd", "brotli", "lz4", "gzip"] {
        assert!(list(&format!("images_{compression}.parquet")) == expected, "{compression}");
    }
}

#[test]
fn damage_in_a_compressed_file_is_an_error_and_no_panic() {
    let folder = Folder::new();
    let file = folder.path().join("a.parquet");
    for compression in ["zstd", "brotli", "lz4"] {
        let whole = std::fs::read(by_pyarrow(&format!("images_{compression}.parquet"))).unwrap();
        let mut refused = 0;
        for damaged in (4..whole.len()).step_by(41) {
            let mut bytes = whole.clone();
            bytes[damaged] = bytes[damaged].wrapping_add(0x55);
            std::fs::write(&file, &bytes).unwrap();
            match open_source(&at(file.clone())).list() {
                Ok(listing) => {
                    refused += listing.examples.iter().filter(|example| example.image.read().is_err()).count()
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "{compression}");
    }
}

#[test]
fn a_data_set_written_by_pyarrow_is_read() {
    let file = by_pyarrow("images.parquet");
    let data = open(Subset { caption_column: Some("captions".to_owned()), ..at(file.clone()) }).unwrap();
    let names = shown(&data, file.parent().unwrap());
    assert_eq!(data.images(), 6);
    assert!(names[3].starts_with("images.parquet/000000003: picture 3"), "{names:?}");
    let listing = open_source(&Subset {
        caption_column: Some("captions".to_owned()),
        conditioning_image_column: Some("edges".to_owned()),
        format: SourceFormat::Parquet,
        ..at(file)
    });
    let listing = listing.list().unwrap();
    assert_eq!(listing.examples[5].captions[0].text, "picture 5\nthe same, five");
    // The file has one column of texts: twice asked for, it is there twice.
    let both = ["captions", "captions"]
        .map(|column| CaptionFile { column: Some(column.to_owned()), ..CaptionFile::default() });
    let twice = open_source(&Subset { captions: both.to_vec(), ..at(by_pyarrow("images.parquet")) }).list().unwrap();
    let sources: Vec<usize> = twice.examples[5].captions.iter().map(|caption| caption.source).collect();
    assert_eq!((sources, twice.examples[5].captions[1].text.as_str()), (vec![0, 1], "picture 5\nthe same, five"));
    // The generator gives picture i the grey value 40·i, and its edges 255 − 40·i.
    for (index, example) in listing.examples.iter().enumerate() {
        let grey = |bytes: Vec<u8>| image::load_from_memory(&bytes).unwrap().to_luma8().get_pixel(5, 5)[0];
        assert_eq!(grey(example.image.read().unwrap()), 40 * index as u8);
        assert_eq!(grey(example.extra_images[CONDITIONING_IMAGE].read().unwrap()), 255 - 40 * index as u8);
    }
}
