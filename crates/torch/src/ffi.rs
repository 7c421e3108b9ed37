//! Declarations of the C++ shim's functions, and nothing else.

use std::ffi::{c_char, c_int, c_void};
use torch_sys::C_tensor;

pub type BlockCall = unsafe extern "C" fn(*mut c_void, *const *mut C_tensor, c_int, *mut *mut C_tensor) -> c_int;
pub type BlockFree = unsafe extern "C" fn(*mut c_void);
pub type TakeBytes = unsafe extern "C" fn(*mut c_void, *const u8, usize);
pub type TakeEvent = unsafe extern "C" fn(*mut c_void, *const c_char, c_int, c_int, u64, u64, u64);
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
    pub fn sd_store_connect(
        host: *const c_char,
        port: u16,
        is_host: c_int,
        timeout_ms: i64,
        prefix: *const c_char,
        store: *mut *mut c_void,
    ) -> c_int;
    pub fn sd_store_free(store: *mut c_void);
    pub fn sd_store_set(store: *mut c_void, key: *const c_char, data: *const u8, length: usize) -> c_int;
    pub fn sd_store_get(store: *mut c_void, key: *const c_char, target: *mut c_void, take: TakeBytes) -> c_int;
    pub fn sd_store_has(store: *mut c_void, key: *const c_char, found: *mut c_int) -> c_int;
    pub fn sd_store_add(store: *mut c_void, key: *const c_char, amount: i64, sum: *mut i64) -> c_int;
    pub fn sd_group_gloo(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        host: *const c_char,
        group: *mut *mut c_void,
    ) -> c_int;
    pub fn sd_group_free(group: *mut c_void);
    pub fn sd_group_all_reduce(group: *mut c_void, values: *mut C_tensor, largest: c_int) -> c_int;
    pub fn sd_group_broadcast(group: *mut c_void, values: *mut C_tensor, root: c_int) -> c_int;
    pub fn sd_group_all_gather(group: *mut c_void, all: *mut C_tensor, own: *mut C_tensor) -> c_int;
    pub fn sd_group_reduce_scatter(group: *mut c_void, own: *mut C_tensor, all: *mut C_tensor) -> c_int;
    pub fn sd_attention(
        query: *mut C_tensor,
        key: *mut C_tensor,
        value: *mut C_tensor,
        output: *mut *mut C_tensor,
    ) -> c_int;
    pub fn sd_geglu(input: *mut C_tensor, output: *mut *mut C_tensor) -> c_int;
    pub fn sd_group_norm(
        input: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        groups: i64,
        eps: f64,
        activates: c_int,
        output: *mut *mut C_tensor,
    ) -> c_int;
    pub fn sd_linear(
        input: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        output: *mut *mut C_tensor,
    ) -> c_int;
    pub fn sd_low_rank(
        input: *mut C_tensor,
        down: *mut C_tensor,
        up: *mut C_tensor,
        scale: f64,
        output: *mut *mut C_tensor,
    ) -> c_int;
    pub fn sd_unfolded_conv2d(
        input: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        stride: i64,
        padding: i64,
        output: *mut *mut C_tensor,
    ) -> c_int;
    pub fn sd_use_block_allocator() -> c_int;
    pub fn sd_return_freed_blocks();
    pub fn sd_profiler_begin(with_cuda: c_int) -> c_int;
    pub fn sd_profiler_end(path: *const c_char, target: *mut c_void, take: Option<TakeEvent>) -> c_int;
    pub fn sd_span_begin(name: *const c_char, span: *mut *mut c_void) -> c_int;
    pub fn sd_span_end(span: *mut c_void);
    pub fn sd_reducer_new(
        group: *mut c_void,
        parameters: *const *mut C_tensor,
        count: c_int,
        reducer: *mut *mut c_void,
    ) -> c_int;
    pub fn sd_reducer_free(reducer: *mut c_void);
    pub fn sd_reducer_begin(reducer: *mut c_void) -> c_int;
    pub fn sd_reducer_end(reducer: *mut c_void) -> c_int;
}
