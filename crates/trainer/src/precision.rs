//! Configured number formats as libtorch's kinds.

use sdtrain_recipe::FloatType;
use tch::Kind;

/// The kind of a configured format.
pub fn kind_of(format: FloatType) -> Kind {
    match format {
        FloatType::Fp32 => Kind::Float,
        FloatType::Bf16 => Kind::BFloat16,
        FloatType::Fp16 => Kind::Half,
    }
}
