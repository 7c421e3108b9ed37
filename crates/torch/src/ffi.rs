//! Declarations of the C++ shim's functions, and nothing else.

use std::ffi::{c_char, c_int, c_void};
use torch_sys::C_tensor;

pub type BlockCall = unsafe extern "C" fn(*mut c_void, *const *mut C_tensor, c_int, *mut *mut C_tensor) -> c_int;
pub type BlockFree = unsafe extern "C" fn(*mut c_void);
pub type HookCall = unsafe extern "C" fn(*mut c_void, *mut C_tensor) -> c_int;

#[expect(unsafe_code, reason = "the shim's functions, each called in one place")]
unsafe extern "C" {
    pub fn sd_last_error() -> *const c_char;
    pub fn sd_torch_version() -> *const c_char;
    pub fn sd_gradient_checkpoint(
        closure: *mut c_void,
        call: BlockCall,
        release: BlockFree,
        inputs: *const *mut C_tensor,
        count: c_int,
        output: *mut *mut C_tensor,
    ) -> c_int;
    pub fn sd_clip_grad_norm(
        grads: *const *mut C_tensor,
        count: c_int,
        max_norm: f64,
        norm: *mut *mut C_tensor,
    ) -> c_int;
    pub fn sd_adamw_8bit(
        parameter: *mut C_tensor,
        gradient: *mut C_tensor,
        codes1: *mut C_tensor,
        largest1: *mut C_tensor,
        map1: *const *mut C_tensor,
        codes2: *mut C_tensor,
        largest2: *mut C_tensor,
        map2: *const *mut C_tensor,
        numbers: *const f32,
    ) -> c_int;
    pub fn sd_adamw_stored(
        parameter: *mut C_tensor,
        compensation: *mut C_tensor,
        gradient: *mut C_tensor,
        exp_avg: *mut C_tensor,
        exp_avg_sq: *mut C_tensor,
        step: *mut C_tensor,
        keys: *const u64,
        by_chance: c_int,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> c_int;
    pub fn sd_unscale(
        grads: *const *mut C_tensor,
        count: c_int,
        found_inf: *mut C_tensor,
        inverse_scale: *mut C_tensor,
    ) -> c_int;
    pub fn sd_fused_adamw(
        params: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        exp_avgs: *const *mut C_tensor,
        exp_avg_sqs: *const *mut C_tensor,
        steps: *const *mut C_tensor,
        count: c_int,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        found_inf: *mut C_tensor,
    ) -> c_int;
    pub fn sd_round_stochastically(target: *mut C_tensor, values: *mut C_tensor, key: u64) -> c_int;
    pub fn sd_set_gradient_hook(
        leaf: *mut C_tensor,
        body: *mut c_void,
        call: Option<HookCall>,
        release: Option<BlockFree>,
    ) -> c_int;
    pub fn sd_allow_tf32(allowed: c_int) -> c_int;
    pub fn sd_set_gradient(leaf: *mut C_tensor, gradient: *mut C_tensor) -> c_int;
}
