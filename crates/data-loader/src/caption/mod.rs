//! From the caption an image has to the caption one visit of it is trained on.

mod affix;
mod dropout;
mod shuffle;
pub(crate) mod sidecar;

use std::ops::ControlFlow;

use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::Subset;

use crate::source::SourceCaption;

/// One change to a caption.
pub trait CaptionStep: Sync {
    /// The step's name.
    fn name(&self) -> &'static str;

    /// Number of the step's own random stream; never changed and never used again, so that adding a step or moving
    /// one leaves the draws of the others as they were.
    fn stream(&self) -> u64;

    /// Changes the caption; `Break` means that no later step sees it.
    fn apply(&self, caption: &mut String, subset: &Subset, random: &mut Stream) -> ControlFlow<()>;
}

/// Every caption step, in the order of application (that of kohya's sd-scripts).
pub const CAPTION_STEPS: &[&dyn CaptionStep] = &[&affix::Affix, &dropout::Dropout, &shuffle::Shuffle];

/// The caption of one visit: all steps applied, with draws that depend on nothing but the seed, the epoch and the example.
pub(crate) fn of_visit(captions: &[SourceCaption], subset: &Subset, seed: u64, epoch: u64, example: u64) -> String {
    let mut caption = captions.first().map_or_else(String::new, |caption| caption.text.clone());
    for step in CAPTION_STEPS {
        let mut random = Stream::new(seed, Purpose::Caption, epoch, example);
        random.rng().set_stream(step.stream());
        if step.apply(&mut caption, subset, &mut random).is_break() {
            break;
        }
    }
    caption
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_visit(caption: &str, subset: &Subset, seed: u64, epoch: u64, example: u64) -> String {
        super::of_visit(&[SourceCaption { source: 0, text: caption.to_owned() }], subset, seed, epoch, example)
    }

    #[test]
    fn names_and_streams_are_unique() {
        for (index, step) in CAPTION_STEPS.iter().enumerate() {
            for other in &CAPTION_STEPS[..index] {
                assert_ne!(step.name(), other.name());
                assert_ne!(step.stream(), other.stream());
            }
        }
    }

    #[test]
    fn without_options_the_caption_stays_as_it_is() {
        let caption = "a ,b,, c ";
        assert_eq!(of_visit(caption, &Subset::default(), 1, 2, 3), caption);
    }

    #[test]
    fn a_dropped_caption_has_no_prefix() {
        let subset =
            Subset { caption_dropout_rate: 1.0, caption_prefix: Some("trigger".to_owned()), ..Subset::default() };
        assert_eq!(of_visit("a, b", &subset, 1, 2, 3), "");
    }

    #[test]
    fn the_prefix_is_one_of_the_tokens_kept() {
        let subset = Subset {
            shuffle_caption: true,
            keep_tokens: 1,
            caption_prefix: Some("trigger,".to_owned()),
            ..Subset::default()
        };
        for epoch in 0..20 {
            assert!(of_visit("a, b, c", &subset, 1, epoch, 3).starts_with("trigger, "));
        }
    }

    #[test]
    fn dropout_does_not_change_what_shuffling_draws() {
        let shuffled = Subset { shuffle_caption: true, ..Subset::default() };
        let both = Subset { caption_dropout_rate: 0.5, ..shuffled.clone() };
        let mut dropped = 0;
        for example in 0..50 {
            let with_dropout = of_visit("a, b, c, d, e", &both, 9, 0, example);
            if with_dropout.is_empty() {
                dropped += 1;
            } else {
                assert_eq!(with_dropout, of_visit("a, b, c, d, e", &shuffled, 9, 0, example));
            }
        }
        assert!((10..40).contains(&dropped), "{dropped}");
    }

    #[test]
    fn what_is_dropped_says_nothing_about_the_order_of_the_rest() {
        let subset = Subset { shuffle_caption: true, caption_dropout_rate: 0.5, ..Subset::default() };
        let captions: Vec<String> = (0..200).map(|example| of_visit("a, b", &subset, 9, 0, example)).collect();
        let count = |wanted: &str| captions.iter().filter(|caption| *caption == wanted).count();
        // 50 expected of each, standard deviation 6: five of them.
        assert!((20..=80).contains(&count("a, b")) && (20..=80).contains(&count("b, a")), "{captions:?}");
    }
}
