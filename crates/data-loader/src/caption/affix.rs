//! Text in front of and behind every caption of a subset, with one space between.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// `caption_prefix` and `caption_suffix`.
pub(super) struct Affix;

impl CaptionStep for Affix {
    fn name(&self) -> &'static str {
        "affix"
    }

    fn stream(&self) -> u64 {
        1
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, _: Reading, _: &mut Stream) -> ControlFlow<()> {
        if let Some(prefix) = &subset.caption_prefix {
            caption.text.insert_str(0, &format!("{prefix} "));
        }
        if let Some(suffix) = &subset.caption_suffix {
            caption.text.push_str(&format!(" {suffix}"));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_around_the_caption_with_one_space() {
        let subset = Subset {
            caption_prefix: Some("pre".to_owned()),
            caption_suffix: Some("post".to_owned()),
            ..Subset::default()
        };
        let mut caption = Caption { text: "a, b".to_owned(), parts: None };
        let mut random = Stream::new(0, sdtrain_random::Purpose::Caption, 0, 0);
        assert!(Affix.apply(&mut caption, &subset, Reading::Plain, &mut random).is_continue());
        assert_eq!(caption.text, "pre a, b post");
    }
}
