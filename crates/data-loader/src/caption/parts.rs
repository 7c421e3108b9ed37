//! A caption taken apart at its separators, and put together again.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// The parts of a caption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptionParts {
    /// What stays in front.
    pub kept: Vec<String>,
    /// What may be left out and moved.
    pub flexible: Vec<String>,
    /// What stays at the end.
    pub kept_behind: Vec<String>,
}

/// Takes a caption apart where a later step changes its parts.
pub(super) struct Split;

impl CaptionStep for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn stream(&self) -> u64 {
        6
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, _: Reading, _: &mut Stream) -> ControlFlow<()> {
        if subset.changes_caption_parts() && !subset.caption_separator.is_empty() {
            caption.parts = Some(split(&caption.text, subset));
        }
        ControlFlow::Continue(())
    }
}

fn split(text: &str, subset: &Subset) -> CaptionParts {
    let parts = |text: &str| -> Vec<String> {
        text.split(subset.caption_separator.as_str()).map(|part| part.trim().to_owned()).collect()
    };
    let mark = subset.keep_tokens_separator.as_deref().filter(|mark| !mark.is_empty());
    if let Some((kept, rest)) = mark.and_then(|mark| text.split_once(mark)) {
        let (flexible, behind) = mark.and_then(|mark| rest.split_once(mark)).unwrap_or((rest, ""));
        // kohya's sd-scripts leaves out empty parts here, and keeps them in a caption without the mark.
        let not_empty = |text| parts(text).into_iter().filter(|part| !part.is_empty()).collect();
        return CaptionParts { kept: not_empty(kept), flexible: not_empty(flexible), kept_behind: not_empty(behind) };
    }
    let mut kept = parts(text);
    let flexible = kept.split_off((subset.keep_tokens as usize).min(kept.len()));
    CaptionParts { kept, flexible, kept_behind: Vec::new() }
}

/// Puts the parts together.
pub(super) struct Join;

impl CaptionStep for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn stream(&self) -> u64 {
        7
    }

    fn apply(&self, caption: &mut Caption, _: &Subset, _: Reading, _: &mut Stream) -> ControlFlow<()> {
        if let Some(CaptionParts { kept, flexible, kept_behind }) = caption.parts.take() {
            // A comma and a space whatever the separator was, as kohya's sd-scripts joins them.
            caption.text = [kept, flexible, kept_behind].concat().join(", ");
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, subset: &Subset) -> [String; 3] {
        let CaptionParts { kept, flexible, kept_behind } = split(text, subset);
        [kept, flexible, kept_behind].map(|parts| parts.join("/"))
    }

    fn marked(keep_tokens: u32) -> Subset {
        Subset { keep_tokens, keep_tokens_separator: Some("|||".to_owned()), ..Subset::default() }
    }

    #[test]
    fn the_first_parts_are_kept() {
        let keeping = |keep_tokens| Subset { keep_tokens, ..Subset::default() };
        assert_eq!(parts(" a,b , c", &keeping(1)), ["a", "b/c", ""]);
        assert_eq!(parts("a, b", &keeping(5)), ["a/b", "", ""]);
        assert_eq!(parts("a,,b,", &keeping(0)), ["", "a//b/", ""]);
        let subset = Subset { caption_separator: "|".to_owned(), ..keeping(1) };
        assert_eq!(parts("a, b| c", &subset), ["a, b", "c", ""]);
    }

    #[test]
    fn a_mark_says_what_is_kept_and_a_second_one_what_stays_at_the_end() {
        assert_eq!(parts("a, b ||| c, ,d", &marked(3)), ["a/b", "c/d", ""]);
        assert_eq!(parts("a ||| c, d ||| e, f", &marked(0)), ["a", "c/d", "e/f"]);
        assert_eq!(parts("|||c|||", &marked(0)), ["", "c", ""]);
        // A third one is text.
        assert_eq!(parts("a|||b|||c|||d", &marked(0)), ["a", "b", "c|||d"]);
        // Without the mark the number counts.
        assert_eq!(parts("a, b, c", &marked(2)), ["a/b", "c", ""]);
    }
}
