//! Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), in libtorch's fused kernel.

use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::AdamWConfig;
use sdtrain_torch::{AdamWState, AdamWStep, Result, fused_adamw};
use tch::{Kind, Tensor};

/// AdamW over groups of parameters.
pub(crate) struct AdamW {
    config: AdamWConfig,
    groups: Vec<ParamGroup>,
    states: Vec<AdamWState>,
}

impl AdamW {
    pub fn new(config: &AdamWConfig, groups: Vec<ParamGroup>) -> AdamW {
        let states = groups
            .iter()
            .map(|group| {
                let zeros = || group.parameters.iter().map(|(_, p)| p.detach().zeros_like()).collect();
                let steps =
                    group.parameters.iter().map(|(_, p)| Tensor::zeros([1], (Kind::Float, p.device())).squeeze());
                AdamWState { exp_avgs: zeros(), exp_avg_sqs: zeros(), steps: steps.collect() }
            })
            .collect();
        AdamW { config: config.clone(), groups, states }
    }

    /// Name and tensor of every piece of state, in the order of the parameters.
    fn slots(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.groups.iter().zip(&self.states).flat_map(|(group, state)| {
            group.parameters.iter().enumerate().flat_map(|(i, (name, _))| {
                [
                    (format!("exp_avg.{name}"), &state.exp_avgs[i]),
                    (format!("exp_avg_sq.{name}"), &state.exp_avg_sqs[i]),
                    (format!("step.{name}"), &state.steps[i]),
                ]
            })
        })
    }
}

/// Those of a step of `config` at `learning_rate`.
pub(crate) fn numbers(config: &AdamWConfig, learning_rate: f64) -> AdamWStep {
    AdamWStep {
        learning_rate,
        betas: (config.betas[0], config.betas[1]),
        eps: config.eps,
        weight_decay: config.weight_decay,
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        for ((group, state), &learning_rate) in self.groups.iter().zip(&self.states).zip(learning_rates) {
            let step = numbers(&self.config, learning_rate);
            let is_due = |parameter: &Tensor| parameter.requires_grad() && parameter.grad().defined();
            let with_gradient: Vec<usize> =
                (0..group.parameters.len()).filter(|&i| is_due(&group.parameters[i].1)).collect();
            if with_gradient.is_empty() {
                continue;
            }
            let pick = |list: &[Tensor]| with_gradient.iter().map(|&i| list[i].shallow_clone()).collect::<Vec<_>>();
            let parameters: Vec<Tensor> =
                with_gradient.iter().map(|&i| group.parameters[i].1.shallow_clone()).collect();
            let gradients: Vec<Tensor> = parameters.iter().map(Tensor::grad).collect();
            let state = AdamWState {
                exp_avgs: pick(&state.exp_avgs),
                exp_avg_sqs: pick(&state.exp_avg_sqs),
                steps: pick(&state.steps),
            };
            fused_adamw(&parameters, &gradients, &state, step, found_inf)?;
        }
        Ok(())
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.slots().map(|(name, tensor)| (name, tensor.shallow_clone())).collect()
    }
}
