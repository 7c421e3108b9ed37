//! Chinese and Japanese prompts have the tokens that transformers' BERT tokenizer and sentencepiece itself give them.

use sdtrain_test_support::{Fixture, fixture_folder};
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer, reads_like_clip};
use std::fs;
use std::path::Path;

fn fixture() -> Fixture {
    Fixture::open("chinese_japanese.safetensors")
}

fn opened(folder: &str) -> PromptTokenizer {
    PromptTokenizer::from_folder(fixture_folder().join(folder)).unwrap()
}

/// The sentences of `scripts/fixtures/chinese_japanese.py`, by the same rule.
fn sentences(fixture: &Fixture) -> Vec<String> {
    let words = |key: &str| -> Vec<String> { serde_json::from_value(fixture.json(key)).unwrap() };
    let (chinese, japanese) = (words("chinese"), words("japanese"));
    let count = fixture.json("config")["sentences"].as_u64().unwrap();
    let mut state: u64 = 20260101;
    let mut sentence = |number: u64| {
        let words = if number % 2 == 1 { &japanese } else { &chinese };
        let mut sentence = String::new();
        for at in 0..3 + number % 11 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if at > 0 && state >> 60 == 0 {
                sentence.push(' ');
            }
            sentence.push_str(&words[(state >> 33) as usize % words.len()]);
        }
        sentence
    };
    (0..count).map(&mut sentence).collect()
}

fn check(name: &str, tokenizer: &PromptTokenizer) {
    let fixture = fixture();
    let window = fixture.json("config")["window"].as_u64().unwrap() as usize;
    assert_eq!(tokenizer.window(), window);
    let texts: Vec<String> = serde_json::from_value(fixture.json("texts")).unwrap();
    let expected = fixture.integers(&format!("output.{name}.texts"));
    for (text, expected) in texts.iter().zip(expected.chunks(window)) {
        // The fixture leaves this one out for sentencepiece, which knows no marks in a text.
        if tokenizer.bos().is_some() || !text.contains("</s>") {
            assert_eq!(tokenizer.encode(text), expected, "{name}: {text:?}");
        }
    }
    let sentences = sentences(&fixture);
    let rows: Vec<Vec<i64>> = sentences.iter().map(|sentence| tokenizer.encode(sentence)).collect();
    let whole = fixture.integers(&format!("output.{name}.ids"));
    for ((sentence, row), expected) in sentences.iter().zip(&rows).zip(whole.chunks(window)) {
        assert_eq!(row, expected, "{name}: {sentence:?}");
    }
    let block = fixture.json("config")["block"].as_u64().unwrap() as usize;
    let checks = fixture.integers(&format!("output.{name}.checks"));
    assert_eq!(checks.len(), rows.len() / block);
    for (number, (rows, expected)) in rows.chunks(block).zip(checks).enumerate() {
        let add = |check: i128, id: &i64| (check * 1_000_003 + i128::from(*id) + 1) % ((1 << 61) - 1);
        let check = rows.iter().flatten().fold(0, add);
        assert_eq!(check, i128::from(expected), "{name}: a sentence of block {number}");
    }
}

#[test]
fn word_piece_gives_transformers_numbers() {
    let tokenizer = opened("bert_tokenizer");
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(id("[CLS]")), id("[SEP]"), id("[PAD]")));
    check("bert", &tokenizer);
    // The same as transformers 5 saves it, with `tokenizer.json` alone.
    check("bert", &opened("bert_tokenizer_v5"));
}

#[test]
fn word_piece_follows_the_switches_of_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in opened("bert_tokenizer").files() {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let path = folder.path().join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["do_lower_case"] = false.into();
    config["tokenize_chinese_chars"] = false.into();
    fs::write(&path, config.to_string()).unwrap();
    check("bert_cased", &PromptTokenizer::from_folder(folder.path()).unwrap());
}

#[test]
fn a_sentence_piece_model_gives_sentencepieces_numbers() {
    let tokenizer = opened("spiece_tokenizer");
    // No start mark, and room for one more token.
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.marks()), (None, 2, 3, 1));
    check("spiece", &tokenizer);
    check("spiece_bytes", &opened("spiece_tokenizer_bytes"));
}

#[test]
fn marks_in_a_text_are_found_by_their_names() {
    let tokenizer = opened("spiece_tokenizer");
    let ids = tokenizer.tokens("猫</s>犬[PAD]");
    assert_eq!((ids.iter().filter(|&&id| id == 2).count(), ids.last()), (1, Some(&3)), "{ids:?}");
    // One that no file names is plain text.
    assert!(!tokenizer.tokens("[MASK]").iter().any(|&id| (4..7).contains(&id)));
}

