//! DPM-Solver multistep of order 1 to 3 and its ++ and SDE forms (Lu et al. 2022, arXiv:2206.00927, 2211.01095).
//!
//! Every form is a sum of the latents, of the predictions' differences and of noise; they differ in the weights.

use tch::Tensor;

use super::sigmas::{NoiseLevels, TrainingSigmas, half_log_snr, karras, rates, with_last};
use super::{Sampler, c, fp32, predicted_latents, predicted_noise, spacing};
use crate::{AlgorithmType, BetaSchedule, FinalSigmasType, SchedulerSettings, SolverType};
use crate::{Error, NoiseSchedule};

pub struct DpmSolverMultistep {
    settings: SchedulerSettings,
    levels: NoiseLevels,
    /// Converted predictions of the last steps, newest last.
    history: Vec<Tensor>,
}

impl DpmSolverMultistep {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Result<Self, Error> {
        use AlgorithmType as Algorithm;
        let unsupported =
            |key, value, supported| Error::Unsupported { class: settings.class.name(), key, value, supported };
        let order = settings.solver_order;
        if !(1..=3).contains(&order) || (order == 3 && settings.algorithm_type == Algorithm::SdeDpmSolver) {
            return Err(unsupported("solver_order", order.to_string(), "use 2, or 1 or 3 with `dpmsolver++`"));
        }
        let on_noise = matches!(settings.algorithm_type, Algorithm::DpmSolver | Algorithm::SdeDpmSolver);
        if on_noise && settings.final_sigmas_type == FinalSigmasType::Zero {
            let supported = "`dpmsolver` and `sde-dpmsolver` need `final_sigmas_type = sigma_min`";
            return Err(unsupported("final_sigmas_type", "zero".to_owned(), supported));
        }
        let training = TrainingSigmas::new(&settings, schedule);
        let clipped = training.half_log_snr().filter(|&level| f64::from(level) < settings.lambda_min_clipped).count();
        let timesteps = spacing::solver(&settings, steps, settings.num_train_timesteps - clipped)?;
        let (timesteps, sigmas): (Vec<f64>, Vec<f64>) = if settings.use_karras_sigmas {
            let (sigma_min, sigma_max) = training.ends();
            let sigmas = karras(&settings, sigma_max, sigma_min, steps);
            let to_whole = |timestep: f64| match settings.beta_schedule {
                BetaSchedule::SquaredcosCapV2 => timestep.trunc(),
                _ => timestep.round_ties_even(),
            };
            (sigmas.iter().map(|&sigma| to_whole(training.timestep_of(sigma))).collect(), sigmas)
        } else {
            timesteps.into_iter().map(|timestep| (timestep as f64, training.at(timestep as f64))).unzip()
        };
        let levels = NoiseLevels { timesteps, sigmas: with_last(&sigmas, training.last(&settings)) };
        Ok(DpmSolverMultistep { settings, levels, history: Vec::new() })
    }

    /// The order of this step: as many as there are predictions, lower at the end where asked for.
    fn order(&self, step_index: usize) -> usize {
        let steps = self.levels.timesteps.len();
        let few = self.settings.lower_order_final && steps < 15;
        let to_zero = self.settings.final_sigmas_type == FinalSigmasType::Zero;
        let from_end = steps - step_index;
        if from_end == 1 && (self.settings.euler_at_final || few || to_zero) {
            1
        } else if from_end == 2 && few {
            self.history.len().min(2)
        } else {
            self.history.len()
        }
    }

    /// The prediction as the integral wants it: the image for the ++ forms, the noise for the others.
    fn convert(&self, model_output: &Tensor, sample: &Tensor, sigma: f32) -> Tensor {
        let (signal_rate, noise_rate) = rates(sigma);
        let convert = match self.settings.algorithm_type {
            AlgorithmType::DpmSolver | AlgorithmType::SdeDpmSolver => predicted_noise,
            _ => predicted_latents,
        };
        convert(self.settings.prediction_type, model_output, sample, signal_rate, noise_rate)
    }

    /// The newest prediction and its divided differences: order 1 has one of them, order 3 has three.
    fn differences(&self, order: usize, step_index: usize, h: f32) -> Vec<Tensor> {
        let level = |back: usize| half_log_snr(self.levels.sigmas[step_index - back]);
        let newest = self.history.len() - 1;
        let m = |back: usize| &self.history[newest - back];
        let mut differences = vec![m(0).shallow_clone()];
        if order == 1 {
            return differences;
        }
        let r0 = (level(0) - level(1)) / h;
        let first = (m(0) - m(1)) * c(1.0 / r0);
        if order == 2 {
            differences.push(first);
            return differences;
        }
        let r1 = (level(1) - level(2)) / h;
        let bend = &first - (m(1) - m(2)) * c(1.0 / r1);
        differences.push(first + &bend * c(r0 / (r0 + r1)));
        differences.push(bend * c(1.0 / (r0 + r1)));
        differences
    }

