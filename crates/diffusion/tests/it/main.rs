//! The same numbers as diffusers, from the recorded ones in `tests/fixtures`.

mod fixture;
mod noise_schedule;
mod objective;
mod samplers;
mod samplers_from_image;
mod schedulers_reference;
