#![doc = include_str!("../README.md")]

mod access;
pub mod architecture;
mod averaged;
mod canonical;
mod control_net;
mod converted;
mod diffusers_folder;
mod dtype;
mod error;
mod family;
mod file;
mod float8;
mod folder;
mod for_inpainting;
mod found_text;
mod header;
pub mod load_report;
mod mapped;
pub mod maps;
pub mod metadata;
mod module_list;
mod non_finite;
mod open_clip;
mod pickle;
mod pickle_names;
mod reader;
mod recognise;
mod released;
mod renamed;
mod single_file;
mod staging;
mod torch_file;
mod write;
mod zip_entries;

pub use averaged::{averaged_prefix, has_averaged, with_averaged_unet, without_averaged_unet};
pub use canonical::{canonical_text_encoder, canonical_unet, canonical_vae};
pub use control_net::{ControlNet, is_control_net_folder};
pub use converted::Converted;
pub use diffusers_folder::{
    PipelineConfigs, PipelineWeights, TokenizerFiles, is_bert, read_json, text_positions, vae_from_metadata,
    vae_to_metadata, write_diffusers_folder, write_network_folder,
};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use family::{Family, TextLayer, predicts_velocity, sd2_predicts_noise};
pub use file::SafetensorsFile;
pub use folder::{Weights, component_files, open_component, shard_names, text_encoder_folders, weights_among};
pub use for_inpainting::{ForInpainting, INPAINTING_CHANNELS};
pub use load_report::LoadReport;
pub use non_finite::check_finite;
pub use reader::{Joined, Reader, TensorInfo, floats_of, read_floats, read_integers};
pub use recognise::{FileKind, UnetInput, recognise, recognise_with_reason};
pub use renamed::Renamed;
pub use single_file::{
    LdmSingleFile, VaeFile, in_words, ldm_single_file, to_ldm, to_ldm_vae, unknown_tensors, vae_file,
};
pub use torch_file::{TorchFile, open_file};
pub use write::{FromReader, TensorEntry, TensorSource, write, write_source, write_to};
