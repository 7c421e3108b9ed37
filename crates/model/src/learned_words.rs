//! Words that a model has learned beyond its vocabulary: vectors that stand behind the rows of its token embedding
//! (textual inversion, Gal et al. 2022, arXiv:2208.01618).
//!
//! The embedding table itself is never touched: a token of a learned word is looked up in the word's own vectors.

use crate::error::{Error, Result};
use crate::stable_diffusion::StableDiffusion;
use sdtrain_tokenizer::ClipTokenizer;
use std::cell::RefCell;
use std::rc::Rc;
use tch::Tensor;

/// A word with the vectors that it stands for.
#[derive(Debug)]
pub struct LearnedWord {
    /// As it is written in prompts.
    pub word: String,
    /// `[vectors, hidden_size]`; f32 where it is trained.
    pub vectors: Tensor,
}

impl LearnedWord {
    /// How many tokens of a prompt it takes.
    pub fn count(&self) -> usize {
        self.vectors.size().first().map_or(0, |&count| count as usize)
    }
}

/// The learned words of a model, and the tokenizer that knows them.
#[derive(Default)]
pub(crate) struct LearnedWords(RefCell<Option<Learned>>);

struct Learned {
    words: Vec<LearnedWord>,
    tokenizer: Rc<ClipTokenizer>,
}

impl StableDiffusion {
    /// Adds words to those that the model knows: prompts may use them from now on, negative ones as well. The vectors are
    /// used as they are, so that training them changes the prompts' states.
    ///
    /// # Errors
    /// Where a word is there already or cannot be one, and where its vectors are not as wide as the text encoder's.
    pub fn add_words(&self, words: Vec<LearnedWord>) -> Result<()> {
        let width = self.text_encoder.config().hidden_size;
        for LearnedWord { word, vectors } in &words {
            if vectors.dim() != 2 || vectors.size()[1] != width {
                return Err(Error::Config(format!(
                    "the vectors of `{word}` have the shape {:?}; this model's text encoder has vectors of {width} numbers",
                    vectors.size()
                )));
            }
        }
        let names: Vec<(&str, usize)> = words.iter().map(|word| (word.word.as_str(), word.count())).collect();
        let tokenizer = self.prompt_tokenizer().with_words(&names)?;
        let mut learned = self.learned.0.borrow_mut();
        let mut all = learned.take().map(|learned| learned.words).unwrap_or_default();
        all.extend(words);
        let vectors = all.iter().map(|word| word.vectors.shallow_clone()).collect();
        self.text_encoder.set_learned_rows(tokenizer.first_learned_id(), vectors);
        *learned = Some(Learned { words: all, tokenizer: Rc::new(tokenizer) });
        Ok(())
    }

    /// Forgets all learned words.
    pub fn remove_words(&self) {
        *self.learned.0.borrow_mut() = None;
        self.text_encoder.set_learned_rows(0, Vec::new());
    }

    /// Each learned word with the number of its vectors, in the order in which they were added.
    pub fn learned_words(&self) -> Vec<(String, usize)> {
        let learned = self.learned.0.borrow();
        let words = learned.iter().flat_map(|learned| &learned.words);
        words.map(|word| (word.word.clone(), word.count())).collect()
    }

    /// The tokenizer that prompts are read with: the model's own, with the learned words.
    pub fn prompt_tokenizer(&self) -> Rc<ClipTokenizer> {
        let learned = self.learned.0.borrow();
        learned.as_ref().map_or_else(|| self.tokenizer.clone(), |learned| learned.tokenizer.clone())
    }
}
