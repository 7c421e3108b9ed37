#![doc = include_str!("../README.md")]

mod error;
mod grid;
mod image_to_image;
mod inpaint;
mod png_file;
mod sheet;
mod text_to_image;

pub use error::{Error, Result};
pub use grid::grid;
pub use image_to_image::InitImage;
pub use png_file::{parameters_text, png_texts, sampler_name, save_png};
pub use sheet::{comparison_sheet, sheet};
pub use text_to_image::{Request, denoised_latents, pictures_at_once, sampler_for, text_to_image, text_to_image_while};
