//! Features as a run and an evaluation use them: kept or not, they are the same to the bit.

mod latents;
mod sample;
mod texts;
