//! Whether a tokenizer and the table of words of a text encoder can be of one model.

use crate::Tokenizer;

/// More rows than these without a token are no padding of a table, whatever it is padded to.
const MOST_SPARE: usize = 1024;
/// A part of the rows, 1 in so many, that may be without a token.
const SPARE_PART: usize = 20;
/// Start marks that transformers writes into a `config.json` by itself, of old and today: they say nothing of the model.
const USUAL_BOS: [i64; 2] = [0, 49406];
/// The same of end marks.
const USUAL_EOS: [i64; 2] = [2, 49407];

/// What a text encoder says of the words that it reads. There is no word of its padding: programs disagree about that in models that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordTable {
    /// Rows of its table of words.
    pub rows: usize,
    /// The start mark in its `config.json`.
    pub bos: Option<i64>,
    /// The end mark there.
    pub eos: Option<i64>,
}

/// What speaks against a tokenizer and a text encoder being of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Tokens that have no row.
    TooManyTokens {
        /// How many tokens there are.
        tokens: usize,
        /// How many rows there are.
        rows: usize,
    },
    /// More rows without a token than a table is padded with.
    SpareRows {
        /// How many tokens there are.
        tokens: usize,
        /// How many rows there are.
        rows: usize,
    },
    /// Another number for a mark.
    OtherMark {
        /// Which one.
        mark: &'static str,
        /// The text encoder's number.
        wanted: i64,
        /// The tokenizer's.
        found: i64,
    },
}

impl Misfit {
    /// What speaks against `tokenizer` for a text encoder with this `table`, if anything.
    pub fn of(tokenizer: &dyn Tokenizer, table: WordTable) -> Option<Misfit> {
        let (tokens, rows) = (tokenizer.vocab_size(), table.rows);
        if tokens > rows {
            return Some(Misfit::TooManyTokens { tokens, rows });
        }
        let marks = [
            ("start mark", table.bos.filter(|mark| !USUAL_BOS.contains(mark)), tokenizer.bos()),
            ("end mark", table.eos.filter(|mark| !USUAL_EOS.contains(mark)), Some(tokenizer.eos())),
        ];
        let other_mark = marks.into_iter().find_map(|(mark, wanted, found)| {
            let (wanted, found) = (wanted?, found?);
            let is_row = usize::try_from(wanted).is_ok_and(|wanted| wanted < rows);
            (is_row && wanted != found).then_some(Misfit::OtherMark { mark, wanted, found })
        });
        let has_spare_rows = (rows - tokens).saturating_mul(SPARE_PART) > rows;
        other_mark.or(has_spare_rows.then_some(Misfit::SpareRows { tokens, rows }))
    }

    /// Whether they are of two models for certain, where the weights of the text encoder are not drawn anew.
    pub fn is_certain(&self) -> bool {
        match self {
            Misfit::TooManyTokens { .. } | Misfit::OtherMark { .. } => true,
            // Small vocabularies are easily padded with a larger part.
            Misfit::SpareRows { tokens, rows } => rows - tokens > MOST_SPARE,
        }
    }

    /// Whether it counts for a text encoder whose weights are drawn, too: one that has yet to learn any word can learn these.
    pub fn counts_for_drawn(&self) -> bool {
        matches!(self, Misfit::TooManyTokens { .. })
    }

    /// It in words, in which the two are called `tokenizer` and `text_encoder`.
    pub fn in_words(&self, tokenizer: &str, text_encoder: &str) -> String {
        let fact = match self {
            Misfit::TooManyTokens { tokens, rows } => {
                format!("the {tokenizer} has {tokens} tokens, but the {text_encoder} knows only {rows}")
            }
            Misfit::SpareRows { tokens, rows } => {
                format!("the {tokenizer} has {tokens} tokens, but the {text_encoder} knows {rows}")
            }
            Misfit::OtherMark { mark, wanted, found } => {
                format!("the {mark} of the {tokenizer} is token {found}, but that of the {text_encoder} is {wanted}")
            }
        };
        format!("{fact}; they {} of one model", if self.is_certain() { "are not" } else { "may not be" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of which only numbers are asked.
    struct Numbers {
        tokens: usize,
        bos: Option<i64>,
        eos: i64,
    }

    impl Tokenizer for Numbers {
        fn tokens(&self, _: &str) -> Vec<i64> {
            Vec::new()
        }

        fn window(&self) -> usize {
            77
        }

        fn vocab_size(&self) -> usize {
            self.tokens
        }

        fn bos(&self) -> Option<i64> {
            self.bos
        }

        fn eos(&self) -> i64 {
            self.eos
        }

        fn pad(&self) -> i64 {
            self.eos
        }

        fn files(&self) -> Vec<(String, Vec<u8>)> {
            Vec::new()
        }
    }

    fn misfit(tokens: usize, rows: usize) -> Option<Misfit> {
        Misfit::of(&Numbers { tokens, bos: Some(101), eos: 102 }, WordTable { rows, bos: Some(0), eos: Some(2) })
    }

    #[test]
    fn tables_of_real_models_fit() {
        // CLIP's, Taiyi's and PAI-Diffusion's, Japanese Stable Diffusion's.
        for words in [49408, 21128, 32000] {
            assert_eq!(misfit(words, words), None);
            for padded_to in [8, 64, 128, 512] {
                assert_eq!(misfit(words, (words + 1).next_multiple_of(padded_to)), None, "{words}, {padded_to}");
            }
            assert_eq!(misfit(words, words + 300), None, "rows of learned words");
        }
    }

    #[test]
    fn other_counts_are_doubtful_or_certainly_of_two_models() {
        let other = misfit(21128, 49408).unwrap();
        assert!(other.is_certain() && !other.counts_for_drawn());
        let said = "the tokenizer has 21128 tokens, but the text encoder knows 49408; they are not of one model";
        assert_eq!(other.in_words("tokenizer", "text encoder"), said);
        let doubtful = misfit(418, 480).unwrap();
        assert!(!doubtful.is_certain());
        assert!(doubtful.in_words("tokenizer", "text encoder").ends_with("knows 480; they may not be of one model"));
        let more = misfit(49409, 49408).unwrap();
        assert!(more.is_certain() && more.counts_for_drawn());
        assert!(more.in_words("tokenizer 2", "text encoder 2").starts_with("the tokenizer 2 has 49409 tokens"));
    }

    #[test]
    fn marks_count_where_the_configuration_says_more_than_is_usual() {
        let of = |bos, eos, table_bos, table_eos| {
            let table = WordTable { rows: 600, bos: table_bos, eos: table_eos };
            Misfit::of(&Numbers { tokens: 600, bos, eos }, table)
        };
        assert_eq!(of(Some(598), 599, Some(598), Some(599)), None);
        assert_eq!(of(Some(598), 599, None, None), None);
        for usual in [(Some(0), Some(2)), (Some(49406), Some(49407))] {
            assert_eq!(of(Some(598), 599, usual.0, usual.1), None, "{usual:?}");
        }
        assert_eq!(of(Some(598), 599, Some(700), Some(-1)), None, "no rows of the table");
        assert_eq!(of(None, 599, Some(598), Some(599)), None, "a tokenizer without a start mark");
        let end = of(Some(598), 3, Some(598), Some(599)).unwrap();
        assert_eq!(end, Misfit::OtherMark { mark: "end mark", wanted: 599, found: 3 });
        let said =
            "the end mark of the tokenizer is token 3, but that of the text encoder is 599; they are not of one model";
        assert_eq!(end.in_words("tokenizer", "text encoder"), said);
        assert!(of(Some(2), 599, Some(598), Some(599)).unwrap().is_certain());
    }
}
