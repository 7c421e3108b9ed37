//! Captions through a data set: several files an image, lines, and the step of the training.

use std::collections::{BTreeMap, BTreeSet};

use sdtrain_data_loader::{DataSet, TokenWindow};
use sdtrain_recipe::{CaptionFile, DataConfig, Leftovers, LossConfig, Subset, TrainSection};
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

use crate::folder::{Folder, picture};

fn open(subset: Subset, folder: &Folder) -> DataSet {
    DataSet::open(&DataConfig { subsets: vec![subset], ..folder.config() }, 42, 64).unwrap()
}

fn file(extension: &str, weight: f64) -> CaptionFile {
    CaptionFile { extension: extension.to_owned(), weight, ..CaptionFile::default() }
}

fn column(column: &str, weight: f64) -> CaptionFile {
    CaptionFile { column: Some(column.to_owned()), weight, ..CaptionFile::default() }
}

/// Captions of an epoch by image and the number of its batch.
fn captions(data: &DataSet, epoch: u64) -> Vec<(usize, usize, String)> {
    let plans = data.epoch_plan(epoch);
    let of_plan = |plan| {
        let captions = data.captions_of(plan, epoch).unwrap();
        assert_eq!(captions, data.load(plan, epoch).unwrap().captions);
        let images = plan.visits.iter().map(|visit| visit.image);
        images.zip(captions).map(|(image, caption)| (plan.number, image, caption)).collect::<Vec<_>>()
    };
    plans.iter().flat_map(of_plan).collect()
}

#[test]
fn an_image_chooses_among_the_caption_files_it_has() {
    let folder = Folder::with_images(4);
    for name in ["00", "01"] {
        folder.file(&format!("{name}.tags.txt"), b"tags");
    }
    std::fs::remove_file(folder.join("00.txt")).unwrap();
    folder.file("02.tags.txt", b"");
    let subset =
        Subset { captions: vec![file(".tags.txt", 3.0), file(".txt", 1.0)], repeats: 100.0, ..folder.subset() };
    let data = open(subset, &folder);
    let mut counts: BTreeMap<(usize, String), usize> = BTreeMap::new();
    for (_, image, caption) in captions(&data, 0) {
        *counts.entry((image, caption)).or_default() += 1;
    }
    assert_eq!(counts[&(0, "tags".to_owned())], 100);
    // 75 expected, standard deviation 4.3: five of them.
    assert!((54..=96).contains(&counts[&(1, "tags".to_owned())]), "{counts:?}");
    assert_eq!(counts[&(2, "t, a2, b2, c2".to_owned())], 100);
    assert_eq!(counts[&(3, "t, a3, b3, c3".to_owned())], 100);
    assert_eq!(data.caption(1), "tags");
    let report = &data.report().captions;
    assert_eq!((report.from_file, report.empty, report.missing), (4, 0, 0));
    assert_eq!(report.by_extension, BTreeMap::from([(".tags.txt".to_owned(), 2), (".txt".to_owned(), 3)]));
    assert!(report.without_image.is_empty(), "{report:?}");
}

/// Image 1 has both captions, image 0 the first alone and image 2 the second.
fn assert_chooses(subset: Subset, folder: &Folder) {
    let data = open(Subset { repeats: 100.0, ..subset }, folder);
    let mut counts: BTreeMap<(usize, String), usize> = BTreeMap::new();
    for (_, image, caption) in captions(&data, 0) {
        *counts.entry((image, caption)).or_default() += 1;
    }
    let count = |image, caption: &str| counts.get(&(image, caption.to_owned())).copied().unwrap_or(0);
    assert_eq!((count(0, "long 0"), count(2, "short 2")), (100, 100), "{counts:?}");
    // 75 expected, standard deviation 4.3: five of them.
    assert!((54..=96).contains(&count(1, "long 1")) && count(1, "long 1") + count(1, "short 1") == 100, "{counts:?}");
    assert_eq!(data.report().captions.by_extension.values().collect::<Vec<_>>(), [&2, &2]);
}

