//! The sets of posters: base, VAE, LoRA, its validation, and the captions withheld from all of them.

use std::collections::HashSet;
use std::sync::OnceLock;

use sdtrain_random::{Purpose, Stream, permutation};

use crate::caption::{LEARNED_WORD, TRIGGER};
use crate::object::Object;
use crate::palette::Colour;
use crate::poster::Poster;
use crate::style::Style;
use crate::subject::{ROOF, WALLS};

/// How many scenes are withheld from every training set, to ask a model for later.
pub const HELD_OUT: usize = 200;

/// How many posters the sample LoRA set has.
pub const LORA_POSTERS: u64 = 96;

/// How many plain posters stand beside the sample LoRA set.
pub const REGULARIZATION_POSTERS: u64 = 48;

/// How many posters the validation set of the sample LoRA has.
pub const LORA_VALIDATION_POSTERS: u64 = 24;

/// How many posters show the subject.
pub const SUBJECT_POSTERS: u64 = 12;

/// How many plain posters show others of its class.
pub const SUBJECT_CLASS_POSTERS: u64 = 24;

/// How many plain posters of its class stand beside the subject in training.
pub const SUBJECT_REGULARIZATION_POSTERS: u64 = 48;

/// How many posters show the thing that a word is learned for.
pub const WORD_POSTERS: u64 = 24;

/// How many more of them are held out.
pub const WORD_VALIDATION_POSTERS: u64 = 12;

/// Chooses the withheld scenes, whatever the seed of a training set: a set made with any seed leaves them out.
const HELD_OUT_SEED: u64 = 2026;

/// One epoch of random numbers for each set.
#[derive(Clone, Copy)]
enum Set {
    Base = 1,
    Varied = 2,
    Lora = 3,
    LoraValidation = 4,
    Windows = 5,
    Regularization = 6,
    Word = 7,
    WordValidation = 8,
    Subject = 11,
    SubjectClass = 12,
}

/// The withheld scenes: the first `count` (at most [`HELD_OUT`]) of a fixed random order.
pub fn held_out(count: usize) -> Vec<Poster> {
    let all = Poster::all();
    let order = permutation(all.len(), HELD_OUT_SEED, Purpose::Drawing, 0);
    order.into_iter().take(count.min(HELD_OUT)).map(|index| all[index]).collect()
}

fn is_held_out(caption: &str) -> bool {
    static CAPTIONS: OnceLock<HashSet<String>> = OnceLock::new();
    CAPTIONS.get_or_init(|| held_out(HELD_OUT).iter().map(Poster::caption).collect()).contains(caption)
}

/// A random scene that is not withheld.
fn scene(stream: &mut Stream) -> Poster {
    loop {
        let poster = Poster::random(stream);
        if !is_held_out(&poster.caption()) {
            return poster;
        }
    }
}

/// Poster `index` of the base set, to be drawn in `Style::Plain`, and its caption.
/// One caption in five leaves tags out, so that the model also knows short prompts. Three in ten begin with a made-up word
/// that means nothing, so that a word it does not know confuses it no more than the real Stable Diffusion: a LoRA's trigger.
pub fn base_poster(seed: u64, index: u64) -> (Poster, String) {
    let mut stream = Stream::new(seed, Purpose::Drawing, Set::Base as u64, index);
    let poster = scene(&mut stream);
    let caption = match stream.uniform() {
        u if u < 0.2 => poster.shorter_caption(|| stream.uniform() < 0.5),
        _ => poster.caption(),
    };
    match stream.uniform() {
        u if u < 0.3 => (poster, format!("{}, {caption}", made_up_word(&mut stream))),
        _ => (poster, caption),
    }
}

/// One to eight letters, each a token of its own, that are not the trigger word.
fn made_up_word(stream: &mut Stream) -> String {
    loop {
        let length = 1 + stream.below(8);
        let word: String = (0..length).map(|_| char::from(b'a' + stream.below(26) as u8)).collect();
        if word != TRIGGER {
            return word;
        }
    }
}

/// Poster `index` of the set for a VAE, to be drawn in `Style::Varied` (one in three in `Style::Plain`).
pub fn varied_poster(seed: u64, index: u64) -> (Poster, Style) {
    let mut stream = Stream::new(seed, Purpose::Drawing, Set::Varied as u64, index);
    let style = if index.is_multiple_of(3) { Style::Plain } else { Style::Varied };
    (scene(&mut stream), style)
}

