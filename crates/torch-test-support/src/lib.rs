#![doc = include_str!("../README.md")]

mod golden;
mod lpips_network;
mod near;

pub use golden::Golden;
pub use lpips_network::write_lpips_network;
pub use near::{assert_equal, assert_near, difference};
pub use sdtrain_test_support::{copy_folder, fixture_folder, key_list, write_editing_folder, write_inpainting_folder};
