//! A run learns the same whether latents and text states are made in its steps, beforehand, or long before it.

use sdtrain_recipe::TrainConfig;
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Outcome, Prefill, ResumePolicy, RunOptions, Watcher, fill_cache, train};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Five pictures for training, whose captions are different at each visit, and two to validate with.
fn project() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (images, count) in [("images", 5u8), ("held-out", 2)] {
        fs::create_dir(folder.path().join(images)).expect("a new folder");
        for number in 0..count {
            let path = folder.path().join(images).join(format!("{number}.png"));
            let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([number * 40, x as u8 * 8, y as u8 * 8]));
            picture.save(&path).expect("there is room");
            fs::write(path.with_extension("txt"), format!("t, a{number}, {{red|green}}, c")).expect("there is room");
        }
    }
    let model = fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture");
    let text = format!(
        "name = \"run\"\n[model]\npath = \"{}\"\n[data]\nresolution = 32\nbatch_size = 2\ncache_latents = false\n\
         [[data.subsets]]\npath = \"images\"\nflip = true\nshuffle_caption = true\nenable_wildcard = true\n\
         caption_dropout_rate = 0.2\n[lora]\nrank = 2\n[train]\nmax_steps = 8\n[validation]\npath = \"held-out\"\n\
         every_steps = 4\nevaluate_at_end = false\n[log]\ntensorboard = false\n",
        model.display()
    );
    fs::write(folder.path().join("run.toml"), text).expect("there is room");
    folder
}

fn config(folder: &Path, settings: &[&str]) -> TrainConfig {
    // Paths of overrides start at the current folder.
    let cache = format!("data.cache_dir={}", folder.join("cache").display());
    let settings: Vec<String> = settings.iter().map(|setting| setting.replace(CACHE_DIR, &cache)).collect();
    TrainConfig::load(&folder.join("run.toml"), &settings).unwrap_or_else(|error| panic!("{error}")).config
}

/// Losses of all steps and validations, and the bytes of what was learned.
fn learned(folder: &Path, output: &str, settings: &[&str]) -> (Vec<serde_json::Value>, Vec<u8>) {
    let output = folder.join(output);
    let options = RunOptions { output: output.clone(), device: "cpu".to_owned(), resume: ResumePolicy::Never };
    let Outcome::Done(product) = train(config(folder, settings), &options).expect("a run") else { panic!("not done") };
    let lines = |name: &str| fs::read_to_string(output.join(name)).expect("written");
    let field = |line: &str, name: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")[name].clone();
    let losses = lines("metrics.jsonl").lines().map(|line| field(line, "loss")).collect::<Vec<_>>();
    let validations = lines("scalars.jsonl").lines().map(|line| field(line, "value")).collect::<Vec<_>>();
    assert_eq!(losses.len(), 8);
    assert!(
        lines("metrics.jsonl").lines().all(|line| field(line, "data_wait_seconds").as_f64().is_some_and(|s| s >= 0.0))
    );
    ([losses, validations].concat(), tensors(&product[0]))
}

/// Everything behind the header, which names the settings.
fn tensors(product: &Path) -> Vec<u8> {
    let bytes = fs::read(product).expect("the product");
    let header = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    bytes[8 + header..].to_vec()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for kind in ["latents", "texts"] {
        for below in fs::read_dir(folder.join("cache").join(kind)).into_iter().flatten().flatten() {
            all.extend(fs::read_dir(below.path()).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    all.sort();
    all
}

/// Counts what is made.
#[derive(Default)]
struct Counting(Vec<(&'static str, usize)>);

impl Watcher for Counting {
    fn announce(&mut self, text: &str) {
        assert!(text.contains(" are in `"), "{text}");
    }

    fn progress(&mut self, what: &'static str, _done: usize, total: usize) {
        if self.0.last() != Some(&(what, total)) {
            self.0.push((what, total));
        }
    }
}

const CACHE_DIR: &str = "data.cache_dir";
const CACHED: [&str; 3] = ["data.cache_latents=true", "data.cache_text_encoder_outputs=true", CACHE_DIR];

#[test]
fn a_run_learns_the_same_wherever_features_are_kept() {
    let project = project();
    let folder = project.path();
    // Captions are read when they are seen, and images go through the autoencoder in the memory of the run.
    let expected = learned(folder, "plain", &["data.cache_latents=true"]);
    assert_eq!(learned(folder, "memory", &CACHED[..2]), expected);
    assert_eq!(learned(folder, "fresh", &CACHED), expected);
    let made = entries(folder);
    assert_eq!(learned(folder, "again", &CACHED), expected);
    assert_eq!(entries(folder), made, "nothing was made twice");
}

#[test]
fn what_is_filled_ahead_is_all_that_a_run_needs_and_pruning_leaves_it() {
    let project = project();
    let folder = project.path();
    let config = config(folder, &CACHED);
    let prefill = Prefill { device: "cpu".to_owned(), ..Prefill::default() };
    let mut made = Counting::default();
    fill_cache(&config, &prefill, &mut made).expect("a model and images");
    let [images, texts] = made.0[..] else { panic!("{:?}", made.0) };
    // The held-out images are among the others: what is there once is not made again.
    assert_eq!((images, texts.0), (("images", 5), "texts"));
    let filled = entries(folder);
    assert_eq!(filled.len(), 5 + texts.1);
    learned(folder, "run", &CACHED);
    assert_eq!(entries(folder), filled);

    for entry in &filled {
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
        fs::File::options().write(true).open(entry).expect("an entry").set_modified(long_ago).expect("a time");
    }
    let shorter = self::config(folder, &[&CACHED[..], &["train.max_steps=2"]].concat());
    let prune = |keep_for| Prefill { prune: true, keep_for, device: "cpu".to_owned(), ..Prefill::default() };
    let mut nothing = Counting::default();
    let report = fill_cache(&shorter, &prune(vec![config.clone()]), &mut nothing).expect("a model and images");
    assert!(nothing.0.is_empty(), "{:?}", nothing.0);
    assert_eq!((report.pruned.map(|pruned| pruned.entries), entries(folder)), (Some(0), filled.clone()));
    let report = fill_cache(&shorter, &prune(Vec::new()), &mut nothing).expect("a model and images");
    let left = entries(folder);
    assert!(left.len() < filled.len(), "captions of later steps are gone");
    assert_eq!(report.pruned.map(|pruned| pruned.entries), Some(filled.len() - left.len()));
    assert!(report.text().contains("texts: "), "{}", report.text());
}

#[test]
fn what_class_images_use_is_not_pruned_unseen() {
    let project = project();
    let folder = project.path();
    let class = ["method=dreambooth", "trainable=lora", "dreambooth.class_prompt=a house"];
    let of_class = config(folder, &[&CACHED[..], &class].concat());
    let prune = |keep_for| Prefill { prune: true, keep_for, device: "cpu".to_owned(), ..Prefill::default() };
    let plain = config(folder, &CACHED);
    for (config, keep_for) in [(&of_class, Vec::new()), (&plain, vec![of_class.clone()])] {
        let error = fill_cache(config, &prune(keep_for), &mut Counting::default()).expect_err("they would be deleted");
        assert!(error.to_string().contains("which entries the class images of `run` have"), "{error}");
        assert!(entries(folder).is_empty(), "nothing was begun");
    }
}
