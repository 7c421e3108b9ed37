//! The parts of a caption in another order each time, those in front kept in place.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::CaptionStep;

/// `shuffle_caption` with `keep_tokens`.
pub(super) struct Shuffle;

impl CaptionStep for Shuffle {
    fn name(&self) -> &'static str {
        "shuffle"
    }

    fn stream(&self) -> u64 {
        3
    }

    fn apply(&self, caption: &mut String, subset: &Subset, random: &mut Stream) -> ControlFlow<()> {
        if !subset.shuffle_caption || subset.caption_separator.is_empty() {
            return ControlFlow::Continue(());
        }
        let mut parts: Vec<&str> = caption.split(subset.caption_separator.as_str()).map(str::trim).collect();
        let kept = (subset.keep_tokens as usize).min(parts.len());
        random.shuffle(&mut parts[kept..]);
        // A comma and a space whatever the separator was, as kohya's sd-scripts joins them.
        *caption = parts.join(", ");
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sdtrain_random::Purpose;

    use super::*;

    fn shuffled(caption: &str, subset: &Subset, example: u64) -> String {
        let mut caption = caption.to_owned();
        let end = Shuffle.apply(&mut caption, subset, &mut Stream::new(7, Purpose::Caption, 0, example));
        assert!(end.is_continue());
        caption
    }

    fn keeping(keep_tokens: u32) -> Subset {
        Subset { shuffle_caption: true, keep_tokens, ..Subset::default() }
    }

    #[test]
    fn keeps_the_tokens_in_front_and_reaches_every_order_of_the_rest() {
        let orders: BTreeSet<String> = (0..200).map(|e| shuffled("t,a , b,c", &keeping(1), e)).collect();
        assert_eq!(orders.len(), 6);
        assert!(orders.iter().all(|order| order.starts_with("t, ")));
        assert!(orders.contains("t, c, a, b"));
    }

    #[test]
    fn keeps_everything_where_there_are_fewer_tokens_than_kept() {
        assert_eq!(shuffled("a,b", &keeping(5), 0), "a, b");
        assert_eq!(shuffled("", &keeping(1), 0), "");
    }

    #[test]
    fn joins_with_a_comma_whatever_the_separator() {
        let subset = Subset { caption_separator: "|".to_owned(), ..keeping(2) };
        assert_eq!(shuffled("a, b| c", &subset, 0), "a, b, c");
    }

    #[test]
    fn empty_parts_stay() {
        assert_eq!(shuffled("a,,b", &keeping(3), 0), "a, , b");
    }

    #[test]
    fn is_off_by_default() {
        assert_eq!(shuffled("a,b ,c", &Subset::default(), 0), "a,b ,c");
    }
}
