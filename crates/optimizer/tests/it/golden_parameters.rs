//! The parameters that a golden file's case begins with.

use sdtrain_optimizer::ParamGroup;
use sdtrain_torch_test_support::Golden;
use tch::Tensor;

/// `input.NAME.initial.*` as one group, which trains them.
pub fn initial_group(golden: &Golden, name: &str, learning_rate: f64) -> ParamGroup {
    let prefix = format!("input.{name}.initial.");
    let initial = |parameter: &str| golden.tensor(&format!("{prefix}{parameter}")).set_requires_grad(true);
    let parameters = golden.names_under(&prefix).into_iter().map(|name| (name.to_string(), initial(name))).collect();
    ParamGroup { name: "unet".into(), learning_rate, parameters }
}

/// The same parameters, to look at what becomes of them.
pub fn parameters_of(group: &ParamGroup) -> Vec<(String, Tensor)> {
    group.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
}
