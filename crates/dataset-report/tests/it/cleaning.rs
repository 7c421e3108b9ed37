//! What is taken out, where it goes, and that it comes back.

use std::fs;
use std::path::Path;

use sdtrain_dataset_report::Error;
use sdtrain_dataset_report::clean::{Plan, apply, undo};
use sdtrain_recipe::{DataConfig, Duplicates, ExtraImages, MASK_COLUMN, Subset};

use crate::folder::{Folder, picture, survey};

fn plan(config: &DataConfig) -> Plan {
    Plan::of(&survey(config), config, None).unwrap()
}

fn taken_out(plan: &Plan) -> Vec<(&str, Vec<&str>)> {
    let rules = |removal: &sdtrain_dataset_report::clean::Removal| removal.reasons.iter().map(|r| r.rule).collect();
    plan.removals.iter().map(|removal| (removal.file.as_str(), rules(removal))).collect()
}

/// A large picture, a small one in a folder with a caption and latents, and a broken one.
fn mixed() -> Folder {
    let folder = Folder::new();
    folder.image("large.png", &picture(96, 96, 0));
    folder.file("large.txt", "a large one");
    folder.image("in/small.png", &picture(32, 32, 1));
    folder.file("in/small.txt", "a small one");
    folder.file("in/small.npz", "latents");
    folder.file("in/smaller.txt", "of nobody");
    folder.file("broken.jpg", "no picture");
    folder
}

fn at_least_64(folder: &Folder) -> DataConfig {
    let mut config = folder.config();
    config.clean.min_side = 64;
    config
}

#[test]
fn images_go_with_their_files_and_come_back() {
    let folder = mixed();
    let before = folder.files();
    let plan = plan(&at_least_64(&folder));
    assert_eq!(taken_out(&plan), [("broken.jpg", vec!["broken"]), ("in/small.png", vec!["min_side"])]);
    assert_eq!(plan.removals[1].with, ["in/small.npz", "in/small.txt"]);
    assert_eq!(folder.files(), before, "a plan moves nothing");

    let moved = apply(&plan).unwrap();
    assert_eq!((moved.images, moved.others, moved.failed.len()), (2, 2, 0));
    assert_eq!(
        folder.names(),
        [
            "images-removed/broken.jpg",
            "images-removed/in/small.npz",
            "images-removed/in/small.png",
            "images-removed/in/small.txt",
            "images/in/smaller.txt",
            "images/large.png",
            "images/large.txt",
        ]
    );

    let restored = undo(Path::new(&moved.manifests[0])).unwrap();
    assert_eq!((restored.files, restored.in_place, restored.failed.len()), (4, 0, 0));
    assert_eq!(folder.files(), before);
    assert!(!folder.root().join("images-removed/in").exists());
}

#[test]
fn a_run_killed_between_two_moves_is_undone() {
    let folder = mixed();
    let before = folder.files();
    let manifest = apply(&plan(&at_least_64(&folder))).unwrap().manifests.remove(0);
    // As if only some files had been moved when it was killed.
    let root = folder.root();
    fs::rename(root.join("images-removed/in/small.txt"), root.join("images/in/small.txt")).unwrap();
    let restored = undo(Path::new(&manifest)).unwrap();
    assert_eq!((restored.files, restored.in_place), (3, 1));
    assert_eq!(folder.files(), before);
}

#[test]
fn no_name_that_is_taken_is_overwritten_on_either_way() {
    let folder = mixed();
    let root = folder.root();
    fs::create_dir_all(root.join("images-removed/in")).unwrap();
    fs::write(root.join("images-removed/in/small.png"), "older").unwrap();
    let moved = apply(&plan(&at_least_64(&folder))).unwrap();
    assert_eq!((moved.images, moved.others), (1, 0), "the caption stays with its image");
    assert!(moved.failed[0].reason.contains("is there already"), "{:?}", moved.failed);
    assert_eq!(fs::read(root.join("images-removed/in/small.png")).unwrap(), b"older");

    fs::write(root.join("images/broken.jpg"), "newer").unwrap();
    let restored = undo(Path::new(&moved.manifests[0])).unwrap();
    assert!(restored.failed.iter().any(|failed| failed.reason.contains("is there already")), "{restored:?}");
    assert_eq!(fs::read(root.join("images/broken.jpg")).unwrap(), b"newer");
    assert!(Path::new(&moved.manifests[0]).exists(), "an undoing with failures can be repeated");
}

