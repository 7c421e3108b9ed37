//! Weights that are no number for one pass (`debug.faults`), to see that nothing of it reaches an update or a file.

use crate::error::{Error, Result};
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{FaultyNumber, WeightFault};
use tch::{Kind, Tensor};

/// What of the weights is damaged in the passes of a step.
pub(crate) struct Damage(Vec<Weight>);

struct Weight {
    /// Its first number.
    first: Tensor,
    value: f64,
    /// Counted from 1; absent: the last.
    pass: Option<u64>,
}

/// Damaged weights with what they were; mended when it is dropped.
pub(crate) struct Damaged(Vec<(Tensor, Tensor)>);

impl Damage {
    /// What `faults` names for `step`, in the model or in what is `trained`.
    pub fn of_step(
        faults: &[WeightFault],
        step: u64,
        model: &StableDiffusion,
        trained: &[ParamGroup],
    ) -> Result<Damage> {
        let mut damage = Damage(Vec::new());
        for fault in faults.iter().filter(|fault| fault.step == step) {
            let first = parameter(model, trained, &fault.parameter)?.f_detach()?.f_view([-1])?.f_narrow(0, 0, 1)?;
            let value = match fault.value {
                FaultyNumber::Nan => f64::NAN,
                FaultyNumber::Infinity => f64::INFINITY,
            };
            damage.0.push(Weight { first, value, pass: fault.pass });
        }
        Ok(damage)
    }

    /// Damages what the step's pass of this number sees, counted from 1.
    pub fn in_pass(&self, number: u64, is_last: bool) -> Result<Damaged> {
        let mut damaged = Damaged(Vec::new());
        for weight in self.0.iter().filter(|weight| weight.pass.map_or(is_last, |pass| pass == number)) {
            let before = sdtrain_torch::catch(|| weight.first.copy())?;
            // Through `data`, which autograd does not watch: the value is back before anybody asks for it.
            let _ = weight.first.f_data()?.f_fill_(weight.value)?;
            damaged.0.push((weight.first.shallow_clone(), before));
        }
        Ok(damaged)
    }
}

impl Drop for Damaged {
    fn drop(&mut self) {
        for (first, before) in &self.0 {
            let _ = first.f_data().and_then(|mut data| data.f_copy_(before));
        }
    }
}

fn parameter(model: &StableDiffusion, trained: &[ParamGroup], name: &str) -> Result<Tensor> {
    let found = model.networks().into_iter().find_map(|(network, parameters)| {
        let name = name.strip_prefix(network)?.strip_prefix('.')?;
        parameters.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor.shallow_clone())
    });
    let of_trained = || {
        let parameters = trained.iter().flat_map(|group| &group.parameters);
        parameters.into_iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor.shallow_clone())
    };
    found.or_else(of_trained).filter(|tensor| tensor.numel() > 0 && tensor.kind() != Kind::Int64).ok_or_else(|| {
        Error::Config {
            message: format!("`debug.faults`: the model has no parameter `{name}`"),
            hint: Some("names are those of diffusers behind `unet.`, `text_encoder.` and `vae.`".into()),
        }
    })
}
