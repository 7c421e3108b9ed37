//! Dynamic loss scaling for fp16: keeps small gradients from vanishing and skips steps whose gradients overflow.

use sdtrain_torch::{Result, unscale};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// PyTorch's rule (`torch.amp.GradScaler`): halve after an overflow, double after 2000 good steps in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradScaler {
    /// The loss is multiplied by this before backward.
    pub scale: f64,
    /// Good steps since the last change.
    pub good_steps: u64,
}

const INITIAL_SCALE: f64 = 65536.0;
const GROWTH_INTERVAL: u64 = 2000;

impl Default for GradScaler {
    fn default() -> GradScaler {
        GradScaler { scale: INITIAL_SCALE, good_steps: 0 }
    }
}

impl GradScaler {
    /// Divides `gradients` by the scale in place. The returned one-element tensor is 1 where one of them was not
    /// finite: the optimizer then changes nothing.
    pub fn unscale(&self, gradients: &[Tensor]) -> Result<Tensor> {
        let device = gradients.first().map_or(tch::Device::Cpu, Tensor::device);
        let found_inf = Tensor::zeros([1], (Kind::Float, device));
        let inverse = Tensor::full([1], 1.0 / self.scale, (Kind::Float, device));
        unscale(gradients, &found_inf, &inverse)?;
        Ok(found_inf)
    }

    /// Adjusts the scale after a step that did or did not overflow.
    pub fn update(&mut self, overflowed: bool) {
        if overflowed {
            (self.scale, self.good_steps) = (self.scale * 0.5, 0);
        } else if self.good_steps + 1 == GROWTH_INTERVAL {
            (self.scale, self.good_steps) = (self.scale * 2.0, 0);
        } else {
            self.good_steps += 1;
        }
    }

    /// Whether a step that was skipped at this loss, and has halved the scale, is part of loss scaling: a loss that overflows in the
    /// forward pass is none that a smaller scale could mend, nor is a scale without end.
    pub fn can_mend(&self, loss: f64) -> bool {
        loss.is_finite() && self.scale >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_the_scale_and_long_success_doubles_it() {
        let mut scaler = GradScaler::default();
        scaler.update(true);
        assert_eq!(scaler.scale, 32768.0);
        (0..GROWTH_INTERVAL).for_each(|_| scaler.update(false));
        assert_eq!(scaler, GradScaler::default());
    }

    #[test]
    fn a_smaller_scale_mends_no_loss_that_overflows_and_does_not_shrink_without_end() {
        let mut scaler = GradScaler::default();
        assert!(scaler.can_mend(0.5));
        assert!(!scaler.can_mend(f64::INFINITY) && !scaler.can_mend(f64::NAN));
        // 65536 is 2¹⁶.
        (0..16).for_each(|_| scaler.update(true));
        assert!(scaler.can_mend(0.5));
        scaler.update(true);
        assert!(!scaler.can_mend(0.5));
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_found() {
        let gradients = [Tensor::from_slice(&[65536f32]), Tensor::from_slice(&[f32::INFINITY])];
        let found = GradScaler::default().unscale(&gradients).unwrap();
        assert_eq!(found.double_value(&[0]), 1.0);
        assert_eq!(gradients[0].double_value(&[0]), 1.0);
    }
}
