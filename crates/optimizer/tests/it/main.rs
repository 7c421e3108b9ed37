//! The same numbers as the reference packages of optimizers and schedules, from the golden files in `tests/fixtures`.

mod adamw;
mod ema;
mod golden_parameters;
mod lr_schedule;
mod stored;
mod traces;
