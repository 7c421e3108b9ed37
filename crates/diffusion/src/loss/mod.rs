//! How a prediction is scored: a distance in each place, a mask over the places, and how much each example counts.

mod huber;
mod l1;
mod mask;
mod mse;
mod weighting;

pub use huber::{huber, huber_c, smooth_l1};
pub use l1::absolute;
pub use mask::{latent_mask, masked};
pub use mse::{mse, squared};
pub use weighting::{debiased_estimation, epsilon_like, min_snr, p2, velocity_like, weights};

use sdtrain_recipe::{LossConfig, LossType};
use tch::{Kind, Tensor};

use crate::NoiseSchedule;

/// The loss of each example before its weights: the distances of `config.loss_type`, masked where there is a mask, averaged over
/// everything but the batch, in fp32: `[batch]`. Depends on tensors alone.
///
/// # Shapes
/// prediction, target: `[batch, channels, height, width]`; timesteps: `[batch]`; mask: `[batch, 1, height, width]`, 0 to 1
pub fn example_losses(
    config: &LossConfig,
    schedule: &NoiseSchedule,
    prediction: &Tensor,
    target: &Tensor,
    timesteps: &Tensor,
    mask: Option<&Tensor>,
) -> Tensor {
    let difference = prediction.to_kind(Kind::Float) - target.to_kind(Kind::Float);
    let c = || huber_c(config, schedule, timesteps, difference.dim());
    let distances = match config.loss_type {
        LossType::Mse => squared(&difference),
        LossType::L1 => absolute(&difference),
        LossType::Huber => huber(&difference, &c()),
        LossType::SmoothL1 => smooth_l1(&difference, &c()),
    };
    let distances = match mask {
        Some(mask) => masked(&distances, mask, config.unmasked_weight, config.normalize_masked_area),
        None => distances,
    };
    distances.flatten(1, -1).mean_dim(1, false, Kind::Float)
}
