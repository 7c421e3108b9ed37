//! A linear layer.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::Tensor;
use torch_sys::C_tensor;

/// `y = x Wᵀ + b`. input: `[…, inputs]`, weight: `[outputs, inputs]`, bias: `[outputs]`; output: `[…, outputs]`.
///
/// Up to 256 rows in bf16, in host memory and on a processor with AVX-512-BF16, meet the weights as they lie in memory, forward and backward
/// (`cpp/few_rows_bf16.cpp`), in fp32 sums and with the same bits whatever the number of threads. Otherwise libtorch's `linear`. Errors: shapes
/// that do not fit.
pub fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let pointer = |tensor: &Tensor| tensor.as_ptr() as *mut C_tensor;
    let bias = bias.map_or(std::ptr::null_mut(), pointer);
    let mut output = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: all tensors live through the call; `output` is owned by us on success")]
    unsafe {
        check(ffi::sd_linear(pointer(input), pointer(weight), bias, &mut output))?;
        Ok(Tensor::from_ptr(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Rows, inputs, outputs: a time embedding, tiles and vectors that end within and beyond the sizes, the UNet's, more rows than have a
    /// kernel, and numbers of inputs that are odd.
    const CASES: [[i64; 3]; 11] = [
        [1, 320, 1280],
        [7, 34, 50],
        [16, 1030, 48],
        [32, 66, 2],
        [33, 100, 70],
        [64, 1280, 320],
        [70, 50, 18],
        [77, 768, 320],
        [256, 520, 98],
        [300, 64, 32],
        [5, 7, 9],
    ];

    fn numbers(sizes: &[i64], shift: f64) -> Tensor {
        let numbers = Tensor::arange(sizes.iter().product::<i64>(), (Kind::Double, Device::Cpu)) * 1.7 + shift;
        let values = ((numbers.sin() * 43.7).sin() * 97.3).sin();
        values.reshape(sizes).to_kind(Kind::BFloat16).set_requires_grad(true)
    }

    /// Output and all gradients; that of the bias comes last where there is one.
    fn passes(leaves: &[Tensor], layer: impl Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor) -> Vec<Tensor> {
        let output = layer(&leaves[0], &leaves[1], leaves.get(2));
        (&output * numbers(&output.size(), 0.5).detach().to_kind(output.kind())).sum(Kind::Double).backward();
        let gradients: Vec<Tensor> = leaves.iter().map(|leaf| leaf.grad().copy()).collect();
        leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
        [output.detach()].into_iter().chain(gradients).collect()
    }

    fn ours(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        linear(input, weight, bias).expect("it fits")
    }

    fn leaves([rows, inputs, outputs]: [i64; 3], has_bias: bool) -> Vec<Tensor> {
        let all = [numbers(&[1, rows, inputs], 0.1), numbers(&[outputs, inputs], 0.2), numbers(&[outputs], 0.3)];
        all.into_iter().take(if has_bias { 3 } else { 2 }).collect()
    }

    #[test]
    fn output_and_gradients_are_those_of_the_formula() {
        for case in CASES {
            for has_bias in [true, false] {
                let leaves = leaves(case, has_bias);
                let exact: Vec<Tensor> =
                    leaves.iter().map(|leaf| leaf.detach().to_kind(Kind::Double).set_requires_grad(true)).collect();
                let expected = passes(&exact, |input, weight, bias| input.linear(weight, bias));
                for (index, (ours, expected)) in passes(&leaves, ours).iter().zip(&expected).enumerate() {
                    assert_eq!((ours.kind(), ours.size()), (Kind::BFloat16, expected.size()));
                    let largest = expected.abs().max().double_value(&[]);
                    let apart = (ours.to_kind(Kind::Double) - expected).abs().max().double_value(&[]) / largest;
                    // Half a unit in the last place of bf16.
                    assert!(apart < 2f64.powi(-8), "{case:?}, bias: {has_bias}, tensor {index}: {apart:.1e}");
                }
            }
        }
    }

    #[test]
    fn neither_threads_nor_the_layout_of_rows_change_a_bit() {
        for case in [[16, 200, 130], [100, 200, 130]] {
            let of_case = leaves(case, true);
            let one = passes(&of_case, ours);
            let threads = tch::get_num_threads();
            for count in [1, 7] {
                tch::set_num_threads(count);
                let other = passes(&of_case, ours);
                tch::set_num_threads(threads);
                assert!(one.iter().zip(&other).all(|(one, other)| one.equal(other)), "{count} threads");
            }
            let [_, rows, inputs] = <[i64; 3]>::try_from(of_case[0].size()).expect("three dimensions");
            let apart = Tensor::zeros([1, rows, inputs + 3], (Kind::BFloat16, Device::Cpu)).narrow(2, 1, inputs);
            apart.shallow_clone().copy_(&of_case[0].detach());
            let moved = [apart.set_requires_grad(true), of_case[1].shallow_clone(), of_case[2].shallow_clone()];
            assert!(one.iter().zip(&passes(&moved, ours)).all(|(one, other)| one.equal(other)));
        }
    }

    #[test]
    fn frozen_weights_have_no_gradient_and_others_need_no_other() {
        let [input, weight, bias] = <[Tensor; 3]>::try_from(leaves([8, 16, 12], true)).expect("three tensors");
        let through =
            |input: &Tensor, weight: &Tensor| ours(input, weight, Some(&bias.detach())).sum(Kind::Float).backward();
        through(&input, &weight.detach());
        assert!(input.grad().defined() && !weight.grad().defined());
        let input = input.detach();
        through(&input, &weight);
        assert!(weight.grad().defined() && !input.grad().defined());
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for rows in [4, 40] {
            for which in 0..3 {
                let leaves = leaves([rows, 20, 18], true);
                let _ = leaves[which].detach().flatten(0, -1).narrow(0, 3, 1).fill_(f64::NAN);
                assert!(
                    !bool::try_from(ours(&leaves[0], &leaves[1], leaves.get(2)).isfinite().all()).expect("one value")
                );
            }
        }
    }

    /// As libtorch's own can: SDXL's time embedding is.
    #[test]
    fn the_output_can_be_changed_in_place() {
        let leaves = leaves([8, 16, 12], true);
        let frozen = leaves.iter().map(Tensor::detach).collect::<Vec<_>>();
        for leaves in [&leaves, &frozen] {
            let mut output = ours(&leaves[0], &leaves[1], leaves.get(2));
            let before = output.detach().copy();
            output += Tensor::ones_like(&output).set_requires_grad(true) * 2.0;
            output.sum(Kind::Float).backward();
            assert!(output.detach().equal(&(before + 2.0)));
        }
        assert!(leaves.iter().all(|leaf| leaf.grad().defined()));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let weight = numbers(&[6, 8], 0.0);
        for sizes in [&[2, 6][..], &[], &[3, 8, 2]] {
            let input = Tensor::ones(sizes, (Kind::BFloat16, Device::Cpu));
            assert!(linear(&input, &weight, None).unwrap_err().to_string().contains("does not fit"));
        }
        let input = Tensor::ones([2, 8], (Kind::BFloat16, Device::Cpu));
        for sizes in [5, 7] {
            assert!(linear(&input, &weight, Some(&numbers(&[sizes], 0.0))).is_err());
        }
    }
}
