//! What an inspection says.

use sdtrain_data_loader::TokenWindow;
use sdtrain_dataset_report::{Depth, Inspection, Survey, html};
use sdtrain_recipe::{CaptionFile, DataConfig, ExtraImages, Leftovers, MissingCaption, Resolution, Subset};
use sdtrain_tokenizer::PromptTokenizer;

use crate::folder::{Folder, picture, survey};

fn inspect(config: &DataConfig) -> Inspection {
    inspect_for(config, 75)
}

/// For a model that reads so many tokens.
fn inspect_for(config: &DataConfig, token_limit: usize) -> Inspection {
    inspected(&survey(config), Depth::Pixels, config, token_limit)
}

fn inspected(survey: &Survey, depth: Depth, config: &DataConfig, limit: usize) -> Inspection {
    let tokenizer = PromptTokenizer::builtin();
    let window = TokenWindow { tokenizer: &tokenizer, limit, prompt_weights: false };
    Inspection::of(survey, depth, config, 0, 64, window).unwrap()
}

/// Three pictures, a smaller copy of the first and an exact copy of the second.
fn with_copies() -> Folder {
    let folder = Folder::new();
    folder.image("a.png", &picture(96, 64, 0));
    folder.image("b.png", &picture(64, 64, 1));
    folder.image("c.png", &picture(64, 96, 2));
    folder.jpeg("small/a.jpg", &picture(48, 32, 0), 90);
    std::fs::copy(folder.data().join("b.png"), folder.data().join("b2.png")).unwrap();
    for (name, caption) in [
        ("a.txt", "poster, red"),
        ("b.txt", "poster, blue"),
        ("b2.txt", "poster, green"),
        ("c.txt", "poster, red"),
        ("small/a.txt", "poster, red"),
    ] {
        folder.file(name, caption);
    }
    folder
}

#[test]
fn copies_are_found_and_the_largest_is_the_one_to_keep() {
    let folder = with_copies();
    let inspection = inspect(&folder.config());
    assert_eq!((inspection.exact_copies, inspection.near_copies), (1, 1));
    let shown: Vec<(String, &str, bool, bool)> = inspection
        .duplicates
        .iter()
        .flat_map(|group| {
            group.copies.iter().map(|copy| (group.kept.clone(), &*copy.path, copy.exact, copy.same_caption))
        })
        .map(|(kept, path, exact, same)| (kept, path.rsplit("images/").next().unwrap(), exact, same))
        .collect();
    let kept = |name: &str| folder.data().join(name).to_str().unwrap().to_owned();
    assert_eq!(shown, [(kept("a.png"), "small/a.jpg", false, true), (kept("b.png"), "b2.png", true, false)]);
}

#[test]
fn buckets_captions_and_tags_are_counted() {
    let inspection = inspect(&with_copies().config());
    assert_eq!((inspection.found, inspection.kept, inspection.batches_per_epoch), (5, 5, Some(5)));
    let buckets: Vec<_> = inspection.buckets.iter().map(|b| (b.width, b.height, b.images, b.enlarged)).collect();
    assert_eq!(buckets, [(48, 80, 1, 0), (64, 64, 2, 0), (80, 48, 2, 1)]);
    let formats: Vec<_> = inspection.formats.iter().map(|f| (f.format.as_str(), f.images)).collect();
    assert_eq!(formats, [("PNG", 4), ("JPEG", 1)]);
    let captions = &inspection.captions;
    assert_eq!((captions.from_file, captions.distinct), (5, 3));
    assert_eq!((captions.repeated[0].caption.as_str(), captions.repeated[0].images), ("poster, red", 3));
    let tags: Vec<_> = captions.tags.iter().map(|tag| (tag.tag.as_str(), tag.images)).collect();
    assert_eq!(tags, [("poster", 5), ("red", 3), ("blue", 1), ("green", 1)]);
    // `poster`, the comma, `red`.
    assert_eq!(captions.tokens.spread.map(|spread| (spread.least, spread.most)), Some((3.0, 3.0)));
}

