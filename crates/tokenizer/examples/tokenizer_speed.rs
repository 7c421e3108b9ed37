//! How long captions take to become tokens: `cargo run --release --example tokenizer_speed FILE [FOLDER]`, a caption a line, with the
//! vocabulary of a `tokenizer` folder or, without one, with that of CLIP.

use std::time::Instant;

use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

/// Passes over the file; the fastest counts, since anything else that runs only slows them down.
const PASSES: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("name a file with a caption a line")?;
    let text = std::fs::read_to_string(file)?;
    let captions: Vec<&str> = text.lines().collect();
    let tokenizer = match std::env::args().nth(2) {
        Some(folder) => PromptTokenizer::from_folder(folder)?,
        None => PromptTokenizer::builtin(),
    };
    let fastest = |encode: &dyn Fn(&str) -> usize| {
        let passes = (0..PASSES).map(|_| {
            let start = Instant::now();
            let tokens: usize = captions.iter().map(|caption| encode(caption)).sum();
            (start.elapsed().as_secs_f64(), tokens)
        });
        passes.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
    };
    let (seconds, tokens) = fastest(&|caption| tokenizer.tokens(caption).len());
    let (long_way, same) = fastest(&|caption| tokenizer.tokens_the_long_way(caption).len());
    assert_eq!(tokens, same, "both ways give the same tokens");
    let each = |seconds: f64| 1e6 * seconds / captions.len().max(1) as f64;
    println!(
        "{{\"captions\": {}, \"tokens\": {tokens}, \"microseconds\": {:.3}, \"tokenizers_microseconds\": {:.3}}}",
        captions.len(),
        each(seconds),
        each(long_way)
    );
    Ok(())
}
