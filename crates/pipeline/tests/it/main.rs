//! The same pictures as diffusers, from the golden files in `tests/fixtures`.

mod image_to_image;
mod text_to_image;
