//! DoRA: `W' = m · (W + ΔW) / ‖W + ΔW‖`, length and direction of each row learned apart (Liu et al. 2024,
//! arXiv:2402.09353). It stands over another adapter that gives ΔW: LoRA in new ones, LoHa or LoKr in files of LyCORIS.

use crate::kinds::{LayerTensors, NewLayer, read_direction};
use crate::layer::{AdapterLayer, Form, Pass};
use crate::lora_layer::LoraLayer;
use crate::site::{Site, as_kind};
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use tch::{Kind, Tensor};

/// Rows as short as this have no direction.
const SHORTEST: f64 = f32::EPSILON as f64;

/// Lengths, and what gives the direction.
#[derive(Debug)]
pub struct DoraLayer {
    direction: Box<dyn AdapterLayer>,
    /// As PEFT has it: `[outputs]` or `[1, outputs, 1, 1]`; of columns, as LyCORIS has it: `[1, inputs]` or
    /// `[1, inputs, 1, 1]`.
    magnitude: Tensor,
    axis: Axis,
}

/// What has a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    /// What makes one output: as in PEFT, and in LyCORIS unless it is told otherwise.
    Rows,
    /// What one input does: OneTrainer's default, and LyCORIS' with `wd_on_output = false`.
    Columns,
}

impl DoraLayer {
    /// A LoRA with the lengths of the weight's rows, so that nothing changes at first.
    pub fn create(new: &mut NewLayer) -> Box<dyn AdapterLayer> {
        let direction = LoraLayer::create(new);
        let lengths = tch::no_grad(|| lengths(&as_kind(new.site.weight(), Kind::Float), Axis::Rows));
        let magnitude = in_pefts_size(new.site, &lengths);
        Box::new(DoraLayer { direction, magnitude, axis: Axis::Rows })
    }

    /// From a file's tensors, if there are lengths among them.
    pub fn read(site: &Site, tensors: &mut LayerTensors) -> Option<Result<Box<dyn AdapterLayer>, String>> {
        let magnitude = tensors.take(LoraTensor::Magnitude)?;
        let weight = site.shape();
        let (count, size) = (magnitude.numel() as i64, magnitude.size());
        // Along which side it lies is told by where its numbers are. PEFT writes [outputs] and [1, outputs, 1, 1].
        let is_peft = size.len() != weight.len() || (weight.len() == 4 && size[0] == 1 && tensors.form() == Form::Peft);
        let axis = match size.first() {
            Some(&first) if (is_peft || first == weight[0]) && count == weight[0] => Axis::Rows,
            Some(1) if count == weight[1] && !is_peft => Axis::Columns,
            _ => return Some(Err(format!("magnitudes {size:?} beside a weight {weight:?}"))),
        };
        let magnitude = match axis {
            Axis::Rows => in_pefts_size(site, &magnitude),
            Axis::Columns => site.along_columns(&magnitude),
        };
        Some(
            read_direction(site, tensors)
                .map(|direction| -> Box<dyn AdapterLayer> { Box::new(DoraLayer { direction, magnitude, axis }) }),
        )
    }

    /// By what rows or columns of `weight` + ΔW are multiplied. The length is no part of the graph (§4.3 of the paper).
    fn factor(&self, site: &Site) -> Tensor {
        let length = tch::no_grad(|| {
            lengths(&(as_kind(site.weight(), Kind::Float) + self.direction.weight_delta(site)), self.axis)
        });
        let magnitude = match self.axis {
            Axis::Rows => site.along_rows(&self.magnitude),
            Axis::Columns => self.magnitude.shallow_clone(),
        };
        magnitude / length.clamp_min(SHORTEST)
    }
}

/// Lengths of rows in the size that PEFT's files have.
fn in_pefts_size(site: &Site, lengths: &Tensor) -> Tensor {
    match site.is_convolution() {
        true => lengths.reshape([1, -1, 1, 1]),
        false => lengths.flatten(0, -1),
    }
}

/// Frobenius norms along `axis`, in the shape that multiplies the weight.
fn lengths(weight: &Tensor, axis: Axis) -> Tensor {
    let kept = if axis == Axis::Rows { 0 } else { 1 };
    let dimensions: Vec<i64> = (0..weight.dim() as i64).filter(|&dimension| dimension != kept).collect();
    weight.norm_scalaropt_dim(2.0, &dimensions[..], true)
}

impl AdapterLayer for DoraLayer {
    fn added(&self, site: &Site, pass: &Pass) -> Tensor {
        let kind = pass.output.kind();
        match self.axis {
            Axis::Rows => {
                let factor = site.along_channels(&self.factor(site));
                let longer = as_kind(&((&factor - 1.0) * pass.strength), kind);
                let turned = self.direction.added(site, pass);
                site.without_bias(pass.output) * longer + turned * as_kind(&factor, kind)
            }
            Axis::Columns => site.apply(pass.input, &(self.weight_delta(site) * pass.strength)),
        }
    }

    fn weight_delta(&self, site: &Site) -> Tensor {
        let weight = as_kind(site.weight(), Kind::Float);
        (&weight + self.direction.weight_delta(site)) * self.factor(site) - weight
    }

    fn parameters(&self) -> Vec<(LoraTensor, &Tensor)> {
        let magnitude = (LoraTensor::Magnitude, &self.magnitude);
        self.direction.parameters().into_iter().chain([magnitude]).collect()
    }

    /// That of the direction: the length of a row is learned for its own sake.
    fn product(&self, site: &Site) -> Tensor {
        self.direction.weight_delta(site)
    }

    fn factors(&self) -> Vec<&Tensor> {
        self.direction.factors()
    }

    fn tensors(&self, site: &Site, form: Form) -> Result<Vec<(LoraTensor, Tensor)>, String> {
        let magnitude = self.magnitude.detach();
        let magnitude = match (form, self.axis) {
            (Form::Kohya, Axis::Rows) => site.along_rows(&magnitude),
            (Form::Kohya, Axis::Columns) | (Form::Peft, Axis::Rows) => magnitude,
            (Form::Peft, Axis::Columns) => return Err("PEFT's form has no place for lengths of columns".into()),
        };
        let mut tensors = self.direction.tensors(site, form)?;
        tensors.push((LoraTensor::Magnitude, magnitude));
        Ok(tensors)
    }

    fn rank(&self) -> Option<i64> {
        self.direction.rank()
    }

    fn alpha(&self) -> Option<f64> {
        self.direction.alpha()
    }
}
