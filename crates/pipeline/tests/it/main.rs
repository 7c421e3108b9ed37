//! The same pictures as diffusers, from the golden files in `tests/fixtures`.

mod text_to_image;
