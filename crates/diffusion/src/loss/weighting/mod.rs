//! How much each example counts, by the noise it was given.
//!
//! Every formula takes the SNR, so that the caller decides which: that of the schedule as it is, or before it was rescaled.

mod debiased_estimation;
mod min_snr;
mod p2;
mod v_prediction;

pub use debiased_estimation::debiased_estimation;
pub use min_snr::min_snr;
pub use p2::p2;
pub use v_prediction::{epsilon_like, velocity_like};

use sdtrain_recipe::LossConfig;
use tch::Tensor;

use crate::{NoiseSchedule, PredictionType};

/// Where 1/SNR is cut off, as in kohya's scripts: the first timestep of Stable Diffusion is just beyond it.
const LARGEST_SNR: f64 = 1000.0;

/// What the loss of each example is multiplied by at its timestep: `[batch]`, fp32; none where every timestep counts the same.
/// What contradicts `prediction_type` was refused before (`LossConfig::contradiction`).
pub fn weights(
    config: &LossConfig,
    schedule: &NoiseSchedule,
    prediction_type: PredictionType,
    timesteps: &Tensor,
) -> Option<Tensor> {
    let snr = match config.snr_before_rescaling {
        true => schedule.snr_before_rescaling(timesteps),
        false => schedule.snr(timesteps),
    };
    let factors = [
        config.min_snr_gamma.map(|gamma| min_snr(&snr, prediction_type, gamma)),
        config.scale_v_pred_loss_like_noise_pred.then(|| epsilon_like(&snr)),
        config.v_pred_like_loss.map(|factor| velocity_like(&snr, factor)),
        config.debiased_estimation.then(|| debiased_estimation(&snr, prediction_type)),
        config.p2_gamma.map(|gamma| p2(&snr, prediction_type, gamma)),
    ];
    factors.into_iter().flatten().reduce(|product, factor| product * factor)
}
