//! The sample set in the repository is what the generator draws, so that anyone can make it again.

use std::fs;
use std::path::Path;

use sdtrain_posters::{
    Colour, LORA_POSTERS, LORA_VALIDATION_POSTERS, Object, Poster, Style, WORD_POSTERS, WORD_VALIDATION_POSTERS, asked,
    check, lora_poster, lora_validation_poster, word_poster, word_validation_poster,
};

/// The seed of `cargo xtask posters lora`.
const SEED: u64 = 1;

fn compare(name: &str, count: u64, draw: impl Fn(u64, u64) -> (Poster, String), style: Style) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets").join(name);
    let pictures = fs::read_dir(&folder).expect("the sample set is in the repository").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "png"))
    });
    assert_eq!(pictures.count() as u64, count);
    for index in 0..count {
        let (poster, caption) = draw(SEED, index);
        let path = folder.join(format!("{index:05}.png"));
        let written = image::open(&path).expect("the picture can be read").to_rgb8();
        let drawn = poster.draw(96, style);
        assert_eq!(written.dimensions(), drawn.dimensions());
        // One step of 255: another processor may round an edge differently.
        let difference = written.iter().zip(drawn.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(difference <= Some(1), "{name}/{index:05}.png differs by {difference:?}");
        let written = fs::read_to_string(path.with_extension("txt")).expect("the caption can be read");
        assert_eq!(written.trim_end(), caption);

        let (asked, found) = (asked(&caption), check(&drawn));
        // What a word of its own stands for is said nowhere.
        let asked_for = match asked.object {
            Some(_) => (asked.object, asked.object_colour),
            None => (Some(Object::Star), Some(Colour::Green)),
        };
        assert_eq!((found.object, found.object_colour), asked_for, "{caption}: {found:?}");
        assert_eq!((found.style, asked.style), (style == Style::Zenpop, style));
    }
}

#[test]
fn lora_set_is_what_the_generator_draws_and_every_poster_reads_back() {
    compare("posters", LORA_POSTERS, lora_poster, Style::Zenpop);
}

#[test]
fn validation_set_is_what_the_generator_draws_and_every_poster_reads_back() {
    compare("posters-validation", LORA_VALIDATION_POSTERS, lora_validation_poster, Style::Zenpop);
}

#[test]
fn the_words_sets_are_what_the_generator_draws_and_every_poster_reads_back() {
    compare("posters-word", WORD_POSTERS, word_poster, Style::Plain);
    compare("posters-word-validation", WORD_VALIDATION_POSTERS, word_validation_poster, Style::Plain);
}
