//! UniPC (Zhao et al. 2023, arXiv:2302.04867): a multistep predictor whose result the next prediction corrects.

use tch::Tensor;

use super::sigmas::{NoiseLevels, TrainingSigmas, half_log_snr, karras, rates, with_last};
use super::{Sampler, c, fp32, predicted_latents, predicted_noise, spacing};
use crate::{Error, NoiseSchedule};
use crate::{FinalSigmasType, SchedulerSettings, SolverType};

pub struct UniPc {
    settings: SchedulerSettings,
    levels: NoiseLevels,
    /// Converted predictions of the last steps, newest last.
    history: Vec<Tensor>,
    /// Where the last predictor started from, and its order.
    last: Option<(Tensor, usize)>,
}

/// The quantities of one interval that predictor and corrector share.
struct Interval {
    /// Weight of the latents at its beginning.
    of_sample: f32,
    /// Weight of the newest prediction there.
    of_prediction: f32,
    /// Weight of the higher-order terms.
    of_residual: f32,
    /// Ratios of earlier intervals to this one, then 1: one for each order.
    ratios: Vec<f32>,
    /// Right-hand side of the order conditions.
    conditions: Vec<f32>,
}

impl UniPc {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Result<Self, Error> {
        if settings.solver_order == 0 {
            let (class, key, supported) = (settings.class.name(), "solver_order", "use 2 or 3");
            return Err(Error::Unsupported { class, key, value: "0".to_owned(), supported });
        }
        let training = TrainingSigmas::new(&settings, schedule);
        let timesteps = spacing::solver(&settings, steps, settings.num_train_timesteps)?;
        let (timesteps, sigmas): (Vec<f64>, Vec<f64>) = if settings.use_karras_sigmas {
            let (sigma_min, sigma_max) = training.ends();
            let sigmas = karras(&settings, sigma_max, sigma_min, steps);
            (sigmas.iter().map(|&sigma| training.timestep_of(sigma).round_ties_even()).collect(), sigmas)
        } else {
            timesteps.into_iter().map(|timestep| (timestep as f64, training.at(timestep as f64))).unzip()
        };
        // Unlike the other classes, this one ends Karras' levels on their own lowest.
        let last = match (settings.final_sigmas_type, settings.use_karras_sigmas) {
            (FinalSigmasType::SigmaMin, true) => sigmas[sigmas.len() - 1],
            _ => training.last(&settings),
        };
        let levels = NoiseLevels { timesteps, sigmas: with_last(&sigmas, last) };
        Ok(UniPc { settings, levels, history: Vec::new(), last: None })
    }

    fn convert(&self, model_output: &Tensor, sample: &Tensor, sigma: f32) -> Tensor {
        let (signal_rate, noise_rate) = rates(sigma);
        let convert = if self.settings.predict_x0 { predicted_latents } else { predicted_noise };
        convert(self.settings.prediction_type, model_output, sample, signal_rate, noise_rate)
    }

    /// The interval from the level at `from` to the next.
    fn interval(&self, from: usize, order: usize) -> Interval {
        let level = |index: usize| half_log_snr(self.levels.sigmas[index]);
        let (signal_rate_from, noise_rate_from) = rates(self.levels.sigmas[from]);
        let (signal_rate, noise_rate) = rates(self.levels.sigmas[from + 1]);
        let h = level(from + 1) - level(from);
        let signed_h = if self.settings.predict_x0 { -h } else { h };
        // h·φ₁(h) = eʰ − 1 and its successors, section 3.1 of the paper.
        let phi_1 = signed_h.exp_m1();
        let b_h = if self.settings.solver_type == SolverType::Bh1 { signed_h } else { phi_1 };
        let mut ratios: Vec<f32> = (1..order).map(|back| (level(from - back) - level(from)) / h).collect();
        ratios.push(1.0);
        let mut conditions = Vec::with_capacity(order);
        let (mut phi, mut factorial) = (phi_1 / signed_h - 1.0, 1.0);
        for i in 1..=order {
            conditions.push(phi * factorial / b_h);
            factorial *= (i + 1) as f32;
            phi = phi / signed_h - 1.0 / factorial;
        }
        let (of_sample, rate) = match self.settings.predict_x0 {
            true => (noise_rate / noise_rate_from, signal_rate),
            false => (signal_rate / signal_rate_from, noise_rate),
        };
        Interval { of_sample, of_prediction: rate * phi_1, of_residual: rate * b_h, ratios, conditions }
    }

