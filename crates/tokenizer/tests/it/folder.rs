//! Tokenizer folders of every age, saved and read.

use std::fs;
use std::path::Path;

use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};
use serde_json::{Value, json};

const WORDS: [&str; 3] = ["a", "red", "bottle"];
const TEXT: &str = "a red bottle! <|endoftext|> <|ENDOFTEXT|> flasche";

fn saved(tokenizer: &PromptTokenizer, folder: &Path) {
    for (name, content) in tokenizer.files() {
        fs::write(folder.join(name), content).unwrap();
    }
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let text = fs::read(path).unwrap_or_else(|_| b"{}".to_vec());
    let mut json: Value = serde_json::from_slice(&text).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn refusal(folder: &Path) -> String {
    PromptTokenizer::from_folder(folder).err().expect("refused").to_string()
}

#[test]
fn a_saved_folder_reads_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = PromptTokenizer::from_words(&WORDS, 16);
    saved(&tokenizer, folder.path());
    let again = PromptTokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(again.files(), tokenizer.files());
    assert_eq!((again.window(), again.pad()), (16, tokenizer.eos()));
    assert_eq!(again.encode(TEXT), tokenizer.encode(TEXT));
    let id = again.token_to_id("bottle</w>").unwrap();
    assert_eq!((again.tokens("bottle"), again.id_to_token(id).as_deref()), (vec![id], Some("bottle</w>")));
}

#[test]
fn tokenizer_json_is_read_with_merges_in_either_form() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = PromptTokenizer::from_words(&WORDS, 77);
    saved(&tokenizer, folder.path());
    let vocab: Value = serde_json::from_slice(&fs::read(folder.path().join("vocab.json")).unwrap()).unwrap();
    let merges = fs::read_to_string(folder.path().join("merges.txt")).unwrap();
    let lines: Vec<&str> = merges.lines().skip(1).collect();
    let pairs: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    for name in ["vocab.json", "merges.txt"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    for merges in [json!(lines), json!(pairs)] {
        let added = json!([{"id": 521, "content": "<cat>", "normalized": true, "special": false}]);
        let model = json!({"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges});
        let whole = json!({"added_tokens": added, "model": model});
        fs::write(folder.path().join("tokenizer.json"), whole.to_string()).unwrap();
        let again = PromptTokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(again.encode(TEXT), tokenizer.encode(TEXT));
        assert_eq!(again.tokens("a <cat>"), [tokenizer.tokens("a"), vec![521]].concat());
        assert_eq!(again.vocab_size(), 522);
    }
    edit(&folder.path().join("tokenizer.json"), |json| json["model"]["type"] = json!("WordLevel"));
    assert!(refusal(folder.path()).ends_with("its model is `WordLevel` and not CLIP's `BPE`"));
}

#[test]
fn learned_words_keep_their_numbers_through_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = PromptTokenizer::from_words(&WORDS, 77);
    saved(&tokenizer, folder.path());
    edit(&folder.path().join("added_tokens.json"), |json| *json = json!({"<dog>": 522, "<cat>": 521}));
    let again = PromptTokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(again.tokens("<CAT>, a <dog>").first(), Some(&521));
    assert_eq!(again.vocab_size(), 523);

    let second = tempfile::tempdir().unwrap();
    saved(&again, second.path());
    let twice = PromptTokenizer::from_folder(second.path()).unwrap();
    assert_eq!(twice.tokens("<CAT>, a <dog>"), again.tokens("<CAT>, a <dog>"));

    edit(&folder.path().join("added_tokens.json"), |json| *json = json!({"<dog>": 600}));
    assert!(refusal(folder.path()).contains("`<dog>` should have the number 600 but gets Some(521)"));
}

#[test]
fn the_padding_token_is_found_in_files_of_every_age() {
    let folder = tempfile::tempdir().unwrap();
    saved(&PromptTokenizer::from_words(&WORDS, 77), folder.path());
    let (map, config) = (folder.path().join("special_tokens_map.json"), folder.path().join("tokenizer_config.json"));
    // The map wins over the configuration as long as that lists no added tokens.
    edit(&map, |json| json["pad_token"] = json!("!"));
    assert_eq!(PromptTokenizer::from_folder(folder.path()).unwrap().pad(), 0);
    edit(&map, |json| json["pad_token"] = json!({"content": "\"", "normalized": false}));
    assert_eq!(PromptTokenizer::from_folder(folder.path()).unwrap().pad(), 1);
    edit(&config, |json| json["added_tokens_decoder"] = json!({"0": {"content": "!", "special": true}}));
    let tokenizer = PromptTokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.pad(), tokenizer.eos());
    fs::remove_file(&map).unwrap();
    fs::remove_file(&config).unwrap();
    let tokenizer = PromptTokenizer::from_folder(folder.path()).unwrap();
    assert_eq!((tokenizer.pad(), tokenizer.window()), (tokenizer.eos(), 77));
    edit(&config, |json| *json = json!({"pad_token": "", "model_max_length": 1e30}));
    let tokenizer = PromptTokenizer::from_folder(folder.path()).unwrap();
    assert_eq!((tokenizer.pad(), tokenizer.window()), (tokenizer.eos(), 77));
}

#[test]
fn broken_files_are_refused_with_their_name() {
    let vocab = br#"{"a":0,"b":1,"ab":2,"<|startoftext|>":3,"<|endoftext|>":4}"#;
    let refused = |vocab: &[u8], merges: &[u8]| {
        PromptTokenizer::from_parts(vocab, merges, "<|endoftext|>", 77).err().expect("refused").to_string()
    };
    PromptTokenizer::from_parts(vocab, b"#version: 0.2\r\na b\r\n\r\n", "<|endoftext|>", 77).unwrap();
    assert_eq!(refused(vocab, b"a b\nabc\n"), "`merges.txt`: line 2 is not a pair of tokens");
    assert_eq!(refused(vocab, b"ab b\n"), "`merges.txt`: the merge `ab b` needs the token `abb`, which has no number");
    assert!(refused(vocab, b"\xff \xff").starts_with("`merges.txt`: invalid utf-8"));
    assert!(refused(b"[]", b"").starts_with("`vocab.json`: invalid type"));
    assert!(refused(br#"{"a":0,"a":1}"#, b"").contains("a token appears twice"));
    assert!(refused(br#"{"a":0,"b":0}"#, b"").contains("the number 0 is given twice"));
    assert!(refused(br#"{"a":4000000000}"#, b"").contains("`a` has the number 4000000000, but there are 1 tokens"));
    assert_eq!(refused(br#"{"a":0}"#, b""), "`vocab.json`: the mark `<|startoftext|>` has no number");
    let narrow = PromptTokenizer::from_parts(vocab, b"", "<|endoftext|>", 2).err().expect("refused").to_string();
    assert!(narrow.contains("a window of 2 has no room"), "{narrow}");
}

#[test]
fn a_folder_without_a_tokenizer_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let error = PromptTokenizer::from_folder(folder.path()).err().expect("refused");
    assert!(error.to_string().starts_with("no tokenizer in `"), "{error}");
    // No other vocabulary than its own is advised.
    assert!(error.hint().is_some_and(|hint| hint.contains("came with the text encoder")));
    fs::write(folder.path().join("vocab.json"), "{}").unwrap();
    assert!(refusal(folder.path()).contains("neither `tokenizer.json` nor `vocab.json` with `merges.txt`"));
    fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    assert!(refusal(folder.path()).contains("tokenizer.json`: EOF while parsing"));
}
