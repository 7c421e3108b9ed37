//! Procedurally drawn posters, their captions, and the check that reads them back.
#![doc = include_str!("../README.md")]

mod canvas;
mod caption;
mod check;
mod collection;
mod mask;
mod object;
mod palette;
mod poster;
mod silhouette;
mod style;
mod subject;
mod varied;

pub use caption::{Asked, LEARNED_WORD, TRIGGER, asked, vocabulary};
pub use check::{Found, StyleMarks, check};
pub use collection::{
    HELD_OUT, LORA_POSTERS, LORA_VALIDATION_POSTERS, REGULARIZATION_POSTERS, SUBJECT_CLASS_POSTERS, SUBJECT_POSTERS,
    SUBJECT_REGULARIZATION_POSTERS, WORD_POSTERS, WORD_VALIDATION_POSTERS, base_poster, held_out, lora_poster,
    lora_validation_poster, regularization_poster, subject_class_poster, subject_poster, subject_regularization_poster,
    varied_poster, window, word_poster, word_validation_poster,
};
pub use object::Object;
pub use palette::{Background, Colour, Rgb};
pub use poster::{Ground, Jitter, Place, Poster, TitleBar};
pub use style::Style;
pub use subject::{SUBJECT, SUBJECT_CLASS, SubjectFound, check_subject, draw_subject, subject_caption};