    /// Differences of earlier predictions to the newest, over their ratios.
    fn differences(&self, ratios: &[f32]) -> Vec<Tensor> {
        let newest = self.history.len() - 1;
        let earlier = (1..ratios.len()).map(|back| &self.history[newest - back]);
        earlier.zip(ratios).map(|(m, &ratio)| (m - &self.history[newest]) / c(ratio)).collect()
    }

    /// The latents after the interval, from a sum of weighted differences.
    fn advance(&self, interval: &Interval, sample: &Tensor, residual: Option<Tensor>) -> Tensor {
        let newest = &self.history[self.history.len() - 1];
        let latents = sample * c(interval.of_sample) - newest * c(interval.of_prediction);
        match residual {
            Some(residual) => latents - residual * c(interval.of_residual),
            None => latents,
        }
    }

    fn predict(&self, sample: &Tensor, step_index: usize, order: usize) -> Tensor {
        let interval = self.interval(step_index, order);
        let differences = self.differences(&interval.ratios);
        let weights = match order {
            1 => Vec::new(),
            // The paper's simplification: 1/2 in place of the solution.
            2 => vec![0.5],
            _ => solve_powers(&interval.ratios[..order - 1], &interval.conditions[..order - 1]),
        };
        self.advance(&interval, sample, weighted_sum(&differences, &weights))
    }

    /// The latents at `step_index`, computed again now that there is a prediction for them.
    fn correct(&self, prediction: &Tensor, last_sample: &Tensor, step_index: usize, order: usize) -> Tensor {
        let interval = self.interval(step_index - 1, order);
        let mut differences = self.differences(&interval.ratios);
        differences.push(prediction - &self.history[self.history.len() - 1]);
        let weights = match order {
            1 => vec![0.5],
            _ => solve_powers(&interval.ratios, &interval.conditions),
        };
        self.advance(&interval, last_sample, weighted_sum(&differences, &weights))
    }
}

fn weighted_sum(tensors: &[Tensor], weights: &[f32]) -> Option<Tensor> {
    tensors.iter().zip(weights).map(|(tensor, &weight)| tensor * c(weight)).reduce(|sum, term| sum + term)
}

/// Solves Σⱼ ratiosⱼⁱ · xⱼ = rightᵢ for i from 0, by elimination in fp64.
fn solve_powers(ratios: &[f32], right: &[f32]) -> Vec<f32> {
    let size = ratios.len();
    let mut rows: Vec<Vec<f64>> = (0..size)
        .map(|power| ratios.iter().map(|&r| c(r.powi(power as i32))).chain([c(right[power])]).collect())
        .collect();
    for column in 0..size {
        let largest = (column..size).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()));
        rows.swap(column, largest.unwrap_or(column));
        let pivot = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(index, _)| *index != column) {
            let factor = row[column] / pivot[column];
            row.iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    (0..size).map(|i| (rows[i][size] / rows[i][i]) as f32).collect()
}

impl Sampler for UniPc {
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
        _noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let mut sample = fp32(sample);
        let prediction = self.convert(&fp32(model_output), &sample, self.levels.sigmas[step_index]);
        if let Some((last_sample, last_order)) = self.last.take()
            && !self.settings.disable_corrector.contains(&(step_index - 1))
        {
            sample = self.correct(&prediction, &last_sample, step_index, last_order);
        }
        self.history.push(prediction);
        let surplus = self.history.len().saturating_sub(self.settings.solver_order);
        self.history.drain(..surplus);

        let order = self.history.len();
        let order = match self.settings.lower_order_final {
            true => order.min(self.levels.timesteps.len() - step_index),
            false => order,
        };
        let next = self.predict(&sample, step_index, order);
        self.last = Some((sample, order));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_conditions_are_solved() {
        let ratios = [-0.9f32, -1.7, 1.0];
        let right = [0.4f32, -0.2, 0.7];
        let solution = solve_powers(&ratios, &right);
        for (power, right) in right.iter().enumerate() {
            let left: f32 = ratios.iter().zip(&solution).map(|(r, x)| r.powi(power as i32) * x).sum();
            assert!((left - right).abs() < 1e-6, "{left} {right}"); // fp32
        }
    }
}
