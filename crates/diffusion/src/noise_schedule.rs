//! How much noise stands at each timestep: betas → ᾱ, noisy latents, velocity, signal-to-noise ratio.

use tch::{Device, Kind, Tensor};

use crate::{BetaSchedule, SchedulerClass, SchedulerConfig, SchedulerSettings};
use crate::{Error, PredictionType};

/// The schedule a model was trained with, as tables that are looked up by timestep on their device.
///
/// Nothing here reads a number back from the device, so a training step that uses it can be captured as a graph.
#[derive(Debug)]
pub struct NoiseSchedule {
    prediction_type: PredictionType,
    /// The levels ᾱ in host memory, for samplers, which step through them one by one.
    host_alphas_cumprod: Vec<f32>,
    betas: Tensor,
    alphas_cumprod: Tensor,
    /// √ᾱ
    signal_rates: Tensor,
    /// √(1−ᾱ)
    noise_rates: Tensor,
    snr: Tensor,
    /// The SNR before any rescaling; the same where there was none.
    snr_before_rescaling: Tensor,
}

impl NoiseSchedule {
    /// The schedule of a `scheduler_config.json`, on the CPU, as diffusers' training scripts read it: whatever class
    /// the file names, `rescale_betas_zero_snr` is honoured.
    pub fn new(config: &SchedulerConfig) -> Result<Self, Error> {
        let class = config.class().unwrap_or(SchedulerClass::Ddpm);
        let mut settings = config.filled_in(class);
        settings.rescale_betas_zero_snr = config.rescale_betas_zero_snr.unwrap_or(false);
        Self::from_settings(&settings)
    }

    /// The schedule as one scheduler class understands its configuration.
    pub fn from_settings(settings: &SchedulerSettings) -> Result<Self, Error> {
        let schedule = Self::from_betas(betas(settings)?, settings.prediction_type);
        match settings.rescale_betas_zero_snr {
            true => schedule.with_zero_terminal_snr(),
            false => Ok(schedule),
        }
    }

    fn from_betas(betas: Tensor, prediction_type: PredictionType) -> Self {
        let alphas_cumprod = one_minus(&betas).cumprod(0, None);
        let host_alphas_cumprod = Vec::<f32>::try_from(&alphas_cumprod).expect("ᾱ is a vector of fp32 on the CPU");
        let signal_rates = alphas_cumprod.sqrt();
        let noise_rates = one_minus(&alphas_cumprod).sqrt();
        let snr = (&signal_rates / &noise_rates).square();
        let snr_before_rescaling = snr.shallow_clone();
        NoiseSchedule {
            prediction_type,
            host_alphas_cumprod,
            betas,
            alphas_cumprod,
            signal_rates,
            noise_rates,
            snr,
            snr_before_rescaling,
        }
    }

    /// The same schedule, rescaled so that the last timestep is pure noise (Lin et al. 2023, arXiv:2305.08891). One that has it
    /// already stays as it is, up to rounding. A schedule of a single timestep cannot begin as before and end in noise.
    pub fn with_zero_terminal_snr(&self) -> Result<Self, Error> {
        if self.num_train_timesteps() < 2 {
            let message = "a schedule of one timestep cannot be rescaled to end in pure noise".to_owned();
            return Err(Error::Schedule(message));
        }
        let betas = zero_terminal_snr_betas(&self.betas.to_device(Device::Cpu));
        let rescaled = Self::from_betas(betas, self.prediction_type).to_device(self.betas.device());
        Ok(NoiseSchedule { snr_before_rescaling: self.snr_before_rescaling.shallow_clone(), ..rescaled })
    }

    /// The same schedule with its tables on another device.
    pub fn to_device(&self, device: Device) -> Self {
        NoiseSchedule {
            prediction_type: self.prediction_type,
            host_alphas_cumprod: self.host_alphas_cumprod.clone(),
            betas: self.betas.to_device(device),
            alphas_cumprod: self.alphas_cumprod.to_device(device),
            signal_rates: self.signal_rates.to_device(device),
            noise_rates: self.noise_rates.to_device(device),
            snr: self.snr.to_device(device),
            snr_before_rescaling: self.snr_before_rescaling.to_device(device),
        }
    }

    /// What the model of this schedule predicts.
    pub fn prediction_type(&self) -> PredictionType {
        self.prediction_type
    }

    /// Number of timesteps.
    pub fn num_train_timesteps(&self) -> usize {
        self.host_alphas_cumprod.len()
    }

    /// β of every timestep, fp32.
    pub fn betas(&self) -> &Tensor {
        &self.betas
    }

    /// ᾱ of every timestep, fp32.
    pub fn alphas_cumprod(&self) -> &Tensor {
        &self.alphas_cumprod
    }

    /// ᾱ of every timestep, in host memory.
    pub fn host_alphas_cumprod(&self) -> &[f32] {
        &self.host_alphas_cumprod
    }

