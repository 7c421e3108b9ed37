//! What was one part while the caption was shuffled becomes several.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// `secondary_separator`.
pub(super) struct SecondarySeparator;

impl CaptionStep for SecondarySeparator {
    fn name(&self) -> &'static str {
        "secondary_separator"
    }

    fn stream(&self) -> u64 {
        10
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, _: Reading, _: &mut Stream) -> ControlFlow<()> {
        if let Some(separator) = subset.secondary_separator.as_deref().filter(|text| !text.is_empty()) {
            caption.text = caption.text.replace(separator, &subset.caption_separator);
        }
        ControlFlow::Continue(())
    }
}
