//! The sample set in the repository is what the generator draws, so that anyone can make it again.

use std::fs;
use std::path::Path;

use sdtrain_posters::{
    LORA_POSTERS, LORA_VALIDATION_POSTERS, Poster, Style, asked, check, lora_poster, lora_validation_poster,
};

/// The seed of `cargo xtask posters lora`.
const SEED: u64 = 1;

fn compare(name: &str, count: u64, draw: impl Fn(u64, u64) -> (Poster, String)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets").join(name);
    let pictures = fs::read_dir(&folder).expect("the sample set is in the repository").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "png"))
    });
    assert_eq!(pictures.count() as u64, count);
    for index in 0..count {
        let (poster, caption) = draw(SEED, index);
        let path = folder.join(format!("{index:05}.png"));
        let written = image::open(&path).expect("the picture can be read").to_rgb8();
        let drawn = poster.draw(96, Style::Zenpop);
        assert_eq!(written.dimensions(), drawn.dimensions());
        // One step of 255: another processor may round an edge differently.
        let difference = written.iter().zip(drawn.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(difference <= Some(1), "{name}/{index:05}.png differs by {difference:?}");
        let written = fs::read_to_string(path.with_extension("txt")).expect("the caption can be read");
        assert_eq!(written.trim_end(), caption);

        let (asked, found) = (asked(&caption), check(&drawn));
        assert_eq!((found.object, found.object_colour), (asked.object, asked.object_colour), "{caption}: {found:?}");
        assert!(found.style && asked.style == Style::Zenpop);
    }
}

#[test]
fn lora_set_is_what_the_generator_draws_and_every_poster_reads_back() {
    compare("posters", LORA_POSTERS, lora_poster);
}

#[test]
fn validation_set_is_what_the_generator_draws_and_every_poster_reads_back() {
    compare("posters-validation", LORA_VALIDATION_POSTERS, lora_validation_poster);
}
