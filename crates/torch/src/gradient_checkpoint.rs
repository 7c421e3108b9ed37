//! Gradient checkpointing: a block's activations are thrown away and computed again in backward.

use crate::error::{Error, Result, from_panic};
use crate::{callback_error, ffi};
use std::ffi::{CStr, c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use tch::Tensor;
use torch_sys::C_tensor;

type Block = Box<dyn Fn(&[Tensor]) -> Tensor>;

/// Runs `block(inputs)` without keeping its activations; backward runs it once more to get its gradients.
///
/// Values and gradients equal those of the plain call to the bit, provided that `block` is a pure function of its
/// inputs and of the parameters it holds. It must draw no random numbers from libtorch's generators.
pub fn gradient_checkpoint(inputs: &[&Tensor], block: impl Fn(&[Tensor]) -> Tensor + 'static) -> Result<Tensor> {
    let block: Box<Block> = Box::new(Box::new(block));
    let pointers: Vec<*mut C_tensor> = inputs.iter().map(|t| t.as_ptr() as *mut C_tensor).collect();
    let mut output = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: pointers stay valid for the call; the shim owns `block` from here on")]
    let status = unsafe {
        ffi::sd_gradient_checkpoint(
            Box::into_raw(block).cast(),
            call_block,
            free_block,
            pointers.as_ptr(),
            pointers.len() as c_int,
            &mut output,
        )
    };
    check(status)?;
    #[expect(unsafe_code, reason = "the shim made `output` with `new` and gave it away")]
    Ok(unsafe { Tensor::from_ptr(output) })
}

/// Turns the shim's status into a result with its last error.
pub(crate) fn check(status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "the shim returns a NUL-terminated string that lives until its next call")]
    let message = unsafe { CStr::from_ptr(ffi::sd_last_error()) }.to_string_lossy().into_owned();
    Err(Error::from_message(&message))
}

// On a CPU, backward runs on the calling thread. On CUDA it runs on libtorch's device thread while the caller is
// blocked in `backward`, so the closure is never entered by two threads at once.
#[expect(unsafe_code, reason = "callback from C++: `closure` is the box made above, inputs are borrowed tensors")]
unsafe extern "C" fn call_block(
    closure: *mut c_void,
    inputs: *const *mut C_tensor,
    count: c_int,
    output: *mut *mut C_tensor,
) -> c_int {
    // A panic must not unwind into C++; the shim throws its own exception on a nonzero status.
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let block = unsafe { &*closure.cast::<Block>() };
        let inputs: Vec<Tensor> =
            (0..count as usize).map(|i| unsafe { Tensor::clone_from_ptr(*inputs.add(i)) }).collect();
        block(&inputs)
    }));
    match result {
        Ok(tensor) => {
            let raw = tensor.as_ptr() as *mut C_tensor;
            std::mem::forget(tensor);
            unsafe { *output = raw };
            0
        }
        Err(payload) => callback_error::leave(from_panic(payload)),
    }
}

#[expect(unsafe_code, reason = "callback from C++: called once, when the last owner of the block goes")]
unsafe extern "C" fn free_block(closure: *mut c_void) {
    drop(unsafe { Box::from_raw(closure.cast::<Block>()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tch::{Device, Kind};

    fn block(weight: &Tensor, x: &Tensor) -> Tensor {
        x.matmul(weight).tanh().matmul(weight)
    }

    #[test]
    fn gradients_equal_the_plain_ones_to_the_bit() {
        tch::manual_seed(1);
        let weight = Tensor::randn([8, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let x = Tensor::randn([4, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        block(&weight, &x).square().sum(Kind::Float).backward();
        let (plain_w, plain_x) = (weight.grad().copy(), x.grad().copy());
        let _ = weight.grad().zero_();
        let _ = x.grad().zero_();
        let held = weight.shallow_clone();
        let output = gradient_checkpoint(&[&x], move |inputs| block(&held, &inputs[0])).unwrap();
        output.square().sum(Kind::Float).backward();
        assert!(plain_w.equal(&weight.grad()) && plain_x.equal(&x.grad()));
    }

    #[test]
    fn parameters_train_even_when_no_input_does() {
        let weight = Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let x = Tensor::ones([1, 2], (Kind::Float, Device::Cpu));
        let held = weight.shallow_clone();
        let output = gradient_checkpoint(&[&x], move |inputs| inputs[0].matmul(&held)).unwrap();
        output.sum(Kind::Float).backward();
        assert_eq!(weight.grad().sum(Kind::Float).double_value(&[]), 4.0);
    }

    #[test]
    fn a_failing_block_is_an_error() {
        let x = Tensor::ones([1, 2], (Kind::Float, Device::Cpu));
        let failed = crate::catch(|| gradient_checkpoint(&[&x], |i| i[0].matmul(&i[0])));
        assert!(failed.unwrap().is_err());
    }

    #[test]
    fn a_block_that_fails_says_why() {
        let x = Tensor::ones([1, 2], (Kind::Float, Device::Cpu));
        let error = gradient_checkpoint(&[&x], |inputs| inputs[0].matmul(&inputs[0])).unwrap_err().to_string();
        assert!(error.contains("cannot be multiplied"), "{error}");
    }

    #[test]
    fn each_failure_is_told_by_its_own_reason() {
        let backward = |own: &'static str| {
            let x = Tensor::ones([1, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let runs = Cell::new(0);
            let y = gradient_checkpoint(&[&x], move |inputs| {
                runs.set(runs.get() + 1);
                assert!(runs.get() == 1, "block {own}");
                inputs[0].shallow_clone()
            });
            let loss = y.unwrap().sum(Kind::Float);
            panic::catch_unwind(AssertUnwindSafe(|| loss.backward())).unwrap_err()
        };
        // As on two threads: the other one fails before this one's failure is read.
        let failures = ["one", "two"].map(|own| (own, backward(own)));
        for (own, failure) in failures {
            let told = from_panic(failure).to_string();
            assert!(told.contains(&format!("block {own}")), "{told}");
        }
    }
}
