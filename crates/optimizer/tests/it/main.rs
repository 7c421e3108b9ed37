//! The same numbers as torch's AdamW and diffusers' schedules, from the golden files in `tests/fixtures`.

mod adamw;
mod ema;
mod lr_schedule;
