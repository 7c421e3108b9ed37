//! Damaged data sets: captions, tar files, tables, kohya's dataset files.

use std::fs;
use std::path::{Component, Path};

use sdtrain_data_loader::{CAPTION_STEPS, Caption, Listing, Progress, Reading, open_source};
use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{SourceFormat, Subset, TrainConfig};

use super::target::{Target, with_choice, write};

/// Longest caption that may come out of any source, in bytes.
const LONGEST_CAPTION: usize = 64 * 1024;

/// The first byte of each input chooses settings, the rest is the file.
pub const TARGETS: &[Target] = &[
    Target { name: "captions", run: captions, seeds: caption_seeds },
    Target { name: "tar", run: tar, seeds: tar_seeds },
    Target { name: "tables", run: tables, seeds: table_seeds },
    Target { name: "kohya_toml", run: kohya_toml, seeds: kohya_seeds },
];

/// A caption file, and its text through every step of the chain.
fn captions(folder: &Path, data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    write(folder, "a.png", b"");
    write(folder, "a.txt", file);
    let is_set = |bit: u8| choice & (1 << bit) != 0;
    let subset = Subset {
        path: folder.to_owned(),
        format: SourceFormat::Folder,
        enable_wildcard: is_set(0),
        shuffle_caption: is_set(1),
        keep_tokens: u32::from(is_set(2)) * 2,
        keep_tokens_separator: is_set(3).then(|| "|||".to_owned()),
        secondary_separator: is_set(4).then(|| ";;;".to_owned()),
        caption_tag_dropout_rate: if is_set(5) { 0.5 } else { 0.0 },
        token_warmup_step: if is_set(6) { 7.0 } else { 0.0 },
        caption_separator: if is_set(7) { "瓶" } else { "," }.to_owned(),
        caption_prefix: is_set(2).then(|| "a photo".to_owned()),
        ..Subset::default()
    };
    let listing = open_source(&subset).list().expect("there is one image");
    let example = &listing.examples[0];
    assert_eq!(example.captions.len() + listing.broken_captions.len(), 1, "a caption is read or named");
    let Some(caption) = example.captions.first() else { return };
    check_caption(&caption.text);
    let training = |step| Reading::Training(Progress { epoch: step, step, total_steps: 20 });
    for reading in [Reading::Plain, Reading::Longest, training(0), training(9)] {
        let made = through_the_chain(&caption.text, &subset, reading);
        assert_eq!(made, through_the_chain(&caption.text, &subset, reading), "equal draws give equal captions");
        // A separator of one byte becomes a comma and a space; nothing else grows.
        assert!(made.len() <= 2 * caption.text.len() + 64, "{} bytes of {}", made.len(), caption.text.len());
    }
}

fn through_the_chain(text: &str, subset: &Subset, reading: Reading) -> String {
    let mut caption = Caption { text: text.to_owned(), parts: None };
    for step in CAPTION_STEPS {
        let mut random = Stream::new(1, Purpose::Caption, 0, step.stream());
        if step.apply(&mut caption, subset, reading, &mut random).is_break() {
            break;
        }
    }
    assert!(caption.parts.is_none() || caption.text.is_empty(), "what is taken apart is put together again");
    caption.text
}

/// A tar file as a data set, every image of it read.
fn tar(folder: &Path, data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    let mut file = file.to_vec();
    // Nearly every damage breaks the sum of a header as well, and would hide what is behind it.
    if choice & 1 == 0 {
        repair_checksums(&mut file);
    }
    let path = write(folder, "a.tar", &file);
    let conditioning_image_column = (choice & 2 != 0).then(|| "depth.png".to_owned());
    let subset =
        Subset { path: path.clone(), format: SourceFormat::Webdataset, conditioning_image_column, ..Subset::default() };
    let Ok(listing) = open_source(&subset).list() else { return };
    check_listing(&listing, &path);
    for example in &listing.examples {
        for image in example.extra_images.values().chain([&example.image]) {
            let length = image.length().expect("an entry has a length");
            let bytes = image.read().expect("an entry that is listed lies in the file");
            assert_eq!(bytes.len() as u64, length);
        }
    }
}