#[test]
fn captions_are_weighed_in_tables_and_shards_as_they_are_beside_images() {
    let folder = Folder::with_images(3);
    let both = vec![column("long", 3.0), column("short", 1.0)];
    let rows = "{\"file_name\": \"00.png\", \"long\": \"long 0\", \"short\": null}\n\
                {\"file_name\": \"01.png\", \"long\": \"long 1\", \"short\": \"short 1\"}\n\
                {\"file_name\": \"02.png\", \"short\": \"short 2\"}\n";
    folder.file("metadata.jsonl", rows.as_bytes());
    assert_chooses(Subset { captions: both.clone(), ..folder.subset() }, &folder);

    let images: Vec<Vec<u8>> =
        (0..3).map(|index| std::fs::read(folder.join(&format!("{index:02}.png"))).unwrap()).collect();
    let shards = Folder::new();
    let json: &[u8] = br#"{"short": "short 1", "n": 1}"#;
    shards.file(
        "a.tar",
        &crate::containers::tar_of(&[
            ("0.png", &images[0]),
            ("0.long.txt", b"long 0"),
            ("1.png", &images[1]),
            ("1.long.txt", b"long 1"),
            ("1.json", json),
            ("2.png", &images[2]),
            ("2.short", b"short 2"),
        ]),
    );
    let captions = vec![file(".long.txt", 3.0), column("short", 1.0)];
    assert_chooses(Subset { captions, ..shards.subset() }, &shards);

    // What a source has no place for is refused by name.
    for (subset, part) in [
        (
            Subset { captions: vec![file(".long", 1.0)], ..folder.subset() },
            "has `captions.extension`, which is not read",
        ),
        (
            Subset { captions: vec![column("lnog", 1.0)], ..folder.subset() },
            "has no column `lnog`, which `captions` names",
        ),
        (Subset { captions: vec![column("lnog", 1.0)], ..shards.subset() }, "has no entry that ends in `.lnog`"),
    ] {
        let error = DataSet::open(&DataConfig { subsets: vec![subset], ..folder.config() }, 42, 64).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    std::fs::remove_file(folder.join("metadata.jsonl")).unwrap();
    let subset = Subset { captions: both, ..folder.subset() };
    let error = DataSet::open(&DataConfig { subsets: vec![subset], ..folder.config() }, 42, 64).unwrap_err();
    assert!(
        error.to_string().contains("has `captions.column`, which is not read where `format` is \"folder\""),
        "{error}"
    );
}

#[test]
fn no_caption_file_of_several_is_a_missing_caption() {
    let folder = Folder::with_images(2);
    std::fs::remove_file(folder.join("01.txt")).unwrap();
    let subset = Subset { captions: vec![file(".long", 1.0), file(".txt", 1.0)], ..folder.subset() };
    let config = DataConfig { subsets: vec![subset], ..folder.config() };
    let error = DataSet::open(&config, 42, 64).unwrap_err();
    assert!(error.to_string().starts_with("1 of 2 images have no caption"), "{error}");
    assert!(error.hint().unwrap().contains("into `NAME.long`"));

    // One that cannot be read is not missing as well, whatever its ending.
    folder.file("01.tags.txt", b"caf\xe9");
    let subset = Subset { captions: vec![file(".tags.txt", 1.0), file(".txt", 1.0)], ..folder.subset() };
    let error = DataSet::open(&DataConfig { subsets: vec![subset], ..folder.config() }, 42, 64).unwrap_err();
    assert!(error.to_string().starts_with("1 caption files cannot be read"), "{error}");
    assert_eq!(error.each().len(), 1);
}

#[test]
fn captions_grow_with_the_steps_of_the_run() {
    let folder = Folder::with_images(8);
    // Four batches of two; two of them are a step.
    let train = TrainSection { gradient_accumulation_steps: 2, max_epochs: Some(4), ..TrainSection::default() };
    let subset = |token_warmup_step| Subset { keep_tokens: 1, token_warmup_step, ..folder.subset() };
    let parts = |data: &DataSet, epoch| -> Vec<usize> {
        let all = captions(data, epoch).into_iter();
        all.map(|(number, _, caption)| (number, caption.split(", ").count() - 1))
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .collect()
    };
    for (warmup, expected) in [
        (4.0, [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        (0.5, [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        (2.0, [[1, 1, 2, 2], [3, 3, 3, 3], [3, 3, 3, 3]]),
    ] {
        let data = open(subset(warmup), &folder).for_run(&train, &LossConfig::default());
        assert_eq!([0, 1, 2].map(|epoch| parts(&data, epoch)), expected.map(Vec::from), "{warmup}");
    }
    // Without a run each batch is a step.
    assert_eq!(parts(&open(subset(3.0), &folder), 0), [1, 1, 2, 3]);
}

#[test]
fn held_out_captions_are_whole_and_always_the_same() {
    let folder = Folder::with_images(6);
    for index in 0..6 {
        folder.file(&format!("{index:02}.txt"), b"t, {a|b}, c\nother");
    }
    let subset = Subset {
        enable_wildcard: true,
        shuffle_caption: true,
        caption_tag_dropout_rate: 1.0,
        caption_dropout_every_n_epochs: 1,
        token_warmup_step: 100.0,
        ..folder.subset()
    };
    let config = DataConfig { subsets: vec![subset], ..folder.config() };
    let (_, held_out) = DataSet::open_split(&config, 42, 64, 0.5).unwrap();
    let held_out = held_out.for_run(&TrainSection::default(), &LossConfig::default());
    assert!(captions(&held_out, 3).iter().all(|(_, _, caption)| caption == "t, a, c"));
}

#[test]
fn what_may_not_be_meant_is_said() {
    let folder = Folder::with_images(3);
    folder.file("00.txt", b"t ||| a, b\nsecond line");
    let subset = Subset { keep_tokens_separator: Some("|||".to_owned()), ..folder.subset() };
    let data = open(subset.clone(), &folder);
    let warnings = data.report().warnings.join("\n");
    assert!(warnings.contains("1 captions in `") && warnings.contains("only the first is used"), "{warnings}");
    assert!(warnings.contains("`|||` stays in the text of 1 captions"), "{warnings}");
    let subset = Subset { enable_wildcard: true, shuffle_caption: true, ..subset };
    assert!(open(subset, &folder).report().warnings.is_empty());
}

#[test]
fn captions_that_are_too_long_are_counted_and_named() {
    let folder = Folder::with_images(4);
    folder.file("01.txt", ["word"; 80].join(" ").as_bytes());
    folder.file("01.long", ["word"; 90].join(" ").as_bytes());
    folder.file("02.txt", format!("short\n{{a|{}}}", ["word"; 76].join(" ")).as_bytes());
    folder.file("03.txt", ["word"; 75].join(" ").as_bytes());
    let subset = Subset {
        enable_wildcard: true,
        caption_dropout_rate: 1.0,
        captions: vec![file(".long", 1.0), file(".txt", 1.0)],
        ..folder.subset()
    };
    let tokenizer = PromptTokenizer::builtin();
    let report = open(subset.clone(), &folder).count_tokens(TokenWindow {
        tokenizer: &tokenizer,
        limit: 75,
        prompt_weights: false,
    });
    let first = tokenizer.tokens("t, a0, b0, c0").len();
    assert_eq!((report.captions, report.longest, report.too_long), (6, 90, 3));
    assert_eq!(report.tokens, first + 90 + 80 + 1 + 76 + 75);
    let long: Vec<_> = report.images.iter().map(|image| (image.path.clone(), image.tokens)).collect();
    assert_eq!(long, [(folder.join("01.png"), 90), (folder.join("02.png"), 76)]);
    let shown = report.to_string();
    assert!(shown.contains("warning: 3 captions lose what is behind their first 75 tokens:\n"), "{shown}");
    // A prefix counts as well.
    let subset = Subset { caption_prefix: Some("two words".to_owned()), ..subset };
    let report =
        open(subset, &folder).count_tokens(TokenWindow { tokenizer: &tokenizer, limit: 92, prompt_weights: false });
    assert_eq!((report.longest, report.too_long), (92, 0));
    assert!(report.to_string().ends_with("the longest has 92; all fit into 92"), "{report}");
}

#[test]
fn weights_in_brackets_are_no_tokens_where_they_are_read_as_weights() {
    let folder = Folder::with_images(2);
    folder.file("00.txt", format!("({}:1.25), [end]", ["word"; 70].join(" ")).as_bytes());
    folder.file("01.txt", br"a \(plain\) one");
    let tokenizer = PromptTokenizer::builtin();
    let count = |prompt_weights| {
        open(folder.subset(), &folder).count_tokens(TokenWindow { tokenizer: &tokenizer, limit: 75, prompt_weights })
    };
    let of = |text: &str| tokenizer.tokens(text).len();
    let read = count(true);
    // Seventy words, a comma and a word.
    assert_eq!((read.longest, read.too_long), (72, 0));
    assert_eq!(read.tokens, 72 + of("a (plain) one"));
    let written = count(false);
    assert_eq!((written.longest, written.too_long), (of(&format!("({}:1.25), [end]", ["word"; 70].join(" "))), 1));
}

/// The captions that a run over these data really sees.
fn seen(data: &DataSet, train: &TrainSection) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut step = 0;
    for epoch in 0.. {
        for batches in data.epoch_plan(epoch).chunks(train.gradient_accumulation_steps as usize) {
            if Some(step) == train.max_steps {
                return seen;
            }
            step += 1;
            for plan in batches {
                seen.extend(data.captions_of(plan, epoch).unwrap());
            }
        }
    }
    seen
}

#[test]
fn all_captions_of_a_run_are_known_before_it() {
    let folder = Folder::with_images(5);
    folder.file("01.txt", b"{red|green}, x, y");
    folder.file("02.tags", b"tags");
    let random = Subset { shuffle_caption: true, caption_dropout_rate: 0.2, ..folder.subset() };
    let subsets = [
        folder.subset(),
        random.clone(),
        Subset { repeats: 2.5, ..random.clone() },
        Subset { enable_wildcard: true, caption_tag_dropout_rate: 0.5, ..folder.subset() },
        Subset { caption_dropout_every_n_epochs: 3, ..folder.subset() },
        Subset { token_warmup_step: 0.5, ..folder.subset() },
        Subset { captions: vec![file(".tags", 1.0), file(".txt", 1.0)], ..folder.subset() },
        Subset { caption_variants: Some(3), ..random.clone() },
        Subset { caption_variants: Some(3), repeats: 1.5, ..random.clone() },
    ];
    for leftovers in [Leftovers::ShortBatch, Leftovers::Carry, Leftovers::Drop] {
        for subset in &subsets {
            for steps in [1, 7, 40] {
                let train =
                    TrainSection { max_steps: Some(steps), gradient_accumulation_steps: 2, ..TrainSection::default() };
                let config = DataConfig { subsets: vec![subset.clone()], leftovers, ..folder.config() };
                let data = DataSet::open(&config, 42, 64).unwrap().for_run(&train, &LossConfig::default());
                let known = data.captions_of_run().unwrap();
                let seen = seen(&data, &train);
                assert!(seen.is_subset(&known), "{subset:?}");
                // Where nothing is random all images are taken, even if the run is over before it has seen them.
                let is_random = subset.changes_caption_parts() || subset.caption_dropout_rate > 0.0;
                if is_random && subset.caption_variants.is_none() {
                    assert_eq!(seen, known, "{subset:?}");
                }
            }
        }
    }
}

#[test]
fn variants_make_an_end_of_captions() {
    let folder = Folder::with_images(4);
    let train = TrainSection { max_steps: Some(400), ..TrainSection::default() };
    let count = |caption_variants| {
        let subset = Subset { shuffle_caption: true, caption_variants, ..folder.subset() };
        let data = open(subset, &folder).for_run(&train, &LossConfig::default());
        assert_eq!(captions(&data, 1), captions(&data, 1));
        if caption_variants == Some(3) {
            let of_image = |epoch| {
                captions(&data, epoch).into_iter().map(|(_, image, text)| (image, text)).collect::<BTreeMap<_, _>>()
            };
            assert_eq!(of_image(1), of_image(4));
            assert_ne!(of_image(1), of_image(2));
        }
        data.captions_of_run().unwrap().len()
    };
    // Of 24 forms each, four parts being shuffled.
    assert!(count(None) > 80, "{}", count(None));
    let few = count(Some(3));
    assert!((8..=12).contains(&few), "{few}");
    assert_eq!(count(Some(1)), 4);
}

#[test]
fn tags_are_counted_by_folder_as_kohyas_scripts_count_them() {
    let folder = Folder::new();
    for (name, caption) in [
        ("photos/a", "SKS dog, grass,, Two words "),
        ("photos/b", "sks dog,a | b"),
        ("other/photos/c", "x | y, z|x"),
        ("reg/d", "dog\nnever read"),
    ] {
        folder.image(&format!("{name}.png"), &picture(64, 64, 1));
        folder.file(&format!("{name}.txt"), caption.as_bytes());
    }
    let subset = |path: &str| Subset { path: folder.join(path), ..Subset::default() };
    let subsets = vec![
        Subset { repeats: 2.0, caption_prefix: Some("a prefix".to_owned()), shuffle_caption: true, ..subset("photos") },
        Subset { caption_separator: "|".to_owned(), ..subset("other/photos") },
        Subset { is_regularization: true, ..subset("reg") },
    ];
    let data = DataSet::open(&DataConfig { subsets, ..folder.config() }, 42, 64).unwrap();
    let found = data.folders();
    let told: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.repeats, f.images, f.is_regularization)).collect();
    assert_eq!(told, [("photos", 2.0, 2, false), ("photos (2)", 1.0, 1, false), ("reg", 1.0, 1, true)]);
    let tags = |index: usize| -> Vec<(&str, usize)> {
        found[index].tags.iter().map(|(tag, count)| (tag.as_str(), *count)).collect()
    };
    assert_eq!(tags(0), [("a | b", 1), ("grass", 1), ("sks dog", 2), ("two words", 1)]);
    assert_eq!(tags(1), [("x", 2), ("y, z", 1)]);
    assert_eq!(tags(2), [("dog", 1)]);
}