#[test]
fn a_second_cleaning_has_a_manifest_of_its_own() {
    let folder = mixed();
    folder.image("other.png", &picture(80, 80, 4));
    let first = apply(&plan(&at_least_64(&folder))).unwrap();
    let mut config = folder.config();
    config.clean.min_side = 90;
    let second = apply(&plan(&config)).unwrap();
    assert!(first.manifests[0].ends_with("manifest-0001.jsonl"));
    assert!(second.manifests[0].ends_with("manifest-0002.jsonl"));
    for manifest in [&first.manifests[0], &second.manifests[0]] {
        undo(Path::new(manifest)).unwrap();
    }
    assert!(folder.names().iter().all(|name| name.starts_with("images/")));
}

#[test]
fn both_folders_may_be_moved_before_it_is_undone() {
    let folder = mixed();
    let before = folder.files();
    apply(&plan(&at_least_64(&folder))).unwrap();
    let (root, other) = (folder.root(), tempfile::tempdir().unwrap());
    for name in ["images", "images-removed"] {
        fs::rename(root.join(name), other.path().join(name)).unwrap();
    }
    undo(&other.path().join("images-removed/manifest-0001.jsonl")).unwrap();
    fs::rename(other.path().join("images"), root.join("images")).unwrap();
    assert_eq!(folder.files(), before);
}

#[test]
fn of_copies_the_largest_stays_and_one_that_goes_anyway_protects_none() {
    let folder = Folder::new();
    folder.image("huge.png", &picture(200, 200, 0));
    folder.image("large.png", &picture(96, 96, 0));
    folder.image("small.png", &picture(64, 64, 0));
    folder.image("other.png", &picture(64, 64, 3));
    let mut config = folder.config();
    config.clean.max_side = 100;
    assert_eq!(taken_out(&plan(&config)), [("huge.png", vec!["max_side"]), ("small.png", vec!["duplicates"])]);
    config.clean.duplicates = Duplicates::Exact;
    assert_eq!(taken_out(&plan(&config)), [("huge.png", vec!["max_side"])]);
    fs::copy(folder.data().join("other.png"), folder.data().join("again.png")).unwrap();
    folder.file("other.txt", "captioned, so this one stays");
    assert_eq!(taken_out(&plan(&config))[0], ("again.png", vec!["duplicates"]));
    config.clean.duplicates = Duplicates::Keep;
    assert_eq!(plan(&config).removals.len(), 1);
}

#[test]
fn blurred_images_are_taken_out_where_asked() {
    let folder = Folder::new();
    folder.image("sharp.png", &picture(96, 96, 0));
    folder.image("blurred.png", &image::imageops::blur(&picture(96, 96, 2), 4.0));
    let mut config = folder.config();
    assert!(plan(&config).removals.is_empty());
    config.clean.min_sharpness = 20.0;
    assert_eq!(taken_out(&plan(&config)), [("blurred.png", vec!["min_sharpness"])]);
}

#[test]
fn a_caption_shared_with_an_image_that_stays_stays() {
    let folder = Folder::new();
    folder.image("a.png", &picture(96, 96, 0));
    folder.jpeg("a.jpg", &picture(32, 32, 1), 90);
    folder.file("a.txt", "of both");
    let plan = plan(&at_least_64(&folder));
    assert_eq!(taken_out(&plan), [("a.jpg", vec!["min_side"])]);
    assert_eq!(plan.removals[0].with, Vec::<String>::new());
}

/// Masks beside the images of `mixed`, and control images in a folder of their own.
fn with_extra_images(folder: &Folder) -> DataConfig {
    let control = folder.root().join("control");
    for (name, side) in [("large", 96), ("in/small", 32)] {
        folder.image(&format!("{name}-mask.png"), &picture(side, side, 7));
        fs::create_dir_all(control.join("in")).unwrap();
        picture(side, side, 8).save(control.join(format!("{name}.png"))).unwrap();
    }
    let mut config = at_least_64(folder);
    config.subsets[0].extra_images = vec![
        ExtraImages { column: MASK_COLUMN.to_owned(), path: None, suffix: "-mask".to_owned(), source_column: None },
        ExtraImages { column: "control".to_owned(), path: Some(control), suffix: String::new(), source_column: None },
    ];
    config
}

#[test]
fn masks_and_control_images_go_with_their_image_and_come_back() {
    let folder = mixed();
    let config = with_extra_images(&folder);
    let before = folder.files();
    let plan = plan(&config);
    assert_eq!(taken_out(&plan), [("broken.jpg", vec!["broken"]), ("in/small.png", vec!["min_side"])]);
    assert_eq!(plan.removals[1].with, ["in/small.npz", "in/small.txt", "in/small-mask.png"]);
    assert_eq!(plan.removals[1].elsewhere[0].file, "in/small.png");
    let moved = apply(&plan).unwrap();
    assert_eq!((moved.images, moved.others, moved.failed.len(), moved.manifests.len()), (2, 4, 0, 2));
    let names = folder.names();
    for name in ["control-removed/in/small.png", "images-removed/in/small-mask.png", "control/large.png"] {
        assert!(names.iter().any(|other| other == name), "{name}: {names:?}");
    }
    for manifest in &moved.manifests {
        undo(Path::new(manifest)).unwrap();
    }
    assert_eq!(folder.files(), before);
}

