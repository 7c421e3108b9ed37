//! The same numbers as transformers, prompt by prompt.

use sdtrain_test_support::{Fixture, fixture_folder};
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

fn builtin_padded_with(pad: &str) -> PromptTokenizer {
    let files = PromptTokenizer::builtin().files();
    let content = |name: &str| &files.iter().find(|file| file.0 == name).expect(name).1;
    PromptTokenizer::from_parts(content("vocab.json"), content("merges.txt"), pad, 77).unwrap()
}

fn check(fixture: &str, name: &str, tokenizer: &PromptTokenizer) {
    let fixture = Fixture::open(fixture);
    let texts: Vec<String> = serde_json::from_value(fixture.json("texts")).unwrap();
    let expected = fixture.integers(&format!("output.{name}.ids"));
    let counts = fixture.integers(&format!("output.{name}.token_counts"));
    assert_eq!(expected.len(), texts.len() * tokenizer.window());
    for ((text, expected), count) in texts.iter().zip(expected.chunks(tokenizer.window())).zip(counts) {
        assert_eq!(tokenizer.encode(text), expected, "{text:?}");
        assert_eq!(tokenizer.token_count(text) as i64, count, "{text:?}");
        assert_eq!(tokenizer.encode_chunks(text, 1), [expected], "{text:?}");
    }
}

#[test]
fn the_built_in_vocabulary_gives_transformers_numbers() {
    let tokenizer = PromptTokenizer::builtin();
    assert_eq!((tokenizer.vocab_size(), tokenizer.window()), (49408, 77));
    assert_eq!((tokenizer.bos().unwrap(), tokenizer.eos(), tokenizer.pad()), (49406, 49407, 49407));
    check("tokenizer.safetensors", "clip", &tokenizer);
    check("prompts.safetensors", "clip", &tokenizer);
}

#[test]
fn a_vocabulary_from_files_gives_the_same_numbers_with_either_padding() {
    for (pad, name, id) in [("<|endoftext|>", "clip", 49407), ("!", "clip_pad_0", 0)] {
        let tokenizer = builtin_padded_with(pad);
        assert_eq!(tokenizer.pad(), id);
        check("tokenizer.safetensors", name, &tokenizer);
        check("prompts.safetensors", name, &tokenizer);
    }
}

#[test]
fn a_small_vocabulary_from_a_folder_gives_transformers_numbers() {
    let tokenizer = PromptTokenizer::from_folder(fixture_folder().join("tiny_sd1/tokenizer")).unwrap();
    check("tokenizer.safetensors", "tiny", &tokenizer);
    // The second is the first as transformers 5 saves it, with `tokenizer.json` alone.
    for folder in ["words_tokenizer", "words_tokenizer_v5"] {
        let tokenizer = PromptTokenizer::from_folder(fixture_folder().join(folder)).unwrap();
        check("prompts.safetensors", "words", &tokenizer);
    }
}

#[test]
fn a_cut_prompt_keeps_its_end_mark_and_chunks_take_the_rest() {
    let tokenizer = PromptTokenizer::builtin();
    let text = "word ".repeat(100);
    let word = tokenizer.tokens("word")[0];
    let one = tokenizer.encode(&text);
    assert_eq!((one.len(), one[0], one[75], one[76]), (77, 49406, word, 49407));
    let chunks = tokenizer.encode_chunks(&text, 3);
    assert_eq!(chunks[0], one);
    let second = [&[49406][..], &[word; 25], &[49407; 51]].concat();
    let third = [&[49406][..], &[49407; 76]].concat();
    assert_eq!(chunks[1..], [second, third]);
    assert_eq!(tokenizer.token_count(&text), 100);
    assert_eq!(tokenizer.encode_chunks("a", usize::from(false)), [[0; 0]; 0]);
}

#[test]
fn weights_follow_their_tokens_through_the_windows() {
    for tokenizer in [PromptTokenizer::builtin(), builtin_padded_with("!")] {
        let text = format!("a (red:1.5) [cup] {}", "word ".repeat(100));
        let chunks = tokenizer.encode_weighted(&text, 2);
        let plain = tokenizer.encode_chunks(&text.replace(['(', ')', '[', ']'], " ").replace(":1.5", ""), 2);
        assert_eq!(chunks.iter().map(|chunk| chunk.ids.clone()).collect::<Vec<_>>(), plain);
        let mut first = vec![1.0; 77];
        (first[2], first[3]) = (1.5, (1.0 / 1.1_f64) as f32);
        assert_eq!(chunks[0].weights, first);
        assert_eq!(chunks[1].weights, [1.0; 77]);

        // The 75th token stands in the first window, the 76th in the second.
        let chunks = tokenizer.encode_weighted(&format!("{}(red cup:0.5)", "word ".repeat(74)), 3);
        let weighted = |chunk: usize| (0..77).filter(|&index| chunks[chunk].weights[index] != 1.0).collect::<Vec<_>>();
        assert_eq!([weighted(0), weighted(1), weighted(2)], [vec![75], vec![1], vec![]]);
        assert_eq!(chunks[1].ids[..3], [49406, tokenizer.tokens("cup")[0], 49407]);
    }
    let empty = PromptTokenizer::builtin().encode_weighted("", 1);
    assert_eq!((&empty[0].ids, empty[0].weights[..] == [1.0; 77]), (&PromptTokenizer::builtin().encode(""), true));
}

#[test]
fn a_part_of_a_word_that_is_weighted_is_a_word_of_its_own() {
    let tokenizer = PromptTokenizer::builtin();
    let tokens = [tokenizer.tokens("bottle"), tokenizer.tokens("s")].concat();
    let chunk = &tokenizer.encode_weighted("(bottle)s", 1)[0];
    assert_eq!((&chunk.ids[1..3], &chunk.weights[1..3]), (&tokens[..], &[1.1, 1.0][..]));
}