    /// √ᾱ·latents + √(1−ᾱ)·noise, in the type of the latents.
    ///
    /// # Shapes
    /// latents, noise: `[batch, …]`; timesteps: `[batch]`, integers, on the same device
    pub fn add_noise(&self, latents: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let (signal_rate, noise_rate) = self.rates(timesteps, latents.dim());
        (signal_rate * latents + noise_rate * noise).to_kind(latents.kind())
    }

    /// √ᾱ·noise − √(1−ᾱ)·latents, in the type of the latents.
    pub fn velocity(&self, latents: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let (signal_rate, noise_rate) = self.rates(timesteps, latents.dim());
        (signal_rate * noise - noise_rate * latents).to_kind(latents.kind())
    }

    /// ᾱ/(1−ᾱ) at each timestep: `[batch]`, fp32. 0 at the last one of a schedule with zero terminal SNR.
    pub fn snr(&self, timesteps: &Tensor) -> Tensor {
        self.snr.index_select(0, timesteps)
    }

    /// The same of the schedule before it was rescaled to zero terminal SNR, which kohya's scripts weigh losses by.
    pub fn snr_before_rescaling(&self, timesteps: &Tensor) -> Tensor {
        self.snr_before_rescaling.index_select(0, timesteps)
    }

    /// √ᾱ and √(1−ᾱ) at each timestep, fp32, shaped `[batch, 1, …]` to `dimensions` dimensions.
    pub fn rates(&self, timesteps: &Tensor, dimensions: usize) -> (Tensor, Tensor) {
        let mut shape = vec![1i64; dimensions];
        shape[0] = -1;
        let look_up = |table: &Tensor| table.index_select(0, timesteps).view(&shape[..]);
        (look_up(&self.signal_rates), look_up(&self.noise_rates))
    }
}