#[test]
fn formats_are_those_that_the_loader_recognises() {
    let folder = Folder::new();
    folder.jpeg("a.png", &picture(64, 64, 0), 90);
    folder.file("b.png", include_bytes!("../../../data-loader/tests/it/files/lossless.jxl"));
    folder.file("c.png", "no picture");
    for name in ["a.txt", "b.txt", "c.txt"] {
        folder.file(name, "a");
    }
    let config = folder.config();
    for depth in [Depth::Pixels, Depth::Header] {
        let survey = Survey::of(&config, depth, &|_, _| ()).unwrap();
        let formats = inspected(&survey, depth, &config, 75).formats;
        let formats: Vec<_> = formats.iter().map(|f| (f.format.as_str(), f.images)).collect();
        assert_eq!(formats, [("JPEG", 1), ("JPEG XL", 1), ("no image (.png)", 1)], "{depth:?}");
    }
}

#[test]
fn captions_longer_than_the_text_encoder_reads_are_named() {
    let folder = with_copies();
    folder.file("c.txt", "red ".repeat(76));
    folder.file("b.txt", "red ".repeat(75));
    let tokens = inspect(&folder.config()).captions.tokens;
    assert_eq!((tokens.window, tokens.over_long), (75, 1));
    assert_eq!(tokens.over_long_captions[0].tokens, 76);
    assert!(tokens.over_long_captions[0].path.ends_with("images/c.png"));
    let tokens = inspect_for(&folder.config(), 150).captions.tokens;
    assert_eq!((tokens.window, tokens.over_long), (150, 0));
}

#[test]
fn what_would_stop_a_run_is_said_and_the_rest_is_still_counted() {
    let folder = with_copies();
    std::fs::remove_file(folder.data().join("c.txt")).unwrap();
    folder.file("d.png", "no picture");
    folder.file("lonely.txt", "nobody");
    folder.file("b.txt", b"caf\xe9");
    let inspection = inspect(&folder.config());
    assert_eq!((inspection.found, inspection.kept, inspection.unreadable), (6, 5, 1));
    assert_eq!(inspection.batches_per_epoch, None);
    let captions = &inspection.captions;
    assert_eq!((captions.missing, captions.broken.len(), captions.without_image.len()), (1, 1, 1));
    assert!(captions.missing_images[0].ends_with("c.png"));
    assert_eq!(inspection.errors.len(), 3, "{:?}", inspection.errors);
    assert!(inspection.dropped[0].path.ends_with("d.png"));
    assert!(inspection.text(80).contains("a training would not start:\n  1 of 6 images cannot be read"));
}

#[test]
fn warnings_are_told_beside_what_would_stop_a_run() {
    let folder = with_copies();
    folder.file("b.txt", "poster, blue\nsecond line");
    folder.file("d.heic", "x");
    let warnings = inspect(&folder.config()).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    folder.file("e.png", "no picture");
    let inspection = inspect(&folder.config());
    assert_eq!((inspection.errors.len(), inspection.batches_per_epoch), (1, None), "{:?}", inspection.errors);
    assert_eq!(inspection.warnings, warnings);
}

