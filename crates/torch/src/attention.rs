//! Attention without a mask.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::Tensor;
use torch_sys::C_tensor;

/// Softmax(QKᵀ/√d) V. query: `[batch, heads, queries, d]`, key and value: `[batch, heads, keys, d]`, output as query.
///
/// In bf16 on a processor with AVX-512-BF16, and in fp32 on one with AVX-512, in host memory, by a kernel of our own
/// (`cpp/attention_kernel.cpp`), with gradients: two to four times as fast as libtorch's, equally exact (sums in fp32, in bf16 exponentials
/// rounded to it), and with the same bits whatever the number of threads. Otherwise libtorch's `scaled_dot_product_attention`;
/// `ATEN_CPU_CAPABILITY=avx2` chooses it, too. Errors: shapes that do not fit.
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let pointer = |tensor: &Tensor| tensor.as_ptr() as *mut C_tensor;
    let mut output = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: all tensors live through the call; `output` is owned by us on success")]
    unsafe {
        check(ffi::sd_attention(pointer(query), pointer(key), pointer(value), &mut output))?;
        Ok(Tensor::from_ptr(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_test::{KINDS, distance, same_bits_by_threads};
    use tch::{Device, Kind};

    /// Batch, heads, queries, keys, size of a head: the UNet's, ends of blocks within a row and beyond it, and sizes that are no multiple of 16.
    const CASES: [[i64; 5]; 10] = [
        [1, 8, 256, 256, 40],
        [1, 2, 1024, 77, 40],
        [2, 3, 64, 64, 160],
        [1, 1, 300, 530, 64],
        [2, 2, 1, 1, 2],
        [1, 2, 33, 7, 50],
        [1, 1, 65, 129, 128],
        [1, 1, 70, 257, 80],
        [1, 1, 40, 300, 512],
        [1, 2, 19, 21, 7],
    ];

    /// `[batch, tokens, heads·d]` split into heads, as layers do, so that rows are apart in memory.
    fn states([batch, heads, tokens, size]: [i64; 4], factor: f64, kind: Kind) -> Tensor {
        let numbers = Tensor::arange(batch * heads * tokens * size, (Kind::Double, Device::Cpu)) * 1.7 + factor;
        let values = (numbers.sin() * 43.7).sin() * factor;
        values.view([batch, tokens, heads, size]).transpose(1, 2).to_kind(kind).set_requires_grad(true)
    }

    fn leaves([batch, heads, queries, keys, size]: [i64; 5], kind: Kind) -> [Tensor; 3] {
        // Larger products of long rows would leave one key only, and gradients made of roundings.
        let query_factor = if size > 160 { 0.05 } else { 2.0 };
        [([queries], query_factor), ([keys], 3.0), ([keys], 1.0)].map(|([tokens], factor)| {
            states([batch, heads, tokens, size], factor, kind).detach().set_requires_grad(true)
        })
    }

    /// Output and all three gradients.
    fn passes(leaves: &[Tensor; 3], attend: impl Fn(&[Tensor; 3]) -> Tensor) -> [Tensor; 4] {
        let output = attend(leaves);
        let size = <[i64; 4]>::try_from(output.size()).expect("four dimensions");
        (&output * states(size, 1.3, output.kind()).detach()).sum(Kind::Double).backward();
        let [query, key, value] = leaves.each_ref().map(|leaf| leaf.grad().copy());
        leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
        [output.detach(), query, key, value]
    }

    fn ours([query, key, value]: &[Tensor; 3]) -> Tensor {
        attention(query, key, value).expect("it fits")
    }

    #[test]
    fn output_and_gradients_are_those_of_the_formula() {
        for (case, (kind, beyond)) in CASES.into_iter().flat_map(|case| KINDS.map(|kind| (case, kind))) {
            let leaves = leaves(case, kind);
            let exact = leaves.each_ref().map(|leaf| leaf.detach().to_kind(Kind::Double).set_requires_grad(true));
            let expected = passes(&exact, |[query, key, value]| {
                let products = query.matmul(&key.transpose(2, 3)) / (case[4] as f64).sqrt();
                products.softmax(-1, Kind::Double).matmul(value)
            });
            let libtorch = passes(&leaves, |[query, key, value]| {
                Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, false, None, false)
            });
            let ours = passes(&leaves, ours);
            // With one key the gradients of queries and keys are zero, and have no largest number.
            for &index in if case[3] == 1 { &[0, 3][..] } else { &[0, 1, 2, 3] } {
                let [ours, libtorch, expected] = [&ours[index], &libtorch[index], &expected[index]];
                assert_eq!((ours.kind(), ours.size()), (kind, expected.size()));
                let [ours, libtorch] = [distance(ours, expected), distance(libtorch, expected)];
                assert!(
                    ours < 1.2 * libtorch + beyond,
                    "{kind:?}, {case:?}, tensor {index}: {ours:.1e}, libtorch's {libtorch:.1e}"
                );
            }
        }
    }

    #[test]
    fn neither_threads_nor_layout_change_a_bit() {
        for (kind, _) in KINDS {
            let leaves = leaves([1, 2, 700, 300, 40], kind);
            let copies = leaves.each_ref().map(|leaf| leaf.detach().contiguous().set_requires_grad(true));
            let one = same_bits_by_threads(&format!("{kind:?}"), || passes(&leaves, ours));
            let other = passes(&copies, ours);
            assert!(one.iter().zip(&other).all(|(one, other)| one.equal(other)), "{kind:?}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for (kind, spoiled) in
            KINDS.into_iter().flat_map(|(kind, _)| [f64::NAN, f64::INFINITY].map(|spoiled| (kind, spoiled)))
        {
            for which in 0..3 {
                let leaves = leaves([1, 1, 40, 20, 16], kind);
                let _ = leaves[which].detach().narrow(2, 3, 1).fill_(spoiled);
                let output = ours(&leaves);
                assert!(!bool::try_from(output.isfinite().all()).expect("one value"), "{kind:?}, {spoiled} in {which}");
            }
        }
    }

    #[test]
    fn nothing_to_attend_with_is_no_error() {
        for sizes in [[0, 8, 4, 16], [1, 2, 0, 16]] {
            let [query, key] = [sizes, [sizes[0], sizes[1], 4, 16]]
                .map(|sizes| states(sizes, 1.0, Kind::Float).detach().set_requires_grad(true));
            let output = attention(&query, &key, &key).expect("it fits");
            assert_eq!(output.size(), sizes);
            output.sum(Kind::Float).backward();
            assert_eq!(key.grad().abs().sum(Kind::Double).double_value(&[]), 0.0);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let query = states([1, 2, 8, 16], 1.0, Kind::BFloat16);
        for sizes in [[1, 2, 8, 8], [1, 1, 8, 16], [2, 2, 8, 16], [1, 2, 0, 16]] {
            let key = Tensor::ones(sizes, (Kind::BFloat16, Device::Cpu));
            assert!(attention(&query, &key, &key).unwrap_err().to_string().contains("do not fit"));
        }
    }
}
