//! Prompts in windows: start mark, tokens, end mark, padding; longer ones in several, and with a weight for each token.

use crate::{Tokenizer, parse_prompt_weights};

/// One window of a prompt with a weight for each of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedChunk {
    /// As many as the window is long.
    pub ids: Vec<i64>,
    /// As many; 1 for marks and padding.
    pub weights: Vec<f32>,
}

/// One window around the tokens that fit.
pub(crate) fn window_of<T: Tokenizer + ?Sized>(tokenizer: &T, tokens: &[i64]) -> Vec<i64> {
    let window = tokenizer.window();
    let mut ids = Vec::with_capacity(window);
    ids.extend(tokenizer.bos());
    ids.extend(tokens.iter().take(window - tokenizer.marks()));
    ids.push(tokenizer.eos());
    ids.resize(window, tokenizer.pad());
    ids
}

/// `chunks` windows one after the other.
pub(crate) fn windows_of<T: Tokenizer + ?Sized>(tokenizer: &T, tokens: &[i64], chunks: usize) -> Vec<Vec<i64>> {
    (0..chunks).map(|index| window_of(tokenizer, part(tokens, index, tokenizer))).collect()
}

/// The tokens of window number `index`.
fn part<'a, I, T: Tokenizer + ?Sized>(items: &'a [I], index: usize, tokenizer: &T) -> &'a [I] {
    let length = tokenizer.window() - tokenizer.marks();
    let items = items.get(index.saturating_mul(length)..).unwrap_or_default();
    &items[..items.len().min(length)]
}

/// The windows of a prompt with weights in brackets; the text of each weight is tokenised by itself.
pub(crate) fn weighted<T: Tokenizer + ?Sized>(tokenizer: &T, prompt: &str, chunks: usize) -> Vec<WeightedChunk> {
    let (tokens, weights) = weighted_tokens(tokenizer, prompt);
    let weights_of = |index: usize| {
        let mut window = vec![1.0; tokenizer.marks() - 1];
        window.extend(part(&weights, index, tokenizer));
        window.resize(tokenizer.window(), 1.0);
        window
    };
    let windows = windows_of(tokenizer, &tokens, chunks).into_iter().enumerate();
    windows.map(|(index, ids)| WeightedChunk { ids, weights: weights_of(index) }).collect()
}

/// The tokens of a prompt with weights in brackets, without marks or limit, and the weight of each.
pub(crate) fn weighted_tokens<T: Tokenizer + ?Sized>(tokenizer: &T, prompt: &str) -> (Vec<i64>, Vec<f32>) {
    let (mut tokens, mut weights) = (Vec::new(), Vec::new());
    for part in parse_prompt_weights(prompt) {
        tokens.extend(tokenizer.tokens(&part.text));
        weights.resize(tokens.len(), part.weight as f32);
    }
    (tokens, weights)
}
