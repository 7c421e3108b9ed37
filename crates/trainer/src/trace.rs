//! What went into the first steps and what came out, for replaying them in another program.

use crate::error::Result;
use crate::inputs::{Prompts, StepInputs};
use crate::step::StepOutcome;
use sdtrain_model::{EncoderTokens, TensorReader, TextStates, TokenizedPrompts};
use sdtrain_optimizer::ParamGroup;
use sdtrain_state_dict::write_source;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Kind, Tensor};

/// A trace being recorded.
pub struct Trace {
    path: PathBuf,
    /// Steps that are still to be recorded.
    left: u64,
    tensors: Vec<(String, Tensor)>,
    metadata: BTreeMap<String, String>,
}

impl Trace {
    /// Starts with the trained tensors as they are now, before the first of `steps` steps. `config` is the resolved configuration.
    pub fn new(path: PathBuf, steps: u64, config: String, groups: &[ParamGroup]) -> Trace {
        let metadata = BTreeMap::from([
            ("config".to_string(), config),
            ("sdtrain.version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ]);
        Trace { path, left: steps.max(1), tensors: snapshot("initial", groups), metadata }
    }

    /// Records optimizer step `step` (counted from 1); whether it was the last one.
    pub fn record(&mut self, step: u64, outcome: &StepOutcome, rates: &[f64]) -> bool {
        let one = outcome.inputs.len() == 1;
        for (micro, inputs) in outcome.inputs.iter().enumerate() {
            let prefix = if one { format!("step.{step}") } else { format!("step.{step}.micro.{micro}") };
            let mut put = |name: &str, tensor: &Tensor, kind: Kind| {
                let tensor = tensor.detach().to_kind(kind).to_device(tch::Device::Cpu).contiguous().copy();
                self.tensors.push((format!("{prefix}.{name}"), tensor));
            };
            match inputs {
                StepInputs::Denoising(inputs) => {
                    put("latents", &inputs.latents, Kind::Float);
                    put("noise", &inputs.noise, Kind::Float);
                    put("timesteps", &inputs.timesteps, Kind::Int64);
                    put("loss_weights", &inputs.loss_weights, Kind::Float);
                    let optional = [
                        ("input_noise", &inputs.input_noise),
                        ("mask", &inputs.mask),
                        ("mask_channels", &inputs.mask_channels),
                    ];
                    for (name, tensor) in optional {
                        if let Some(tensor) = tensor {
                            put(name, tensor, Kind::Float);
                        }
                    }
                    put_prompts("", &inputs.prompts, &mut put);
                    if let Some(time_ids) = &inputs.time_ids {
                        put("time_ids", time_ids, Kind::Float);
                    }
                    if let Some(prior) = &inputs.prior {
                        put_prompts("prior_", &prior.prompts, &mut put);
                        put_states("prior_base_hidden_states", "prior_base_text_embeds", &prior.base_states, &mut put);
                        put("prior_loss_weights", &prior.loss_weights, Kind::Float);
                    }
                }
                StepInputs::Autoencoding(inputs) => {
                    put("pixels", &inputs.pixels, Kind::Float);
                    put("noise", &inputs.noise, Kind::Float);
                }
            }
        }
        let mut number = |name: &str, values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            let tensor = Tensor::from_slice(&values);
            let tensor = if values.len() == 1 && name != "lr" { tensor.squeeze() } else { tensor };
            self.tensors.push((format!("step.{step}.{name}"), tensor));
        };
        number("loss", &[outcome.loss]);
        number("grad_norm", &[outcome.grad_norm]);
        number("lr", rates);
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Writes the file, with the trained tensors as they are now.
    pub fn finish(mut self, groups: &[ParamGroup]) -> Result<()> {
        self.tensors.extend(snapshot("final", groups));
        let borrowed: Vec<(String, &Tensor)> = self.tensors.iter().map(|(name, t)| (name.clone(), t)).collect();
        Ok(write_source(&self.path, &TensorReader::new(borrowed, None), &self.metadata)?)
    }
}

fn put_prompts(prefix: &str, prompts: &Prompts, put: &mut dyn FnMut(&str, &Tensor, Kind)) {
    match prompts {
        Prompts::Encoded(states) => {
            let [hidden_states, pooled] =
                ["encoder_hidden_states", "text_embeds"].map(|name| format!("{prefix}{name}"));
            put_states(&hidden_states, &pooled, states, put);
        }
        Prompts::Tokenized(TokenizedPrompts(of_encoders)) => {
            for (number, EncoderTokens { ids, weights }) in of_encoders.iter().enumerate() {
                let name = |name: &str| format!("{prefix}{name}{}", suffix_of(number));
                // `[batch, window]` where a prompt is one window, else `[batch, windows, window]`.
                put(&name("input_ids"), &ids.squeeze_dim(1), Kind::Int64);
                if let Some(weights) = weights {
                    put(&name("prompt_weights"), weights, Kind::Float);
                }
            }
        }
    }
}

fn put_states(name: &str, pooled_name: &str, states: &TextStates, put: &mut dyn FnMut(&str, &Tensor, Kind)) {
    put(name, &states.hidden_states, Kind::Float);
    if let Some(pooled) = &states.pooled {
        put(pooled_name, pooled, Kind::Float);
    }
}

/// What stands behind the names of what belongs to text encoder `number`, counted from 0: nothing, then `_2`.
pub(crate) fn suffix_of(number: usize) -> String {
    if number == 0 { String::new() } else { format!("_{}", number + 1) }
}

fn snapshot(prefix: &str, groups: &[ParamGroup]) -> Vec<(String, Tensor)> {
    let parameters = groups.iter().flat_map(|group| &group.parameters);
    parameters.map(|(name, tensor)| (format!("{prefix}.{name}"), tensor.detach().to_kind(Kind::Float).copy())).collect()
}
