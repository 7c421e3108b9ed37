//! What `[precision]` must be like, and `train.fused_backward`, which is refused beside what needs all gradients at once.

use crate::check::Checker;
use crate::{FloatType, ObjectiveKind, Prior, Rounding, StoredType, TrainConfig, Words};

impl Checker<'_> {
    pub(crate) fn check_precision(&mut self, config: &TrainConfig) {
        let precision = &config.precision;
        if precision.weights == StoredType::Bf16 && precision.compute == FloatType::Fp16 {
            self.report(
                "precision.weights",
                "weights in bf16 cannot be computed with in fp16: it has not their range",
            )
            .hint = Some("set `precision.compute = \"bf16\"`".to_owned());
        }
        if precision.weights == StoredType::Fp32 && precision.rounding != Rounding::Stochastic {
            self.report("precision.rounding", "weights in fp32 are not rounded").hint =
                Some("set `precision.weights = \"bf16\"`, or leave `rounding` out".to_owned());
        }
        if config.train.fused_backward {
            self.check_fused_backward(config);
        }
    }

    fn check_fused_backward(&mut self, config: &TrainConfig) {
        const KEY: &str = "train.fused_backward";
        let train = &config.train;
        let mut refuse = |message: &str, hint: &str| self.report(KEY, message).hint = Some(hint.to_owned());
        if let Some((message, hint)) = train.fused_backward_refused() {
            refuse(message, hint);
        }
        if train.clip_norm().is_some() {
            refuse(
                "`train.fused_backward` frees each gradient before the norm of all of them is known",
                "set `train.max_grad_norm = 0`; an optimizer that clips by itself is `adafactor`",
            );
        }
        if config.precision.compute == FloatType::Fp16 {
            refuse(
                "`train.fused_backward` changes weights before it is known whether a gradient overflows, as loss scaling must",
                "set `precision.compute = \"bf16\"`",
            );
        }
        if config.optimizer.settings().needs_all_tensors() {
            let name = config.optimizer.name();
            let message = format!("`train.fused_backward`: `{name}` finds its rate from all gradients together");
            refuse(&message, "choose another `optimizer.type`, such as `adafactor`");
        }
        let two_passes =
            config.objective_kind() == ObjectiveKind::Dreambooth && config.dreambooth.prior == Prior::BasePrediction;
        if two_passes && train.gradient_checkpointing.is_on() {
            refuse(
                "`train.fused_backward`: with `dreambooth.prior = \"base_prediction\"` every block runs twice, and with gradient \
                 checkpointing its gradient comes in two parts",
                "set `train.gradient_checkpointing = \"none\"`, or `dreambooth.prior = \"class_images\"`",
            );
        }
        if config.trainable_facts().words == Words::Alone {
            refuse("`train.fused_backward` saves nothing: a few vectors are trained", "leave it out");
        }
    }
}
