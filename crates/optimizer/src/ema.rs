//! A running mean of the trained weights, and the exchange of both.

use crate::ParamGroup;
use sdtrain_recipe::{EmaConfig, EmaWarmup};
use sdtrain_torch::{Result, catch};
use tch::{Device, Kind, Tensor};

/// `average ← average − (1 − decay) · (average − weight)` after optimizer steps, with a decay that rises as that of diffusers'
/// `EMAModel` (<https://github.com/huggingface/diffusers/blob/v0.36.0/src/diffusers/training_utils.py>, `get_decay`).
#[derive(Debug)]
pub struct Ema {
    config: EmaConfig,
    /// The averages, in the order of the parameters; the weights themselves while both are exchanged.
    averages: Vec<(String, Tensor)>,
    /// Optimizer steps seen.
    steps: u64,
    /// Weights in bf16 while the averages, which are fp32, are in their place.
    aside: Option<Vec<Tensor>>,
}

impl Ema {
    /// An average in fp32 that begins as the present weights of `groups`.
    pub fn new(config: &EmaConfig, groups: &[ParamGroup]) -> Ema {
        let kept = |tensor: &Tensor| {
            let device = if config.on_cpu { Device::Cpu } else { tensor.device() };
            tensor.detach().to_device(device).to_kind(Kind::Float).copy()
        };
        let averages = parameters(groups).map(|(name, tensor)| (name.clone(), kept(tensor))).collect();
        Ema { config: config.clone(), averages, steps: 0, aside: None }
    }

    /// How much of the average stays at the update after optimizer step `step`, counted from 1.
    pub fn decay(&self, step: u64) -> f64 {
        let Some(update @ 1..) = step.checked_sub(self.config.update_after_step + 1) else { return 0.0 };
        let update = update as f64;
        let rising = match self.config.warmup {
            EmaWarmup::Count => (1.0 + update) / (10.0 + update),
            EmaWarmup::Power => 1.0 - (1.0 + update / self.config.inv_gamma).powf(-self.config.power),
            EmaWarmup::None => 1.0,
        };
        rising.min(self.config.decay).max(self.config.min_decay)
    }

    /// Takes in the weights after one more optimizer step.
    pub fn update(&mut self, groups: &[ParamGroup]) -> Result<()> {
        self.steps += 1;
        if !self.steps.is_multiple_of(self.config.update_every) {
            return Ok(());
        }
        let share = 1.0 - self.decay(self.steps);
        catch(|| {
            tch::no_grad(|| {
                for ((_, average), (_, weight)) in self.averages.iter().zip(parameters(groups)) {
                    let apart = average - weight.to_device(average.device());
                    let _ = average.shallow_clone().g_sub_(&(apart * share));
                }
            })
        })
    }

    /// Puts the averages into the parameters and the weights in their place; a second call undoes it, to the bit.
    pub fn exchange(&mut self, groups: &[ParamGroup]) -> Result<()> {
        if parameters(groups).any(|(_, weight)| weight.kind() != Kind::Float) {
            return self.exchange_narrow(groups);
        }
        catch(|| {
            tch::no_grad(|| {
                for ((_, average), (_, weight)) in self.averages.iter().zip(parameters(groups)) {
                    let before = weight.detach().copy();
                    weight.shallow_clone().copy_(average);
                    average.shallow_clone().copy_(&before);
                }
            })
        })
    }

    /// The same for weights that have no room for an average: it is rounded, and the weights wait beside it.
    fn exchange_narrow(&mut self, groups: &[ParamGroup]) -> Result<()> {
        let aside = self.aside.take();
        let coming: Vec<&Tensor> = match &aside {
            Some(weights) => weights.iter().collect(),
            None => self.averages.iter().map(|(_, average)| average).collect(),
        };
        let going = catch(|| {
            tch::no_grad(|| {
                let exchanged = coming.iter().zip(parameters(groups)).map(|(coming, (_, weight))| {
                    let before = weight.detach().copy();
                    weight.shallow_clone().copy_(coming);
                    before
                });
                exchanged.collect::<Vec<_>>()
            })
        })?;
        self.aside = aside.is_none().then_some(going);
        Ok(())
    }

    /// The averages by the names of their parameters, and how many optimizer steps they have seen.
    pub fn state(&self) -> (&[(String, Tensor)], u64) {
        (&self.averages, self.steps)
    }

    /// Restores what [`Ema::state`] gave; `find` looks a name up. The name that is missing, if one is.
    pub fn load_state(
        &mut self,
        steps: u64,
        find: &mut dyn FnMut(&str) -> Option<Tensor>,
    ) -> std::result::Result<(), crate::MissingState> {
        for (name, average) in &self.averages {
            let saved = find(name).filter(|saved| saved.size() == average.size());
            let saved = saved.ok_or_else(|| crate::MissingState(name.clone()))?;
            average.shallow_clone().copy_(&saved);
        }
        self.steps = steps;
        Ok(())
    }
}

fn parameters(groups: &[ParamGroup]) -> impl Iterator<Item = &(String, Tensor)> {
    groups.iter().flat_map(|group| &group.parameters)
}