#[test]
fn several_windows_without_a_start_mark_take_all_tokens() {
    let tokenizer = opened("spiece_tokenizer");
    let text = "赤いボトル ".repeat(20);
    let tokens = tokenizer.tokens(&text);
    let windows = tokenizer.encode_chunks(&text, 2);
    let at_once = tokenizer.window() - 1;
    assert_eq!(tokenizer.windows_of(Some(2 * at_once)).unwrap(), 2);
    assert_eq!((&windows[0][..at_once], windows[0][at_once]), (&tokens[..at_once], 2));
    assert_eq!(&windows[1][..at_once], &tokens[at_once..2 * at_once]);
    let weighted = &tokenizer.encode_weighted("(赤:1.5)い", 1)[0];
    assert_eq!((weighted.ids.len(), weighted.weights.len()), (tokenizer.window(), tokenizer.window()));
    assert_eq!(weighted.weights[0], 1.5);
}

#[test]
fn a_learned_word_is_one_token_in_each_vocabulary() {
    for folder in ["bert_tokenizer", "bert_tokenizer_v5", "spiece_tokenizer"] {
        let plain = opened(folder);
        let tokenizer = plain.with_words(&[("<小奶猫>", 2)]).unwrap();
        let first = plain.vocab_size() as i64;
        assert_eq!(tokenizer.learned_ids("<小奶猫>"), Some(&[first, first + 1][..]), "{folder}");
        let ids = tokenizer.tokens("一只<小奶猫>，油画");
        let at = ids.iter().position(|&id| id == first).unwrap_or_else(|| panic!("{folder}: {ids:?}"));
        assert_eq!(ids[at + 1], first + 1);
        assert_eq!(ids[..at], plain.tokens("一只"), "{folder}");
        // A blank before the word is no token, as in transformers.
        assert_eq!(tokenizer.tokens("一只 <小奶猫>，油画"), ids, "{folder}");
        assert_eq!(tokenizer.files(), plain.files());
    }
}

#[test]
fn what_was_read_is_written_again_to_the_byte() {
    for name in ["bert_tokenizer", "bert_tokenizer_v5", "spiece_tokenizer"] {
        let tokenizer = opened(name);
        let mut names: Vec<String> = Vec::new();
        for (file, content) in tokenizer.files() {
            assert_eq!(fs::read(fixture_folder().join(name).join(&file)).unwrap(), content, "{name}/{file}");
            names.push(file);
        }
        let there = fs::read_dir(fixture_folder().join(name)).unwrap();
        let mut there: Vec<String> = there.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        assert_eq!(names, there);
    }
}

/// The error of a folder of this tokenizer with one file changed.
fn refused(folder: &str, file: &str, content: &[u8]) -> String {
    let changed = tempfile::tempdir().unwrap();
    for (name, content) in opened(folder).files() {
        fs::write(changed.path().join(name), content).unwrap();
    }
    fs::write(changed.path().join(file), content).unwrap();
    PromptTokenizer::from_folder(changed.path()).err().expect("refused").to_string()
}

/// A model of one piece with this table of characters: fields 1 (piece, and its type 2 for the unknown) and 3 (table, field 2 in it).
fn with_table(table: &[u8]) -> Vec<u8> {
    let normalizer = [&[0x12, table.len() as u8], table].concat();
    let piece = b"\x0a\x05<unk>\x18\x02";
    [&[0x0a, piece.len() as u8], &piece[..], &[0x1a, normalizer.len() as u8], &normalizer].concat()
}

#[test]
fn damaged_vocabularies_are_refused_by_name() {
    let spiece = fs::read(fixture_folder().join("spiece_tokenizer/spiece.model")).unwrap();
    for (folder, file, content, said) in [
        ("bert_tokenizer", "vocab.txt", &b"[PAD]\n[CLS]\n[SEP]\n"[..], "`[UNK]` has no number"),
        ("bert_tokenizer", "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", "6 lines, but only 5 different tokens"),
        ("bert_tokenizer", "vocab.txt", b"\xff\n", "UTF-8"),
        ("bert_tokenizer_v5", "tokenizer.json", br#"{"model": {"type": "WordPiece", "vocab": 3}}"#, "tokenizer.json"),
        ("spiece_tokenizer", "spiece.model", &spiece[..spiece.len() / 2], "no SentencePiece model"),
        ("spiece_tokenizer", "spiece.model", &with_table(&[0; 4]), "table of characters"),
        ("spiece_tokenizer", "spiece.model", &with_table(&[255; 64]), "table of characters"),
        ("spiece_tokenizer", "spiece.model", &with_table(&[4, 0, 0, 0, 0, 252, 255, 255]), "table of characters"),
        ("spiece_tokenizer", "spiece.model", b"", "it has no piece for what is unknown"),
        ("spiece_tokenizer", "spiece.model", b"no protobuf at all", "no SentencePiece model"),
    ] {
        let error = refused(folder, file, content);
        assert!(error.contains(file) && error.contains(said), "{folder}/{file}: {error}");
    }
}

fn file(name: &str, content: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), content.into())
}

