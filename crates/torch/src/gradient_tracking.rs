//! libtorch's switch for gradients, which belongs to a thread.

/// Whether libtorch keeps track of gradients in this thread.
pub(crate) fn tracks_gradients() -> bool {
    let tracks = set_gradient_tracking(true);
    set_gradient_tracking(tracks);
    tracks
}

/// Switches it; what it was before.
pub(crate) fn set_gradient_tracking(on: bool) -> bool {
    #[expect(unsafe_code, reason = "FFI: takes and gives plain numbers, and changes a switch of this thread alone")]
    unsafe {
        torch_sys::at_grad_set_enabled(on.into()) != 0
    }
}
