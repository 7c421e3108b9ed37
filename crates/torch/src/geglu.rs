//! GEGLU: values and their gates.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::Tensor;
use torch_sys::C_tensor;

/// `value · GELU(gate)` (Shazeer 2020), with the exact GELU. input: `[…, 2·size]`, values first, gates behind them; output: `[…, size]`.
///
/// In fp32 and bf16, in host memory and on a processor with AVX-512 (and for bf16 AVX-512-BF16), one pass over the input, of which nothing else
/// is kept for backward (`cpp/geglu.cpp`), with the same bits whatever the number of threads. Otherwise libtorch's. Errors: an odd
/// last size.
pub fn geglu(input: &Tensor) -> Result<Tensor> {
    let mut output = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: the tensor lives through the call; `output` is owned by us on success")]
    unsafe {
        check(ffi::sd_geglu(input.as_ptr() as *mut C_tensor, &mut output))?;
        Ok(Tensor::from_ptr(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_test::{KINDS, distance, same_bits_by_threads};
    use tch::{Device, Kind};

    /// From -8 to 8, where GELU's tails are, in rows that end within vectors and beyond them.
    fn input(rows: i64, size: i64, kind: Kind) -> Tensor {
        let numbers = Tensor::arange(rows * 2 * size, (Kind::Double, Device::Cpu)) * 1.7;
        let values = (numbers.sin() * 43.7).sin() * 8.0;
        values.view([1, rows, 2 * size]).to_kind(kind).set_requires_grad(true)
    }

    /// Output and gradient.
    fn passes(input: &Tensor, gate: impl Fn(&Tensor) -> Tensor) -> [Tensor; 2] {
        let output = gate(input);
        let weights = (Tensor::arange(output.numel() as i64, (Kind::Double, Device::Cpu)) * 0.9).sin();
        let weights = weights.to_kind(Kind::BFloat16).view_as(&output).to_kind(output.kind());
        (&output * weights).sum(Kind::Double).backward();
        let gradient = input.grad().copy();
        input.shallow_clone().zero_grad();
        [output.detach(), gradient]
    }

    fn ours(input: &Tensor) -> Tensor {
        geglu(input).expect("it fits")
    }

    fn formula(input: &Tensor) -> Tensor {
        let parts = input.chunk(2, -1);
        &parts[0] * parts[1].gelu("none")
    }

    #[test]
    fn output_and_gradient_are_those_of_the_formula() {
        for ([rows, size], (kind, beyond)) in
            [[5, 7], [64, 1280], [3, 16], [70, 50]].into_iter().flat_map(|case| KINDS.map(|kind| (case, kind)))
        {
            let input = input(rows, size, kind);
            let exact = input.detach().to_kind(Kind::Double).set_requires_grad(true);
            let [found, libtorch, expected] = [passes(&input, ours), passes(&input, formula), passes(&exact, formula)];
            for ((ours, libtorch), expected) in found.iter().zip(&libtorch).zip(&expected) {
                assert_eq!((ours.kind(), ours.size()), (kind, expected.size()));
                let [ours, libtorch] = [ours, libtorch].map(|tensor| distance(tensor, expected));
                assert!(
                    ours < 1.2 * libtorch + beyond,
                    "{kind:?}, {rows} × {size}: {ours:.1e}, libtorch's {libtorch:.1e}"
                );
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        for (kind, _) in KINDS {
            let input = input(500, 200, kind);
            let _ = same_bits_by_threads(&format!("{kind:?}"), || passes(&input, ours));
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for (kind, _) in KINDS {
            for place in [3, 25] {
                let input = input(2, 20, kind).detach();
                let _ = input.narrow(2, place, 1).fill_(f64::NAN);
                assert!(!bool::try_from(ours(&input).isfinite().all()).expect("one value"), "{kind:?}, {place}");
            }
        }
    }

    #[test]
    fn nothing_is_no_error_and_an_odd_size_is_one() {
        assert_eq!(ours(&Tensor::zeros([0, 8], (Kind::Float, Device::Cpu))).size(), [0, 4]);
        let odd = Tensor::zeros([2, 7], (Kind::Float, Device::Cpu));
        assert!(geglu(&odd).unwrap_err().to_string().contains("equal numbers"));
    }
}
