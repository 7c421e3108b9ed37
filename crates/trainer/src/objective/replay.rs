//! Inputs out of a trace instead of the data: the very steps that another program did.

use super::Objective;
use crate::batches::Batch;
use crate::error::{Error, Result};
use crate::inputs::{AutoencodingInputs, DenoisingInputs, PriorInputs, Prompts, StepInputs};
use crate::trace::suffix_of;
use sdtrain_model::{EncoderTokens, Frozen, StableDiffusion, TextStates, TokenizedPrompts, read_tensor};
use sdtrain_recipe::GradientCheckpointing;
use sdtrain_state_dict::{Reader, SafetensorsFile};
use std::path::Path;
use tch::{Kind, Tensor};

/// Another objective, fed from a trace (`debug.trace_inputs`).
pub struct Replay {
    objective: Box<dyn Objective>,
    trace: SafetensorsFile,
    /// What the names of each forward pass begin with, in the order of the passes.
    passes: Vec<String>,
}

impl Replay {
    /// `objective` with the inputs of the trace at `path`.
    pub fn open(path: &Path, objective: Box<dyn Objective>) -> Result<Replay> {
        let trace = SafetensorsFile::open(path)?;
        let mut passes: Vec<(u64, u64, String)> = trace.names().into_iter().filter_map(pass_of).collect();
        passes.sort();
        if passes.is_empty() {
            return Err(Error::Config {
                message: format!("`debug.trace_inputs`: `{}` holds no inputs of a step", path.display()),
                hint: Some("a run with `debug.trace` writes such a file".into()),
            });
        }
        Ok(Replay { objective, trace, passes: passes.into_iter().map(|(_, _, prefix)| prefix).collect() })
    }

    fn prefix(&self, pass: u64) -> Result<&str> {
        let prefix = usize::try_from(pass).ok().and_then(|pass| self.passes.get(pass));
        prefix.map(String::as_str).ok_or_else(|| Error::Config {
            message: format!("`debug.trace_inputs` holds {} forward passes, this run needs more", self.passes.len()),
            hint: Some("lower `train.max_steps` to the traced steps".into()),
        })
    }
}

/// Step, micro-batch and prefix of a forward pass, from the name of the tensor that every pass has.
fn pass_of(name: &str) -> Option<(u64, u64, String)> {
    let prefix = name.strip_suffix("latents").or_else(|| name.strip_suffix("pixels"))?;
    let numbers = prefix.strip_prefix("step.")?.strip_suffix('.')?;
    let (step, micro) = numbers.split_once(".micro.").unwrap_or((numbers, "0"));
    Some((step.parse().ok()?, micro.parse().ok()?, prefix.to_string()))
}

impl Objective for Replay {
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, pass: u64) -> Result<StepInputs> {
        let prefix = self.prefix(pass)?;
        let has = |name: &str| self.trace.info(&format!("{prefix}{name}")).is_some();
        let read = |name: &str, kind: Kind| -> Result<Tensor> {
            Ok(read_tensor(&self.trace, &format!("{prefix}{name}"), Some(kind), model.device)?)
        };
        let inputs = if has("pixels") {
            let (pixels, noise) = (read("pixels", Kind::Float)?, read("noise", Kind::Float)?);
            StepInputs::Autoencoding(AutoencodingInputs { pixels, noise })
        } else {
            let optional = |name: &str| has(name).then(|| read(name, Kind::Float)).transpose();
            let states = |prefix: &str, states: &str, pooled: &str| -> Result<TextStates> {
                let [states, pooled] = [states, pooled].map(|name| format!("{prefix}{name}"));
                let pooled = has(&pooled).then(|| read(&pooled, model.compute)).transpose()?;
                Ok(TextStates { hidden_states: read(&states, model.compute)?, pooled })
            };
            let prompts = |prefix: &str| -> Result<Prompts> {
                if !has(&format!("{prefix}input_ids")) {
                    return Ok(Prompts::Encoded(states(prefix, "encoder_hidden_states", "text_embeds")?));
                }
                let of_encoder = |number: usize| -> Result<EncoderTokens> {
                    let name = |name: &str| format!("{prefix}{name}{}", suffix_of(number));
                    tokenized(read(&name("input_ids"), Kind::Int64)?, optional(&name("prompt_weights"))?)
                };
                let tokens = (0..model.text_encoders.len()).map(of_encoder).collect::<Result<_>>()?;
                Ok(Prompts::Tokenized(TokenizedPrompts(tokens)))
            };
            let prior = || -> Result<PriorInputs> {
                Ok(PriorInputs {
                    prompts: prompts("prior_")?,
                    base_states: states("prior_", "base_hidden_states", "base_text_embeds")?,
                    loss_weights: read("prior_loss_weights", Kind::Float)?,
                })
            };
            StepInputs::Denoising(DenoisingInputs {
                latents: read("latents", Kind::Float)?,
                noise: read("noise", Kind::Float)?,
                input_noise: optional("input_noise")?,
                timesteps: read("timesteps", Kind::Int64)?,
                prompts: prompts("")?,
                time_ids: optional("time_ids")?,
                loss_weights: read("loss_weights", Kind::Float)?,
                mask: optional("mask")?,
                mask_channels: optional("mask_channels")?,
                prior: has("prior_loss_weights").then(prior).transpose()?,
            })
        };
        // The loss is divided by the number of examples that the data says.
        let examples = inputs.examples();
        if examples != batch.examples.len() {
            return Err(Error::Config {
                message: format!(
                    "`debug.trace_inputs`: forward pass {} has {examples} examples, this run's has {}",
                    pass + 1,
                    batch.examples.len()
                ),
                hint: Some("`data.batch_size` must be that of the traced run, and the images enough for it".into()),
            });
        }
        Ok(inputs)
    }

    fn losses(
        &self,
        model: &StableDiffusion,
        inputs: &StepInputs,
        gradient_checkpointing: GradientCheckpointing,
    ) -> Tensor {
        self.objective.losses(model, inputs, gradient_checkpointing)
    }

    fn idle(&self) -> &'static [Frozen] {
        self.objective.idle()
    }

    fn wants_pixels(&self) -> bool {
        false
    }
}

/// Ids as traces have them: `[batch, windows, window]`, or `[batch, window]` where a prompt is one window.
fn tokenized(ids: Tensor, weights: Option<Tensor>) -> Result<EncoderTokens> {
    let ids = if ids.dim() == 2 { ids.f_unsqueeze(1)? } else { ids };
    Ok(EncoderTokens { ids, weights })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_in_the_order_of_steps_and_micro_batches() {
        let names = [
            "step.10.latents",
            "step.2.micro.1.latents",
            "step.2.micro.0.latents",
            "step.2.loss",
            "step.1.pixels",
            "initial.unet.latents",
        ];
        let mut passes: Vec<_> = names.into_iter().filter_map(pass_of).collect();
        passes.sort();
        let prefixes: Vec<&str> = passes.iter().map(|(_, _, prefix)| prefix.as_str()).collect();
        assert_eq!(prefixes, ["step.1.", "step.2.micro.0.", "step.2.micro.1.", "step.10."]);
    }
}
