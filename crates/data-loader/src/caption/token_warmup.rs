//! Captions that grow: few parts at the start of the training, all of them later.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Progress, Reading};

/// `token_warmup_min` and `token_warmup_step`.
pub(super) struct TokenWarmup;

impl CaptionStep for TokenWarmup {
    fn name(&self) -> &'static str {
        "token_warmup"
    }

    fn stream(&self) -> u64 {
        8
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, reading: Reading, _: &mut Stream) -> ControlFlow<()> {
        if let (Some(parts), Some(progress)) = (&mut caption.parts, reading.progress()) {
            let count = count(parts.flexible.len(), subset, progress);
            parts.flexible.truncate(count);
        }
        ControlFlow::Continue(())
    }
}

/// How many of `all` parts are there by now.
fn count(all: usize, subset: &Subset, progress: Progress) -> usize {
    let steps = match subset.token_warmup_step {
        part if part < 1.0 => (part * progress.total_steps as f64).floor(),
        steps => steps,
    };
    let step = progress.step as f64;
    if step >= steps {
        return all;
    }
    let min = f64::from(subset.token_warmup_min);
    let count = (step * ((all as f64 - min) / steps)).floor() + min;
    (count.max(0.0) as usize).min(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: usize, token_warmup_min: u32, token_warmup_step: f64) -> Vec<usize> {
        let subset = Subset { token_warmup_min, token_warmup_step, ..Subset::default() };
        let at = |step| count(all, &subset, Progress { epoch: 0, step, total_steps: 20 });
        (0..=10).map(at).collect()
    }

    #[test]
    fn captions_grow_to_their_whole_length() {
        assert_eq!(counts(5, 1, 8.0), [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]);
        assert_eq!(counts(5, 0, 5.0), [0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5]);
    }

    #[test]
    fn less_than_one_is_a_part_of_the_run() {
        assert_eq!(counts(5, 1, 0.4), counts(5, 1, 8.0));
        assert_eq!(counts(5, 1, 0.01), [5; 11]);
        assert_eq!(counts(5, 1, 0.0), [5; 11]);
    }

    #[test]
    fn a_short_caption_is_whole_from_the_start() {
        assert_eq!(counts(2, 3, 8.0), [2; 11]);
        assert_eq!(counts(0, 1, 8.0), [0; 11]);
    }
}
