//! What a loaded configuration holds, and that it survives being written.

use sdtrain_recipe::{
    BucketingConfig, ColorAugmentation, DataConfig, ExtraImages, FloatType, LrScheduleConfig, Method, OptimizerConfig,
    Resolution, SourceFormat, Subset, TrainConfig,
};

use crate::project::{Project, SMALLEST};

#[test]
fn what_is_not_written_has_its_default() {
    let config = Project::new(SMALLEST).load();
    assert_eq!(config.name, "run");
    assert_eq!(config.method, Method::Lora);
    assert_eq!(config.data.resolution, Resolution::Square(512));
    assert_eq!((config.lora.rank, config.lora.effective_alpha()), (16, 16.0));
    assert_eq!(config.optimizer.learning_rate(), 1e-4);
    assert_eq!(config.train.clip_norm(), Some(1.0));
    assert!(config.checkpoint.every().due_after_step(500));
    assert!(config.save.every().is_never());
}

#[test]
fn the_documented_example_is_read() {
    let project = Project::new(
        r#"
name    = "lora_poster"
method  = "lora"
seed    = 42
[model]
path   = "builtin:poster-tiny"
[data]
resolution = 512
batch_size = 4
[[data.subsets]]
path = "../images"
repeats = 10
shuffle_caption = true
keep_tokens = 1
[lora]
rank = 16
alpha = 16
[optimizer]
type = "adamw"
learning_rate = 1e-4
[lr_schedule]
type = "cosine"
warmup_steps = 50
[noise]
offset = 0.05
[precision]
compute = "bf16"
[train]
max_steps = 1000
gradient_checkpointing = true
gradient_accumulation_steps = 1
max_grad_norm = 1.0
[checkpoint]
every_steps = 250
keep_last = 2
[save]
every_epochs = 2
[samples]
every_steps = 250
prompts = ["poster, a red bottle"]
[validation]
path = "../images"
every_steps = 250
[debug]
trace = "trace.safetensors"
trace_steps = 10
"#,
    );
    let config = project.load();
    assert_eq!(config.precision.compute, FloatType::Bf16);
    assert!(matches!(&config.lr_schedule, LrScheduleConfig::Cosine(cosine) if cosine.warmup_steps == 50.0));
    let OptimizerConfig::AdamW(adamw) = &config.optimizer else { panic!("{:?}", config.optimizer) };
    assert_eq!(adamw.betas, [0.9, 0.999]);
    assert_eq!(config.data.subsets[0].path, project.path("images"));
    assert_eq!(config.validation.path, Some(project.path("images")));
    let current = std::env::current_dir().expect("there is one");
    assert_eq!(config.debug.trace, Some(current.join("trace.safetensors")));
}

#[test]
fn a_written_configuration_runs_again_and_is_equal() {
    let overrides = ["lora.dropout=0.1", "optimizer.learning_rate=3.3e-7", "samples.sampler=dpmpp_2m_karras"];
    let config = Project::new(SMALLEST).load_with(&overrides).expect("right").config;
    // The subset's folder must exist still, and is named absolutely.
    let mut config = config;
    let elsewhere = Project::new("");
    config.data.subsets[0].path = elsewhere.path("images");
    elsewhere.write("configs/run.toml", &config.to_toml());
    assert_eq!(elsewhere.load(), config);
}

#[test]
fn the_default_of_every_key_survives_being_written() {
    let text = TrainConfig::default().to_toml();
    let read: TrainConfig = toml::from_str(&text).expect("it was just written");
    assert_eq!(read, TrainConfig::default());
}

#[test]
fn several_caption_files_survive_being_written() {
    let text = format!(
        "{SMALLEST}[[data.subsets]]\npath = \"../images\"\nclass_tokens = \"a\"\n\
         [[data.subsets.captions]]\nextension = \".long\"\nweight = 95\n[[data.subsets.captions]]\nextension = \".txt\"\n"
    );
    let project = Project::new(&text);
    let config = project.load();
    assert_eq!(config.data.subsets[1].caption_extensions(), [".long", ".txt"]);
    assert_eq!(config.data.subsets[1].captions[1].weight, 1.0);
    project.write("configs/run.toml", &config.to_toml());
    assert_eq!(project.load(), config);
}

#[test]
fn an_override_of_the_length_wins_over_the_file_and_a_file_over_its_base() {
    let project = Project::new(SMALLEST);
    let config = project.load_with(&["train.max_epochs=2"]).expect("right").config;
    assert_eq!((config.train.max_steps, config.train.max_epochs), (None, Some(2)));

    project.write("configs/longer.toml", "extends = \"run.toml\"\n[train]\nmax_epochs = 3\n");
    let config = TrainConfig::load(&project.path("configs/longer.toml"), &[]).expect("right").config;
    assert_eq!((config.name.as_str(), config.train.max_steps, config.train.max_epochs), ("longer", None, Some(3)));
    assert_eq!(config.extends, None);
}

#[test]
fn differing_keys_are_named() {
    let project = Project::new(SMALLEST);
    let one = project.load();
    let other = project
        .load_with(&["seed=1", "lora.alpha=8", "data.subsets.0.repeats=2", "lr_schedule.type=linear"])
        .expect("right")
        .config;
    assert_eq!(
        one.differing_keys(&other),
        ["data.subsets", "lora.alpha", "lr_schedule.min_ratio", "lr_schedule.type", "seed"]
    );
    assert!(one.differing_keys(&one).is_empty());
}

