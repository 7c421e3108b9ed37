//! Words beyond the vocabulary get the tokens that transformers and diffusers give them.

use sdtrain_test_support::{Fixture, fixture_folder};
use sdtrain_tokenizer::{Error, PromptTokenizer, Tokenizer};

#[test]
fn prompts_with_added_words_have_transformers_tokens() {
    let fixture = Fixture::open("added_tokens.safetensors");
    let texts: Vec<String> = serde_json::from_value(fixture.json("texts")).unwrap();
    let words: Vec<(String, usize)> = serde_json::from_value(fixture.json("words")).unwrap();
    let words: Vec<(&str, usize)> = words.iter().map(|(word, vectors)| (word.as_str(), *vectors)).collect();
    let small = PromptTokenizer::from_folder(fixture_folder().join("words_tokenizer")).unwrap();
    for (name, plain) in [("clip", PromptTokenizer::builtin()), ("words", small)] {
        let tokenizer = plain.with_words(&words).unwrap();
        let expected = fixture.integers(&format!("output.{name}.ids"));
        let counts = fixture.integers(&format!("output.{name}.token_counts"));
        for ((text, expected), count) in texts.iter().zip(expected.chunks(tokenizer.window())).zip(counts) {
            assert_eq!(tokenizer.encode(text), expected, "{name}: {text:?}");
            assert_eq!(tokenizer.token_count(text) as i64, count, "{name}: {text:?}");
        }
        let added: usize = words.iter().map(|(_, vectors)| vectors).sum();
        assert_eq!(tokenizer.vocab_size(), plain.vocab_size() + added);
        assert_eq!(tokenizer.first_learned_id(), plain.vocab_size() as i64);
    }
}

#[test]
fn other_prompts_keep_their_tokens() {
    let plain = PromptTokenizer::builtin();
    let tokenizer = plain.with_words(&[("<cat>", 2), ("snorp", 1)]).unwrap();
    let fixture = Fixture::open("prompts.safetensors");
    let texts: Vec<String> = serde_json::from_value(fixture.json("texts")).unwrap();
    for text in texts {
        assert_eq!(tokenizer.tokens(&text), plain.tokens(&text), "{text:?}");
    }
    assert_eq!(tokenizer.files(), plain.files());
}

#[test]
fn a_word_stands_for_all_of_its_tokens_whatever_the_case_of_its_letters() {
    let tokenizer = PromptTokenizer::builtin().with_words(&[("<Cat>", 3)]).unwrap();
    let ids = [49408, 49409, 49410];
    assert_eq!(tokenizer.learned_ids("<Cat>"), Some(&ids[..]));
    for text in ["<cat>", "<CAT>", "<Cat>"] {
        assert_eq!(tokenizer.tokens(text), ids, "{text}");
    }
    // Its further tokens can be asked for by their names, alone.
    assert_eq!(tokenizer.tokens("<cat>_1"), [49409]);
    let weighted = &tokenizer.encode_weighted("a (<cat>:1.5)", 1)[0];
    assert_eq!((&weighted.ids[2..5], &weighted.weights[1..6]), (&ids[..], &[1.0, 1.5, 1.5, 1.5, 1.0][..]));
}

#[test]
fn words_are_added_to_those_that_are_there() {
    let first = PromptTokenizer::builtin().with_words(&[("snorp", 2)]).unwrap();
    let second = first.with_words(&[("<cat>", 1)]).unwrap();
    assert_eq!(second.tokens("snorp <cat>"), [49408, 49409, 49410]);
    assert_eq!(first.learned_ids("<cat>"), None);
}

#[test]
fn a_word_that_cannot_be_one_is_refused_with_its_reason() {
    let tokenizer = PromptTokenizer::builtin();
    for (word, vectors, reason) in
        [("", 1, "is empty"), ("two words", 1, "blank"), ("snorp", 0, "no vector"), ("cat", 1, "`cat` already")]
    {
        let error = tokenizer.with_words(&[(word, vectors)]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let error = tokenizer.with_words(&[("snorp", 2), ("snorp_1", 1)]).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::WordTaken { token, .. } if token == "snorp_1"), "{error}");
    assert!(error.hint().is_some());
}
