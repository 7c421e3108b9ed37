//! Single files of Chinese and Japanese models as other programs write them: the original names, and neither a configuration nor a
//! tokenizer beside them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use sdtrain_state_dict::architecture::{self, Shapes};
use sdtrain_state_dict::{Dtype, Error, Family, PipelineConfigs, Reader, Result, TensorInfo, to_ldm};
use sdtrain_test_support::fixture_folder;
use serde_json::{Map, Value as Json, json};

use crate::project::{Answer, Project};

/// Names and shapes, without a weight.
struct Described {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl Described {
    fn of(shapes: Shapes) -> Described {
        let info = |(name, shape)| (name, TensorInfo { dtype: Dtype::F16, shape });
        Described { tensors: shapes.into_iter().map(info).collect(), metadata: BTreeMap::new() }
    }
}

impl Reader for Described {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        Err(Error::NoSuchTensor { path: self.path().to_path_buf(), tensor: name.to_owned() })
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        Path::new("described")
    }
}

/// Writes SD1 with the text encoder of `text_encoder` at its full size: the header, and a hole in place of its weights.
fn write_full_size(path: &Path, text_encoder: &Json) {
    let sd1 = PipelineConfigs::sd1();
    let described = |shapes: std::result::Result<Shapes, String>| Described::of(shapes.expect("complete"));
    let unet = described(architecture::unet(&sd1.unet));
    let vae = described(architecture::vae(&sd1.vae));
    let text_encoder = described(architecture::text_encoder(text_encoder));
    let whole = to_ldm(Family::Sd1, &unet, &vae, &[&text_encoder]).expect("every tensor has its place");
    let (mut header, mut end) = (Map::new(), 0);
    for name in whole.names() {
        let info = whole.info(name).expect("it is listed");
        let begin = end;
        end += info.byte_length() as u64;
        let entry = json!({"dtype": "F16", "shape": info.shape, "data_offsets": [begin, end]});
        header.insert(name.to_owned(), entry);
    }
    let mut header = Json::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(path).expect("a writable folder");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("room for a header");
    file.write_all(&header).expect("room for a header");
    file.set_len(8 + header.len() as u64 + end).expect("a hole takes no room");
}

/// What `check` says of the model in `file` with the tokenizer in `tokenizer`.
fn check(project: &Project, file: &str, tokenizer: &str) -> Answer {
    let [model, tokenizer] = [format!("model.path={file}"), format!("model.tokenizer={tokenizer}")];
    project.run(&["check", "run.toml", "--set", "model.init=pretrained", "--set", &model, "--set", &tokenizer])
}

/// The configuration of a text encoder of CLIP's network with another vocabulary.
fn clip(words: usize) -> Json {
    let mut config = PipelineConfigs::sd1().text_encoders.remove(0);
    config["vocab_size"] = words.into();
    config
}

/// Taiyi's.
fn bert() -> Json {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 21128, "hidden_size": 768,
        "intermediate_size": 3072, "num_hidden_layers": 12, "max_position_embeddings": 512, "type_vocab_size": 2,
    })
}

/// Writes a tokenizer of BERT's with so many tokens.
fn write_vocabulary(project: &Project, folder: &str, tokens: usize) {
    let marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let words = (marks.len()..tokens).map(|number| format!("word{number}"));
    let vocabulary: String = marks.iter().cloned().chain(words).map(|token| token + "\n").collect();
    project.write(&format!("{folder}/vocab.txt"), &vocabulary);
}