fn repair_checksums(file: &mut [u8]) {
    for header in file.chunks_exact_mut(512).filter(|header| header[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// A table of images and captions in each of its forms.
fn tables(folder: &Path, data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    for image in ["a.png", "b.png"] {
        write(folder, image, b"");
    }
    let (name, format) = match choice & 3 {
        0 => ("metadata.jsonl", SourceFormat::Metadata),
        1 => ("metadata.csv", SourceFormat::Metadata),
        2 => ("meta_cap.json", SourceFormat::KohyaMetadata),
        _ => ("meta_cap.jsonl", SourceFormat::KohyaMetadata),
    };
    let table = write(folder, name, file);
    let subset = Subset {
        path: folder.to_owned(),
        metadata_file: Some(table),
        format,
        caption_column: (choice & 4 != 0).then(|| "caption".to_owned()),
        conditioning_image_column: (choice & 8 != 0).then(|| "edges".to_owned()),
        ..Subset::default()
    };
    match open_source(&subset).list() {
        // The JSON of kohya's scripts names its images absolutely.
        Ok(listing) if format == SourceFormat::KohyaMetadata => check_captions(&listing),
        Ok(listing) => check_listing(&listing, folder),
        Err(error) => assert!(error.to_string().contains(name), "{error}"),
    }
}

/// kohya's dataset file, taken over into a configuration.
fn kohya_toml(folder: &Path, data: &[u8]) {
    let Some((_, file)) = data.split_first() else { return };
    let images = folder.join("images");
    fs::create_dir_all(&images).expect("a folder can be made");
    let config = "[model]\npath = \"builtin:poster-tiny\"\n[train]\nmax_steps = 1\n[data]\nkohya_config = \"d.toml\"\n";
    let path = write(folder, "run.toml", config.as_bytes());
    write(folder, "d.toml", file);
    match TrainConfig::load(&path, &[]) {
        Ok(loaded) => {
            assert!(!loaded.config.data.subsets.is_empty(), "a configuration without images is refused");
            assert!(!loaded.config.to_toml().is_empty());
        }
        Err(problems) => assert!(problems.0.iter().all(|problem| !problem.message.is_empty()), "{problems}"),
    }
}

/// What holds for anything that a source lists.
fn check_listing(listing: &Listing, within: &Path) {
    for example in &listing.examples {
        for image in example.extra_images.values().chain([&example.image]) {
            let below = image.path().strip_prefix(within).expect("no image lies outside");
            assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{}", below.display());
        }
    }
    check_captions(listing);
}

fn check_captions(listing: &Listing) {
    for caption in listing.examples.iter().flat_map(|example| &example.captions) {
        check_caption(&caption.text);
    }
    for problem in listing.rejected.iter().chain(&listing.broken_captions) {
        assert!(!problem.reason.is_empty());
    }
}

fn check_caption(text: &str) {
    assert!(text.len() <= LONGEST_CAPTION && !text.contains('\0') && text.trim() == text, "{text:?}");
}

fn caption_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "a red bottle, front view\n",
        "{red|green|{light|dark} blue} cup, {{a}}\nsecond line, b\n",
        "kept ||| a, b;;;c, d ||| end",
        "\u{feff}瓶, 赤い瓶, b",
        "(heavy:1.3), [light], a\\(b\\)",
    ];
    let mut seeds: Vec<Vec<u8>> =
        texts.iter().enumerate().map(|(number, text)| with_choice(0x5F ^ number as u8, text.as_bytes())).collect();
    let utf16: Vec<u8> = "\u{feff}瓶, a".encode_utf16().flat_map(u16::to_le_bytes).collect();
    seeds.push(with_choice(3, &utf16));
    seeds
}

fn tar_seeds() -> Vec<Vec<u8>> {
    let long = format!("{}/b.txt", "n".repeat(120));
    let pax = format!("{} path={long}\n", long.len() + 10);
    let plain = [entry("a.png", b'0', b"pixels"), entry("./a.txt", b'0', b"text"), entry("a.depth.png", b'0', b"d")];
    let gnu = [entry("././@LongLink", b'L', long.as_bytes()), entry("short", b'0', b"text"), entry("c", b'2', b"")];
    let with_pax = [entry("pax", b'x', pax.as_bytes()), entry("x", b'0', b"text"), entry("in", b'5', b"")];
    let json = [entry("b.webp", b'0', b"pixels"), entry("b.json", b'0', br#"{"caption": ["a", "b"]}"#)];
    [&plain[..], &gnu, &with_pax, &json]
        .map(|entries| with_choice(0, &[&entries.concat()[..], &[0; 1024]].concat()))
        .into()
}

fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    repair_checksums(&mut header);
    let mut entry = [&header[..], content].concat();
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn table_seeds() -> Vec<Vec<u8>> {
    let jsonl =
        "{\"file_name\": \"a.png\", \"text\": \"one\"}\n{\"file_name\": \"./b.png\", \"text\": [\"x\", null]}\n";
    let edges = "{\"file_name\": \"a.png\", \"edges_file_name\": \"b.png\", \"caption\": \"c\", \"score\": -1.5e3}\n";
    let csv = "file_name,text,edges\na.png,\"one, \"\"two\"\"\",b.png\nb.png,three,a.png\n";
    let kohya = "{\"a\": {\"caption\": \"one\", \"tags\": \"x, y\"}, \"b.png\": {\"tags\": [\"u\", \"v\"]}}";
    let lines = "{\"image_path\": \"a.png\", \"caption\": \"one\\ntwo\"}\n";
    vec![
        with_choice(0, jsonl.as_bytes()),
        with_choice(4 | 8, edges.as_bytes()),
        with_choice(1 | 8, csv.as_bytes()),
        with_choice(2, kohya.as_bytes()),
        with_choice(3, lines.as_bytes()),
    ]
}

fn kohya_seeds() -> Vec<Vec<u8>> {
    let small = "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'images'\n";
    let large = "\
[general]
shuffle_caption = true
caption_extension = '.txt'
keep_tokens = 1
enable_bucket = true
bucket_reso_steps = 64
[[datasets]]
resolution = [512, 768]
batch_size = 2
min_bucket_reso = 256
[[datasets.subsets]]
image_dir = 'images'
num_repeats = 10
class_tokens = 'sks dog'
caption_dropout_rate = 0.1
color_aug = false
keep_tokens_separator = '|||'
";
    [small, large].map(|text| with_choice(0, text.as_bytes())).into()
}
