//! (IA)³: each channel of a layer's input or output is multiplied by a learned number (Liu et al. 2022,
//! arXiv:2205.05638): `W' = W · diag(l)` or `diag(l) · W`.

use crate::kinds::{LayerTensors, NewLayer};
use crate::layer::{AdapterLayer, Form, Pass};
use crate::site::{Site, as_kind};
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use tch::{Kind, Tensor};

/// One number for each channel.
#[derive(Debug)]
pub struct Ia3Layer {
    /// In the size that its form has.
    vector: Tensor,
    on_input: bool,
    meaning: Meaning,
}

/// What the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// LyCORIS: by what share a channel grows, 0 for as it was. The bias of the layer stays.
    Growth,
    /// PEFT: what a channel is multiplied by, 1 for as it was. On the output the bias is multiplied as well.
    Factor,
}

impl Ia3Layer {
    /// Zeros of LyCORIS' form, so that weight decay leads back to the layer as it was.
    pub fn create(new: &mut NewLayer) -> Box<dyn AdapterLayer> {
        let on_input = new.config.ia3.is_on_input(new.path);
        let vector = new.zeros(&size(new.site, on_input, Form::Kohya));
        Box::new(Ia3Layer { vector, on_input, meaning: Meaning::Growth })
    }

    /// From a file's tensors, if they are of this kind.
    pub fn read(site: &Site, tensors: &mut LayerTensors) -> Option<Result<Box<dyn AdapterLayer>, String>> {
        let wanted = [LoraTensor::Ia3Growth, LoraTensor::Ia3OnInput, LoraTensor::Ia3Factor];
        if !tensors.has(&wanted) {
            return None;
        }
        let (vector, on_input, meaning) = match wanted.map(|tensor| tensors.take(tensor)) {
            [Some(growth), Some(on_input), None] if on_input.numel() == 1 => {
                (growth, on_input.reshape([1]).double_value(&[0]) != 0.0, Meaning::Growth)
            }
            [None, None, Some(factor)] => {
                let size = factor.size();
                // Beside a linear layer [1, inputs] or [outputs, 1]; beside a convolution both are [1, n, 1, 1], and PEFT
                // alone knows which: its only rule for layers of equal sides is its configuration.
                let on_input = match (size.as_slice(), site.is_convolution()) {
                    ([1, inputs], false) if *inputs == site.shape()[1] => true,
                    ([outputs, 1], false) if *outputs == site.outputs() => false,
                    ([1, channels, 1, 1], true) if site.shape()[1] != site.outputs() => *channels == site.shape()[1],
                    ([1, _, 1, 1], true) => {
                        return Some(Err("its file does not say whether input or output is multiplied".into()));
                    }
                    _ => return Some(Err(format!("a vector {size:?} beside a weight {:?}", site.shape()))),
                };
                (factor, on_input, Meaning::Factor)
            }
            _ => return Some(Err("its vector, or the side that it is for, is missing".into())),
        };
        let channels = if on_input { site.shape()[1] } else { site.outputs() };
        if vector.numel() as i64 != channels {
            return Some(Err(format!("a vector {:?} beside a weight {:?}", vector.size(), site.shape())));
        }
        Some(Ok(Box::new(Ia3Layer { vector, on_input, meaning })))
    }

    /// By what share each channel grows.
    fn growth(&self) -> Tensor {
        match self.meaning {
            Meaning::Growth => self.vector.shallow_clone(),
            Meaning::Factor => &self.vector - 1.0,
        }
    }

    /// Whether the layer's bias is multiplied, too.
    fn changes_bias(&self, site: &Site) -> bool {
        self.meaning == Meaning::Factor && !self.on_input && site.bias().is_some()
    }
}

/// Size of the vector in files of this form.
fn size(site: &Site, on_input: bool, form: Form) -> Vec<i64> {
    let channels = if on_input { site.shape()[1] } else { site.outputs() };
    match (site.is_convolution(), form, on_input) {
        (true, ..) => vec![1, channels, 1, 1],
        (false, Form::Kohya, _) => vec![channels],
        (false, Form::Peft, true) => vec![1, channels],
        (false, Form::Peft, false) => vec![channels, 1],
    }
}

impl AdapterLayer for Ia3Layer {
    fn added(&self, site: &Site, pass: &Pass) -> Tensor {
        let growth = as_kind(&(site.along_channels(&self.growth()) * pass.strength), pass.output.kind());
        let added = match self.on_input {
            true => site.apply(&(pass.input * growth), site.weight()),
            false if self.changes_bias(site) => pass.output * growth,
            false => site.without_bias(pass.output) * growth,
        };
        pass.drop_rows(site, added)
    }

    fn weight_delta(&self, site: &Site) -> Tensor {
        let growth = match self.on_input {
            true => site.along_columns(&self.growth()),
            false => site.along_rows(&self.growth()),
        };
        as_kind(site.weight(), Kind::Float) * growth
    }

    fn bias_delta(&self, site: &Site) -> Option<Tensor> {
        let bias = site.bias().filter(|_| self.changes_bias(site))?;
        Some(as_kind(bias, Kind::Float) * self.growth().flatten(0, -1))
    }

    fn parameters(&self) -> Vec<(LoraTensor, &Tensor)> {
        let tensor = match self.meaning {
            Meaning::Growth => LoraTensor::Ia3Growth,
            Meaning::Factor => LoraTensor::Ia3Factor,
        };
        vec![(tensor, &self.vector)]
    }

    fn factors(&self) -> Vec<&Tensor> {
        vec![&self.vector]
    }

    fn shrink(&self, ratio: &Tensor) {
        let shrunk = match self.meaning {
            Meaning::Growth => &self.vector * ratio,
            Meaning::Factor => self.growth() * ratio + 1.0,
        };
        self.vector.shallow_clone().copy_(&shrunk);
    }

    fn tensors(&self, site: &Site, form: Form) -> Result<Vec<(LoraTensor, Tensor)>, String> {
        let bias_matters = !self.on_input && site.bias().is_some();
        if form == Form::Peft && site.is_convolution() && site.shape()[1] == site.outputs() {
            return Err("PEFT's form does not say which side of this convolution is multiplied".into());
        }
        let vector = match (form, self.meaning) {
            (Form::Kohya, Meaning::Growth) | (Form::Peft, Meaning::Factor) => self.vector.detach(),
            _ if bias_matters => {
                return Err(
                    "PEFT multiplies the bias of this layer, LyCORIS leaves it, so the other form says something \
                            else"
                        .into(),
                );
            }
            (Form::Kohya, Meaning::Factor) => self.growth().detach(),
            (Form::Peft, Meaning::Growth) => self.vector.detach() + 1.0,
        };
        let vector = vector.reshape(size(site, self.on_input, form));
        Ok(match form {
            Form::Kohya => {
                let on_input = Tensor::from(i64::from(self.on_input));
                vec![(LoraTensor::Ia3Growth, vector), (LoraTensor::Ia3OnInput, on_input)]
            }
            Form::Peft => vec![(LoraTensor::Ia3Factor, vector)],
        })
    }
}
