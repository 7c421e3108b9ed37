//! PNDM (Liu et al. 2022, arXiv:2202.09778): pseudo linear multistep of order 4 over predicted noise, started by
//! Runge-Kutta steps (three of four calls each) or, as Stable Diffusion has it, by steps of lower order.
//!
//! A run that starts in the middle, from an image, repeats its first step there too, as in diffusers; with a
//! Runge-Kutta start it is not meaningful there, nor here.

use tch::Tensor;

use super::{Sampler, c, fp32, predicted_noise, spacing};
use crate::SchedulerSettings;
use crate::{Error, NoiseSchedule};

/// Calls of the Runge-Kutta start.
const RUNGE_KUTTA_CALLS: usize = 12;

pub struct Pndm {
    settings: SchedulerSettings,
    alphas_cumprod: Vec<f32>,
    final_alpha_cumprod: f32,
    timesteps: Vec<f64>,
    stride: i64,
    /// Calls so far. Unlike an index into the timesteps it starts at 0 also for a run that starts in the middle.
    calls: usize,
    /// Predictions of the last steps, newest last.
    history: Vec<Tensor>,
    /// Where the present Runge-Kutta step, or the first step without them, began.
    start: Option<Tensor>,
    /// The weighted predictions of the present Runge-Kutta step.
    sum: Option<Tensor>,
}

impl Pndm {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Result<Self, Error> {
        let alphas_cumprod = schedule.host_alphas_cumprod().to_vec();
        let mut plain = spacing::whole(&settings, steps)?;
        // Counted down; the lists below are written from the low end, as in the paper's code.
        plain.reverse();
        let stride = settings.num_train_timesteps / steps;
        let timesteps = if settings.skip_prk_steps {
            with_second_repeated(&plain)
        } else {
            if steps < 4 {
                let (class, num_train_timesteps) = (settings.class.name(), settings.num_train_timesteps);
                let reason = ": the Runge-Kutta start takes 4 of them, `skip_prk_steps = true` leaves it out";
                return Err(Error::Steps { class, steps, num_train_timesteps, reason });
            }
            with_runge_kutta_start(&plain, (stride / 2) as i64)
        };
        Ok(Pndm {
            final_alpha_cumprod: if settings.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] },
            timesteps: timesteps.into_iter().map(|timestep| timestep as f64).collect(),
            stride: stride as i64,
            alphas_cumprod,
            settings,
            calls: 0,
            history: Vec::new(),
            start: None,
            sum: None,
        })
    }

    /// A quarter of a Runge-Kutta step of order 4, whose four calls are weighted 1/6, 1/3, 1/3, 1/6.
    fn runge_kutta(&mut self, model_output: Tensor, step_index: usize, sample: Tensor) -> Tensor {
        let quarter = self.calls % 4;
        let ahead = if self.calls % 2 == 1 { 0 } else { self.stride / 2 };
        let to = self.timesteps[step_index] as i64 - ahead;
        let from = self.timesteps[step_index - quarter.min(step_index)] as i64;
        let weight = if quarter == 0 || quarter == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
        let weighted = &model_output * weight;
        let sum = match self.sum.take() {
            Some(sum) => sum + weighted,
            None => weighted,
        };
        if quarter == 0 {
            self.history.push(model_output.shallow_clone());
            self.start = Some(sample.shallow_clone());
        }
        let start = self.start.as_ref().map_or_else(|| sample.shallow_clone(), Tensor::shallow_clone);
        match quarter {
            3 => self.transfer(&start, from, to, &sum),
            _ => {
                self.sum = Some(sum);
                self.transfer(&start, from, to, &model_output)
            }
        }
    }

    /// A step from the predictions at the last four timesteps.
    fn multistep(&mut self, model_output: Tensor, step_index: usize, sample: Tensor) -> Tensor {
        let timestep = self.timesteps[step_index] as i64;
        // The second call repeats the first step with the mean of the predictions at both its ends.
        let repeats = self.calls == 1 && self.settings.skip_prk_steps;
        let (from, to) = if repeats { (timestep + self.stride, timestep) } else { (timestep, timestep - self.stride) };
        if !repeats {
            self.history.push(model_output.shallow_clone());
            let surplus = self.history.len().saturating_sub(4);
            self.history.drain(..surplus);
        }
        if self.calls == 0 {
            self.start = Some(sample.shallow_clone());
        }
        let combined = match (&self.history[..], repeats) {
            ([first], true) => (&model_output + first) / 2.0,
            ([e1], _) => e1.shallow_clone(),
            ([e2, e1], _) => (e1 * 3.0 - e2) / 2.0,
            ([e3, e2, e1], _) => (e1 * 23.0 - e2 * 16.0 + e3 * 5.0) / 12.0,
            ([e4, e3, e2, e1], _) => (e1 * 55.0 - e2 * 59.0 + e3 * 37.0 - e4 * 9.0) * (1.0 / 24.0),
            _ => unreachable!("the history holds one to four predictions"),
        };
        let sample = if repeats { self.start.take().unwrap_or(sample) } else { sample };
        self.transfer(&sample, from, to, &combined)
    }

    /// Formula 9 of the paper: the latents at `to` from those at `from`.
    fn transfer(&self, sample: &Tensor, from: i64, to: i64, model_output: &Tensor) -> Tensor {
        let last = self.alphas_cumprod.len() - 1;
        let alpha = self.alphas_cumprod[(from.max(0) as usize).min(last)];
        let alpha_to = usize::try_from(to).map_or(self.final_alpha_cumprod, |to| self.alphas_cumprod[to]);
        let (beta, beta_to) = (1.0 - alpha, 1.0 - alpha_to);
        let prediction_type = self.settings.prediction_type;
        let noise = predicted_noise(prediction_type, model_output, sample, alpha.sqrt(), beta.sqrt());
        let denominator = alpha * beta_to.sqrt() + (alpha * beta * alpha_to).sqrt();
        sample * c((alpha_to / alpha).sqrt()) - noise * c(alpha_to - alpha) / c(denominator)
    }
}

