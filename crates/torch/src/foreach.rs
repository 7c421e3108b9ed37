//! Operations over all gradients at once, in few kernels and without reading anything back to the host.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use std::ffi::c_int;
use tch::Tensor;
use torch_sys::C_tensor;

fn pointers(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|t| t.as_ptr() as *mut C_tensor).collect()
}

/// L2 norm over all `grads` (a scalar tensor on their device, before clipping). With `max_norm` they are scaled in
/// place by `min(1, max_norm / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` does.
pub fn clip_grad_norm(grads: &[Tensor], max_norm: Option<f64>) -> Result<Tensor> {
    let list = pointers(grads);
    let mut norm = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: the list lives through the call; `norm` is owned by us on success")]
    unsafe {
        check(ffi::sd_clip_grad_norm(list.as_ptr(), list.len() as c_int, max_norm.unwrap_or(0.0), &mut norm))?;
        Ok(Tensor::from_ptr(norm))
    }
}

/// Multiplies `grads` in place by `inverse_scale` (a one-element f32 tensor) and sets `found_inf` (likewise, zero
/// before) to 1 when one of them is not finite.
pub fn unscale(grads: &[Tensor], found_inf: &Tensor, inverse_scale: &Tensor) -> Result<()> {
    let list = pointers(grads);
    #[expect(unsafe_code, reason = "FFI: all tensors live through the call")]
    let status = unsafe {
        ffi::sd_unscale(
            list.as_ptr(),
            list.len() as c_int,
            found_inf.as_ptr() as *mut C_tensor,
            inverse_scale.as_ptr() as *mut C_tensor,
        )
    };
    check(status)
}

/// The state of AdamW for a list of parameters, index by index.
#[derive(Debug)]
pub struct AdamWState {
    /// First moments, as the parameters in shape.
    pub exp_avgs: Vec<Tensor>,
    /// Second moments, as the parameters in shape.
    pub exp_avg_sqs: Vec<Tensor>,
    /// Steps done, f32 scalars.
    pub steps: Vec<Tensor>,
}

/// The numbers of one AdamW step.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first and of the second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; multiplied by the learning rate.
    pub weight_decay: f64,
}

/// One step of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) by libtorch's fused kernel; a step whose
/// `found_inf` is 1 changes nothing.
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    state: &AdamWState,
    step: AdamWStep,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let [params, grads] = [params, grads].map(pointers);
    let [exp_avgs, exp_avg_sqs, steps] = [&state.exp_avgs, &state.exp_avg_sqs, &state.steps].map(|l| pointers(l));
    #[expect(unsafe_code, reason = "FFI: all lists live through the call and have one length")]
    let status = unsafe {
        ffi::sd_fused_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            params.len() as c_int,
            step.learning_rate,
            step.betas.0,
            step.betas.1,
            step.weight_decay,
            step.eps,
            found_inf.map_or(std::ptr::null_mut(), |t| t.as_ptr() as *mut C_tensor),
        )
    };
    check(status)
}
