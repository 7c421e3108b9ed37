#![doc = include_str!("../README.md")]

mod close;
mod copy_folder;
mod fixture;
mod inpainting_folder;
mod key_list;

pub use close::{Tolerance, assert_close, difference};
pub use copy_folder::copy_folder;
pub use fixture::{Fixture, fixture_folder};
pub use inpainting_folder::{write_editing_folder, write_inpainting_folder};
pub use key_list::key_list;
