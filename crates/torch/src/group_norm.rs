//! Group normalisation, with the activation behind it.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::Tensor;
use torch_sys::C_tensor;

/// What follows a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x · σ(x)`.
    Silu,
}

/// Normalises each of `groups` groups of channels of each example (Wu and He 2018). input: `[batch, channels, …]`, weight and bias: `[channels]`;
/// of any floating-point type; same shape out, in the same layout.
///
/// Maps of four dimensions in fp32 and bf16, in host memory and on a processor with AVX-512 (and for bf16 AVX-512-BF16), by a kernel of our
/// own, contiguous or channels_last (`cpp/group_norm_kernel.cpp`): sums in fp64 over short ones in fp32, one rounding, nothing kept for
/// backward but the input, and the same bits whatever the number of threads. Otherwise libtorch's. Errors: shapes that do not fit.
pub fn group_norm(
    input: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: i64,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let pointer = |tensor: &Tensor| tensor.as_ptr() as *mut C_tensor;
    let activates = (activation == Activation::Silu).into();
    let mut output = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: all tensors live through the call; `output` is owned by us on success")]
    unsafe {
        check(ffi::sd_group_norm(pointer(input), pointer(weight), pointer(bias), groups, eps, activates, &mut output))?;
        Ok(Tensor::from_ptr(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_test::{KINDS, distance, same_bits_by_threads};
    use tch::{Device, Kind};

    const EPS: f64 = 1e-5;

    /// Batch, channels, height, width, groups: vectors that end within groups and beyond them, groups that fill none, one group, one channel
    /// a group, one pixel, and more pixels than are added up in fp32, in vectors of channels and of pixels.
    const CASES: [[i64; 5]; 10] = [
        [2, 320, 8, 8, 32],
        [1, 64, 9, 7, 32],
        [2, 36, 5, 3, 4],
        [1, 24, 4, 4, 1],
        [1, 20, 4, 4, 20],
        [3, 32, 1, 1, 8],
        [1, 960, 4, 4, 32],
        [1, 16, 40, 30, 4],
        [1, 4, 70, 70, 2],
        [1, 2560, 2, 2, 32],
    ];

    #[derive(Clone, Copy, Debug)]
    enum Layout {
        Contiguous,
        ChannelsLast,
    }

    fn numbers(sizes: &[i64], factor: f64, shift: f64) -> Tensor {
        let numbers = Tensor::arange(sizes.iter().product::<i64>(), (Kind::Double, Device::Cpu)) * 1.7 + shift;
        (numbers.sin() * 43.7).sin().reshape(sizes) * factor + shift
    }

    /// Input, weight and bias; the mean of the input is as far from zero as three deviations.
    fn leaves([batch, channels, height, width, _]: [i64; 5], kind: Kind, layout: Layout) -> [Tensor; 3] {
        let input = match layout {
            Layout::Contiguous => numbers(&[batch, channels, height, width], 1.0, 2.0),
            Layout::ChannelsLast => numbers(&[batch, channels, height, width], 1.0, 2.0)
                .permute([0, 2, 3, 1])
                .contiguous()
                .permute([0, 3, 1, 2]),
        };
        [input, numbers(&[channels], 0.5, 1.0), numbers(&[channels], 0.5, 0.1)]
            .map(|leaf| leaf.to_kind(kind).set_requires_grad(true))
    }

    /// Output and all gradients.
    fn passes(leaves: &[Tensor; 3], norm: impl Fn(&[Tensor; 3]) -> Tensor) -> [Tensor; 4] {
        let output = norm(leaves);
        let weights = numbers(&output.size(), 1.0, 0.3).to_kind(Kind::BFloat16).to_kind(output.kind());
        (&output * weights).sum(Kind::Double).backward();
        let [input, weight, bias] = leaves.each_ref().map(|leaf| leaf.grad().copy());
        leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
        [output.detach(), input, weight, bias]
    }

    fn ours(leaves: &[Tensor; 3], groups: i64, activation: Activation) -> Tensor {
        group_norm(&leaves[0], &leaves[1], &leaves[2], groups, EPS, activation).expect("it fits")
    }

    fn formula([input, weight, bias]: &[Tensor; 3], groups: i64, activation: Activation) -> Tensor {
        let normed = input.group_norm(groups, Some(weight), Some(bias), EPS, true);
        if activation == Activation::Silu { normed.silu() } else { normed }
    }

    fn all() -> impl Iterator<Item = ([i64; 5], Kind, f64, Layout, Activation)> {
        CASES.into_iter().flat_map(|case| {
            KINDS.into_iter().flat_map(move |(kind, beyond)| {
                [Layout::Contiguous, Layout::ChannelsLast].into_iter().flat_map(move |layout| {
                    [Activation::None, Activation::Silu].map(move |activation| (case, kind, beyond, layout, activation))
                })
            })
        })
    }

    #[test]
    fn output_and_gradients_are_those_of_the_formula() {
        for (case, kind, beyond, layout, activation) in all() {
            let leaves = leaves(case, kind, layout);
            let exact =
                leaves.each_ref().map(|leaf| leaf.detach().to_kind(Kind::Double).contiguous().set_requires_grad(true));
            let expected = passes(&exact, |leaves| formula(leaves, case[4], activation));
            let libtorch = passes(&leaves, |leaves| formula(leaves, case[4], activation));
            let found = passes(&leaves, |leaves| ours(leaves, case[4], activation));
            for (index, expected) in expected.iter().enumerate() {
                let [ours, libtorch] = [&found[index], &libtorch[index]];
                assert_eq!((ours.kind(), ours.size()), (kind, expected.size()));
                let [ours, libtorch] = [ours, libtorch].map(|tensor| distance(tensor, expected));
                assert!(
                    ours < 1.2 * libtorch + beyond,
                    "{case:?}, {kind:?}, {layout:?}, {activation:?}, tensor {index}: {ours:.1e}, libtorch's {libtorch:.1e}"
                );
            }
        }
    }

    #[test]
    fn threads_change_no_bit_and_the_layout_stays() {
        for (case, kind, _, layout, activation) in all() {
            let leaves = leaves(case, kind, layout);
            let passes = || passes(&leaves, |leaves| ours(leaves, case[4], activation));
            let one = same_bits_by_threads(&format!("{case:?}, {kind:?}, {layout:?}"), passes);
            assert_eq!(one[0].stride(), leaves[0].stride());
        }
    }

    #[test]
    fn frozen_weights_have_no_gradient_and_others_need_no_other() {
        let [input, weight, bias] = leaves(CASES[0], Kind::Float, Layout::ChannelsLast);
        let through = |leaves: &[Tensor; 3]| ours(leaves, 32, Activation::Silu).sum(Kind::Float).backward();
        through(&[input.shallow_clone(), weight.detach(), bias.detach()]);
        assert!(input.grad().defined() && !weight.grad().defined());
        through(&[input.detach(), weight.shallow_clone(), bias.detach()]);
        assert!(weight.grad().defined() && !bias.grad().defined());
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for (kind, _) in KINDS {
            for which in 0..3 {
                let leaves = leaves(CASES[0], kind, Layout::Contiguous);
                let _ = leaves[which].detach().flatten(0, -1).narrow(0, 3, 1).fill_(f64::NAN);
                let output = ours(&leaves, 32, Activation::Silu);
                assert!(!bool::try_from(output.isfinite().all()).expect("one value"), "{kind:?}, {which}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let [input, weight, bias] = leaves(CASES[0], Kind::Float, Layout::Contiguous);
        let short = weight.narrow(0, 0, 8);
        for (weight, groups) in [(&weight, 7), (&weight, 0), (&short, 32)] {
            let error = group_norm(&input, weight, &bias, groups, EPS, Activation::None).unwrap_err();
            assert!(error.to_string().contains("do not fit"), "{error}");
        }
    }
}