#[test]
fn a_mask_that_an_image_which_stays_has_too_stays() {
    let folder = Folder::new();
    folder.image("a.png", &picture(96, 96, 0));
    folder.jpeg("a.jpg", &picture(32, 32, 1), 90);
    folder.image("a-mask.png", &picture(96, 96, 2));
    let mut config = at_least_64(&folder);
    let mask =
        ExtraImages { column: MASK_COLUMN.to_owned(), path: None, suffix: "-mask".to_owned(), source_column: None };
    config.subsets[0].extra_images = vec![mask];
    let plan = plan(&config);
    assert_eq!(taken_out(&plan), [("a.jpg", vec!["min_side"])]);
    assert_eq!(plan.removals[0].with, Vec::<String>::new());
}

#[test]
fn rows_of_a_table_stay_and_that_is_said() {
    let folder = Folder::new();
    folder.image("a.png", &picture(96, 96, 0));
    folder.image("b.png", &picture(32, 32, 1));
    assert!(plan(&at_least_64(&folder)).notes.is_empty());
    folder.file("metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"a\"}\n{\"file_name\": \"b.png\"}\n");
    let plan = plan(&at_least_64(&folder));
    assert_eq!(taken_out(&plan), [("b.png", vec!["min_side"])]);
    let data = folder.data();
    let expected = format!("the table of `{}` is not changed and keeps the rows of 1 images", data.display());
    assert!(plan.notes.len() == 1 && plan.notes[0].starts_with(&expected), "{:?}", plan.notes);
}

#[test]
fn taking_everything_out_is_refused() {
    let folder = mixed();
    let mut config = folder.config();
    config.clean.min_side = 1000;
    let before = folder.files();
    assert!(matches!(apply(&plan(&config)), Err(Error::NothingLeft(3))));
    assert_eq!(folder.files(), before);
}

#[test]
fn a_subset_within_another_is_cleaned_once_and_nothing_lands_in_the_data() {
    let folder = mixed();
    let mut config = at_least_64(&folder);
    config.subsets.push(Subset { path: folder.data().join("in"), ..Subset::default() });
    let plan = plan(&config);
    assert_eq!(taken_out(&plan), [("broken.jpg", vec!["broken"]), ("in/small.png", vec!["min_side"])]);
    assert!(plan.removals.iter().all(|removal| removal.to == folder.root().join("images-removed")));
    let inside = folder.data().join("removed");
    let refused = Plan::of(&survey(&config), &config, Some(&inside));
    assert!(matches!(refused, Err(Error::Target { .. })), "{refused:?}");
}

#[cfg(unix)]
#[test]
fn links_are_never_moved_and_never_left_dangling_by_their_own_copy() {
    let folder = mixed();
    let store = tempfile::tempdir().unwrap();
    picture(32, 32, 7).save(store.path().join("x.png")).unwrap();
    std::os::unix::fs::symlink(store.path().join("x.png"), folder.data().join("linked.png")).unwrap();
    std::os::unix::fs::symlink("large.png", folder.data().join("alias.png")).unwrap();
    let plan = plan(&at_least_64(&folder));
    assert!(!taken_out(&plan).iter().any(|(file, _)| ["linked.png", "alias.png", "large.png"].contains(file)));
    assert_eq!(plan.staying.len(), 1);
    assert!(plan.staying[0].path.ends_with("linked.png") && plan.staying[0].reason.contains("is a link"));
}

#[test]
fn a_manifest_that_is_cut_off_or_leads_elsewhere_is_refused() {
    let folder = mixed();
    let manifest = apply(&plan(&at_least_64(&folder))).unwrap().manifests.remove(0);
    let text = fs::read_to_string(&manifest).unwrap();
    let after = folder.files();
    let lines: Vec<&str> = text.lines().collect();
    for broken in [
        String::new(),
        "{}".to_owned(),
        lines[..lines.len() - 1].join("\n"),
        text[..text.len() - 8].to_owned(),
        text.replace("broken.jpg", "../../broken.jpg"),
        text.replace("broken.jpg", "/etc/hostname"),
        text.replace("broken.jpg", ""),
        text.replace("\"sdtrain_clean\":1", "\"sdtrain_clean\":2"),
    ] {
        fs::write(&manifest, &broken).unwrap();
        assert!(matches!(undo(Path::new(&manifest)), Err(Error::Manifest { .. })), "{broken}");
    }
    assert_eq!(folder.files(), after);
}
