//! What the crate promises of model files.

mod averaged;
mod canonical;
mod control_net;
mod converted;
mod fixtures;
mod folder;
mod hostile;
mod lora;
mod maps;
mod metadata;
mod module_list;
mod mutations;
mod recognise;
mod report;
mod single_file;
mod torch_file;
mod write;
