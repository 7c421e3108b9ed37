//! Tokenizers that are broken, or of another model.

use std::fs;
use std::path::Path;

use sdtrain_test_support::copy_folder;
use serde_json::{Value as Json, json};

use crate::corpus::{Case, fixture};

/// A model with this in place of a file of its tokenizer.
fn case(name: &str, file: &'static str, content: impl Into<Vec<u8>>, says: &str) -> Case {
    let content = content.into();
    Case::model(name, "tokenizer", move |model| fs::write(model.join("tokenizer").join(file), &content).unwrap(), says)
}

/// A model whose vocabulary was changed.
fn vocabulary(name: &str, change: fn(&mut Json), says: &str) -> Case {
    let change = move |model: &Path| {
        let path = model.join("tokenizer/vocab.json");
        let mut vocabulary: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut vocabulary);
        fs::write(path, vocabulary.to_string()).unwrap();
    };
    Case::model(name, "vocab.json", change, says)
}

/// A model with only this file for a tokenizer.
fn alone(name: &str, file: &'static str, content: impl Into<Vec<u8>>, says: &str) -> Case {
    let content = content.into();
    let change = move |model: &Path| {
        fs::remove_dir_all(model.join("tokenizer")).unwrap();
        fs::create_dir(model.join("tokenizer")).unwrap();
        fs::write(model.join("tokenizer").join(file), &content).unwrap();
    };
    Case::model(name, file, change, says)
}

pub fn cases() -> Vec<Case> {
    let of_another = |from: &'static str| {
        move |model: &Path| {
            fs::remove_dir_all(model.join("tokenizer")).unwrap();
            copy_folder(&fixture(from), &model.join("tokenizer"));
        }
    };
    let last = "<|endoftext|>";
    let duplicate = format!(r#"{{"{last}":0,"{last}":1,"<|startoftext|>":2}}"#);
    vec![
        Case::model(
            "a tokenizer of more words than the text encoder has",
            "model`",
            of_another("words_tokenizer"),
            "they are not of one model",
        ),
        Case::model(
            "a tokenizer of BERT's for a text encoder of more words",
            "model`",
            of_another("bert_tokenizer"),
            "they are not of one model",
        )
        .and("mark of the tokenizer is token")
        .and("hint: `model.tokenizer` names the folder of its own"),
        Case::model(
            "a SentencePiece model for a text encoder of more words",
            "model`",
            of_another("spiece_tokenizer"),
            "they are not of one model",
        )
        .and("the end mark of the tokenizer is token 2, but that of the text encoder is 599"),
        case("a vocabulary that stops", "vocab.json", "{\"a\":", "vocab.json"),
        case("a vocabulary that is a list", "vocab.json", "[1]", "an object of tokens with their numbers"),
        case("a vocabulary of nothing", "vocab.json", "{}", "which has no number"),
        case("a vocabulary that is no UTF-8", "vocab.json", b"{\"\xff\":0}", "vocab.json"),
        case("a token twice", "vocab.json", duplicate, "a token appears twice"),
        vocabulary("a number given twice", |all| all["a"] = all["b"].clone(), "is given twice"),
        vocabulary("a negative number", |all| all["a"] = json!(-1), "invalid value"),
        vocabulary("a number past 32 bits", |all| all["a"] = json!(1u64 << 32), "invalid value"),
        vocabulary("a number far beyond the tokens", |all| all["a"] = json!(4_000_000_000u32), "but there are"),
        vocabulary("a word for a number", |all| all["a"] = json!("a"), "invalid type"),
        case("merges that are no pairs", "merges.txt", "#version: 0.2\na b c\n", "line 2 is not a pair of tokens"),
        case("merges of tokens that are not there", "merges.txt", "#version: 0.2\nqq zz\n", "which has no number"),
        case("merges that are no UTF-8", "merges.txt", b"a \xff\n", "merges.txt"),
        case("a configuration of a tokenizer that stops", "tokenizer_config.json", "{", "tokenizer_config.json"),
        case("a list for a configuration of a tokenizer", "tokenizer_config.json", "[]", "tokenizer_config.json"),
        case("marks that are a list", "special_tokens_map.json", "[1]", "special_tokens_map.json"),
        case("a mark without a number", "special_tokens_map.json", r#"{"eos_token":"<nothing>"}"#, "has no number"),
        case("an added token with another's number", "added_tokens.json", r#"{"<new>":3}"#, "should have the number 3"),
        case(
            "a `tokenizer.json` of another kind",
            "tokenizer.json",
            r#"{"model":{"type":"WordLevel","vocab":{}}}"#,
            "its model is `WordLevel`",
        ),
        case(
            "a `tokenizer.json` that is not CLIP's",
            "tokenizer.json",
            r#"{"model":{"type":"BPE","vocab":{},"merges":[]}}"#,
            "it is not CLIP's",
        ),
        case("a `tokenizer.json` nested 100 000 deep", "tokenizer.json", b"[".repeat(100_000), "recursion limit"),
        alone("a `vocab.txt` without marks", "vocab.txt", "a\nb\n", "has no number"),
        alone(
            "a `vocab.txt` with a line twice",
            "vocab.txt",
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n",
            "6 lines, but only 5 different tokens",
        ),
        alone("a `vocab.txt` that is no UTF-8", "vocab.txt", b"[UNK]\n\xff\n", "vocab.txt"),
        alone("a SentencePiece model of noise", "spiece.model", b"\xff\xff\xff\xff", "no SentencePiece model"),
        alone("a SentencePiece model of nothing", "spiece.model", "", "it has no piece for what is unknown"),
        alone(
            "a SentencePiece model of another type",
            "spiece.model",
            [0x12u8, 2, 0x18, 2],
            "of type 2; only unigram models",
        ),
    ]
}
