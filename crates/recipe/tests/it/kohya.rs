//! kohya's dataset file: what becomes of every key, and what is said about the ones that cannot be honoured.

use std::path::PathBuf;

use sdtrain_recipe::{ColorAugmentation, DataConfig, ResizeKernel, Resolution, SourceFormat, Subset};

use crate::project::Project;

/// A project whose data come from `configs/dataset.toml`; its folders are beside that file.
fn project(data: &str, dataset: &str) -> Project {
    let text = format!(
        "[model]\npath = \"builtin:poster-tiny\"\n[train]\nmax_steps = 10\n[data]\ncache_latents = false\n\
         kohya_config = \"dataset.toml\"\n{data}"
    );
    let project = Project::new(&text);
    for folder in ["configs/a", "configs/b"] {
        std::fs::create_dir(project.path(folder)).unwrap();
    }
    project.write("configs/meta.json", "{}");
    project.write("configs/dataset.toml", dataset);
    project
}

fn subset(project: &Project, path: &str) -> Subset {
    Subset {
        path: project.path(path),
        format: SourceFormat::Folder,
        recursive: false,
        caption_extension: ".caption".to_owned(),
        ..Subset::default()
    }
}

const TWO: &str = "\
[general]
shuffle_caption = true
caption_extension = 'txt'
keep_tokens = 1
enable_bucket = true

[[datasets]]
resolution = 512
batch_size = 4
keep_tokens = 2

  [[datasets.subsets]]
  image_dir = 'a'
  num_repeats = 10
  class_tokens = 'sks dog'
  flip_aug = true
  is_reg = false

  [[datasets.subsets]]
  image_dir = 'b'
  keep_tokens = 3
  shuffle_caption = false
  caption_dropout_rate = 0
  enable_wildcard = false

[[datasets]]
resolution = 512
batch_size = 4
  [[datasets.subsets]]
  metadata_file = 'meta.json'
  image_dir = 'a'
  cache_info = true
";

