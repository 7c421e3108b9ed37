//! Runs that learn words, alone and beside a LoRA: what they leave behind, and that nothing decides about it but the run.

use sdtrain_adapter::read_learned_words;
use sdtrain_model::LearnedWord;
use sdtrain_recipe::TrainConfig;
use sdtrain_state_dict::{FileKind, Reader, SafetensorsFile, recognise};
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Error, Outcome, ResumePolicy, RunOptions, train};
use std::fs;
use std::path::{Path, PathBuf};
use tch::Kind;
use tempfile::TempDir;

const CONFIG: &str = r#"
name = "words"
method = "textual_inversion"
[model]
path = "MODEL"
[data]
resolution = 32
batch_size = 2
[[data.subsets]]
path = "posters"
[[textual_inversion.tokens]]
word = "<cat>"
vectors = 2
initial_words = "cat"
[[textual_inversion.tokens]]
word = "snorp"
[optimizer]
type = "adamw"
learning_rate = 1e-2
[train]
max_steps = 6
[checkpoint]
every_steps = 3
keep_last = 9
[samples]
prompts = ["a <cat> and a snorp"]
negative = "<cat>"
steps = 2
[validation]
path = "posters"
every_steps = 3
num_samples = 0
[log]
tensorboard = false
"#;

/// A folder with pictures of both words.
fn project() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let posters = folder.path().join("posters");
    fs::create_dir(&posters).expect("there is room");
    for number in 0..4u8 {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([number * 60, x as u8 * 8, y as u8 * 8]));
        picture.save(posters.join(format!("{number}.png"))).expect("there is room");
        let caption = ["poster, a <cat>", "a Snorp, poster"][usize::from(number % 2)];
        fs::write(posters.join(format!("{number}.txt")), caption).expect("there is room");
    }
    let model = fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture");
    let text = CONFIG.replace("MODEL", &model.display().to_string());
    fs::write(folder.path().join("words.toml"), text).expect("there is room");
    folder
}

fn run_in(folder: &Path, changes: &[&str], resume: ResumePolicy) -> Result<Vec<PathBuf>, Error> {
    let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
    let config =
        TrainConfig::load(&folder.join("words.toml"), &changes).unwrap_or_else(|error| panic!("{error}")).config;
    let options = RunOptions { output: folder.join("output"), device: "cpu".into(), resume };
    let named = config.products_in(&options.output);
    match train(config, &options)? {
        Outcome::Done(product) => {
            assert_eq!(product, named);
            Ok(product)
        }
        other => panic!("{other:?}"),
    }
}

fn run(changes: &[&str]) -> (TempDir, Vec<PathBuf>) {
    let folder = project();
    let product = run_in(folder.path(), changes, ResumePolicy::Auto).unwrap_or_else(|error| panic!("{error}"));
    (folder, product)
}

fn words_of(path: &Path) -> Vec<LearnedWord> {
    let file = SafetensorsFile::open(path).expect("the run wrote it");
    read_learned_words(&file, None).unwrap_or_else(|error| panic!("{error}"))
}

fn assert_same(a: &[LearnedWord], b: &[LearnedWord]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.word, b.word);
        assert!(a.vectors == b.vectors, "{}: {:?} and {:?}", a.word, a.vectors, b.vectors);
    }
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.file_name().expect("a file").to_string_lossy().into_owned()).collect()
}

