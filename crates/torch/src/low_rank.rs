//! What an adapter of low rank adds to a linear layer.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::Tensor;
use torch_sys::C_tensor;

/// `scale · x Dᵀ Uᵀ`. input: `[…, inputs]`, down: `[rank, inputs]`, up: `[outputs, rank]`; output: `[…, outputs]` of the input's type.
///
/// The matrices may be wider than the input. In bf16 on a processor with AVX-512-BF16, and in fp32 on one with AVX-512, in host memory, it is one
/// node of the graph, with kernels of our own (`cpp/low_rank_kernel.cpp`): sums in fp32, gradients of the matrices not rounded to bf16,
/// and the same bits whatever the number of threads. Otherwise two of libtorch's linear layers. Errors: shapes that do not fit.
pub fn low_rank(input: &Tensor, down: &Tensor, up: &Tensor, scale: f64) -> Result<Tensor> {
    let pointer = |tensor: &Tensor| tensor.as_ptr() as *mut C_tensor;
    let mut output = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: all tensors live through the call; `output` is owned by us on success")]
    unsafe {
        check(ffi::sd_low_rank(pointer(input), pointer(down), pointer(up), scale, &mut output))?;
        Ok(Tensor::from_ptr(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_test::{KINDS, distance, same_bits_by_threads};
    use tch::{Device, Kind};

    /// Rows, inputs, rank, outputs: the UNet's, tiles, vectors and pairs that end within the sizes, and an odd rank, which has no kernel in bf16.
    const CASES: [[i64; 4]; 8] = [
        [1024, 320, 16, 320],
        [77, 768, 16, 320],
        [64, 1280, 4, 1280],
        [1, 34, 2, 18],
        [9, 100, 18, 50],
        [257, 66, 64, 130],
        [33, 98, 34, 70],
        [12, 20, 3, 10],
    ];
    const SCALE: f64 = 0.7;

    fn numbers(sizes: &[i64], kind: Kind, shift: f64) -> Tensor {
        let numbers = Tensor::arange(sizes.iter().product::<i64>(), (Kind::Double, Device::Cpu)) * 1.7 + shift;
        let values = ((numbers.sin() * 43.7).sin() * 97.3).sin();
        values.reshape(sizes).to_kind(kind).set_requires_grad(true)
    }

    fn leaves([rows, inputs, rank, outputs]: [i64; 4], kind: Kind) -> [Tensor; 3] {
        [
            numbers(&[1, rows, inputs], kind, 0.1),
            numbers(&[rank, inputs], Kind::Float, 0.2),
            numbers(&[outputs, rank], Kind::Float, 0.3),
        ]
    }

    /// Output and all gradients.
    fn passes(leaves: &[Tensor; 3], added: impl Fn(&[Tensor; 3]) -> Tensor) -> [Tensor; 4] {
        let output = added(leaves);
        (&output * numbers(&output.size(), output.kind(), 0.5).detach()).sum(Kind::Double).backward();
        let [input, down, up] = leaves.each_ref().map(|leaf| leaf.grad().copy());
        leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
        [output.detach(), input, down, up]
    }

    fn ours([input, down, up]: &[Tensor; 3]) -> Tensor {
        low_rank(input, down, up, SCALE).expect("it fits")
    }

    #[test]
    fn output_and_gradients_are_those_of_the_formula() {
        for (case, (kind, beyond)) in CASES.into_iter().flat_map(|case| KINDS.map(|kind| (case, kind))) {
            let leaves = leaves(case, kind);
            let exact = leaves.each_ref().map(|leaf| leaf.detach().to_kind(Kind::Double).set_requires_grad(true));
            let expected = passes(&exact, |[input, down, up]| input.matmul(&down.tr()).matmul(&up.tr()) * SCALE);
            let libtorch = passes(&leaves, |[input, down, up]| {
                let [down, up] = [down, up].map(|matrix| matrix.to_kind(kind));
                (input.linear(&down, None::<&Tensor>) * SCALE).linear(&up, None::<&Tensor>)
            });
            let ours = passes(&leaves, ours);
            for (index, expected) in expected.iter().enumerate() {
                let [ours, libtorch] = [&ours[index], &libtorch[index]];
                assert_eq!((ours.kind(), ours.size()), (libtorch.kind(), expected.size()));
                let [ours, libtorch] = [ours, libtorch].map(|tensor| distance(tensor, expected));
                assert!(
                    ours < 1.2 * libtorch + beyond,
                    "{kind:?}, {case:?}, tensor {index}: {ours:.1e}, libtorch's {libtorch:.1e}"
                );
            }
        }
    }

    #[test]
    fn neither_threads_nor_the_layout_of_rows_change_a_bit() {
        for (kind, _) in KINDS {
            let leaves = leaves([301, 200, 16, 130], kind);
            let one = same_bits_by_threads(&format!("{kind:?}"), || passes(&leaves, ours));
            let apart = Tensor::zeros([1, 301, 203], (kind, Device::Cpu)).narrow(2, 1, 200);
            apart.shallow_clone().copy_(&leaves[0].detach());
            let moved = [apart.set_requires_grad(true), leaves[1].shallow_clone(), leaves[2].shallow_clone()];
            assert!(one.iter().zip(&passes(&moved, ours)).all(|(one, other)| one.equal(other)));
        }
    }

    #[test]
    fn what_is_frozen_has_no_gradient() {
        for (learning, (kind, _)) in (0..3).flat_map(|learning| KINDS.map(|kind| (learning, kind))) {
            let leaves = leaves([8, 16, 4, 12], kind);
            let some: Vec<Tensor> = (0..3)
                .map(|index| if index == learning { leaves[index].shallow_clone() } else { leaves[index].detach() })
                .collect();
            let some = <[Tensor; 3]>::try_from(some).expect("three tensors");
            ours(&some).sum(Kind::Float).backward();
            let expected = passes(&leaves, ours);
            let has_gradient = some.each_ref().map(|leaf| leaf.grad().defined());
            assert_eq!(has_gradient, [learning == 0, learning == 1, learning == 2]);
            assert_eq!(some[learning].grad().size(), expected[learning + 1].size());
        }
    }

    /// As libtorch's own can.
    #[test]
    fn the_output_can_be_changed_in_place() {
        for (kind, _) in KINDS {
            let leaves = leaves([8, 16, 4, 12], kind);
            let mut output = ours(&leaves);
            output += Tensor::ones_like(&output).set_requires_grad(true) * 2.0;
            output.sum(Kind::Float).backward();
            assert!(leaves.iter().all(|leaf| leaf.grad().defined()));
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let [down, up] = [numbers(&[4, 8], Kind::Float, 0.0), numbers(&[6, 4], Kind::Float, 0.0)];
        for sizes in [&[2, 6][..], &[]] {
            let input = Tensor::ones(sizes, (Kind::BFloat16, Device::Cpu));
            assert!(low_rank(&input, &down, &up, 1.0).unwrap_err().to_string().contains("do not fit"));
        }
        let input = Tensor::ones([2, 8], (Kind::BFloat16, Device::Cpu));
        assert!(low_rank(&input, &down, &down, 1.0).unwrap_err().to_string().contains("do not fit"));
    }
}
