//! The largest weight and gradient of each trained module: where in the network numbers got out of hand.

use crate::error::Result;
use sdtrain_optimizer::ParamGroup;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Largest absolute values; no number where one of them is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Magnitude {
    /// Of its parameters.
    #[serde(serialize_with = "also_not_finite")]
    pub weight: f64,
    /// Of their gradients, before clipping; 0 where no gradient came.
    #[serde(serialize_with = "also_not_finite")]
    pub gradient: f64,
}

/// Of all parameters of `groups`, by the name of the module that a parameter belongs to.
pub fn magnitudes(groups: &[ParamGroup]) -> Result<BTreeMap<String, Magnitude>> {
    let mut found: BTreeMap<String, Magnitude> = BTreeMap::new();
    for (name, parameter) in groups.iter().flat_map(|group| &group.parameters) {
        let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
        let gradient = parameter.grad();
        let gradient = if gradient.defined() { largest(&gradient)? } else { 0.0 };
        let weight = largest(&parameter.detach())?;
        let of_module = found.entry(module.to_owned()).or_insert(Magnitude { weight: 0.0, gradient: 0.0 });
        of_module.weight = larger(of_module.weight, weight);
        of_module.gradient = larger(of_module.gradient, gradient);
    }
    Ok(found)
}

fn largest(tensor: &Tensor) -> Result<f64> {
    Ok(sdtrain_torch::catch(|| match tensor.numel() {
        0 => 0.0,
        _ => tensor.abs().max().to_kind(Kind::Double).double_value(&[]),
    })?)
}

/// As `f64::max`, but that no number is the largest of all.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a >= b { a } else { b }
}

/// JSON has no word for what is not finite.
fn also_not_finite<S: Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match value.is_finite() {
        true => serializer.serialize_f64(*value),
        false => serializer.serialize_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_the_largest_of_its_parameters_and_no_number_is_larger_than_any() {
        let parameter = |values: &[f32], gradient: f64| {
            let parameter = Tensor::from_slice(values).set_requires_grad(true);
            (&parameter * gradient).sum(Kind::Float).backward();
            parameter
        };
        let parameters = vec![
            ("mid.norm.weight".to_owned(), parameter(&[1.0, -3.0], 0.5)),
            ("mid.norm.bias".to_owned(), parameter(&[2.0], f64::NAN)),
            ("mid.norm2.bias".to_owned(), parameter(&[0.0], f64::NEG_INFINITY)),
            ("untouched.bias".to_owned(), Tensor::from_slice(&[0.25f32]).set_requires_grad(true)),
        ];
        let group = ParamGroup { name: "unet".into(), learning_rate: 1.0, parameters };
        let found = magnitudes(&[group]).expect("tensors of this machine");
        assert_eq!(found["mid.norm"].weight, 3.0);
        assert!(found["mid.norm"].gradient.is_nan());
        assert_eq!(found["mid.norm2"], Magnitude { weight: 0.0, gradient: f64::INFINITY });
        assert_eq!(found["untouched"], Magnitude { weight: 0.25, gradient: 0.0 });
        let written = serde_json::to_value(&found).expect("plain values");
        assert_eq!(written["mid.norm"], serde_json::json!({ "weight": 3.0, "gradient": "NaN" }));
    }
}