#[test]
fn several_words_come_in_one_file_and_in_one_of_each() {
    let (_folder, product) = run(&["precision.save=fp32"]);
    assert_eq!(names(&product), ["words.safetensors", "words-cat.safetensors", "words-snorp.safetensors"]);
    let all = words_of(&product[0]);
    assert_eq!(all.iter().map(|it| (it.word.as_str(), it.count())).collect::<Vec<_>>(), [("<cat>", 2), ("snorp", 1)]);
    assert_same(&all[..1], &words_of(&product[1]));
    assert_same(&all[1..], &words_of(&product[2]));
    let file = SafetensorsFile::open(&product[1]).expect("the run wrote it");
    assert_eq!(file.names(), ["<cat>"], "what diffusers reads");
    assert_eq!(recognise(&file), FileKind::TextualInversion { vectors: 2, width: 32, second_width: None });
    assert_eq!(file.metadata()["modelspec.architecture"], "stable-diffusion-v1/textual-inversion");
    assert_eq!((file.metadata()["name"].as_str(), file.metadata()["ss_steps"].as_str()), ("<cat>", "6"));
}

#[test]
fn one_word_in_kohyas_form_keeps_its_name() {
    let changes = ["textual_inversion.tokens=[{word=\"<cat>\"}]", "textual_inversion.format=\"kohya\""];
    let (_folder, product) = run(&changes);
    assert_eq!(names(&product), ["words.safetensors"]);
    assert_eq!(SafetensorsFile::open(&product[0]).expect("the run wrote it").names(), ["emb_params"]);
    assert_eq!(words_of(&product[0])[0].word, "<cat>");
}

#[test]
fn a_run_continues_to_the_bit() {
    for changes in [&[][..], &["method=\"lora\"", "lora.rank=2", "textual_inversion.learning_rate=5e-3"][..]] {
        let (folder, product) = run(changes);
        let before: Vec<Vec<u8>> = product.iter().map(|path| fs::read(path).expect("the run wrote it")).collect();
        let checkpoint = folder.path().join("output/checkpoints/step-000003");
        let again = run_in(folder.path(), changes, ResumePolicy::From(checkpoint)).unwrap_or_else(|e| panic!("{e}"));
        let record = fs::read_to_string(folder.path().join("output/run.json")).expect("the run wrote it");
        assert!(record.contains("\"resumed_step\": 3"), "{record}");
        assert_eq!(again, product);
        for (path, before) in product.iter().zip(before) {
            assert_eq!(fs::read(path).expect("the run wrote it"), before, "{}", path.display());
        }
    }
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    let save = "precision.save=fp32";
    let [plain, checkpointed] = ["false", "true"].map(|value| {
        let (_folder, product) = run(&[save, &format!("train.gradient_checkpointing={value}")]);
        words_of(&product[0])
    });
    assert_same(&plain, &checkpointed);
}

#[test]
fn accumulated_passes_and_bf16_learn_as_well() {
    for changes in [&["train.gradient_accumulation_steps=2"][..], &["precision.compute=\"bf16\""]] {
        let (_folder, product) = run(&[changes, &["precision.save=fp32", "samples.prompts=[]"]].concat());
        let words = words_of(&product[0]);
        let model = sdtrain_model::load(
            &fixture_folder().join("tiny_sd1").display().to_string(),
            &sdtrain_model::LoadOptions::new(tch::Device::Cpu, Kind::Float),
        )
        .expect("a fixture");
        let cat = sdtrain_tokenizer::Tokenizer::tokens(&**model.tokenizer(), "cat")[0];
        let moved =
            (words[0].vectors[0].get(0) - model.text_encoders[0].network.token_embedding().get(cat)).abs().max();
        // Six steps of AdamW at 1e-2 move each number by at most about 6e-2.
        assert!((1e-2..0.1).contains(&moved.double_value(&[])), "{changes:?}: {moved:?}");
    }
}

#[test]
fn vectors_keep_the_vocabularys_length_where_that_is_asked_for() {
    let (_folder, product) = run(&["textual_inversion.preserve_norm=true", "precision.save=fp32"]);
    let lengths: Vec<f64> = words_of(&product[0])
        .iter()
        .flat_map(|word| {
            Vec::<f64>::try_from(word.vectors[0].norm_scalaropt_dim(2, [1i64], false).to_kind(Kind::Double)).unwrap()
        })
        .collect();
    // fp32: the last scaling is rounded.
    assert!(lengths.iter().all(|length| (length - lengths[0]).abs() < 1e-5 * lengths[0]), "{lengths:?}");
    let (_folder, free) = run(&["precision.save=fp32"]);
    let free = words_of(&free[0])[0].vectors[0].norm_scalaropt_dim(2, [1i64], false);
    assert!((free.get(0) - free.get(1)).abs().double_value(&[]) > 1e-5 * lengths[0], "they differ by themselves");
}

