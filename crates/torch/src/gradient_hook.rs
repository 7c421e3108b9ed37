//! Gradients of leaves: what is done as soon as one is complete, and putting one in place or taking it away.

use crate::error::{Result, from_panic};
use crate::gradient_checkpoint::check;
use crate::{callback_error, ffi};
use std::ffi::{c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use tch::Tensor;
use torch_sys::C_tensor;

type Body = Box<dyn Fn(&Tensor) -> Result<()> + Send>;

/// What is called with a leaf when its gradient is complete, in the middle of a backward pass; until it is dropped.
///
/// A leaf whose layer runs in several checkpointed blocks gets its gradient in several parts, and a call for each of them.
#[derive(Debug)]
pub struct GradientHook {
    leaf: Tensor,
}

impl GradientHook {
    /// Calls `body` from now on, in the place of what was called before. An error or a panic of it ends the backward pass.
    pub fn new(leaf: &Tensor, body: impl Fn(&Tensor) -> Result<()> + Send + 'static) -> Result<GradientHook> {
        let body: Box<Body> = Box::new(Box::new(body));
        #[expect(unsafe_code, reason = "FFI: the leaf lives through the call; the shim owns `body` from here on")]
        let status = unsafe {
            ffi::sd_set_gradient_hook(
                leaf.as_ptr() as *mut C_tensor,
                Box::into_raw(body).cast(),
                Some(call_body),
                Some(free_body),
            )
        };
        check(status)?;
        Ok(GradientHook { leaf: leaf.shallow_clone() })
    }
}

impl Drop for GradientHook {
    fn drop(&mut self) {
        let leaf = self.leaf.as_ptr() as *mut C_tensor;
        #[expect(unsafe_code, reason = "FFI: the leaf lives through the call, and no hook is handed over")]
        let _ = unsafe { ffi::sd_set_gradient_hook(leaf, std::ptr::null_mut(), None, None) };
    }
}

#[expect(unsafe_code, reason = "callback from C++: `body` is the box made above, the leaf is borrowed")]
unsafe extern "C" fn call_body(body: *mut c_void, leaf: *mut C_tensor) -> c_int {
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let body = unsafe { &*body.cast::<Body>() };
        body(&unsafe { Tensor::clone_from_ptr(leaf) })
    }));
    let error = match result {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => error,
        Err(payload) => from_panic(payload),
    };
    callback_error::leave(error)
}

#[expect(unsafe_code, reason = "callback from C++: called once, when the hook goes")]
unsafe extern "C" fn free_body(body: *mut c_void) {
    drop(unsafe { Box::from_raw(body.cast::<Body>()) });
}

/// Makes `gradient` that of `leaf`, without a copy; without one, the leaf has none and its memory is free.
pub fn set_gradient(leaf: &Tensor, gradient: Option<&Tensor>) -> Result<()> {
    let gradient = gradient.map_or(std::ptr::null_mut(), |gradient| gradient.as_ptr() as *mut C_tensor);
    #[expect(unsafe_code, reason = "FFI: both tensors live through the call")]
    let status = unsafe { ffi::sd_set_gradient(leaf.as_ptr() as *mut C_tensor, gradient) };
    check(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tch::{Device, Kind};

    fn leaf() -> Tensor {
        Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true)
    }

    #[test]
    fn a_leaf_that_is_used_twice_is_told_once_with_the_whole_gradient() {
        let (leaf, seen) = (leaf(), Arc::new(Mutex::new(Vec::new())));
        let list = seen.clone();
        let hook = GradientHook::new(&leaf, move |leaf| {
            list.lock().unwrap().push(leaf.grad().double_value(&[0]));
            set_gradient(leaf, None)
        });
        let backward = || (&leaf * 2.0 + leaf.square()).sum(Kind::Float).backward();
        backward();
        assert_eq!(*seen.lock().unwrap(), [4.0]);
        assert!(!leaf.grad().defined(), "its memory is free");
        drop(hook);
        backward();
        assert_eq!((seen.lock().unwrap().len(), leaf.grad().double_value(&[0])), (1, 4.0));
    }

    #[test]
    fn a_leaf_may_be_changed_where_its_gradient_is_complete() {
        let leaf = leaf();
        let _hook = GradientHook::new(&leaf, |leaf| {
            let _ = tch::no_grad(|| leaf.shallow_clone().g_sub_(&leaf.grad()));
            set_gradient(leaf, None)
        });
        // The product needs the leaf for the gradient of the other factor.
        let other = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        (&leaf * &other * &leaf).sum(Kind::Float).backward();
        assert_eq!((leaf.double_value(&[0]), other.grad().double_value(&[0])), (-1.0, 1.0));
    }

    #[test]
    fn an_error_and_a_panic_of_a_hook_are_errors_with_their_reason() {
        let leaf = leaf();
        let hook = GradientHook::new(&leaf, |_| Err(crate::Error::Torch("the disk is full".into())));
        let failed = crate::catch(|| leaf.sum(Kind::Float).backward()).unwrap_err().to_string();
        assert_eq!(failed, "the disk is full");
        drop(hook);
        let _hook = GradientHook::new(&leaf, |_| panic!("a defect"));
        let failed = crate::catch(|| leaf.sum(Kind::Float).backward()).unwrap_err().to_string();
        assert!(failed.contains("a defect"), "{failed}");
    }
}