/// The left upper corner of window `index`, of `side` pixels, into a picture of the varied set.
/// Small pictures make an autoencoder's first thousands of steps cheap.
pub fn window(seed: u64, index: u64, (width, height): (u32, u32), side: u32) -> (u32, u32) {
    let mut stream = Stream::new(seed, Purpose::Drawing, Set::Windows as u64, index);
    let mut offset = |length: u32| stream.below(u64::from(length.saturating_sub(side)) + 1) as u32;
    let at = (offset(width), offset(height));
    // Every other window reaches to a corner or side, where the frames are.
    match stream.below(8) {
        0 => (0, at.1),
        1 => (width.saturating_sub(side), at.1),
        2 => (at.0, 0),
        3 => (at.0, height.saturating_sub(side)),
        _ => at,
    }
}

/// Poster `index` of the sample LoRA set, to be drawn in `Style::Zenpop`, and its caption with the trigger word.
/// Objects and colours take turns, so that a small set has all of them.
pub fn lora_poster(seed: u64, index: u64) -> (Poster, String) {
    styled(seed, Set::Lora, index)
}

/// Poster `index` of the set that shows a LoRA what is to stay as it is: plain, its caption without the trigger word.
pub fn regularization_poster(seed: u64, index: u64) -> (Poster, String) {
    let poster = turns(seed, Set::Regularization, index);
    (poster, poster.caption())
}

/// Scene `index` of the set that shows the subject, to be drawn with [`crate::draw_subject`]: a house of the colour of its walls.
pub fn subject_poster(seed: u64, index: u64) -> Poster {
    let mut stream = Stream::new(seed, Purpose::Drawing, Set::Subject as u64, index);
    loop {
        let poster = Poster { object: Object::House, object_colour: WALLS, ..scene(&mut stream) };
        if [WALLS, ROOF].iter().all(|&colour| poster.background.shows(colour)) && !is_held_out(&poster.caption()) {
            return poster;
        }
    }
}

/// Poster `index` of the class that the subject is one of: plain houses whose colours take turns, and their captions.
pub fn subject_class_poster(seed: u64, index: u64) -> (Poster, String) {
    let mut stream = Stream::new(seed, Purpose::Drawing, Set::SubjectClass as u64, index);
    let object_colour = Colour::ALL[(index % 8) as usize];
    loop {
        let poster = Poster { object: Object::House, object_colour, ..scene(&mut stream) };
        if poster.background.shows(object_colour) && !is_held_out(&poster.caption()) {
            return (poster, poster.caption());
        }
    }
}

/// Poster `index` of the class that is trained on beside the subject, and its caption: as [`subject_class_poster`], from the next seeds.
pub fn subject_regularization_poster(seed: u64, index: u64) -> (Poster, String) {
    let further = 1 + index / SUBJECT_CLASS_POSTERS;
    subject_class_poster(seed.wrapping_add(further), index % SUBJECT_CLASS_POSTERS)
}

/// Poster `index` of the LoRA's validation set; none has a scene of that set.
pub fn lora_validation_poster(seed: u64, index: u64) -> (Poster, String) {
    styled(seed, Set::LoraValidation, index)
}

/// Poster `index` of the thing with a word of its own, a green star, and its caption, which calls it by that word.
pub fn word_poster(seed: u64, index: u64) -> (Poster, String) {
    with_word(seed, Set::Word, index)
}

/// Poster `index` of the word's validation set; none has a scene of the other.
pub fn word_validation_poster(seed: u64, index: u64) -> (Poster, String) {
    with_word(seed, Set::WordValidation, index)
}

fn with_word(seed: u64, set: Set, index: u64) -> (Poster, String) {
    let mut stream = Stream::new(seed, Purpose::Drawing, set as u64, index);
    let (object, object_colour) = (Object::Star, Colour::Green);
    loop {
        let poster = Poster { object, object_colour, ..scene(&mut stream) };
        if poster.background.shows(object_colour) && !is_held_out(&poster.caption()) && belongs(&poster, set) {
            return (poster, poster.caption_calling(LEARNED_WORD));
        }
    }
}

fn styled(seed: u64, set: Set, index: u64) -> (Poster, String) {
    let poster = turns(seed, set, index);
    (poster, poster.caption_in(Style::Zenpop))
}

