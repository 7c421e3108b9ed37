//! A convolution as one product of matrices, for layers with many weights and few pixels.

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::Tensor;
use torch_sys::C_tensor;

/// input `[batch, inputs, height, width]` → `[batch, outputs, height', width']`, channels_last: `conv2d` with `weight` `[outputs, inputs,
/// kernel, kernel]` and `bias` `[outputs]`, in host memory and of one type. The windows of the input stand side by side (`unfold`, or
/// im2col: Chellapilla et al. 2006, "High Performance Convolutional Neural Networks for Document Processing") and meet the weights as they
/// lie in memory. Backward makes the windows again, and keeps the input only where the weights have a gradient.
pub fn unfolded_conv2d(input: &Tensor, weight: &Tensor, bias: &Tensor, stride: i64, padding: i64) -> Result<Tensor> {
    let pointer = |tensor: &Tensor| tensor.as_ptr() as *mut C_tensor;
    let mut output = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "FFI: all tensors live through the call; `output` is owned by us on success")]
    unsafe {
        check(ffi::sd_unfolded_conv2d(pointer(input), pointer(weight), pointer(bias), stride, padding, &mut output))?;
        Ok(Tensor::from_ptr(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Batch, inputs, outputs, height, width, kernel, stride, padding.
    const CASES: [[i64; 8]; 7] = [
        [2, 40, 24, 8, 6, 3, 1, 1],
        [1, 33, 16, 4, 4, 3, 1, 1],
        [2, 16, 24, 9, 7, 3, 2, 1],
        [2, 16, 24, 9, 7, 3, 2, 0],
        [3, 24, 16, 4, 5, 1, 1, 0],
        [1, 8, 16, 1, 1, 3, 1, 1],
        [2, 8, 16, 5, 5, 5, 3, 2],
    ];

    fn normal(sizes: &[i64], kind: Kind) -> Tensor {
        // The process has one generator, and other tests draw from it.
        let values = Tensor::arange(sizes.iter().product::<i64>(), (Kind::Double, Device::Cpu)) * 1.7;
        ((values.sin() * 43.7).sin().reshape(sizes)).to_kind(kind).set_requires_grad(true)
    }

    /// The largest distance, in parts of the largest number.
    fn distance(ours: &Tensor, expected: &Tensor) -> f64 {
        let expected = expected.to_kind(Kind::Double);
        let largest = expected.abs().max().double_value(&[]);
        (ours.to_kind(Kind::Double) - expected).abs().max().double_value(&[]) / largest
    }

    /// Output and all three gradients.
    fn passes(leaves: &[Tensor; 3], convolve: impl Fn(&[Tensor; 3]) -> Tensor) -> [Tensor; 4] {
        let output = convolve(leaves);
        let weights = normal(&output.size(), output.kind()).detach();
        (&output * weights).sum(Kind::Float).backward();
        let gradients = leaves.each_ref().map(|leaf| leaf.grad().copy());
        leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
        let [input, weight, bias] = gradients;
        [output.detach(), input, weight, bias]
    }

    #[test]
    fn output_and_gradients_are_those_of_a_convolution() {
        for (kind, most) in [(Kind::Double, 1e-12), (Kind::Float, 2e-6), (Kind::BFloat16, 2e-2)] {
            for [batch, inputs, outputs, height, width, kernel, stride, padding] in CASES {
                let leaves = [
                    normal(&[batch, inputs, height, width], kind),
                    normal(&[outputs, inputs, kernel, kernel], kind),
                    normal(&[outputs], kind),
                ];
                let ours = passes(&leaves, |[x, w, b]| unfolded_conv2d(x, w, b, stride, padding).expect("it fits"));
                let expected =
                    passes(&leaves, |[x, w, b]| x.conv2d(w, Some(b), [stride, stride], [padding, padding], [1, 1], 1));
                for (index, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                    assert_eq!(ours.size(), expected.size());
                    let apart = distance(ours, expected);
                    assert!(apart < most, "{kind:?}, kernel {kernel}, stride {stride}, tensor {index}: {apart:.1e}");
                }
            }
        }
    }

    #[test]
    fn the_layout_of_the_input_changes_no_bit() {
        let leaves =
            [normal(&[2, 40, 8, 6], Kind::Float), normal(&[24, 40, 3, 3], Kind::Float), normal(&[24], Kind::Float)];
        let convolve = |[x, w, b]: &[Tensor; 3]| unfolded_conv2d(x, w, b, 1, 1).expect("it fits");
        let planes = passes(&leaves, convolve);
        let pixels = passes(&leaves, |[x, w, b]| {
            convolve(&[
                x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
                w.shallow_clone(),
                b.shallow_clone(),
            ])
        });
        assert!(planes.iter().zip(&pixels).all(|(one, other)| one.equal(other)));
    }

    #[test]
    fn frozen_weights_have_no_gradient_and_others_need_no_other() {
        let [x, w, b] =
            [normal(&[1, 8, 4, 4], Kind::Float), normal(&[8, 8, 3, 3], Kind::Float), normal(&[8], Kind::Float)];
        let through = |x: &Tensor, w: &Tensor| {
            unfolded_conv2d(x, w, &b.detach(), 1, 1).expect("it fits").sum(Kind::Float).backward()
        };
        through(&x, &w.detach());
        assert!(x.grad().defined() && !w.grad().defined());
        let x = x.detach();
        through(&x, &w);
        assert!(w.grad().defined() && !x.grad().defined());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let w = Tensor::ones([8, 4, 3, 3], (Kind::Float, Device::Cpu));
        let b = Tensor::ones([8], (Kind::Float, Device::Cpu));
        for sizes in [[1, 5, 4, 4], [1, 4, 1, 1]] {
            let x = Tensor::ones(sizes, (Kind::Float, Device::Cpu));
            assert!(unfolded_conv2d(&x, &w, &b, 1, 0).unwrap_err().to_string().contains("does not fit"));
        }
    }
}