fn betas(settings: &SchedulerSettings) -> Result<Tensor, Error> {
    let steps = settings.num_train_timesteps;
    const MOST_STEPS: usize = 1_000_000;
    if !(1..=MOST_STEPS).contains(&steps) {
        return Err(Error::Schedule(format!("`num_train_timesteps` is {steps}, not a number from 1 to {MOST_STEPS}")));
    }
    if let Some(betas) = &settings.trained_betas {
        // Every table here is looked up by timesteps below `num_train_timesteps`.
        if betas.len() != steps {
            let message = format!("`trained_betas` has {} values, `num_train_timesteps` is {steps}", betas.len());
            return Err(Error::Schedule(message));
        }
        // After a β of 1 nothing of the image is left, so only the last may be; the levels behind it would be 0/0 when rescaled.
        let is_beta =
            |step: usize| betas[step] > 0.0 && (betas[step] < 1.0 || (betas[step] == 1.0 && step + 1 == steps));
        if let Some(step) = (0..steps).find(|&step| !is_beta(step)) {
            let message = format!("`trained_betas` has {} at timestep {step}; 0 < β < 1 is needed", betas[step]);
            return Err(Error::Schedule(message));
        }
        return Ok(Tensor::from_slice(betas).to_kind(Kind::Float));
    }
    let (start, end) = (settings.beta_start, settings.beta_end);
    if settings.beta_schedule != BetaSchedule::SquaredcosCapV2 && !(start > 0.0 && start <= end && end < 1.0) {
        return Err(Error::Schedule(format!("betas run from {start} to {end}; 0 < start ≤ end < 1 is needed")));
    }
    let line = |start: f64, end: f64| Tensor::linspace(start, end, steps as i64, (Kind::Float, Device::Cpu));
    Ok(match settings.beta_schedule {
        BetaSchedule::Linear => line(start, end),
        BetaSchedule::ScaledLinear => line(start.sqrt(), end.sqrt()).square(),
        BetaSchedule::SquaredcosCapV2 => {
            // Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17 with s = 0.008.
            let level = |t: usize| {
                let angle = (t as f64 / steps as f64 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2;
                angle.cos().powi(2)
            };
            let betas: Vec<f32> = (0..steps).map(|t| (1.0 - level(t + 1) / level(t)).min(0.999) as f32).collect();
            Tensor::from_slice(&betas)
        }
    })
}

/// Shifts √ᾱ so that its last value is 0, scales it so that its first stays, and turns it back into betas.
fn zero_terminal_snr_betas(betas: &Tensor) -> Tensor {
    let rates = one_minus(betas).cumprod(0, None).sqrt();
    let (first, last) = (rates.narrow(0, 0, 1), rates.narrow(0, rates.size()[0] - 1, 1));
    let rates = (rates - &last) * (&first / (&first - &last));
    let alphas_cumprod = rates.square();
    let steps = alphas_cumprod.size()[0];
    let alphas = alphas_cumprod.narrow(0, 1, steps - 1) / alphas_cumprod.narrow(0, 0, steps - 1);
    one_minus(&Tensor::cat(&[alphas_cumprod.narrow(0, 0, 1), alphas], 0))
}

fn one_minus(tensor: &Tensor) -> Tensor {
    1.0 - tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable_diffusion() -> NoiseSchedule {
        NoiseSchedule::new(&SchedulerConfig::stable_diffusion()).unwrap()
    }

    #[test]
    fn signal_levels_are_those_of_stable_diffusion() {
        let levels = stable_diffusion();
        let at = |t: usize| f64::from(levels.host_alphas_cumprod()[t]);
        assert_eq!((at(0), at(500), at(999)), (0.9991499781608582, 0.27633246779441833, 0.00466009508818388));
    }

    #[test]
    fn snr_before_and_after_rescaling_is_that_of_the_formula() {
        let schedule = stable_diffusion();
        let timesteps = Tensor::from_slice(&[0i64, 1, 100, 500, 900, 999]);
        // Worked out in fp64 from the formulae, hence the room for fp32's rounding of ᾱ near 1.
        let close = |schedule: &NoiseSchedule, expected: [f64; 6]| {
            let snr = Vec::<f32>::try_from(schedule.snr(&timesteps)).unwrap();
            for (found, expected) in snr.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() <= 2e-4 * expected + 1e-12, "{found} {expected}");
            }
        };
        close(&schedule, [1175.47, 585.864, 8.45389, 0.381850, 0.0143543, 0.00468192]);
        let rescaled = schedule.with_zero_terminal_snr().unwrap();
        close(&rescaled, [1175.47, 565.074, 7.83090, 0.317556, 0.00296918, 0.0]);
        assert_eq!(rescaled.host_alphas_cumprod()[999], 0.0);
        assert_eq!(rescaled.snr_before_rescaling(&timesteps), schedule.snr(&timesteps));
        let twice = rescaled.with_zero_terminal_snr().unwrap();
        close(&twice, [1175.47, 565.074, 7.83090, 0.317556, 0.00296918, 0.0]);
        assert_eq!(twice.snr_before_rescaling(&timesteps), schedule.snr(&timesteps));
    }

    #[test]
    fn pure_noise_is_pure_noise() {
        let schedule = stable_diffusion().with_zero_terminal_snr().unwrap();
        let latents = Tensor::full([1, 1, 1, 2], 3.0, (Kind::Float, Device::Cpu));
        let noise = Tensor::from_slice(&[0.5f32, -1.5]).view([1, 1, 1, 2]);
        let last = Tensor::from_slice(&[999i64]);
        assert_eq!(schedule.add_noise(&latents, &noise, &last), noise);
        assert_eq!(schedule.velocity(&latents, &noise, &last), -latents);
    }

    #[test]
    fn noise_is_added_to_each_example_at_its_own_timestep() {
        let schedule = stable_diffusion();
        let latents = Tensor::ones([2, 1, 1, 1], (Kind::Float, Device::Cpu));
        let noisy = schedule.add_noise(&latents, &latents.zeros_like(), &Tensor::from_slice(&[0i64, 999]));
        let noisy = Vec::<f32>::try_from(noisy.flatten(0, -1)).unwrap();
        assert_eq!(noisy, [0.999_15_f32.sqrt(), 0.004_660_095_f32.sqrt()]);
    }

    #[test]
    fn keeps_the_type_of_the_latents() {
        let latents = Tensor::ones([1, 4, 2, 2], (Kind::BFloat16, Device::Cpu));
        let noisy = stable_diffusion().add_noise(&latents, &latents, &Tensor::from_slice(&[10i64]));
        assert_eq!(noisy.kind(), Kind::BFloat16);
    }

    #[test]
    fn refuses_a_schedule_that_cannot_be_computed() {
        let backwards = SchedulerConfig { beta_start: Some(0.5), beta_end: Some(0.1), ..Default::default() };
        assert!(NoiseSchedule::new(&backwards).is_err());
        let too_few = SchedulerConfig { trained_betas: Some(vec![0.1; 3]), ..Default::default() };
        assert!(NoiseSchedule::new(&too_few).is_err());
        let of = |betas: &[f64], rescale_betas_zero_snr: bool| {
            NoiseSchedule::new(&SchedulerConfig {
                num_train_timesteps: Some(betas.len()),
                trained_betas: Some(betas.to_vec()),
                rescale_betas_zero_snr: Some(rescale_betas_zero_snr),
                ..Default::default()
            })
        };
        assert!(of(&[0.1, 0.2, 1.0], true).is_ok());
        assert!(of(&[0.1, 1.0, 0.2], false).unwrap_err().to_string().contains("has 1 at timestep 1"));
        for wrong in [0.0, -0.1, 1.5, f64::NAN] {
            assert!(of(&[0.1, 0.2, wrong], false).is_err(), "{wrong}");
        }
        assert!(of(&[0.1], false).is_ok() && of(&[0.1], true).unwrap_err().to_string().contains("one timestep"));
    }
}
