//! What the types cannot say about a subject and its class.

use crate::check::Checker;
use crate::{ObjectiveKind, Prior, TrainConfig};

impl Checker<'_> {
    /// `[dreambooth]`, and what it asks of `[data]`.
    pub(crate) fn check_dreambooth(&mut self, config: &TrainConfig) {
        let dreambooth = &config.dreambooth;
        self.at_least_one("dreambooth.num_class_images", Some(dreambooth.num_class_images as u64));
        self.at_least_one("dreambooth.steps", Some(u64::from(dreambooth.steps)));
        self.not_negative("dreambooth.guidance", Some(dreambooth.guidance));
        let folder = dreambooth.class_data_dir.as_ref();
        if let Some(folder) = folder.filter(|folder| folder.exists() && !folder.is_dir()) {
            let message = format!("`dreambooth.class_data_dir`: `{}` is a file, not a folder", folder.display());
            self.report("dreambooth.class_data_dir", message);
        }
        if config.objective_kind() != ObjectiveKind::Dreambooth || dreambooth.prior == Prior::None {
            return;
        }
        let prompts = dreambooth.class_prompt.all();
        if prompts.is_empty() || prompts.iter().any(|prompt| prompt.trim().is_empty()) {
            self.report("dreambooth.class_prompt", "`dreambooth.class_prompt` is empty").hint =
                Some("say what the subject is one of, as \"a photo of a dog\", or set `prior = \"none\"`".to_owned());
        }
        let own = config.data.subsets.iter().position(|subset| subset.is_regularization);
        if let (Prior::BasePrediction, Some(index)) = (dreambooth.prior, own) {
            let key = format!("data.subsets.{index}.is_regularization");
            let message =
                "regularization images have no place beside `dreambooth.prior = \"base_prediction\"`, which needs none";
            self.report(&key, message).hint =
                Some("leave the subset out, or set `dreambooth.prior = \"none\"`".to_owned());
        }
    }

    /// Whether something holds the model to the class, so that `loss.prior_loss_weight` has something to weigh.
    pub(crate) fn has_prior(config: &TrainConfig) -> bool {
        let of_method = config.objective_kind() == ObjectiveKind::Dreambooth && config.dreambooth.prior != Prior::None;
        of_method || config.data.subsets.iter().any(|subset| subset.is_regularization)
    }
}
