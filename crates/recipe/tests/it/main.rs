//! Loading configurations from files: what is complete, what is refused, in which words.

mod checks;
mod kohya;
mod load;
mod project;
mod textual_inversion;
