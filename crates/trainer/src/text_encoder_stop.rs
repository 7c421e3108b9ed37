//! Text encoders that learn for the first part of a run only (`train.max_text_encoder_steps`).

use sdtrain_optimizer::ParamGroup;

/// Freezes what is trained of the text encoders: it gets no more gradients, and the optimizer leaves it alone. Whether this
/// changed anything.
pub(crate) fn stop(groups: &[ParamGroup]) -> bool {
    let mut changed = false;
    for group in groups.iter().filter(|group| network(group).starts_with("text_encoder")) {
        for (_, parameter) in &group.parameters {
            changed |= parameter.requires_grad();
            let _ = parameter.set_requires_grad(false);
        }
    }
    changed
}

/// Whether the group still learns.
pub(crate) fn learns(group: &ParamGroup) -> bool {
    group.parameters.iter().any(|(_, parameter)| parameter.requires_grad())
}

/// The network that a group is part of: the first word of its name.
fn network(group: &ParamGroup) -> &str {
    group.name.split('.').next().unwrap_or_default()
}
