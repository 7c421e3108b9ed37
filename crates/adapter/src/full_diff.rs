//! The whole difference: `W' = W + D`, and of the bias `b' = b + d` (LyCORIS: `full`). Full fine-tuning that is kept beside
//! the model instead of in it.

use crate::kinds::{LayerTensors, NewLayer};
use crate::layer::{AdapterLayer, Form, Pass};
use crate::site::{Site, as_kind};
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use tch::Tensor;

/// Differences in the sizes of the layer's own tensors.
#[derive(Debug)]
pub struct FullDiffLayer {
    diff: Tensor,
    /// `[outputs]`, where the layer has a bias.
    bias: Option<Tensor>,
}

impl FullDiffLayer {
    /// Zeros.
    pub fn create(new: &mut NewLayer) -> Box<dyn AdapterLayer> {
        let bias = new.site.bias().map(|bias| new.zeros(&bias.size()));
        Box::new(FullDiffLayer { diff: new.zeros(&new.site.shape()), bias })
    }

    /// From a file's tensors, if they are of this kind.
    pub fn read(site: &Site, tensors: &mut LayerTensors) -> Option<Result<Box<dyn AdapterLayer>, String>> {
        if !tensors.has(&[LoraTensor::Diff, LoraTensor::DiffBias]) {
            return None;
        }
        let Some(diff) = tensors.take(LoraTensor::Diff) else {
            return Some(Err("it has a difference of the bias, but none of the weight".into()));
        };
        let bias = tensors.take(LoraTensor::DiffBias);
        let bias_fits = match (&bias, site.bias()) {
            (Some(diff), Some(bias)) => diff.size() == bias.size(),
            (None, _) => true,
            (Some(_), None) => false,
        };
        if diff.size() != site.shape() || !bias_fits {
            let bias = bias.map(|bias| bias.size());
            let message =
                format!("a difference {:?} (of the bias {bias:?}) beside a weight {:?}", diff.size(), site.shape());
            return Some(Err(message));
        }
        Some(Ok(Box::new(FullDiffLayer { diff, bias })))
    }
}

impl AdapterLayer for FullDiffLayer {
    fn added(&self, site: &Site, pass: &Pass) -> Tensor {
        let added = site.apply(pass.input, &self.diff);
        let added = match &self.bias {
            Some(bias) => added + as_kind(&site.along_channels(bias), pass.output.kind()),
            None => added,
        };
        // Times one would cost a pass over the activations.
        let added = if pass.strength == 1.0 { added } else { added * pass.strength };
        pass.drop_rows(site, added)
    }

    fn weight_delta(&self, _site: &Site) -> Tensor {
        self.diff.shallow_clone()
    }

    fn bias_delta(&self, _site: &Site) -> Option<Tensor> {
        self.bias.as_ref().map(Tensor::shallow_clone)
    }

    fn parameters(&self) -> Vec<(LoraTensor, &Tensor)> {
        let bias = self.bias.as_ref().map(|bias| (LoraTensor::DiffBias, bias));
        [(LoraTensor::Diff, &self.diff)].into_iter().chain(bias).collect()
    }

    /// The weight's alone: the bias is no part of its norm.
    fn factors(&self) -> Vec<&Tensor> {
        vec![&self.diff]
    }

    fn tensors(&self, _site: &Site, form: Form) -> Result<Vec<(LoraTensor, Tensor)>, String> {
        if form == Form::Peft {
            return Err("PEFT's form has no place for whole differences".into());
        }
        Ok(self.parameters().into_iter().map(|(tensor, value)| (tensor, value.detach())).collect())
    }
}