/// From the low end: every timestep, the second highest twice; counted down.
fn with_second_repeated(plain: &[i64]) -> Vec<i64> {
    let mut timesteps: Vec<i64> = plain.iter().rev().copied().collect();
    if timesteps.len() > 1 {
        timesteps.insert(1, timesteps[1]);
    }
    timesteps
}

/// The four highest timesteps and those half a stride above them, in the order in which three Runge-Kutta steps visit
/// them, then all but the three highest; counted down.
fn with_runge_kutta_start(plain: &[i64], half: i64) -> Vec<i64> {
    let highest = &plain[plain.len() - 4..];
    let mut visited: Vec<i64> = highest.iter().flat_map(|&timestep| [timestep, timestep + half]).collect();
    visited.pop();
    let mut start: Vec<i64> = visited.iter().flat_map(|&timestep| [timestep, timestep]).collect();
    start.pop();
    start.remove(0);
    debug_assert_eq!(start.len(), RUNGE_KUTTA_CALLS);
    start.reverse();
    start.extend(plain[..plain.len() - 3].iter().rev());
    start
}

impl Sampler for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn add_noise(&self, latents: &Tensor, noise: &Tensor, step_index: usize) -> Tensor {
        let alpha = self.alphas_cumprod[self.timesteps[step_index] as usize];
        latents * c(alpha.sqrt()) + noise * c((1.0 - alpha).sqrt())
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        step_index: usize,
        sample: &Tensor,
        _noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let (model_output, sample) = (fp32(model_output), fp32(sample));
        let next = if self.calls < RUNGE_KUTTA_CALLS && !self.settings.skip_prk_steps {
            self.runge_kutta(model_output, step_index, sample)
        } else {
            self.multistep(model_output, step_index, sample)
        };
        self.calls += 1;
        next
    }
}
