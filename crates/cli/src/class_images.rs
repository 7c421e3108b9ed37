//! What `check` says about the class of a subject: the images of it that are there, and those that will be drawn.

use sdtrain_data_loader::DataReport;
use sdtrain_recipe::{ObjectiveKind, Prior, TrainConfig};

/// Nothing for a run that keeps no class. `report` is of the data without class images, which do not exist yet.
pub(crate) fn described(config: &TrainConfig, report: &DataReport) -> Option<String> {
    let dreambooth = &config.dreambooth;
    if config.objective_kind() != ObjectiveKind::Dreambooth {
        return None;
    }
    let prompts = dreambooth.class_prompt.all();
    let mut prompt = format!("\"{}\"", prompts.first()?);
    if prompts.len() > 1 {
        prompt.push_str(&format!(" and {} other prompts", prompts.len() - 1));
    }
    let weight = config.loss.prior_loss_weight;
    match dreambooth.prior {
        Prior::None => None,
        Prior::BasePrediction => Some(format!("the base's prediction for {prompt}, weight {weight}")),
        Prior::ClassImages => {
            let wanted = dreambooth.num_class_images;
            let mut text = match &dreambooth.class_data_dir {
                Some(folder) => format!("{wanted} images of {prompt} in `{}`", folder.display()),
                None => format!("{wanted} images of {prompt}"),
            };
            text.push_str(&format!(", those that are missing drawn before the first step; weight {weight}"));
            let subject = report.visits_per_epoch - report.regularization_visits;
            text.push_str(&format!(
                "\n{:<10} an epoch sees {subject} of them beside as many of the subject, and takes about twice the steps below",
                ""
            ));
            if wanted > subject {
                let times = wanted.div_ceil(subject.max(1));
                text.push_str(&format!(
                    "\n{:<10} warning: {} are never seen; {times} times the `repeats` use all of them",
                    "",
                    wanted - subject
                ));
            }
            Some(text)
        }
    }
}
