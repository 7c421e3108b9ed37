//! Stochastic rounding to bf16: up or down with the probabilities that make the mean right, so that updates too small for
//! bf16 are kept on average (Gupta et al. 2015, arXiv:1502.02551).

use crate::error::{Result, catch};
use crate::ffi;
use crate::gradient_checkpoint::check;
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

/// Puts `values` (fp32) into `target` (bf16, of the same shape). How element i is rounded is a function of `key` and i alone: the
/// same at any number of threads, and on any device. Numbers that bf16 has stay what they are.
pub fn round_stochastically(target: &Tensor, values: &Tensor, key: u64) -> Result<()> {
    if target.device() != Device::Cpu {
        return by_tensor_operations(target, values, key);
    }
    if !target.is_contiguous() {
        let rounded = Tensor::f_empty(target.size(), (Kind::BFloat16, Device::Cpu))?;
        round_stochastically(&rounded, values, key)?;
        return Ok(tch::no_grad(|| target.shallow_clone().f_copy_(&rounded))?);
    }
    let values = values.f_contiguous()?;
    #[expect(unsafe_code, reason = "FFI: both tensors live through the call")]
    let status = unsafe {
        ffi::sd_round_stochastically(target.as_ptr() as *mut C_tensor, values.as_ptr() as *mut C_tensor, key)
    };
    check(status)
}

/// The bits of the kernel in `cpp/rounding.cpp`, by operations that every device has.
fn by_tensor_operations(target: &Tensor, values: &Tensor, key: u64) -> Result<()> {
    // Shifts of signed integers bring ones in from the left.
    let shifted = |z: &Tensor, by: i64| z.bitwise_right_shift_tensor_scalar(by).bitwise_and((1i64 << (64 - by)) - 1);
    let mixed = |z: Tensor, by: i64, factor: u64| z.bitwise_xor_tensor(&shifted(&z, by)) * factor as i64;
    catch(|| {
        tch::no_grad(|| {
            let count = values.numel() as i64;
            let counter = Tensor::arange((count + 3) / 4, (Kind::Int64, values.device())) + 1;
            let z = counter * 0x9E37_79B9_7F4A_7C15_u64 as i64 + key as i64;
            let z = mixed(mixed(z, 30, 0xBF58_476D_1CE4_E5B9), 27, 0x94D0_49BB_1331_11EB);
            let z = z.bitwise_xor_tensor(&shifted(&z, 31));
            let parts: Vec<Tensor> =
                [0i64, 16, 32, 48].map(|by| z.bitwise_right_shift_tensor_scalar(by).bitwise_and(0xFFFFi64)).into();
            let random = Tensor::stack(&parts, 1).flatten(0, -1).narrow(0, 0, count).to_kind(Kind::Int);
            let values = values.contiguous();
            let bits = values.view_dtype(Kind::Int).flatten(0, -1) + random;
            let rounded = bits.bitwise_and(-0x1_0000i64).view_dtype(Kind::Float).reshape(values.size());
            // A sum with NaN's bits may be any number.
            let rounded = values.where_self(&values.isnan(), &rounded);
            target.shallow_clone().copy_(&rounded);
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(values: &Tensor, key: u64) -> Tensor {
        let target = Tensor::zeros(values.size(), (Kind::BFloat16, Device::Cpu));
        round_stochastically(&target, values, key).unwrap();
        target.to_kind(Kind::Float)
    }

    /// The two neighbours of 1 + 2⁻⁹ in bf16 are 1 and 1 + 2⁻⁷.
    const QUARTER: f64 = 1.0 + 1.0 / 512.0;
    const STEP: f64 = 1.0 / 128.0;

    #[test]
    fn the_mean_over_many_draws_is_the_number() {
        for (value, up) in [(QUARTER, 0.25), (-QUARTER, 0.25), (1.0 + STEP * 0.9, 0.9)] {
            let count = 1 << 20;
            let many = rounded(&Tensor::full([count], value, (Kind::Float, Device::Cpu)), 7);
            let away = many.abs().gt(1.0).sum(Kind::Double).double_value(&[]) / count as f64;
            // Five standard deviations of a coin thrown a million times.
            assert!((away - up).abs() < 5.0 * (up * (1.0 - up) / count as f64).sqrt(), "{value}: {away}");
            let mean = many.mean(Kind::Double).double_value(&[]);
            assert!((mean - value).abs() < STEP * 5e-3, "{mean}");
        }
        // And over the keys of one element.
        let keys = 20_000;
        let one = Tensor::from_slice(&[QUARTER as f32]);
        let up = (0..keys).filter(|&key| rounded(&one, key * 0x1234_5678_9ABC).double_value(&[0]) > 1.0).count();
        assert!((up as f64 / keys as f64 - 0.25).abs() < 0.0155, "{up} of {keys}");
    }

    #[test]
    fn neighbouring_elements_and_keys_are_unrelated() {
        let values = Tensor::full([1 << 16], 1.0 + STEP / 2.0, (Kind::Float, Device::Cpu));
        let bits = |key: u64| rounded(&values, key).gt(1.0).to_kind(Kind::Double) * 2.0 - 1.0;
        let first = bits(1);
        for other in [bits(2), bits(1 << 40), first.roll([1i64], [0i64]), first.roll([4i64], [0i64])] {
            let correlation = (&first * other).mean(Kind::Double).double_value(&[]);
            assert!(correlation.abs() < 5.0 / 256.0, "{correlation}");
        }
    }

    #[test]
    fn what_bf16_has_stays_what_it_is() {
        let numbers = [0.0, -0.0, 1.0, -3.5, 3.3895314e38, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE];
        let values = Tensor::from_slice(&numbers);
        for key in 0..200 {
            let found: Vec<f32> = Vec::try_from(&rounded(&values, key)).unwrap();
            assert_eq!(found.map_bits(), numbers.to_vec().map_bits(), "key {key}");
        }
        assert!(
            rounded(&Tensor::from_slice(&[f32::NAN, f32::from_bits(0x7FFF_FFFF)]), 1).isnan().all().int64_value(&[])
                == 1
        );
    }

    trait Bits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl Bits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(f32::to_bits).collect()
        }
    }

    #[test]
    fn tensor_operations_give_the_bits_of_the_kernel() {
        tch::manual_seed(5);
        for count in [1i64, 3, 4, 5, 1001] {
            let values = Tensor::randn([count], (Kind::Float, Device::Cpu)) * 3.0;
            for key in [0, 1, u64::MAX, 0x8000_0000_0000_0000] {
                let target = Tensor::zeros([count], (Kind::BFloat16, Device::Cpu));
                by_tensor_operations(&target, &values, key).unwrap();
                assert!(target.to_kind(Kind::Float).equal(&rounded(&values, key)), "{count} elements, key {key}");
            }
        }
    }

    #[test]
    fn one_thread_and_two_give_the_same_bits() {
        let values = Tensor::linspace(-2.0, 2.0, 300_001, (Kind::Float, Device::Cpu));
        let before = tch::get_num_threads();
        let [one, two] = [1, 2].map(|threads| {
            tch::set_num_threads(threads);
            rounded(&values, 11)
        });
        tch::set_num_threads(before);
        assert!(one.equal(&two));
    }
}
