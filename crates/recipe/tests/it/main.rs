//! Loading configurations from files: what is complete, what is refused, in which words.

mod checks;
mod dreambooth;
mod inpainting;
mod kohya;
mod load;
mod objective;
mod optimizers;
mod parts;
mod presets;
mod project;
mod samples;
mod stages;
mod textual_inversion;
