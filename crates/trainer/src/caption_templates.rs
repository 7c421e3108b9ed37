//! Sentences that stand in the place of captions while a word is learned (Gal et al. 2022, arXiv:2208.01618, use such lists):
//! the word in many surroundings, so that it comes to mean what all images share.

use crate::batches::Batch;
use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{CaptionTemplates, TrainConfig};

/// Where the word stands.
const WORD: &str = "{}";

/// For a thing: how it is taken, lit, framed and found, never what it is.
const OBJECT: &[&str] = &[
    "a photo of {}",
    "a photo of one {}",
    "the {} in a photo",
    "a picture that shows {}",
    "a sharp picture of the {}",
    "a blurred picture of the {}",
    "a bright photo of the {}",
    "a dim photo of {}",
    "a close view of {}",
    "the {} from afar",
    "a part of the {}, seen from near",
    "a {} cut off by the frame",
    "a small photo of my {}",
    "a large, detailed photo of my {}",
    "a grainy picture of {}",
    "a clean picture of a {}",
    "a dirty {}",
    "a fine {}",
    "a strange {}",
    "a big {}",
    "a tiny {}",
    "a drawing of {}",
    "a rendered picture of the {}",
    "one good photo of a {}",
    "somebody's snapshot of {}",
    "here is a {}",
];

/// For a style: what it is the manner of, never what is in the picture.
const STYLE: &[&str] = &[
    "a drawing in the manner of {}",
    "a painting in the manner of {}",
    "a picture in {} style",
    "{} style",
    "a poster made like {}",
    "a rendering in {} style",
    "a fine picture in the style of {}",
    "a dark picture in {} style",
    "a bright picture in {} style",
    "a detail of a picture in {} style",
    "a small picture in the manner of {}",
    "a large picture in the manner of {}",
    "a simple sketch in {} style",
    "a rich painting in {} style",
    "a strange picture in the style of {}",
    "a calm picture in the style of {}",
    "something painted as {} would",
    "an artwork after {}",
];

/// Number of the stream that a sentence is drawn from, among those of captions; the others belong to caption steps.
const STREAM: u64 = 64;

/// Makes the captions of a run that learns a word by sentences.
pub struct TemplateCaptions {
    sentences: &'static [&'static str],
    word: String,
    seed: u64,
}

impl TemplateCaptions {
    /// `None` where images keep their own captions.
    pub fn of(config: &TrainConfig) -> Option<TemplateCaptions> {
        let word = config.learned_tokens().first()?.word.clone();
        let sentences = match config.textual_inversion.templates {
            CaptionTemplates::Captions => return None,
            CaptionTemplates::Object => OBJECT,
            CaptionTemplates::Style => STYLE,
        };
        Some(TemplateCaptions { sentences, word, seed: config.seed })
    }

    /// Captions every example with a sentence that depends on the seed, the epoch and the example alone.
    pub fn apply(&self, batch: &mut Batch) {
        for (key, caption) in batch.keys().into_iter().zip(&mut batch.captions) {
            let mut random = Stream::new(self.seed, Purpose::Caption, key.epoch, key.example);
            random.rng().set_stream(STREAM);
            let sentence = self.sentences[random.below(self.sentences.len() as u64) as usize];
            *caption = sentence.replace(WORD, &self.word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_data_loader::ExampleId;
    use sdtrain_recipe::{LearnedTokenConfig, Method};
    use std::collections::BTreeSet;

    fn config(templates: CaptionTemplates) -> TrainConfig {
        let mut config = TrainConfig { method: Method::TextualInversion, ..TrainConfig::default() };
        config.textual_inversion.tokens = vec![LearnedTokenConfig { word: "<cat>".into(), ..Default::default() }];
        config.textual_inversion.templates = templates;
        config
    }

    fn captions(config: &TrainConfig, epoch: u64) -> Vec<String> {
        let path = std::path::PathBuf::new();
        let example = |index: u64| ExampleId { index, image: 0, flipped: false, epoch, path: path.clone() };
        let mut batch = Batch {
            size: (8, 8),
            examples: (0..200).map(example).collect(),
            captions: vec!["of the file".into(); 200],
            loss_weights: vec![1.0; 200],
            sizes: Vec::new(),
            pixels: None,
            mask: None,
            whole: 200,
            place: 0,
        };
        TemplateCaptions::of(config).expect("there are templates").apply(&mut batch);
        batch.captions
    }

    #[test]
    fn every_sentence_comes_up_with_the_word_in_it() {
        for (templates, sentences) in [(CaptionTemplates::Object, OBJECT), (CaptionTemplates::Style, STYLE)] {
            let found = captions(&config(templates), 0);
            let different: BTreeSet<&String> = found.iter().collect();
            assert_eq!(different.len(), sentences.len());
            assert!(found.iter().all(|caption| caption.matches("<cat>").count() == 1 && !caption.contains('{')));
        }
    }

    #[test]
    fn a_sentence_depends_on_seed_epoch_and_example_alone() {
        let config = config(CaptionTemplates::Object);
        assert_eq!(captions(&config, 3), captions(&config, 3));
        assert_ne!(captions(&config, 3), captions(&config, 4));
        assert_ne!(captions(&config, 3), captions(&TrainConfig { seed: 43, ..config.clone() }, 3));
    }

    #[test]
    fn images_keep_their_captions_unless_templates_are_asked_for() {
        assert!(TemplateCaptions::of(&config(CaptionTemplates::Captions)).is_none());
    }
}
