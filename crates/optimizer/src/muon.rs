//! Muon: momentum made orthogonal by a Newton-Schulz iteration (Jordan et al. 2024,
//! <https://kellerjordan.github.io/posts/muon/>), in the order of `torch.optim.Muon`; AdamW for what is no matrix.

use crate::adamw::AdamW;
use crate::update::{Commit, Slot, device_of, run, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::{MuonAdjustment, MuonConfig};
use sdtrain_torch::Result;
use tch::{Kind, Tensor};

/// Muon over groups of parameters.
pub(crate) struct Muon {
    config: MuonConfig,
    groups: Vec<ParamGroup>,
    /// The groups with their matrices alone.
    matrices: Vec<ParamGroup>,
    momenta: Slot,
    /// Over the groups with everything else.
    rest: AdamW,
    /// Of the iteration: bf16 as in the reference, but for a test.
    iterated_in: Kind,
}

impl Muon {
    pub fn new(config: &MuonConfig, groups: Vec<ParamGroup>) -> Muon {
        let part = |matrices: bool| -> Vec<ParamGroup> {
            let of_group = |group: &ParamGroup| ParamGroup {
                name: group.name.clone(),
                learning_rate: group.learning_rate,
                parameters: group
                    .parameters
                    .iter()
                    .filter(|(name, parameter)| MuonConfig::is_matrix(name, parameter.dim()) == matrices)
                    .map(|(name, parameter)| (name.clone(), parameter.shallow_clone()))
                    .collect(),
            };
            groups.iter().map(of_group).collect()
        };
        let matrices = part(true);
        Muon {
            config: config.clone(),
            momenta: Slot::zeros("momentum", &matrices),
            matrices,
            rest: AdamW::new(&config.adamw, part(false)),
            iterated_in: Kind::BFloat16,
            groups,
        }
    }

    fn adjusted(&self, rate: f64, parameter: &Tensor) -> f64 {
        let (rows, columns) = parameter.size2().map_or((1.0, 1.0), |(rows, columns)| (rows as f64, columns as f64));
        match self.config.adjust_learning_rate {
            MuonAdjustment::Original => rate * (rows / columns).max(1.0).sqrt(),
            MuonAdjustment::MatchRmsAdamw => rate * 0.2 * rows.max(columns).sqrt(),
        }
    }

    /// Brings all singular values of a matrix near to 1. In bf16 as in the reference: the iteration is made to bear it.
    fn orthogonal(&self, matrix: &Tensor) -> Tensor {
        let [a, b, c] = self.config.ns_coefficients;
        let size = matrix.size();
        let is_tall = size[0] > size[1];
        let matrix = matrix.to_kind(self.iterated_in);
        let mut matrix = if is_tall { matrix.tr() } else { matrix };
        matrix = (&matrix / matrix.norm().clamp_min(self.config.eps)).unsqueeze(0);
        for _ in 0..self.config.ns_steps {
            let gram = matrix.matmul(&matrix.transpose(1, 2));
            let polynomial = gram.baddbmm(&gram, &gram, b, c);
            matrix = matrix.baddbmm(&polynomial, &matrix, a, 1.0);
        }
        let matrix = matrix.squeeze_dim(0);
        if is_tall { matrix.tr() } else { matrix }.to_kind(Kind::Float)
    }
}

impl Optimizer for Muon {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        run(|| {
            let commit = Commit::new(found_inf, device_of(&self.groups));
            let MuonConfig { momentum, nesterov, weight_decay, .. } = self.config;
            for update in updates(&self.matrices) {
                let rate = learning_rates[update.group];
                let (parameter, gradient) = (&update.parameter, &update.gradient);
                let mean = self.momenta[update.index].lerp(gradient, 1.0 - momentum);
                let direction = if nesterov { gradient.lerp(&mean, momentum) } else { mean.shallow_clone() };
                let change = self.orthogonal(&direction) * self.adjusted(rate, parameter);
                commit.write(parameter, &(parameter * (1.0 - rate * weight_decay) - change));
                commit.write(&self.momenta[update.index], &mean);
            }
        })?;
        let rates: Vec<f64> = learning_rates.iter().map(|rate| rate * self.config.rate_of_rest()).collect();
        self.rest.step(&rates, found_inf)
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.momenta.named(&self.matrices).chain(self.rest.state()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_recipe::OptimizerConfig;
    use sdtrain_torch::set_gradient;
    use sdtrain_torch_test_support::{Golden, assert_near};

    #[test]
    fn rows_that_are_looked_up_are_no_matrix() {
        let table = Tensor::zeros([3, 8], (Kind::Float, tch::Device::Cpu));
        for (name, expected) in [
            ("unet.mid_block.attentions.0.proj_in.weight", true),
            ("text_encoder.text_model.embeddings.token_embedding.weight", false),
            ("text_encoder.embeddings.word_embeddings.weight", false),
            ("text_encoder.learned_tokens.snorp", false),
        ] {
            let group =
                ParamGroup { name: "part".into(), learning_rate: 1.0, parameters: vec![(name.into(), table.copy())] };
            let kept: Vec<String> =
                Muon::new(&MuonConfig::default(), vec![group]).state().into_iter().map(|(slot, _)| slot).collect();
            assert_eq!(kept.contains(&format!("momentum.{name}")), expected, "{name}: {kept:?}");
        }
    }

    /// The reference's own code, whose conversion to bf16 was left out. In bf16 the same steps differ between instruction sets.
    #[test]
    fn fifty_steps_match_the_reference_where_both_iterate_in_fp32() {
        let golden = Golden::open("optimizer_muon.safetensors");
        let coefficients = golden.tensor("input.coefficients");
        for (name, case) in golden.config().as_object().expect("settings by case") {
            let config: OptimizerConfig = serde_json::from_value(case["optimizer"].clone()).expect("our own settings");
            let OptimizerConfig::Muon(config) = config else { panic!("{name} is of another optimizer") };
            let rates: Vec<f64> = serde_json::from_value(case["rates"].clone()).expect("a rate for each step");
            let kept: Vec<usize> = serde_json::from_value(case["kept"].clone()).expect("numbers of steps");
            let prefix = format!("input.{name}.initial.");
            let initial = |parameter: &str| golden.tensor(&format!("{prefix}{parameter}")).set_requires_grad(true);
            let parameters: Vec<(String, Tensor)> =
                golden.names_under(&prefix).into_iter().map(|name| (name.to_string(), initial(name))).collect();
            let same = parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
            let group = ParamGroup { name: "unet".into(), learning_rate: config.learning_rate, parameters: same };
            let mut optimizer = Muon::new(&config, vec![group]);
            optimizer.iterated_in = Kind::Float;
            for (step, &rate) in rates.iter().enumerate() {
                for (parameter, tensor) in &parameters {
                    let part = |part: &str, at: i64| {
                        let direction = golden.tensor(&format!("input.{name}.{part}.{parameter}"));
                        direction * coefficients.get(step as i64).get(at)
                    };
                    set_gradient(tensor, Some(&(part("a", 0) + part("b", 1)))).expect("it fits");
                }
                optimizer.step(&[rate], None).expect("a step");
                let Some(at) = kept.iter().position(|&kept| kept == step + 1) else { continue };
                for (parameter, tensor) in &parameters {
                    let expected = golden.tensor(&format!("output.{name}.in_fp32.{parameter}")).get(at as i64);
                    assert_near(&format!("{name}, step {step}: {parameter}"), tensor, &expected, 1e-5);
                }
            }
        }
    }
}
