//! Lookup table, with rows of their own for what was learned beyond it.

use std::cell::RefCell;
use tch::Tensor;

/// Row `i` for the integer `i`.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
    /// The row that no gradient reaches; -1 for none, as torch has it.
    padding_idx: i64,
    learned: RefCell<Option<LearnedRows>>,
}

/// Rows for the integers from `first` on.
#[derive(Debug)]
struct LearnedRows {
    first: i64,
    vectors: Vec<Tensor>,
}

impl Embedding {
    pub(crate) fn new(weight: Tensor) -> Embedding {
        Embedding { weight, padding_idx: -1, learned: RefCell::default() }
    }

    /// With a row that is not trained (torch: `padding_idx`).
    pub(crate) fn padded_with(self, padding_idx: i64) -> Embedding {
        Embedding { padding_idx, ..self }
    }

    /// `[rows, size]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Looks the integers from `first` on up in `vectors`, each `[n, size]`, one behind the other, whether or not the table has
    /// rows for them; without vectors, none.
    pub fn set_learned_rows(&self, first: i64, vectors: Vec<Tensor>) {
        *self.learned.borrow_mut() = (!vectors.is_empty()).then_some(LearnedRows { first, vectors });
    }

    /// ids: `[…]` integers → `[…, size]`. Gradients reach the learned rows that were looked up, and the table where it is
    /// trained.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        let of_table = |ids: &Tensor| Tensor::embedding(&self.weight, ids, self.padding_idx, false, false);
        let learned = self.learned.borrow();
        let Some(LearnedRows { first, vectors }) = learned.as_ref() else { return of_table(ids) };
        let is_learned = ids.ge(*first);
        let of_table = of_table(&ids.masked_fill(&is_learned, 0));
        let of_words = Tensor::embedding(&Tensor::cat(vectors, 0), &(ids - *first).clamp_min(0), -1, false, false);
        // In the wider of the two dtypes: vectors that are trained are f32 beside a table in the compute dtype.
        of_words.where_self(&is_learned.unsqueeze(-1), &of_table)
    }
}
