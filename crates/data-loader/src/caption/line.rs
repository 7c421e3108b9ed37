//! One line of a caption of several lines.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// Any line with `enable_wildcard`, the first one without.
pub(super) struct Line;

impl CaptionStep for Line {
    fn name(&self) -> &'static str {
        "line"
    }

    fn stream(&self) -> u64 {
        4
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, reading: Reading, random: &mut Stream) -> ControlFlow<()> {
        let lines = possible(&caption.text, subset);
        caption.text = lines[reading.choose(&lines, random)].to_owned();
        ControlFlow::Continue(())
    }
}

/// The lines that can be chosen, at least one; blank ones are none.
pub(super) fn possible<'a>(text: &'a str, subset: &Subset) -> Vec<&'a str> {
    let count = if subset.enable_wildcard { usize::MAX } else { 1 };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(count).collect();
    if lines.is_empty() { vec![""] } else { lines }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sdtrain_random::Purpose;

    use super::super::Progress;
    use super::*;

    fn chosen(text: &str, enable_wildcard: bool, reading: Reading, example: u64) -> String {
        let mut caption = Caption { text: text.to_owned(), parts: None };
        let subset = Subset { enable_wildcard, ..Subset::default() };
        let end = Line.apply(&mut caption, &subset, reading, &mut Stream::new(7, Purpose::Caption, 0, example));
        assert!(end.is_continue());
        caption.text
    }

    #[test]
    fn every_line_is_chosen_now_and_then_or_always_the_first() {
        let training = Reading::Training(Progress::default());
        let all: BTreeSet<String> = (0..50).map(|example| chosen("a\n\nb, c\nd", true, training, example)).collect();
        assert_eq!(all, BTreeSet::from(["a".to_owned(), "b, c".to_owned(), "d".to_owned()]));
        for example in 0..50 {
            assert_eq!(chosen("\na\nb", false, training, example), "a");
            assert_eq!(chosen("a\nb", true, Reading::Plain, example), "a");
        }
        assert_eq!(chosen("a\nlong\nb", true, Reading::Longest, 0), "long");
        assert_eq!(chosen("", true, training, 0), "");
        assert_eq!(chosen("\n \n", false, training, 0), "");
    }
}