/// A scene for which object and colour take turns.
fn turns(seed: u64, set: Set, index: u64) -> Poster {
    let mut stream = Stream::new(seed, Purpose::Drawing, set as u64, index);
    let object = Object::ALL[(index % 8) as usize];
    let object_colour = Colour::ALL[((index / 8 + index) % 8) as usize];
    loop {
        let poster = Poster { object, object_colour, ..scene(&mut stream) };
        if poster.background.shows(object_colour) && !is_held_out(&poster.caption()) && belongs(&poster, set) {
            return poster;
        }
    }
}

/// One scene in five is for validation.
fn belongs(poster: &Poster, set: Set) -> bool {
    let place = [
        poster.object as usize,
        poster.object_colour as usize,
        poster.place as usize,
        poster.ground as usize,
        poster.background as usize,
        poster.title_bar as usize,
    ];
    let for_validation = place.iter().sum::<usize>() % 5 == 0;
    for_validation == matches!(set, Set::LoraValidation | Set::WordValidation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caption::TRIGGER;
    use crate::palette::Background;
    use crate::poster::Jitter;

    #[test]
    fn base_set_is_a_function_of_seed_and_index() {
        assert_eq!(base_poster(1, 17), base_poster(1, 17));
        assert_ne!(base_poster(1, 17), base_poster(2, 17));
        assert_ne!(base_poster(1, 17), base_poster(1, 18));
    }

    #[test]
    fn withheld_captions_are_in_no_set() {
        let withheld: HashSet<String> = held_out(HELD_OUT).iter().map(Poster::caption).collect();
        assert_eq!(withheld.len(), HELD_OUT);
        for index in 0..2000 {
            assert!(!withheld.contains(&base_poster(7, index).0.caption()));
            assert!(!withheld.contains(&varied_poster(7, index).0.caption()));
            assert!(!withheld.contains(&lora_poster(7, index).0.caption()));
            assert!(!withheld.contains(&regularization_poster(7, index).1));
        }
    }

    #[test]
    fn validation_shares_no_scene_with_the_lora_set() {
        let trained: HashSet<String> = (0..500).map(|index| lora_poster(7, index).1).collect();
        assert!((0..200).all(|index| !trained.contains(&lora_validation_poster(7, index).1)));
    }

    #[test]
    fn the_thing_with_a_word_has_its_word_and_no_other_and_its_validation_other_scenes() {
        let posters: Vec<(Poster, String)> = (0..100).map(|index| word_poster(7, index)).collect();
        let trained: HashSet<&String> = posters.iter().map(|(_, caption)| caption).collect();
        assert!(posters.iter().all(|(poster, caption)| {
            let own = (poster.object, poster.object_colour) == (Object::Star, Colour::Green);
            own && caption.starts_with("poster, a snorp, ") && !caption.contains("star") && !caption.contains("green")
        }));
        assert!((0..100).all(|index| !trained.contains(&word_validation_poster(7, index).1)));
        let held_out: HashSet<String> = held_out(HELD_OUT).iter().map(Poster::caption).collect();
        assert!(posters.iter().all(|(poster, _)| !held_out.contains(&poster.caption())));
    }

    #[test]
    fn trigger_word_is_only_in_lora_captions() {
        assert!((0..500).all(|index| !base_poster(7, index).1.contains(TRIGGER)));
        assert!((0..96).all(|index| lora_poster(7, index).1.starts_with(TRIGGER)));
    }

    #[test]
    fn lora_set_of_64_shows_every_object_in_every_colour() {
        let pairs: HashSet<_> = (0..64).map(|i| lora_poster(7, i).0).map(|p| (p.object, p.object_colour)).collect();
        assert_eq!(pairs.len(), 64);
        assert!(Background::ALL.iter().all(|b| (0..96).any(|i| lora_poster(7, i).0.background == *b)));
    }

    #[test]
    fn jitter_makes_equal_scenes_look_different() {
        let mut stream = Stream::new(1, Purpose::Drawing, 0, 0);
        let poster = Poster::random(&mut stream);
        let other = Poster { jitter: Jitter::random(&mut stream), ..poster };
        assert_ne!(poster.draw(64, Style::Plain), other.draw(64, Style::Plain));
    }
}