#[test]
fn they_are_described_and_refused_without_a_tokenizer_and_fit_with_theirs() {
    let project = Project::new();
    write_vocabulary(&project, "tokenizer", 21128);
    for (name, config, said) in [
        ("taiyi", bert(), "BERT, 21128 words"),
        ("pai", clip(21128), "CLIP, 21128 words"),
        ("japanese", clip(32000), "CLIP, 32000 words"),
    ] {
        let file = format!("{name}.safetensors");
        write_full_size(&project.path(&file), &config);
        let answer = project.run(&["inspect", &file]);
        assert_eq!(answer.code, Some(0), "{name}: {}", answer.stderr);
        assert!(answer.stdout.contains(&format!("text encoder: {said}")), "{}", answer.stdout);

        let model = format!("model.path={file}");
        let check = ["check", "run.toml", "--set", "model.init=pretrained", "--set", &model];
        let convert = ["convert", &file, "folder", "--to", "diffusers"];
        let words = said.split(' ').nth(1).expect("a number");
        for arguments in [&check[..], &convert] {
            let answer = project.run(arguments);
            assert_eq!(answer.code, Some(4), "{name}: {}", answer.stderr);
            for part in [format!("with {words} words"), format!("of {words} tokens")] {
                assert!(answer.stderr.contains(&part), "`{part}` is not in\n{}", answer.stderr);
            }
            for way in ["`model.tokenizer`", "--tokenizer FOLDER"] {
                assert!(answer.stderr.contains(way), "`{way}` is not in\n{}", answer.stderr);
            }
        }
        assert!(!project.path("folder").exists());
    }
    for name in ["taiyi", "pai"] {
        let answer = check(&project, &format!("{name}.safetensors"), "tokenizer");
        assert_eq!(answer.code, Some(0), "{name}: {}", answer.stderr);
        assert!(answer.stdout.contains("single-file SD1 checkpoint"), "{}", answer.stdout);
    }
    // A tokenizer of too many tokens is of another model.
    write_vocabulary(&project, "larger", 21200);
    let answer = project.run(&["convert", "pai.safetensors", "folder", "--to", "diffusers", "--tokenizer", "larger"]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    assert!(
        answer.stderr.contains("`larger` has 21200 tokens, but the text encoder knows only 21128"),
        "{}",
        answer.stderr
    );
    assert!(!project.path("folder").exists());
}

#[test]
fn a_tokenizer_of_far_fewer_tokens_than_the_text_encoder_has_words_is_refused() {
    let project = Project::new();
    write_full_size(&project.path("sd1.safetensors"), &clip(49408));
    write_vocabulary(&project, "taiyi", 21128);
    let answer = check(&project, "sd1.safetensors", "taiyi");
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    let said = "the tokenizer has 21128 tokens, but the text encoder knows 49408; they are not of one model";
    assert!(answer.stderr.contains(said), "{}", answer.stderr);
    // A table may be padded.
    write_vocabulary(&project, "padded", 49400);
    let answer = check(&project, "sd1.safetensors", "padded");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(!answer.stdout.contains("of one model"), "{}", answer.stdout);
}

#[test]
fn a_named_tokenizer_lies_in_the_folder_that_a_single_file_becomes() {
    let project = Project::new();
    let [model, tokenizer] = ["tiny_taiyi", "bert_tokenizer"].map(|name| fixture_folder().join(name));
    let [named_model, named] = [&model, &tokenizer].map(|path| path.display().to_string());
    let run = |arguments: &[&str]| {
        let answer = project.run(arguments);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    };
    run(&["convert", &named_model, "single.safetensors", "--to", "single-file"]);
    run(&["convert", "single.safetensors", "folder", "--to", "diffusers", "--tokenizer", &named]);
    for file in ["vocab.txt", "tokenizer_config.json"] {
        let [written, given] = [project.path("folder/tokenizer"), tokenizer.clone()].map(|folder| folder.join(file));
        assert_eq!(fs::read(written).expect("written"), fs::read(given).expect("a fixture"), "{file}");
    }
    for arguments in [
        ["convert", "single.safetensors", "other.safetensors", "--to", "single-file", "--tokenizer", &named],
        ["convert", "folder", "other", "--to", "diffusers", "--tokenizer", &named],
    ] {
        let answer = project.run(&arguments);
        assert_eq!(answer.code, Some(2), "{}", answer.stderr);
        assert!(
            answer.stderr.contains("`--tokenizer` is for a single file that becomes a folder"),
            "{}",
            answer.stderr
        );
    }
}
