//! The parts of a caption in another order each time, those in front kept in place.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// `shuffle_caption`.
pub(super) struct Shuffle;

impl CaptionStep for Shuffle {
    fn name(&self) -> &'static str {
        "shuffle"
    }

    fn stream(&self) -> u64 {
        3
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, reading: Reading, random: &mut Stream) -> ControlFlow<()> {
        if let (true, Some(_), Some(parts)) = (subset.shuffle_caption, reading.progress(), &mut caption.parts) {
            random.shuffle(&mut parts.flexible);
        }
        ControlFlow::Continue(())
    }
}