#[test]
fn a_path_of_the_command_line_is_relative_to_the_current_folder() {
    let project = Project::new(SMALLEST);
    let config = project.load_with(&["data.subsets.0.path=src"]).expect("tests run in the crate's folder").config;
    assert_eq!(config.data.subsets[0].path, std::env::current_dir().expect("there is one").join("src"));
}

#[test]
fn a_cache_lies_beside_the_file_that_names_it() {
    let project = Project::new(&format!("{SMALLEST}[data]\ncache_dir = \"../cache\"\n"));
    assert_eq!(project.load().data.cache_dir, Some(project.path("cache")));
    project.write("cache", "");
    assert_eq!(
        project.messages_with(&[]),
        "error: configs/run.toml:8: `data.cache_dir`: `cache` is a file, not a folder"
    );
    let project = Project::new(&format!("{SMALLEST}[data]\ncache_dir = \"\"\n"));
    assert_eq!(project.messages_with(&[]), "error: configs/run.toml:8: `data.cache_dir` is empty");
    let project = Project::new(&format!("{SMALLEST}[data]\ncache_latents_to_disk = true\n"));
    assert!(project.messages_with(&[]).contains("it is called `data.cache_dir` here"));
}

#[test]
fn held_out_images_take_over_captions_but_nothing_that_belongs_to_the_training_folder() {
    let config = Project::new(SMALLEST).load();
    let first = Subset {
        format: SourceFormat::Metadata,
        recursive: false,
        metadata_file: Some("table.jsonl".into()),
        image_column: Some("picture".to_owned()),
        caption_column: Some("words".to_owned()),
        conditioning_image_column: Some("edges".to_owned()),
        repeats: 5.0,
        weight: Some(2.0),
        is_regularization: true,
        resolution: Some(Resolution::Square(64)),
        batch_size: Some(3),
        bucketing: Some(BucketingConfig::default()),
        flip: true,
        random_crop: true,
        color_augmentation: Some(ColorAugmentation::default()),
        extra_images: vec![ExtraImages { column: "mask".to_owned(), ..ExtraImages::default() }],
        caption_prefix: Some("poster of".to_owned()),
        caption_extension: ".caption".to_owned(),
        ..Subset::default()
    };
    let data = DataConfig { subsets: vec![first], ..config.data.clone() };
    let config = TrainConfig { data, ..config };
    let expected = Subset {
        path: "held-out".into(),
        caption_prefix: Some("poster of".to_owned()),
        caption_extension: ".caption".to_owned(),
        ..Subset::default()
    };
    assert_eq!(config.held_out_subset("held-out".as_ref()), expected);
}

#[test]
fn held_out_images_that_are_stored_alike_are_read_alike() {
    let project = Project::new(SMALLEST);
    let config = project.load();
    for folder in ["data", "masked"] {
        std::fs::create_dir(project.path(folder)).unwrap();
    }
    project.write("data/train-0.parquet", "");
    project.write("data/validation-0.parquet", "");
    project.write("masked/a.png", "");
    let column = |name: &str| Some(name.to_owned());
    let extra = |source: Option<&str>, suffix: &str| ExtraImages {
        column: "mask".to_owned(),
        source_column: source.map(str::to_owned),
        suffix: suffix.to_owned(),
        path: None,
    };
    let of = |first: Subset, path: &str| {
        let data = DataConfig { subsets: vec![first], ..config.data.clone() };
        TrainConfig { data, ..config.clone() }.held_out_subset(&project.path(path))
    };
    let parquet = |path: &str| Subset {
        path: project.path(path),
        image_column: column("picture"),
        caption_column: column("words"),
        extra_images: vec![extra(Some("m"), "")],
        ..Subset::default()
    };
    for training in ["data/train-*.parquet", "data/train-0.parquet"] {
        let expected = parquet("data/validation-*.parquet");
        assert_eq!(of(parquet(training), "data/validation-*.parquet"), expected, "{training}");
    }
    // Shards have nothing of a folder's names, and a folder nothing of theirs.
    let plain = Subset { path: project.path("masked"), ..Subset::default() };
    assert_eq!(of(parquet("data"), "masked"), plain);
    let beside = Subset { extra_images: vec![extra(None, "-m")], ..plain };
    assert_eq!(of(Subset { path: project.path("images"), ..beside.clone() }, "masked"), beside);
    let own =
        Subset { extra_images: vec![ExtraImages { path: Some("masks".into()), ..extra(None, "") }], ..beside.clone() };
    assert_eq!(of(own, "masked").extra_images, Vec::new());
}

#[test]
fn held_out_images_may_be_files_or_a_pattern() {
    for path in ["../data/validation-*.parquet", "../data/v-{0..3}.tar", "https://host/v-{0..3}.tar"] {
        let text = format!("{SMALLEST}[validation]\npath = \"{path}\"\n");
        let config = Project::new(&text).load();
        let address = path.starts_with("https");
        assert_eq!(config.validation.path.unwrap().starts_with("https://host"), address, "{path}");
    }
    let text = format!("{SMALLEST}[validation]\npath = \"../gone\"\n");
    assert!(Project::new(&text).messages_with(&[]).contains("`validation.path`: `gone` does not exist"));
}
