#![doc = include_str!("../README.md")]

mod adamw_8bit;
mod adamw_stored;
mod callback_error;
mod device;
mod error;
mod ffi;
mod foreach;
mod gradient_checkpoint;
mod gradient_hook;
mod gradient_tracking;
mod memory;
mod nccl;
mod process_group;
mod profiler;
mod rounding;
mod tensor_bytes;
mod tf32;
mod unfolded_convolution;
mod version;

pub use adamw_8bit::{AdamW8bitStep, CodeMap, QuantizedMoment, adamw_8bit};
pub use adamw_stored::{AdamWStored, WeightRounding, adamw_stored};
pub use device::{device, use_threads};
pub use error::{Error, Result, catch, or_panic};
pub use foreach::{AdamWState, AdamWStep, clip_grad_norm, fused_adamw, unscale};
pub use gradient_checkpoint::gradient_checkpoint;
pub use gradient_hook::{GradientHook, set_gradient};
pub use memory::{keep_freed_blocks, keep_freed_memory, return_freed_blocks};
pub use nccl::Nccl;
pub use process_group::{ProcessGroup, Reducer, Store, StoreAddress};
pub use profiler::{ProfiledEvent, Profiler, Span, span};
pub use rounding::round_stochastically;
pub use tensor_bytes::{tensor_from_bytes, tensor_to_bytes};
pub use tf32::allow_tf32;
pub use unfolded_convolution::unfolded_conv2d;
pub use version::torch_version;
