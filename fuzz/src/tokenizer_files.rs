//! Damaged files of a tokenizer.

use std::path::Path;

use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

use super::target::{Target, with_choice};

/// The first byte of each input chooses which file the first part is.
pub const TARGETS: &[Target] = &[Target { name: "tokenizer", run: tokenizer, seeds }];

/// Between the files.
const BETWEEN: &[u8] = b"\n\0\n";
const KINDS: [[&str; 5]; 4] = [
    ["vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"],
    ["vocab.txt", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "other"],
    ["spiece.model", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "other"],
    ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "other"],
];

/// Reads the files, and texts with the tokenizer that they are.
fn tokenizer(_: &Path, data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let mut files = Vec::new();
    for name in KINDS[usize::from(choice % 4)] {
        let place = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN);
        let (file, behind) = place.map_or((rest, None), |at| (&rest[..at], Some(&rest[at + BETWEEN.len()..])));
        files.push((name.to_owned(), file.to_vec()));
        let Some(behind) = behind else { break };
        rest = behind;
    }
    let tokenizer = match PromptTokenizer::from_files(Path::new("tokenizer"), files) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(error.to_string().contains("`tokenizer"), "{error}"),
    };
    let tokens_of = |text: &str| {
        let tokens = tokenizer.tokens(text);
        assert!(tokens.iter().all(|&token| (0..1 << 32).contains(&token)), "{tokens:?}");
        assert_eq!(tokenizer.encode(text).len(), tokenizer.window());
        tokens
    };
    for text in ["", "ab b, a cat's (b:1.2)  \t5", "瓶 ｶﾞ か\u{3099} \u{0}\u{feff}é", "<|endoftext|>[MASK]</s><pad> ab"]
    {
        assert_eq!(tokens_of(text), tokens_of(text));
        let weighted = tokenizer.encode_weighted(text, 2);
        assert!(
            weighted
                .iter()
                .all(|chunk| chunk.ids.len() == tokenizer.window() && chunk.weights.len() == chunk.ids.len())
        );
    }
    assert!(!tokenizer.files().is_empty());
}

fn seeds() -> Vec<Vec<u8>> {
    let join = |choice: u8, files: &[&[u8]]| with_choice(choice, &files.join(BETWEEN));
    let vocab = br#"{"a":0,"b":1,"a</w>":2,"b</w>":3,"ab":4,"ab</w>":5,"<|startoftext|>":6,"<|endoftext|>":7}"#;
    let merges = b"#version: 0.2\na b\na b</w>\n";
    let config = br#"{"model_max_length":8,"do_lower_case":true,"pad_token":"a","added_tokens_decoder":{"8":{"content":"<x>","lstrip":true,"special":false}}}"#;
    let added = br#"{"<y>":8}"#;
    let map = br#"{"bos_token":{"content":"<|startoftext|>","normalized":true},"pad_token":"b"}"#;
    let words = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\n\xe7\x93\xb6";
    let bert_config =
        br#"{"do_lower_case":false,"strip_accents":true,"tokenize_chinese_chars":true,"mask_token":"[MASK]"}"#;
    let piece = |text: &str, score: f32, kind: u8| {
        let inside =
            [&[0x0a, text.len() as u8], text.as_bytes(), &[0x15], &score.to_le_bytes(), &[0x18, kind]].concat();
        [&[0x0a, inside.len() as u8], &inside[..]].concat()
    };
    let pieces = [
        piece("<pad>", 0.0, 3),
        piece("</s>", 0.0, 3),
        piece("<unk>", 0.0, 2),
        piece("▁a", -1.0, 1),
        piece("b", -2.0, 1),
        piece("▁", -3.0, 1),
        piece("<u>", 0.0, 4),
        piece("<0x41>", 0.0, 6),
    ]
    .concat();
    // Unigram, no fallback to bytes; a table of characters that leads nowhere.
    let spiece = [&pieces[..], &[0x12, 2, 0x18, 1], &[0x1a, 12, 0x12, 8, 4, 0, 0, 0, 0, 0, 0, 0, 0x18, 1]].concat();
    let whole = br#"{"added_tokens":[{"id":6,"content":"<x>","special":true}],"model":{"type":"BPE","end_of_word_suffix":"</w>","vocab":{"a":0,"b":1,"ab</w>":2,"b</w>":3,"<|startoftext|>":4,"<|endoftext|>":5},"merges":["a b</w>",["a","b</w>"]]}}"#;
    let word_piece = br###"{"version":"1.0","added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"a":4,"##b":5}}}"###;
    let unigram = br#"{"normalizer":{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "},"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"always"},"model":{"type":"Unigram","unk_id":2,"vocab":[["<pad>",0.0],["</s>",0.0],["<unk>",0.0],["a",-1.5]],"byte_fallback":false}}"#;
    vec![
        join(0, &[vocab, merges, config, added]),
        join(0, &[vocab, merges, b"{}", added, map]),
        join(1, &[words, bert_config]),
        join(2, &[&spiece, br#"{"do_lower_case":true}"#]),
        join(3, &[whole, br#"{"model_max_length":77}"#]),
        join(3, &[word_piece]),
        join(3, &[unigram]),
    ]
}
