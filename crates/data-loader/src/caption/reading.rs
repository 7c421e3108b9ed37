//! What a caption is made for: a visit in training, something that must stay the same, or counting.

use sdtrain_random::Stream;

/// How far the training is when an image is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Optimizer steps done before.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
}

/// What a caption is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A visit in training.
    Training(Progress),
    /// Anything but training: nothing is left out or moved, and of several choices the first is taken.
    Plain,
    /// Counting tokens: the same, with the longest choice.
    Longest,
}

impl Reading {
    /// How far the training is, in training.
    pub fn progress(self) -> Option<Progress> {
        match self {
            Reading::Training(progress) => Some(progress),
            Reading::Plain | Reading::Longest => None,
        }
    }

    /// The place of one of several choices, of which there is at least one.
    pub fn choose(self, choices: &[&str], random: &mut Stream) -> usize {
        match self {
            Reading::Training(_) => random.below(choices.len() as u64) as usize,
            Reading::Plain => 0,
            Reading::Longest => (0..choices.len()).max_by_key(|&index| choices[index].len()).unwrap_or(0),
        }
    }
}
