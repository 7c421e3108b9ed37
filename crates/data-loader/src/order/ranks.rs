//! The batches of one of several processes that train together.

use std::ops::Range;

use crate::DataError;

/// Which of how many processes this is.
///
/// Together they train on the order of one process whose batches are as many times larger: batch for batch, each takes its part,
/// so all have the same number of batches, and the parts are the whole. A batch that is shorter than the others is dealt as
/// evenly as it goes; where it has fewer examples than there are processes, some get an empty part, and their step adds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    rank: usize,
    world: usize,
}

impl Rank {
    /// The one process of a run without others.
    pub const ALONE: Rank = Rank { rank: 0, world: 1 };

    /// Process `rank`, counted from 0, of `world`.
    pub fn new(rank: usize, world: usize) -> Result<Rank, DataError> {
        if rank < world {
            return Ok(Rank { rank, world });
        }
        Err(DataError::NoSuchRank { rank, world })
    }

    /// Those of `world` ranks that process number `process` of `processes` plays: as many as the others, or one fewer.
    ///
    /// # Errors
    /// Where there is no such process, or there are more processes than ranks, so that some would have nothing to do.
    pub fn played_by(process: usize, processes: usize, world: usize) -> Result<Vec<Rank>, DataError> {
        if process >= processes || processes > world {
            return Err(DataError::NoSuchRank { rank: process, world });
        }
        Ok((process..world).step_by(processes).map(|rank| Rank { rank, world }).collect())
    }

    /// Its number, from 0.
    pub fn number(self) -> usize {
        self.rank
    }

    /// How many processes there are.
    pub fn world(self) -> usize {
        self.world
    }

    /// Its part of so many examples in a row; the parts of all ranks lie one behind the other.
    pub(crate) fn part_of(self, examples: usize) -> Range<usize> {
        let start_of = |rank: usize| (rank as u128 * examples as u128 / self.world as u128) as usize;
        start_of(self.rank)..start_of(self.rank + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_full_batch_are_equal_and_of_a_short_one_nearly() {
        let parts = |world: usize, examples: usize| -> Vec<usize> {
            (0..world).map(|rank| Rank::new(rank, world).unwrap().part_of(examples).len()).collect()
        };
        assert_eq!(parts(3, 12), [4, 4, 4]);
        assert_eq!(parts(3, 11), [3, 4, 4]);
        assert_eq!(parts(3, 2), [0, 1, 1]);
        assert_eq!(parts(1, 5), [5]);
    }

    #[test]
    fn a_rank_outside_of_its_world_is_refused() {
        let error = Rank::new(2, 2).unwrap_err();
        assert_eq!(error.to_string(), "there is no process 2 among 2");
        assert!(error.hint().unwrap().contains("from 0 to 1"));
        assert!(Rank::new(0, 0).unwrap_err().hint().is_some());
    }
}
