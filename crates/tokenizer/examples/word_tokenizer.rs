//! Makes a `tokenizer` folder whose vocabulary is built from a list of words:
//! `cargo run -p sdtrain-tokenizer --example word_tokenizer -- words.txt folder`.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use sdtrain_tokenizer::{DEFAULT_WINDOW, PromptTokenizer, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [words, folder] = arguments.as_slice() else {
        return Err("usage: word_tokenizer WORDS_FILE FOLDER".into());
    };
    let words = fs::read_to_string(words)?;
    let words: Vec<&str> = words.split_whitespace().collect();
    fs::create_dir_all(folder)?;
    let tokenizer = PromptTokenizer::from_words(&words, DEFAULT_WINDOW);
    for (name, content) in tokenizer.files() {
        fs::write(Path::new(folder).join(name), content)?;
    }
    println!("{} words, {} tokens", words.len(), tokenizer.vocab_size());
    Ok(())
}
