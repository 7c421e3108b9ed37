//! Single parts of a caption left out now and then.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// `caption_tag_dropout_rate`.
pub(super) struct TagDropout;

impl CaptionStep for TagDropout {
    fn name(&self) -> &'static str {
        "tag_dropout"
    }

    fn stream(&self) -> u64 {
        9
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, reading: Reading, random: &mut Stream) -> ControlFlow<()> {
        if let (Some(_), Some(parts)) = (reading.progress(), &mut caption.parts) {
            parts.flexible.retain(|_| random.uniform() >= subset.caption_tag_dropout_rate);
        }
        ControlFlow::Continue(())
    }
}
