//! The kernel of an AdamW step whose moments are kept in 8 bits by blocks (Dettmers et al. 2022, arXiv:2110.02861).

use crate::error::Result;
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::{Device, Tensor};
use torch_sys::C_tensor;

/// A moment in 8 bits a number: `map.values[codes[i]] · largest[i / 256]`.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedMoment<'t> {
    /// u8, one for each number of the parameter.
    pub codes: &'t Tensor,
    /// fp32, the largest absolute number of each block of 256.
    pub largest: &'t Tensor,
    /// What the codes stand for.
    pub map: &'t CodeMap,
}

/// The 256 values that codes stand for.
#[derive(Debug)]
pub struct CodeMap {
    /// fp32 `[256]`, rising.
    pub values: Tensor,
    /// fp32 `[256]`: what lies half-way between each two, and infinity. A number's code is how many of them are below it.
    pub middles: Tensor,
    /// u8 `[65536]`: how many middles are below every float that begins with these 16 bits; 255 for those that are no number.
    first: Tensor,
}

impl CodeMap {
    /// Values on a device. They must rise, with no more than one middle among the floats of the same first 16 bits.
    pub fn new(values: &[f32; 256], device: Device) -> CodeMap {
        let mut middles = [f32::INFINITY; 256];
        for (middle, pair) in middles.iter_mut().zip(values.windows(2)) {
            *middle = (pair[0] + pair[1]) * 0.5;
        }
        let first: Vec<u8> = (0..1u32 << FIRST_BITS)
            .map(|bits| {
                // Of negative floats the lowest is the one whose other bits are all set.
                let is_negative = bits >> (FIRST_BITS - 1) == 1;
                let rest = if is_negative { (1 << (32 - FIRST_BITS)) - 1 } else { 0 };
                let lowest = f32::from_bits((bits << (32 - FIRST_BITS)) | rest);
                // Infinity is not below anything, so there are 255 at the most.
                if lowest.is_nan() { 255 } else { middles.partition_point(|middle| *middle < lowest) as u8 }
            })
            .collect();
        CodeMap {
            values: Tensor::from_slice(values).to_device(device),
            middles: Tensor::from_slice(&middles).to_device(device),
            first: Tensor::from_slice(&first),
        }
    }
}

/// As the kernel has them.
const FIRST_BITS: u32 = 16;

/// The numbers of a step, each as it meets the tensors.
#[derive(Debug, Clone, Copy)]
pub struct AdamW8bitStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; multiplied by the learning rate.
    pub weight_decay: f64,
    /// Which step this is, from 1.
    pub step: f64,
}

/// One step over a parameter in host memory: `parameter` and both moments are changed in place. Everything must be contiguous,
/// `parameter` and `gradient` fp32. The same bits at any number of threads.
pub fn adamw_8bit(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: [QuantizedMoment<'_>; 2],
    step: AdamW8bitStep,
) -> Result<()> {
    let [beta1, beta2] = step.betas;
    let [correction1, correction2] = step.betas.map(|beta| 1.0 - beta.powf(step.step));
    let numbers = [
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 - step.learning_rate * step.weight_decay,
        correction2.sqrt(),
        step.eps,
        correction1.recip() * step.learning_rate,
    ]
    .map(|number| number as f32);
    let pointer = |tensor: &Tensor| tensor.as_ptr() as *mut C_tensor;
    let [first, second] = moments;
    let map = |map: &CodeMap| [pointer(&map.values), pointer(&map.middles), pointer(&map.first)];
    let (first_map, second_map) = (map(first.map), map(second.map));
    #[expect(unsafe_code, reason = "FFI: all tensors and the numbers live through the call, which checks their sizes")]
    let status = unsafe {
        ffi::sd_adamw_8bit(
            pointer(parameter),
            pointer(gradient),
            pointer(first.codes),
            pointer(first.largest),
            first_map.as_ptr(),
            pointer(second.codes),
            pointer(second.largest),
            second_map.as_ptr(),
            numbers.as_ptr(),
        )
    };
    check(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// How many middles are below each number, by the table of its first bits and by going through all of them.
    #[test]
    fn a_code_is_the_number_of_middles_below() {
        let mut values = [0f32; 256];
        for (index, value) in values.iter_mut().enumerate() {
            // Three decades to either side of zero.
            let part = (index as f32 - 127.5) / 127.5;
            *value = part * 10f32.powf(3.0 * (part.abs() - 1.0));
        }
        let map = CodeMap::new(&values, Device::Cpu);
        let (mut middles, mut first) = (vec![0f32; 256], vec![0u8; 1 << FIRST_BITS]);
        map.middles.copy_data(&mut middles, 256);
        map.first.copy_data(&mut first, 1 << FIRST_BITS);
        let numbers = Tensor::cat(
            &[map.middles.slice(0, 0, 255, 1), Tensor::linspace(-1.0, 1.0, 40_000, (Kind::Float, Device::Cpu))],
            0,
        );
        for number in Vec::<f32>::try_from(&numbers).expect("fp32") {
            for number in [number, number.next_up(), number.next_down()] {
                let begin = usize::from(first[(number.to_bits() >> (32 - FIRST_BITS)) as usize]);
                let code = begin + usize::from(middles[begin] < number);
                assert_eq!(code, middles.partition_point(|middle| *middle < number), "{number}");
            }
        }
        assert_eq!(first[(f32::NAN.to_bits() >> (32 - FIRST_BITS)) as usize], 255);
    }
}
