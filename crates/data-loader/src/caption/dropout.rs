//! Now and then the empty prompt instead of the caption, so that the unconditional prediction is learned too.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::CaptionStep;

/// `caption_dropout_rate`.
pub(super) struct Dropout;

impl CaptionStep for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn stream(&self) -> u64 {
        2
    }

    fn apply(&self, caption: &mut String, subset: &Subset, random: &mut Stream) -> ControlFlow<()> {
        if random.uniform() >= subset.caption_dropout_rate {
            return ControlFlow::Continue(());
        }
        caption.clear();
        ControlFlow::Break(())
    }
}

#[cfg(test)]
mod tests {
    use sdtrain_random::Purpose;

    use super::*;

    fn dropped(rate: f64) -> usize {
        let subset = Subset { caption_dropout_rate: rate, ..Subset::default() };
        (0..1000)
            .filter(|&example| {
                let mut caption = "a".to_owned();
                let end = Dropout.apply(&mut caption, &subset, &mut Stream::new(7, Purpose::Caption, 0, example));
                assert_eq!(end.is_break(), caption.is_empty());
                caption.is_empty()
            })
            .count()
    }

    #[test]
    fn drops_as_often_as_it_says() {
        assert_eq!(dropped(0.0), 0);
        assert_eq!(dropped(1.0), 1000);
        // 100 expected, standard deviation 9.5: five of them.
        assert!((53..=147).contains(&dropped(0.1)), "{}", dropped(0.1));
    }
}