#[test]
fn a_file_broken_behind_its_header_is_found_by_decoding_alone() {
    let folder = with_copies();
    // 5 images and 200 more, so that one broken one is still allowed.
    for index in 0..200 {
        folder.image(&format!("more/{index}.png"), &picture(64, 64, 3 + index));
    }
    let mut bytes = std::fs::read(folder.data().join("c.png")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    folder.file("c.png", bytes);
    let mut config = folder.config();
    config.caption.missing = MissingCaption::Empty;
    let inspection = inspect(&config);
    assert_eq!((inspection.found, inspection.kept, inspection.unreadable), (205, 204, 1));
    assert_eq!(inspection.errors, Vec::<String>::new());
    let quick = Survey::of(&config, Depth::Header, &|_, _| ()).unwrap();
    let quick = inspected(&quick, Depth::Header, &config, 75);
    assert_eq!((quick.kept, quick.decoded, quick.duplicates.len()), (205, false, 0));
}

#[test]
fn the_text_keeps_to_the_width() {
    let folder = with_copies();
    folder.file("c.txt", format!("{}, {}", "long ".repeat(30), "瓶".repeat(90)));
    folder.file("a.txt", format!("{}, {}", "long ".repeat(30), "瓶".repeat(90)));
    let inspection = inspect(&folder.config());
    for width in [80, 120] {
        for line in inspection.text(width).lines().filter(|line| !line.contains("/images/")) {
            assert!(unicode_width::UnicodeWidthStr::width(line) <= width, "{width}: {line}");
        }
    }
}

#[test]
fn the_page_stands_alone_and_escapes_captions() {
    let folder = with_copies();
    folder.file("c.txt", "<script>alert('x')</script> & \"quoted\", poster");
    let config = folder.config();
    let survey = survey(&config);
    let inspection = inspected(&survey, Depth::Pixels, &config, 75);
    let page = html::page(&inspection, &survey, &config, 64).unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;"));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("));
    assert!(page.matches("src=\"data:image/jpeg;base64,/9j/").count() >= 5);
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("<svg"));
    for tag in ["div", "table", "svg", "figure", "span", "ul", "details"] {
        let opened = page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_is_no_copy() {
    let folder = with_copies();
    std::os::unix::fs::symlink("c.png", folder.data().join("0.png")).unwrap();
    folder.file("0.txt", "linked");
    let inspection = inspect(&folder.config());
    assert_eq!((inspection.found, inspection.exact_copies, inspection.near_copies), (6, 1, 1));
}

#[test]
fn folders_with_repeats_in_their_names_are_counted_as_a_run_counts_them() {
    let folder = Folder::new();
    folder.image("3_red poster/a.png", &picture(64, 64, 0));
    folder.image("1_blue poster/b.png", &picture(64, 64, 1));
    folder.file("1_blue poster/b.txt", "own");
    let inspection = inspect(&folder.config());
    assert_eq!((inspection.found, inspection.visits_per_epoch, inspection.batches_per_epoch), (2, 4, Some(4)));
    assert_eq!((inspection.captions.from_file, inspection.captions.from_class_tokens), (1, 1));
    assert!(inspection.warnings[0].contains("`3_red poster` × 3"), "{:?}", inspection.warnings);
    let survey = survey(&folder.config());
    let page = html::page(&inspection, &survey, &folder.config(), 64).unwrap();
    assert!(page.contains("own"));
}

#[test]
fn a_tables_images_and_captions_are_inspected_and_what_it_names_in_vain_is_left_out() {
    let folder = Folder::new();
    folder.image("in/a.png", &picture(64, 64, 0));
    let rows = "{\"file_name\": \"in/a.png\", \"text\": \"red\"}\n{\"file_name\": \"../out.png\", \"text\": \"x\"}\n";
    folder.file("metadata.jsonl", rows);
    let inspection = inspect(&folder.config());
    assert_eq!((inspection.found, inspection.kept, inspection.unreadable), (2, 1, 1));
    assert!(inspection.dropped[0].reason.contains("`../out.png` leads out of"), "{:?}", inspection.dropped);
    assert_eq!(inspection.captions.from_file, 1);
}

#[test]
fn of_several_caption_files_each_is_counted_and_the_longest_decides() {
    let folder = Folder::new();
    folder.image("a.png", &picture(64, 64, 0));
    folder.file("a.txt", "red");
    folder.file("a.long", "red ".repeat(80));
    let mut config = folder.config();
    let file = |extension: &str, weight| CaptionFile { extension: extension.to_owned(), column: None, weight };
    config.subsets[0].captions = vec![file(".txt", 3.0), file(".long", 1.0)];
    let captions = inspect(&config).captions;
    assert_eq!(captions.by_extension, [(".long".to_owned(), 1), (".txt".to_owned(), 1)].into());
    assert_eq!((captions.tokens.over_long, captions.tokens.over_long_captions[0].tokens), (1, 80));
    assert_eq!((captions.distinct, captions.tags[0].tag.as_str()), (1, "red"));
    assert!(inspect(&config).text(80).contains("captions: 1 written (1 `.long`, 1 `.txt`)"));
}

#[test]
fn what_waits_and_what_is_not_needed_is_said_as_a_run_has_it() {
    let folder = with_copies();
    let config = folder.config();
    let inspection = inspect(&DataConfig { batch_size: 2, leftovers: Leftovers::Carry, ..config.clone() });
    let first = "5 images found, 5 kept; 2 to 3 batches an epoch, 1 image of the first in no batch, waiting for the next epoch\n";
    assert!(inspection.text(80).starts_with(first), "{}", inspection.text(80));
    assert!(inspection.carries);

    // Half of five images are two or three visits, and three of the regularization images are enough for them.
    let own = Subset { repeats: 0.5, ..config.subsets[0].clone() };
    let regularization = Subset { is_regularization: true, ..config.subsets[0].clone() };
    let inspection = inspect(&DataConfig { subsets: vec![own, regularization], ..config });
    let first = "10 images found, 8 kept (2 regularization images are not needed), 5 to 6 with repeats; \
                 5 to 6 batches an epoch\n";
    assert!(inspection.text(80).starts_with(first), "{}", inspection.text(80));
    assert_eq!(inspection.visits_per_epoch, inspection.buckets.iter().map(|bucket| bucket.visits).sum::<usize>());
}

#[test]
fn each_subset_is_sorted_into_its_own_buckets() {
    let folder = with_copies();
    let config = folder.config();
    let large = Subset { resolution: Some(Resolution::Square(128)), ..config.subsets[0].clone() };
    // The same size in batches of its own: one row for both.
    let apart = Subset { batch_size: Some(2), ..config.subsets[0].clone() };
    let inspection = inspect(&DataConfig { subsets: vec![config.subsets[0].clone(), large, apart], ..config });
    let counts: Vec<_> =
        inspection.buckets.iter().map(|b| (b.width, b.height, b.images, b.visits, b.batches)).collect();
    assert_eq!(counts[..3], [(48, 80, 2, 2, Some(2)), (64, 64, 4, 4, Some(3)), (80, 48, 4, 4, Some(3))]);
    assert_eq!(counts[3..].iter().map(|count| count.2).sum::<usize>(), 5);
    assert!(counts[3..].iter().all(|count| count.0 * count.1 > 96 * 96), "{counts:?}");
}

/// Two hundred pictures, each with a control image.
fn with_control_images() -> (Folder, DataConfig) {
    let folder = Folder::new();
    for index in 0..200 {
        let image = picture(64, 64, index % 7);
        folder.image(&format!("{index:03}.png"), &image);
        folder.image(&format!("{index:03}-edges.png"), &image);
    }
    let mut config = folder.config();
    config.caption.missing = MissingCaption::Empty;
    config.subsets[0].extra_images =
        vec![ExtraImages { column: "edges".to_owned(), path: None, suffix: "-edges".to_owned(), source_column: None }];
    (folder, config)
}

#[test]
fn control_images_are_counted_and_what_is_missing_to_train_on_them_is_said() {
    let (_folder, config) = with_control_images();
    let inspection = inspect(&config);
    assert_eq!((inspection.found, inspection.kept, inspection.extra_images["edges"]), (200, 200, 200));
    let [error] = &inspection.errors[..] else { panic!("{:?}", inspection.errors) };
    assert!(error.starts_with("`data.subsets.0.extra_images.0`: ") && error.contains("ControlNet"), "{error}");
    assert!(inspection.text(100).contains("; extra images: 200 `edges`\n"), "{}", inspection.text(100));
}

#[test]
fn an_image_whose_control_image_cannot_be_used_is_left_out_as_by_a_run() {
    let (folder, config) = with_control_images();
    folder.image("007-edges.png", &picture(64, 32, 0));
    let mut bytes = std::fs::read(folder.data().join("008-edges.png")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    folder.file("008-edges.png", bytes);
    let inspection = inspect(&config);
    let reasons: Vec<_> = inspection.dropped.iter().map(|dropped| (&dropped.path, &dropped.reason)).collect();
    let [(first, other_shape), (second, broken)] = reasons[..] else { panic!("{reasons:?}") };
    assert!(first.ends_with("007.png") && other_shape.contains("has 64 × 32 pixels, another shape"), "{other_shape}");
    assert!(second.ends_with("008.png") && broken.starts_with("its `edges` image `"), "{broken}");
    assert_eq!((inspection.kept, inspection.extra_images["edges"]), (198, 198));
    // The header of the broken one is whole.
    let quick = Survey::of(&config, Depth::Header, &|_, _| ()).unwrap();
    assert_eq!(inspected(&quick, Depth::Header, &config, 75).kept, 199);
}