#[test]
fn a_json_file_says_the_same_and_its_mistakes_have_lines() {
    let project = project("", TWO);
    let file = project.path("configs/dataset.json");
    let json: serde_json::Value = toml::from_str(TWO).unwrap();
    std::fs::write(&file, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    let from_json = format!("data.kohya_config={}", file.display());
    assert_eq!(project.load_with(&[&from_json]).unwrap().config.data, project.load().data);

    let wrong = "{\n  \"general\": {\n    \"keep_token\": 1\n  },\n  \"datasets\": [{\"subsets\": [{\"image_dir\": \"a\"}]}]\n}";
    std::fs::write(&file, wrong).unwrap();
    let messages = project.load_with(&[&from_json]).unwrap_err().to_string();
    assert!(messages.contains("dataset.json:3") && messages.contains("did you mean `keep_tokens`?"), "{messages}");
}

#[test]
fn the_nearest_place_decides_and_the_defaults_are_kohyas() {
    let project = project("", TWO);
    let data = project.load().data;
    let txt = || ".txt".to_owned();
    let a = subset(&project, "configs/a");
    let b = subset(&project, "configs/b");
    let expected = DataConfig {
        resolution: Resolution::Square(512),
        batch_size: 4,
        subsets: vec![
            Subset {
                repeats: 10.0,
                class_tokens: Some("sks dog".to_owned()),
                flip: true,
                shuffle_caption: true,
                caption_extension: txt(),
                keep_tokens: 2,
                ..a.clone()
            },
            Subset { caption_extension: txt(), keep_tokens: 3, ..b },
            Subset {
                shuffle_caption: true,
                caption_extension: txt(),
                keep_tokens: 1,
                format: SourceFormat::KohyaMetadata,
                metadata_file: Some(project.path("configs/meta.json")),
                ..a
            },
        ],
        cache_latents: false,
        ..DataConfig::default()
    };
    assert_eq!(data.subsets, expected.subsets);
    assert_eq!((data.resolution, data.batch_size, data.kohya_config), (Resolution::Square(512), 4, None));
    let bucketing = &data.bucketing;
    assert_eq!(
        (bucketing.enabled, bucketing.min, bucketing.max, bucketing.step),
        (true, Some(256), Some(1024), Some(64))
    );
}

#[test]
fn our_own_keys_stand_where_kohya_has_its_command_line() {
    let file = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n";
    let project_of = |data| project(data, file).load().data;
    let data = project_of("resolution = [512, 768]\nbatch_size = 3\nbucketing = { enabled = true, max = 2048 }");
    assert_eq!((data.resolution, data.batch_size), (Resolution::Size([512, 768]), 3));
    assert_eq!((data.bucketing.enabled, data.bucketing.min, data.bucketing.max), (true, Some(256), Some(2048)));
    let messages = project("", file).messages_with(&[]);
    assert!(messages.contains("configs/dataset.toml:1: `resolution` is not set"), "{messages}");
    let data = project_of("resolution = 64");
    assert_eq!((data.batch_size, data.bucketing.enabled), (1, false));
}

#[test]
fn a_resolution_is_a_number_a_list_or_text() {
    let of = |text: &str| {
        let file = format!("[general]\nresolution = {text}\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n");
        project("", &file).load().data.resolution
    };
    for (text, expected) in [
        ("512", Resolution::Square(512)),
        ("'512'", Resolution::Square(512)),
        ("[512, 768]", Resolution::Size([512, 768])),
        ("'512, 768'", Resolution::Size([512, 768])),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_named_at_its_line() {
    let file = "\
[general]
resolution = true
shufle_caption = true
image_dir = 'a'
validation_split = 0.1
face_crop_aug_range = [1.0, 3.0]
network_multiplier = 1.0
[[datasets]]
network_multiplier = 0.5
[[datasets.subsets]]
image_dir = 'a'
batch_size = 2
custom_attributes = { x = 1 }
[[datasets]]
subsets = 3
[extra]
";
    let expected = "\
error: configs/dataset.toml:2: `general.resolution` must be a number or `[width, height]`, not true
error: configs/dataset.toml:3: unknown key `general.shufle_caption`
  hint: did you mean `shuffle_caption`?
error: configs/dataset.toml:4: `image_dir` belongs into `[[datasets.subsets]]`
error: configs/dataset.toml:5: `general.validation_split` is not supported: validation images are chosen once for the whole \
run, so that none of them is trained on
  hint: set `split` in the section `[validation]`
error: configs/dataset.toml:6: `general.face_crop_aug_range` is not supported: images are not cut around faces
  hint: cut them beforehand, or set `random_crop = true`
error: configs/dataset.toml:9: `datasets.0.network_multiplier` is not supported: the strength of a LoRA is not changed for \
some images
  hint: leave it at 1.0; images count more with `num_repeats`
error: configs/dataset.toml:12: `batch_size` holds for a whole dataset
  hint: write it into `[[datasets]]` or `[general]`
error: configs/dataset.toml:13: `datasets.0.subsets.0.custom_attributes` is not supported: only scripts of one's own read it
  hint: remove it
error: configs/dataset.toml:15: `datasets.1.subsets` must be written as `[[datasets.subsets]]`
error: configs/dataset.toml:16: unknown key `extra`
  hint: a dataset file has `[general]` and `[[datasets]]`";
    assert_eq!(project("", file).messages_with(&[]), expected);
}

#[test]
fn each_dataset_keeps_its_size_batch_and_buckets() {
    let file = "\
[general]
enable_bucket = true
batch_size = 4
[[datasets]]
resolution = 512
[[datasets.subsets]]
image_dir = 'a'
[[datasets]]
resolution = [1024, 768]
batch_size = 1
max_bucket_reso = 2048
[[datasets.subsets]]
image_dir = 'a'
[[datasets.subsets]]
image_dir = 'b'
is_reg = true
[[datasets]]
resolution = 512
[[datasets.subsets]]
image_dir = 'b'
";
    let data = project("", file).load().data;
    assert_eq!((data.resolution, data.batch_size), (Resolution::Square(512), 4));
    let [first, second, third, fourth] = &data.subsets[..] else { panic!("{:?}", data.subsets) };
    for like_the_first in [first, fourth] {
        assert_eq!(data.batching(like_the_first), data.own_batching());
        assert_eq!((like_the_first.resolution, &like_the_first.bucketing), (None, &None));
    }
    for own in [second, third] {
        assert_eq!((own.resolution, own.batch_size), (Some(Resolution::Size([1024, 768])), Some(1)));
        let bucketing = own.bucketing.as_ref().expect("buckets of its own");
        assert_eq!((bucketing.enabled, bucketing.min, bucketing.max), (true, Some(256), Some(2048)));
    }
    assert_eq!([first, second, third, fourth].map(|subset| subset.is_regularization), [false, false, true, false]);
    assert_eq!(data.batchings().len(), 2);
}

#[test]
fn what_is_wrong_in_a_second_dataset_is_named_at_its_line() {
    let file = "\
[[datasets]]
resolution = 512
[[datasets.subsets]]
image_dir = 'a'
[[datasets.subsets]]
image_dir = 'a'
[[datasets]]
resolution = 768
batch_size = 0
min_bucket_reso = 4096
[[datasets.subsets]]
num_repeats = 2
[[datasets.subsets]]
image_dir = 'b'
";
    let messages = project("", file).messages_with(&[]);
    for message in [
        "configs/dataset.toml:5: `configs/a` is named twice in this dataset",
        "configs/dataset.toml:9: `data.subsets.2.batch_size` must be at least 1, not 0",
        "configs/dataset.toml:10: the shortest bucket side, 4096, is longer than the longest, 1024",
        "configs/dataset.toml:11: `datasets.1.subsets.0` has neither `image_dir` nor `metadata_file`",
    ] {
        assert!(messages.contains(message), "{message}\n{messages}");
    }
    let file = "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'a'\n\
                [[datasets]]\n[[datasets.subsets]]\nimage_dir = 'b'\n";
    let messages = project("", file).messages_with(&[]);
    assert!(messages.contains("configs/dataset.toml:5: `resolution` is not set"), "{messages}");
}

#[test]
fn checks_of_our_own_point_into_kohyas_file() {
    let file = "\
[general]
resolution = 512
caption_dropout_rate = 1.5
[[datasets]]
[[datasets.subsets]]
image_dir = 'gone'
num_repeats = 0
";
    let messages = project("", file).messages_with(&[]);
    assert!(
        messages.contains("configs/dataset.toml:3: `data.subsets.0.caption_dropout_rate` must be between"),
        "{messages}"
    );
    assert!(messages.contains("configs/dataset.toml:6: `data.subsets.0.path`"), "{messages}");
    assert!(messages.contains("configs/dataset.toml:7: `data.subsets.0.repeats` must be greater than 0"), "{messages}");
}

#[test]
fn the_file_itself_must_be_there_and_alone() {
    let none = project("", "");
    assert!(none.messages_with(&[]).contains("there is no `[[datasets]]`"), "{}", none.messages_with(&[]));
    std::fs::remove_file(none.path("configs/dataset.toml")).unwrap();
    assert!(
        none.messages_with(&[])
            .contains("configs/run.toml:7: `data.kohya_config`: `configs/dataset.toml` does not exist")
    );
    let both = project("[[data.subsets]]\npath = 'a'\n", TWO).messages_with(&[]);
    assert!(both.contains("`data.kohya_config` and `data.subsets` are both set"), "{both}");
}

#[test]
fn a_dataset_file_in_the_place_of_a_configuration_is_recognised() {
    let messages = Project::new(TWO).messages_with(&[]);
    assert!(messages.contains("hint: a dataset file of kohya's scripts is named in a configuration"), "{messages}");
}

#[test]
fn paths_start_at_the_current_folder_before_the_files_own() {
    // The tests run in the crate's folder, which has `src`.
    let file = "[general]\nresolution = 64\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'src'\n";
    let project = project("", file);
    std::fs::create_dir(project.path("configs/src")).unwrap();
    assert_eq!(project.load().data.subsets[0].path, PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src"));
}

/// Every key of the list in the scripts' documentation is either taken over or refused by name; none is unknown.
#[test]
fn every_key_of_kohyas_schema_is_known() {
    let subset_keys = [
        "num_repeats = 2",
        "shuffle_caption = true",
        "caption_separator = ';'",
        "keep_tokens = 1",
        "keep_tokens_separator = '|||'",
        "secondary_separator = ';;;'",
        "enable_wildcard = true",
        "caption_prefix = 'a'",
        "caption_suffix = 'b'",
        "caption_dropout_rate = 0.1",
        "caption_dropout_every_n_epochs = 2",
        "caption_tag_dropout_rate = 0.1",
        "color_aug = true",
        "flip_aug = true",
        "random_crop = true",
        "face_crop_aug_range = [1.0, 2.0]",
        "token_warmup_min = 2",
        "token_warmup_step = 0.5",
        "custom_attributes = {a = 1}",
        "class_tokens = 'a'",
        "is_reg = true",
        "alpha_mask = true",
        "cache_info = true",
        "caption_extension = '.txt'",
        "metadata_file = 'meta.json'",
        "conditioning_data_dir = 'b'",
        "resize_interpolation = 'area'",
    ];
    for key in subset_keys {
        let file = format!(
            "[general]\nresolution = 64\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n{key}\n\
             [[datasets.subsets]]\nimage_dir = 'b'\n"
        );
        match project("", &file).load_with(&[]) {
            Ok(_) => {}
            Err(problems) => assert!(problems.to_string().contains("is not supported: "), "{key}: {problems}"),
        }
    }
}

#[test]
fn keys_of_images_become_ours() {
    let image_dir = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n";
    let of = |general: &str, own: &str| {
        let file = format!("[general]\nresolution = 64\n{general}\n{image_dir}{own}\n");
        project("", &file).load().data.subsets.remove(0)
    };
    let changed = Some(ColorAugmentation::default());
    assert_eq!(of("", "color_aug = true").color_augmentation, changed);
    assert_eq!(of("color_aug = true", "").color_augmentation, changed);
    assert_eq!(of("color_aug = true", "color_aug = false").color_augmentation, None);
    assert!(of("", "alpha_mask = true").alpha_mask);
    for (theirs, ours) in [
        ("lanczos", ResizeKernel::Lanczos),
        ("nearest", ResizeKernel::Nearest),
        ("bilinear", ResizeKernel::Bilinear),
        ("linear", ResizeKernel::Bilinear),
        ("bicubic", ResizeKernel::Bicubic),
        ("cubic", ResizeKernel::Bicubic),
        ("area", ResizeKernel::Area),
    ] {
        assert_eq!(of(&format!("resize_interpolation = '{theirs}'"), "").resize_kernel, Some(ours), "{theirs}");
    }
    let file = format!("[general]\nresolution = 64\nresize_interpolation = 'sinc'\n{image_dir}color_aug = true\n");
    let messages = project("", &file).messages_with(&[]);
    assert!(
        messages.contains("dataset.toml:3: `general.resize_interpolation` is not supported: unknown"),
        "{messages}"
    );
    let file = format!("[general]\nresolution = 64\n{image_dir}color_aug = true\n");
    let messages = project("", &file).messages_with(&["data.cache_latents=true"]);
    assert!(messages.contains("dataset.toml:6: cached latents cannot change their colours"), "{messages}");
}

#[test]
fn a_value_that_does_not_fit_is_named_at_its_line() {
    let file = "[general]\nresolution = 64\nkeep_tokens = -1\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n";
    let messages = project("", file).messages_with(&[]);
    assert!(
        messages.starts_with("error: configs/dataset.toml:3: `general.keep_tokens` is not supported: invalid value"),
        "{messages}"
    );
}

#[test]
fn random_crops_without_buckets_are_cut_out_of_the_unscaled_image() {
    let dataset = |bucket: bool, crop: bool| {
        let text = format!(
            "[[datasets]]\nresolution = 64\nenable_bucket = {bucket}\n[[datasets.subsets]]\nimage_dir = 'a'\nrandom_crop = {crop}\n"
        );
        project("", &text).load().data.subsets[0].crop_unscaled
    };
    assert_eq!([dataset(false, true), dataset(true, true), dataset(false, false)], [true, false, false]);
}

#[test]
fn keeping_the_base_models_output_is_pointed_to_where_it_is_set() {
    let text = "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'a'\n\
                custom_attributes.diff_output_preservation = true\n";
    let messages = project("", text).messages_with(&[]);
    assert!(
        messages.contains("custom_attributes.diff_output_preservation` is not supported: what the untrained"),
        "{messages}"
    );
    assert!(messages.contains("`prior = \"base_prediction\"`"), "{messages}");
    project("", &text.replace("true", "false")).load();
}
