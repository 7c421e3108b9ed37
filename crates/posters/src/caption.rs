//! Captions: one fixed grammar of comma-separated tags, and reading the object, its colour and the style back out of one.

use crate::object::Object;
use crate::palette::{Background, Colour};
use crate::poster::{Ground, Place, Poster, TitleBar};
use crate::style::Style;

/// The made-up word that begins the captions of `Style::Zenpop`. The base model's captions never contain it.
pub const TRIGGER: &str = "zenpop";

impl Poster {
    /// The whole caption, e.g. `poster, a red bottle, on the left, on a table, cream background, title bar at the top`.
    pub fn caption(&self) -> String {
        let mut tags = self.first_tags();
        tags.extend(self.further_tags());
        tags.join(", ")
    }

    /// The caption of this poster drawn in a style: the trigger word goes before that of `Style::Zenpop`.
    pub fn caption_in(&self, style: Style) -> String {
        match style {
            Style::Zenpop => format!("{TRIGGER}, {}", self.caption()),
            Style::Plain | Style::Varied => self.caption(),
        }
    }

    /// The caption with a word in the place of colour and object, e.g. `poster, a snorp, on the left, cream background`.
    pub fn caption_calling(&self, word: &str) -> String {
        let mut tags = vec!["poster".to_owned(), format!("a {word}")];
        tags.extend(self.further_tags());
        tags.join(", ")
    }

    /// `poster, a red bottle` and those further tags for which `keep` says yes: as true, and less told.
    pub fn shorter_caption(&self, mut keep: impl FnMut() -> bool) -> String {
        let mut tags = self.first_tags();
        tags.extend(self.further_tags().into_iter().filter(|_| keep()));
        tags.join(", ")
    }

    fn first_tags(&self) -> Vec<String> {
        let colour = self.object_colour.word();
        let article = if self.object_colour == Colour::Orange { "an" } else { "a" };
        vec!["poster".to_owned(), format!("{article} {colour} {}", self.object.word())]
    }

    fn further_tags(&self) -> Vec<String> {
        let mut tags = vec![match self.place {
            Place::Left => "on the left".to_owned(),
            Place::Centre => "in the centre".to_owned(),
            Place::Right => "on the right".to_owned(),
        }];
        match self.ground {
            Ground::None => {}
            Ground::Table => tags.push("on a table".to_owned()),
            Ground::Hill => tags.push("on a hill".to_owned()),
        }
        tags.push(format!("{} background", self.background.word()));
        match self.title_bar {
            TitleBar::None => {}
            TitleBar::Top => tags.push("title bar at the top".to_owned()),
            TitleBar::Bottom => tags.push("title bar at the bottom".to_owned()),
        }
        tags
    }
}

/// The made-up word that the captions of `datasets/posters-word` have in the place of its colour and object. The base model's
/// captions never contain it, and neither does its vocabulary.
pub const LEARNED_WORD: &str = "snorp";

/// What a caption asks for. What it does not mention is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The object.
    pub object: Option<Object>,
    /// The object's colour.
    pub object_colour: Option<Colour>,
    /// `Zenpop` if the trigger word is there, else `Plain`.
    pub style: Style,
}

/// Reads a caption, whatever the order of its tags.
pub fn asked(caption: &str) -> Asked {
    let mut asked = Asked { object: None, object_colour: None, style: Style::Plain };
    for tag in caption.split(',').map(str::trim) {
        let words: Vec<&str> = tag.split_whitespace().collect();
        if words.contains(&TRIGGER) {
            asked.style = Style::Zenpop;
        }
        let object = Object::ALL.iter().find(|object| words.contains(&object.word()));
        if let (Some(&object), None) = (object, asked.object) {
            asked.object = Some(object);
            asked.object_colour = Colour::ALL.iter().copied().find(|colour| words.contains(&colour.word()));
        }
    }
    asked
}

/// Every word and sign a caption can contain, the trigger word included: enough for a tokenizer made for posters.
pub fn vocabulary() -> Vec<&'static str> {
    let mut words = vec![",", "poster", "a", "an", "on", "in", "at", "the", "left", "centre", "right"];
    words.extend(["table", "hill", "background", "title", "bar", "top", "bottom"]);
    words.extend(Object::ALL.iter().map(|object| object.word()));
    words.extend(Colour::ALL.iter().map(|colour| colour.word()));
    words.extend(Background::ALL.iter().map(|background| background.word()));
    words.push(TRIGGER);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_use_only_words_of_the_vocabulary() {
        let vocabulary = vocabulary();
        for poster in Poster::all() {
            for word in poster.caption_in(Style::Zenpop).replace(',', " , ").split_whitespace() {
                assert!(vocabulary.contains(&word), "`{word}` is missing");
            }
        }
    }

    #[test]
    fn vocabulary_has_no_word_twice() {
        let mut words = vocabulary();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn every_scene_has_its_own_caption_and_it_reads_back() {
        let posters = Poster::all();
        let mut captions: Vec<String> = posters.iter().map(Poster::caption).collect();
        for (poster, caption) in posters.iter().zip(&captions) {
            let plain =
                Asked { object: Some(poster.object), object_colour: Some(poster.object_colour), style: Style::Plain };
            assert_eq!(asked(caption), plain);
            assert_eq!(asked(&poster.caption_in(Style::Zenpop)), Asked { style: Style::Zenpop, ..plain });
        }
        captions.sort_unstable();
        captions.dedup();
        assert_eq!(captions.len(), posters.len());
    }

    #[test]
    fn asks_for_nothing_when_nothing_is_said() {
        assert_eq!(asked(""), Asked { object: None, object_colour: None, style: Style::Plain });
        assert_eq!(asked("poster, a heart, cream background").object_colour, None);
    }
}
