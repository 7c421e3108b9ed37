//! Now and then the empty prompt instead of the caption, so that the unconditional prediction is learned too.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// `caption_dropout_rate` and `caption_dropout_every_n_epochs`.
pub(super) struct Dropout;

impl CaptionStep for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn stream(&self) -> u64 {
        2
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, reading: Reading, random: &mut Stream) -> ControlFlow<()> {
        let Some(progress) = reading.progress() else {
            return ControlFlow::Continue(());
        };
        let every = subset.caption_dropout_every_n_epochs;
        // Epochs are counted from 1 here, as users of kohya's sd-scripts count them.
        let whole_epoch = every > 0 && (progress.epoch + 1) % every == 0;
        if !whole_epoch && random.uniform() >= subset.caption_dropout_rate {
            return ControlFlow::Continue(());
        }
        caption.text.clear();
        ControlFlow::Break(())
    }
}

#[cfg(test)]
mod tests {
    use sdtrain_random::Purpose;

    use super::super::Progress;
    use super::*;

    fn is_dropped(subset: &Subset, reading: Reading, example: u64) -> bool {
        let mut caption = Caption { text: "a".to_owned(), parts: None };
        let end = Dropout.apply(&mut caption, subset, reading, &mut Stream::new(7, Purpose::Caption, 0, example));
        assert_eq!(end.is_break(), caption.text.is_empty());
        caption.text.is_empty()
    }

    #[test]
    fn drops_as_often_as_it_says() {
        let dropped = |caption_dropout_rate: f64| {
            let subset = Subset { caption_dropout_rate, ..Subset::default() };
            let reading = Reading::Training(Progress::default());
            (0..1000).filter(|&example| is_dropped(&subset, reading, example)).count()
        };
        assert_eq!(dropped(0.0), 0);
        assert_eq!(dropped(1.0), 1000);
        // 100 expected, standard deviation 9.5: five of them.
        assert!((53..=147).contains(&dropped(0.1)), "{}", dropped(0.1));
    }

    #[test]
    fn every_third_epoch_has_no_captions() {
        let subset = Subset { caption_dropout_every_n_epochs: 3, ..Subset::default() };
        let dropped = |epoch| is_dropped(&subset, Reading::Training(Progress { epoch, ..Progress::default() }), 1);
        let epochs: Vec<u64> = (0..10).filter(|&epoch| dropped(epoch)).collect();
        assert_eq!(epochs, [2, 5, 8]);
        assert!(!is_dropped(&Subset { caption_dropout_every_n_epochs: 1, ..subset }, Reading::Plain, 1));
    }
}