    /// Weights of the latents, of each difference and of the noise.
    fn weights(&self, order: usize, step_index: usize, h: f32) -> (f32, Vec<f32>, f32) {
        let (signal_rate, noise_rate) = rates(self.levels.sigmas[step_index + 1]);
        let (signal_rate_here, noise_rate_here) = rates(self.levels.sigmas[step_index]);
        // At order 3 there is one form only.
        let midpoint = order == 2 && self.settings.solver_type == SolverType::Midpoint;
        let weights = |plain: f32, half: f32, first: f32, second: f32| match (order, midpoint) {
            (1, _) => vec![plain],
            (2, true) => vec![plain, half],
            (2, false) => vec![plain, first],
            _ => vec![plain, first, second],
        };
        match self.settings.algorithm_type {
            AlgorithmType::DpmSolverPlusPlus | AlgorithmType::Deis => {
                let decay = (-h).exp() - 1.0;
                let weights = weights(
                    -(signal_rate * decay),
                    -0.5 * (signal_rate * decay),
                    signal_rate * (decay / h + 1.0),
                    -(signal_rate * ((decay + h) / (h * h) - 0.5)),
                );
                (noise_rate / noise_rate_here, weights, 0.0)
            }
            AlgorithmType::DpmSolver => {
                let growth = h.exp() - 1.0;
                let weights = weights(
                    -(noise_rate * growth),
                    -0.5 * (noise_rate * growth),
                    -(noise_rate * (growth / h - 1.0)),
                    -(noise_rate * ((growth - h) / (h * h) - 0.5)),
                );
                (signal_rate / signal_rate_here, weights, 0.0)
            }
            AlgorithmType::SdeDpmSolverPlusPlus => {
                let decay = 1.0 - (-2.0 * h).exp();
                let weights = weights(
                    signal_rate * decay,
                    0.5 * (signal_rate * decay),
                    signal_rate * (decay / (-2.0 * h) + 1.0),
                    signal_rate * ((decay - 2.0 * h) / (4.0 * h * h) - 0.5),
                );
                (noise_rate / noise_rate_here * (-h).exp(), weights, noise_rate * decay.sqrt())
            }
            AlgorithmType::SdeDpmSolver => {
                let growth = h.exp() - 1.0;
                let weights = weights(
                    -2.0 * (noise_rate * growth),
                    -(noise_rate * growth),
                    -2.0 * (noise_rate * (growth / h - 1.0)),
                    0.0,
                );
                let noise = noise_rate * ((2.0 * h).exp() - 1.0).sqrt();
                (signal_rate / signal_rate_here, weights, noise)
            }
        }
    }
}

impl Sampler for DpmSolverMultistep {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.levels.sigmas
    }

    fn add_noise(&self, latents: &Tensor, noise: &Tensor, step_index: usize) -> Tensor {
        let (signal_rate, noise_rate) = rates(self.levels.sigmas[step_index]);
        latents * c(signal_rate) + noise * c(noise_rate)
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        step_index: usize,
        sample: &Tensor,
        noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let (model_output, sample) = (fp32(model_output), fp32(sample));
        let (sigma, next) = (self.levels.sigmas[step_index], self.levels.sigmas[step_index + 1]);
        self.history.push(self.convert(&model_output, &sample, sigma));
        let surplus = self.history.len().saturating_sub(self.settings.solver_order);
        self.history.drain(..surplus);

        let h = half_log_snr(next) - half_log_snr(sigma);
        let order = self.order(step_index);
        let (of_sample, of_differences, of_noise) = self.weights(order, step_index, h);
        let mut latents = sample * c(of_sample);
        for (difference, weight) in self.differences(order, step_index, h).iter().zip(of_differences) {
            latents += difference * c(weight);
        }
        let algorithm_type = self.settings.algorithm_type;
        if matches!(algorithm_type, AlgorithmType::SdeDpmSolver | AlgorithmType::SdeDpmSolverPlusPlus) {
            latents += fp32(&noise(&model_output.size())) * c(of_noise);
        }
        latents
    }
}
