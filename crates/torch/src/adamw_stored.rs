//! The kernel of an AdamW step over weights and moments that are kept in bf16.

use crate::error::Result;
use crate::ffi;
use crate::foreach::AdamWStep;
use crate::gradient_checkpoint::check;
use tch::Tensor;
use torch_sys::C_tensor;

/// A parameter with all that a step of it needs, each in fp32 or in bf16, contiguous and in host memory.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStored<'t> {
    /// The weights.
    pub parameter: &'t Tensor,
    /// Their gradient, which is left as it is.
    pub gradient: &'t Tensor,
    /// First moment.
    pub exp_avg: &'t Tensor,
    /// Second moment.
    pub exp_avg_sq: &'t Tensor,
    /// Steps done, an fp32 scalar.
    pub step: &'t Tensor,
}

/// How weights get back into bf16, where that is what they are kept in.
#[derive(Debug, Clone, Copy)]
pub enum WeightRounding<'t> {
    /// As [`crate::round_stochastically`] with this key.
    Stochastic(u64),
    /// To the nearest, with what that lacks in a tensor in bf16, if any, which is added before the step.
    Nearest(Option<&'t Tensor>),
}

/// One step: the bits of unpacking everything to fp32, [`crate::fused_adamw`], and rounding it back, by parts that fit a core's cache.
/// Moments in bf16 are rounded by chance with `moment_keys`. The same bits at any number of threads.
pub fn adamw_stored(
    stored: AdamWStored<'_>,
    rounding: WeightRounding<'_>,
    moment_keys: [u64; 2],
    step: AdamWStep,
) -> Result<()> {
    let pointer = |tensor: &Tensor| tensor.as_ptr() as *mut C_tensor;
    let (key, compensation, by_chance) = match rounding {
        WeightRounding::Stochastic(key) => (key, None, 1),
        WeightRounding::Nearest(compensation) => (0, compensation, 0),
    };
    let keys = [key, moment_keys[0], moment_keys[1]];
    #[expect(
        unsafe_code,
        reason = "FFI: all tensors and the keys live through the call, which checks sizes and formats"
    )]
    let status = unsafe {
        ffi::sd_adamw_stored(
            pointer(stored.parameter),
            compensation.map_or(std::ptr::null_mut(), pointer),
            pointer(stored.gradient),
            pointer(stored.exp_avg),
            pointer(stored.exp_avg_sq),
            pointer(stored.step),
            keys.as_ptr(),
            by_chance,
            step.learning_rate,
            step.betas.0,
            step.betas.1,
            step.weight_decay,
            step.eps,
        )
    };
    check(status)
}