/// The ids that transformers' `BertTokenizer` gives for this vocabulary, number by number.
#[test]
fn a_chinese_prompt_in_a_small_vocabulary_has_these_numbers() {
    let vocabulary = "[PAD] [unused1] [UNK] [CLS] [SEP] [MASK] 飞 流 直 下 三 千 尺 ， 油 画 小 奶 猫 黄 鸭 a ##b";
    let config = r#"{"do_lower_case": true, "model_max_length": 12, "tokenizer_class": "BertTokenizer"}"#;
    let files = vec![file("vocab.txt", vocabulary.replace(' ', "\n")), file("tokenizer_config.json", config)];
    let tokenizer = PromptTokenizer::from_files(Path::new("small"), files).unwrap();
    // A word of which one piece is unknown is unknown as a whole.
    assert_eq!(tokenizer.encode("飞流直下，油画abc"), [3, 6, 7, 8, 9, 13, 14, 15, 2, 4, 0, 0]);
    assert_eq!(tokenizer.encode("小奶猫AB a b"), [3, 16, 17, 18, 21, 22, 21, 2, 4, 0, 0, 0]);
    assert_eq!(tokenizer.encode("飞流直下三千尺，油画，小奶猫"), [3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 4]);
}

/// A piece of a model: its field 1, with the text, the score and the type in it.
fn piece((text, score, kind): (&str, f32, u8)) -> Vec<u8> {
    let content =
        [&[0x0a, text.len() as u8][..], text.as_bytes(), b"\x15", &score.to_le_bytes(), &[0x18, kind]].concat();
    [&[0x0a, content.len() as u8][..], &content].concat()
}

/// The ids that sentencepiece gives for this model, with the marks of Japanese Stable Diffusion round them.
#[test]
fn a_japanese_prompt_in_a_small_model_has_these_numbers() {
    const CONTROL: u8 = 3;
    let pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, CONTROL),
        ("</s>", 0.0, CONTROL),
        ("[PAD]", 0.0, CONTROL),
        ("[CLS]", 0.0, CONTROL),
        ("[SEP]", 0.0, CONTROL),
        ("[MASK]", 0.0, CONTROL),
        ("▁", -3.0, 1),
        ("油絵", -4.0, 1),
        ("油", -5.0, 1),
        ("絵", -5.0, 1),
        ("▁サラリーマン", -4.0, 1),
        ("サラリーマン", -6.0, 1),
        ("a", -5.0, 1),
    ];
    let model: Vec<u8> = pieces.into_iter().flat_map(piece).collect();
    let marks = r#""bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "<unk>""#;
    let config = format!(r#"{{{marks}, "do_lower_case": true, "extra_ids": 0, "model_max_length": 77}}"#);
    let files = vec![file("spiece.model", model), file("tokenizer_config.json", config)];
    let tokenizer = PromptTokenizer::from_files(Path::new("small"), files).unwrap();
    for (text, expected) in [
        ("サラリーマン油絵", &[11, 8, 2][..]),
        ("サラリーマン 油絵", &[11, 7, 8, 2]),
        ("A油絵", &[7, 13, 8, 2]),
        ("ビル油", &[7, 0, 9, 2]),
    ] {
        let ids = tokenizer.encode(text);
        assert_eq!((ids.len(), &ids[..expected.len()]), (77, expected), "{text}");
        assert!(ids[expected.len()..].iter().all(|&id| id == 3), "{text}: {ids:?}");
    }
}

#[test]
fn clips_own_words_are_told_from_others_whatever_the_padding() {
    assert!(reads_like_clip(&PromptTokenizer::builtin()));
    assert!(reads_like_clip(&PromptTokenizer::builtin_padded_with("!").unwrap()));
    for folder in ["bert_tokenizer", "spiece_tokenizer", "words_tokenizer"] {
        assert!(!reads_like_clip(&opened(folder)), "{folder}");
    }
}
