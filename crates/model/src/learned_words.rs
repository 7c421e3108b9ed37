//! Words that a model has learned beyond its vocabulary: vectors that stand behind the rows of its token embedding
//! (textual inversion, Gal et al. 2022, arXiv:2208.01618).
//!
//! The embedding table itself is never touched: a token of a learned word is looked up in the word's own vectors.

use crate::error::{Error, Result};
use crate::stable_diffusion::StableDiffusion;
use sdtrain_tokenizer::PromptTokenizer;
use std::cell::RefCell;
use std::rc::Rc;
use tch::Tensor;

/// A word with the vectors that it stands for.
#[derive(Debug)]
pub struct LearnedWord {
    /// As it is written in prompts.
    pub word: String,
    /// Those of each text encoder, `[vectors, hidden_size]`, all of them as many; f32 where they are trained.
    pub vectors: Vec<Tensor>,
}

impl LearnedWord {
    /// How many tokens of a prompt it takes.
    pub fn count(&self) -> usize {
        self.vectors.first().and_then(|vectors| vectors.size().first().copied()).unwrap_or(0) as usize
    }
}

/// The learned words of a model, and the tokenizers that know them.
#[derive(Default)]
pub(crate) struct LearnedWords(RefCell<Option<Learned>>);

struct Learned {
    words: Vec<LearnedWord>,
    tokenizers: Vec<Rc<PromptTokenizer>>,
}

impl StableDiffusion {
    /// Adds words to those that the model knows: prompts may use them from now on, negative ones as well. The vectors are
    /// used as they are, so that training them changes the prompts' states.
    ///
    /// # Errors
    /// Where a word is there already or cannot be one, and where its vectors are not as wide as the text encoders' or not for all of
    /// them.
    pub fn add_words(&self, words: Vec<LearnedWord>) -> Result<()> {
        let widths: Vec<i64> =
            self.text_encoders.iter().map(|encoder| encoder.network.config().hidden_size()).collect();
        for word in &words {
            let expected: Vec<Vec<i64>> = widths.iter().map(|width| vec![word.count() as i64, *width]).collect();
            let shapes: Vec<Vec<i64>> = word.vectors.iter().map(Tensor::size).collect();
            if shapes != expected {
                let (word, listed) = (&word.word, |all: &[String]| all.join(" and "));
                let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
                let widths: Vec<String> = widths.iter().map(i64::to_string).collect();
                return Err(Error::Config(format!(
                    "the vectors of `{word}` have the shape {}; this model's text encoder has vectors of {} numbers",
                    listed(&shapes),
                    listed(&widths)
                )));
            }
        }
        let names: Vec<(&str, usize)> = words.iter().map(|word| (word.word.as_str(), word.count())).collect();
        let tokenizers =
            self.prompt_tokenizers().into_iter().map(|tokenizer| Ok(Rc::new(tokenizer.with_words(&names)?)));
        let tokenizers = tokenizers.collect::<Result<Vec<_>>>()?;
        let mut learned = self.learned.0.borrow_mut();
        let mut all = learned.take().map(|learned| learned.words).unwrap_or_default();
        all.extend(words);
        for (index, (encoder, tokenizer)) in self.text_encoders.iter().zip(&tokenizers).enumerate() {
            let vectors = all.iter().map(|word| word.vectors[index].shallow_clone()).collect();
            encoder.network.set_learned_rows(tokenizer.first_learned_id(), vectors);
        }
        *learned = Some(Learned { words: all, tokenizers });
        Ok(())
    }

    /// Forgets all learned words.
    pub fn remove_words(&self) {
        *self.learned.0.borrow_mut() = None;
        self.text_encoders.iter().for_each(|encoder| encoder.network.set_learned_rows(0, Vec::new()));
    }

    /// Each learned word with the number of its vectors, in the order in which they were added.
    pub fn learned_words(&self) -> Vec<(String, usize)> {
        let learned = self.learned.0.borrow();
        let words = learned.iter().flat_map(|learned| &learned.words);
        words.map(|word| (word.word.clone(), word.count())).collect()
    }

    /// The tokenizer that each text encoder's prompts are read with: the model's own, with the learned words.
    pub fn prompt_tokenizers(&self) -> Vec<Rc<PromptTokenizer>> {
        let own = || self.text_encoders.iter().map(|encoder| encoder.tokenizer.clone()).collect();
        self.learned.0.borrow().as_ref().map_or_else(own, |learned| learned.tokenizers.clone())
    }
}
