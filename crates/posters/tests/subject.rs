//! The check finds the subject in clean and damaged pictures, and in nothing else; its sets are what the generator draws.

use std::fs;
use std::path::Path;

use image::{RgbImage, imageops};
use sdtrain_posters::{
    Poster, SUBJECT_CLASS_POSTERS, SUBJECT_POSTERS, SUBJECT_REGULARIZATION_POSTERS, Style, base_poster, check_subject,
    draw_subject, subject_caption, subject_class_poster, subject_poster, subject_regularization_poster, varied_poster,
};
use sdtrain_random::{Purpose, Stream};

/// The seed of `cargo xtask posters subject`.
const SEED: u64 = 1;

/// Blur of 1.4 pixels and noise of ±12: worse than a small VAE.
fn damaged(picture: &RgbImage, index: u64) -> RgbImage {
    let mut stream = Stream::new(99, Purpose::Noise, 0, index);
    let mut picture = imageops::blur(picture, 1.4);
    for value in picture.iter_mut() {
        *value = (i64::from(*value) + stream.below(25) as i64 - 12).clamp(0, 255) as u8;
    }
    picture
}

#[test]
fn the_subject_is_found_wherever_it_stands() {
    for index in 0..300 {
        let poster = subject_poster(77, index);
        for size in [64, 96, 128] {
            let found = check_subject(&draw_subject(&poster, size));
            assert!(found.is_there, "{index} at {size}: {} but {found:?}", poster.caption());
        }
    }
}

#[test]
fn damaged_pictures_of_the_subject_are_recognised() {
    let missed = |index: u64| {
        let found = check_subject(&damaged(&draw_subject(&subject_poster(77, index), 96), index));
        (!found.is_there).then_some((index, found))
    };
    let missed: Vec<_> = (0..300).filter_map(missed).collect();
    assert!(missed.len() <= 6, "{} of 300: {:?}", missed.len(), &missed[..8.min(missed.len())]);
}

#[test]
fn nothing_else_is_taken_for_the_subject() {
    let taken = |picture: RgbImage, what: String| {
        let found = check_subject(&picture);
        assert!(!found.is_there, "{what}: {found:?}");
    };
    for index in 0..500 {
        let (poster, caption) = base_poster(77, index);
        taken(poster.draw(96, Style::Plain), caption);
        let (poster, caption) = subject_class_poster(77, index);
        taken(poster.draw(96, Style::Plain), caption.clone());
        taken(damaged(&poster.draw(96, Style::Plain), index), format!("damaged {caption}"));
        taken(poster.draw(96, Style::Zenpop), format!("zenpop {caption}"));
        let (poster, style) = varied_poster(77, index);
        taken(poster.draw(96, style), format!("varied {index}"));
    }
    // Upside down it is another house.
    taken(imageops::rotate180(&draw_subject(&subject_poster(77, 0), 96)), "upside down".into());
}

#[test]
fn the_sets_in_the_repository_are_what_the_generator_draws() {
    let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    let compare = |name: &str, count: u64, drawn: &dyn Fn(u64) -> (RgbImage, Option<String>)| {
        let folder = datasets.join(name);
        let images = fs::read_dir(&folder).expect("the set is in the repository").flatten();
        let is_image = |path: &Path| path.extension().is_some_and(|ending| ending == "png");
        assert_eq!(images.filter(|entry| is_image(&entry.path())).count() as u64, count);
        for index in 0..count {
            let path = folder.join(format!("{index:05}.png"));
            let written = image::open(&path).expect("the picture can be read").to_rgb8();
            let (drawn, caption) = drawn(index);
            // One step of 255: another processor may round an edge differently.
            let difference = written.iter().zip(drawn.iter()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(difference <= Some(1), "{name}/{index:05}.png differs by {difference:?}");
            let written = fs::read_to_string(path.with_extension("txt")).ok();
            assert_eq!(written.map(|text| text.trim_end().to_owned()), caption);
        }
    };
    compare("posters-subject", SUBJECT_POSTERS, &|index| {
        let poster = subject_poster(SEED, index);
        (draw_subject(&poster, 96), Some(subject_caption(&poster)))
    });
    for (name, count, drawn) in [
        ("posters-subject-class", SUBJECT_CLASS_POSTERS, subject_class_poster as fn(u64, u64) -> (Poster, String)),
        ("posters-subject-regularization", SUBJECT_REGULARIZATION_POSTERS, subject_regularization_poster),
    ] {
        compare(name, count, &|index| {
            let (poster, caption) = drawn(SEED, index);
            (poster.draw(96, Style::Plain), Some(caption))
        });
    }
}

#[test]
fn what_the_class_is_validated_on_is_not_trained_on() {
    let validated: Vec<String> = (0..SUBJECT_CLASS_POSTERS).map(|index| subject_class_poster(SEED, index).1).collect();
    for index in 0..SUBJECT_REGULARIZATION_POSTERS {
        assert!(!validated.contains(&subject_regularization_poster(SEED, index).1), "{index}");
    }
}
