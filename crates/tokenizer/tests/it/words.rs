//! Small vocabularies made from a list of words.

use std::fs;

use sdtrain_test_support::fixture_folder;
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

fn listed() -> String {
    fs::read_to_string(fixture_folder().join("words_tokenizer/words.txt")).unwrap()
}

#[test]
fn every_listed_word_is_one_token() {
    let text = listed();
    let words: Vec<&str> = text.split_whitespace().collect();
    let tokenizer = PromptTokenizer::from_words(&words, 77);
    for word in &words {
        // These two are several words to CLIP.
        let expected = match *word {
            "t-shirt" => 3,
            "don't" => 2,
            _ => 1,
        };
        assert_eq!(tokenizer.token_count(word), expected, "{word}");
        assert_eq!(tokenizer.token_count(&word.to_uppercase()), expected, "{word}");
    }
    assert_eq!(
        tokenizer.tokens("a red bottle"),
        [tokenizer.tokens("a"), tokenizer.tokens("red"), tokenizer.tokens("bottle")].concat()
    );
}

#[test]
fn the_same_words_give_the_same_files() {
    let text = listed();
    let words: Vec<&str> = text.split_whitespace().collect();
    for (name, content) in PromptTokenizer::from_words(&words, 77).files() {
        assert_eq!(fs::read(fixture_folder().join("words_tokenizer").join(&name)).unwrap(), content, "{name}");
    }
}

#[test]
fn other_text_is_encoded_by_pieces_and_nothing_is_unknown() {
    let tokenizer = PromptTokenizer::from_words(&["red", "bottle"], 77);
    assert_eq!(tokenizer.vocab_size(), 512 + 7 + 2);
    assert_eq!(tokenizer.eos(), 520);
    let text = "a blue 瓶子 🍾 \u{0} ÿ redbottle";
    assert!(tokenizer.tokens(text).iter().all(|&id| id < 519));
    // b l u e: no piece is known, so each letter is a token.
    assert_eq!(tokenizer.token_count("blue"), 4);
    // The merges of `red` need the word to end there, those of `bottle` do not care what is before it.
    assert_eq!(tokenizer.token_count("redx"), 3);
}

#[test]
fn an_empty_list_gives_a_vocabulary_of_bytes() {
    let tokenizer = PromptTokenizer::from_words(&[], 8);
    assert_eq!((tokenizer.vocab_size(), tokenizer.window()), (514, 8));
    assert_eq!(tokenizer.encode("ab"), [512, 64, 321, 513, 513, 513, 513, 513]);
    assert_eq!(PromptTokenizer::from_words(&["", " "], 8).vocab_size(), 514);
}
