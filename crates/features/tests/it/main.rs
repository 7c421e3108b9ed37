//! Features as a run and an evaluation use them: kept or not, they are the same to the bit.

mod latents;
mod sample;
#[cfg(feature = "seeded-bugs")]
mod seeded_bugs;
mod texts;
