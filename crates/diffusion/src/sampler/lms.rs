//! Linear multistep of order 4 over noise levels (Adams-Bashforth on the uneven grid of σ).

use tch::Tensor;

use super::euler::{scaled_to_unit_variance, slope};
use super::sigmas::NoiseLevels;
use super::{Sampler, c, fp32};
use crate::NoiseSchedule;
use crate::SchedulerSettings;

const ORDER: usize = 4;

pub struct Lms {
    settings: SchedulerSettings,
    levels: NoiseLevels,
    /// Slopes of the last steps, newest first.
    slopes: Vec<Tensor>,
}

impl Lms {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Self {
        Lms { levels: NoiseLevels::spaced(&settings, schedule, steps), settings, slopes: Vec::new() }
    }

    /// Weights of the newest `order` slopes for the step from `step_index`: each is the integral of the Lagrange
    /// polynomial that is 1 at that slope's σ and 0 at the others'.
    fn coefficients(&self, order: usize, step_index: usize) -> Vec<f64> {
        let sigma = |back: usize| f64::from(self.levels.sigmas[step_index - back]);
        let (from, to) = (sigma(0), f64::from(self.levels.sigmas[step_index + 1]));
        let polynomial = |which: usize, at: f64| -> f64 {
            let others = (0..order).filter(|&other| other != which);
            others.map(|other| (at - sigma(other)) / (sigma(which) - sigma(other))).product()
        };
        // Two points of Gauss integrate a polynomial of degree 3 exactly.
        let (middle, half) = ((to + from) / 2.0, (to - from) / 2.0);
        let point = half / 3f64.sqrt();
        (0..order).map(|which| half * (polynomial(which, middle - point) + polynomial(which, middle + point))).collect()
    }
}

impl Sampler for Lms {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.levels.sigmas
    }

    fn init_noise_sigma(&self) -> f64 {
        self.levels.init_noise_sigma(&self.settings)
    }

    fn scale_model_input(&self, sample: &Tensor, step_index: usize) -> Tensor {
        scaled_to_unit_variance(sample, self.levels.sigmas[step_index])
    }

    fn add_noise(&self, latents: &Tensor, noise: &Tensor, step_index: usize) -> Tensor {
        latents + noise * c(self.levels.sigmas[step_index])
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        step_index: usize,
        sample: &Tensor,
        _noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let sigma = self.levels.sigmas[step_index];
        let sample = fp32(sample);
        self.slopes.insert(0, slope(self.settings.prediction_type, &fp32(model_output), &sample, sigma, None));
        self.slopes.truncate(ORDER);
        // The order follows the step's index also where a run starts in the middle (from an image) and older slopes
        // are missing: their terms are left out, as in diffusers.
        let coefficients = self.coefficients(ORDER.min(step_index + 1), step_index);
        let terms = self.slopes.iter().zip(coefficients).map(|(slope, coefficient)| slope * coefficient);
        sample + terms.reduce(|sum, term| sum + term).expect("the newest slope is there")
    }
}