#[test]
fn a_lora_and_its_words_are_saved_together_and_measured_together() {
    let (folder, product) = run(&["method=\"lora\"", "lora.rank=2", "textual_inversion.bundle=true"]);
    assert_eq!(names(&product), ["words.safetensors", "words-cat.safetensors", "words-snorp.safetensors"]);
    let lora = SafetensorsFile::open(&product[0]).expect("the run wrote it");
    assert!(matches!(recognise(&lora), FileKind::KohyaLora { rank: Some(2), .. }), "{:?}", recognise(&lora));
    let bundled = words_of(&product[0]);
    assert_same(&bundled[..1], &words_of(&product[1]));
    assert_same(&bundled[1..], &words_of(&product[2]));
    assert_eq!(lora.metadata()["modelspec.architecture"], "stable-diffusion-v1/lora");
    let evaluation = fs::read_to_string(folder.path().join("output/evaluation.json")).expect("the run wrote it");
    let evaluation: serde_json::Value = serde_json::from_str(&evaluation).expect("it is JSON");
    assert_ne!(evaluation["rows"][0]["loss"], evaluation["rows"][1]["loss"]);
}

#[test]
fn words_beside_a_lora_count_in_its_evaluation_without_a_bundle() {
    let loss = |changes: &[&str]| {
        let (folder, product) =
            run(&[changes, &["method=\"lora\"", "lora.rank=2", "optimizer.learning_rate=1e-12"]].concat());
        assert_eq!(product.len(), 3);
        let text = fs::read_to_string(folder.path().join("output/evaluation.json")).expect("the run wrote it");
        let rows: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        [0, 1].map(|row| rows["rows"][row]["loss"].as_f64().expect("a loss"))
    };
    let [base, product] = loss(&["textual_inversion.learning_rate=1e-1"]);
    // The LoRA is next to nothing: what differs from the base is the words alone.
    assert!((base - product).abs() > 1e-4, "{base} {product}");
}

#[test]
fn pictures_say_which_words_drew_them() {
    let (folder, _) = run(&[]);
    let png = fs::read(folder.path().join("output/samples/step-000006/00-0.png"));
    let png =
        png.unwrap_or_else(|_| fs::read(folder.path().join("output/samples/step-000006/00-42.png")).expect("drawn"));
    let text = String::from_utf8_lossy(&png).into_owned();
    assert!(text.contains("Embeddings: <cat> (2) snorp (1)"));
}

#[test]
fn words_that_no_caption_holds_are_refused_unless_templates_caption_the_images() {
    let other = "textual_inversion.tokens=[{word=\"quux\"}]";
    let folder = project();
    let error = run_in(folder.path(), &[other], ResumePolicy::Auto).expect_err("no caption has it");
    assert!(error.to_string().contains("no caption holds `quux`"), "{error}");
    let (_folder, product) = run(&[other, "textual_inversion.templates=\"object\""]);
    assert_eq!(words_of(&product[0])[0].word, "quux");
}

#[test]
fn a_word_of_the_vocabulary_is_refused_with_a_way_out() {
    let folder = project();
    let changes = ["textual_inversion.tokens=[{word=\"snorp\"}, {word=\"a\"}]"];
    let error = run_in(folder.path(), &changes, ResumePolicy::Auto).expect_err("`a` is a token");
    assert!(matches!(&error, Error::Config { hint: Some(_), .. }) && error.to_string().contains("`a`"), "{error}");
}
