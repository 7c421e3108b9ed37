//! From the captions an image has to the one that a visit of it is trained on.

mod affix;
mod dropout;
mod line;
mod parts;
mod reading;
mod secondary_separator;
mod shuffle;
pub(crate) mod sidecar;
mod source;
mod tag_dropout;
mod token_warmup;
mod wildcard;

use std::ops::ControlFlow;

use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::Subset;

pub use parts::CaptionParts;
pub use reading::{Progress, Reading};

use crate::source::SourceCaption;

/// A caption on its way through the steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caption {
    /// Its text; out of date while there are `parts`.
    pub text: String,
    /// Its parts, between the step that takes it apart and the one that puts it together.
    pub parts: Option<CaptionParts>,
}

/// One change to a caption.
pub trait CaptionStep: Sync {
    /// The step's name.
    fn name(&self) -> &'static str;

    /// Number of the step's own random stream; never changed and never used again, so that adding a step or moving
    /// one leaves the draws of the others as they were. 0 belongs to the choice between several captions.
    fn stream(&self) -> u64;

    /// Changes the caption; `Break` means that no later step sees it.
    fn apply(&self, caption: &mut Caption, subset: &Subset, reading: Reading, random: &mut Stream) -> ControlFlow<()>;
}

/// Every caption step, in the order of application: that of kohya's sd-scripts, except that a line is chosen before the prefix
/// and the suffix are added, which there go to the first and the last line alone.
pub const CAPTION_STEPS: &[&dyn CaptionStep] = &[
    &line::Line,
    &affix::Affix,
    &dropout::Dropout,
    &wildcard::Wildcard,
    &parts::Split,
    &token_warmup::TokenWarmup,
    &shuffle::Shuffle,
    &tag_dropout::TagDropout,
    &parts::Join,
    &secondary_separator::SecondarySeparator,
];

/// The caption of one visit, with draws that depend on nothing but the seed, the epoch and the example.
pub(crate) fn of_visit(
    captions: &[SourceCaption],
    subset: &Subset,
    seed: u64,
    progress: Progress,
    example: u64,
) -> String {
    // Draws that recur make texts that recur, so that a text encoder has an end of them.
    let draw = subset.caption_variants.map_or(progress.epoch, |variants| progress.epoch % variants.max(1));
    let random = Stream::new(seed, Purpose::Caption, draw, example);
    let text = source::drawn(captions, subset, &mut random.clone());
    apply_steps(text, subset, Reading::Training(progress), &random)
}

/// The caption of an image outside of training: nothing left out, nothing moved, nothing left to chance.
pub(crate) fn plain(captions: &[SourceCaption], subset: &Subset) -> String {
    apply_steps(source::likeliest(captions, subset), subset, Reading::Plain, &unused())
}

/// The lines that can be chosen of the likeliest caption, as they are written.
pub(crate) fn as_written<'a>(captions: &'a [SourceCaption], subset: &Subset) -> Vec<&'a str> {
    line::possible(source::likeliest(captions, subset), subset)
}

/// Every caption that an image can be trained on, each as long as it gets.
pub(crate) fn longest_of_each(captions: &[SourceCaption], subset: &Subset) -> Vec<String> {
    let texts = source::possible(captions, subset);
    let lines = texts.into_iter().flat_map(|text| line::possible(text, subset));
    lines.map(|line| apply_steps(line, subset, Reading::Longest, &unused())).collect()
}

/// Outside of training nothing is drawn.
fn unused() -> Stream {
    Stream::new(0, Purpose::Caption, 0, 0)
}

fn apply_steps(text: &str, subset: &Subset, reading: Reading, random: &Stream) -> String {
    let mut caption = Caption { text: text.to_owned(), parts: None };
    for step in CAPTION_STEPS {
        let mut random = random.clone();
        random.rng().set_stream(step.stream());
        if step.apply(&mut caption, subset, reading, &mut random).is_break() {
            break;
        }
    }
    caption.text
}

#[cfg(test)]
mod tests;
