//! Errors of the crates below as what the user reads and the exit code it leads to.

use sdtrain::{ExitCode, Failure};
use sdtrain_recipe::{FloatType, OptimizerConfig, TrainConfig};
use sdtrain_trainer::Error;

/// The failure that ends a run of `config`.
pub fn of_run(error: Error, config: &TrainConfig) -> Failure {
    let hint = match &error {
        Error::NotFinite { .. } => Some(not_finite(config, false)),
        Error::WeightsNotFinite { .. } => Some(not_finite(config, true)),
        _ => None,
    };
    of(error).maybe_hint(hint)
}

/// What to do about numbers that are not finite, of the weights or of a loss or gradient: too large a step made them, or in fp16 a scale that the
/// loss does not bear or a VAE that is not made for it. The newest checkpoint may hold weights that are finite and spoil every step, so that
/// it is no good beginning.
fn not_finite(config: &TrainConfig, are_weights: bool) -> String {
    let rate = match &config.optimizer {
        OptimizerConfig::Adafactor(settings) if settings.relative_step => {
            "set `optimizer.relative_step = false` with a low `optimizer.learning_rate`"
        }
        _ => "lower `optimizer.learning_rate`",
    };
    let mut sentences = vec![rate.to_owned()];
    if config.precision.compute == FloatType::Fp16 {
        sentences[0].push_str(", or set `precision.compute` to `bf16` or `fp32`, which need no loss scale");
        sentences.push("Where the VAE overflows in fp16, `model.vae` names one that does not".to_owned());
    }
    // Steps are named where they are skipped, but for the one that ends the run, and where weights are to blame none is skipped.
    let before = match are_weights {
        true => "some steps before the one that is named",
        false => "before the first step whose loss or gradient was not finite",
    };
    sentences.push(format!(
        "Then go on from a checkpoint {before}, with `--resume PATH` and the changed keys in `checkpoint.allow_changes`, or begin \
         anew with `--resume never`"
    ));
    if config.train.fused_backward && !are_weights {
        sentences.push(
            "With `train.fused_backward` the first gradient that is not finite ends the run; without it `train.max_skipped_steps` are \
             skipped first. A checkpoint more often (`checkpoint.every_steps`) loses less"
                .to_owned(),
        );
    }
    sentences.join(". ")
}

/// The failure that `error` amounts to.
pub fn of(error: Error) -> Failure {
    let message = error.to_string();
    match error {
        Error::Data(error) => Failure::from(error),
        Error::StateDict(error) => Failure::from(error),
        Error::Config { hint, .. } => Failure::new(ExitCode::Configuration, message).maybe_hint(hint),
        Error::Model(error) => of_model(error),
        Error::Adapter(error) => of_adapter(error),
        Error::Pipeline(error) => of_pipeline(error),
        Error::Evaluate(error) => of_evaluate(error),
        Error::Scheduler(error) => Failure::new(ExitCode::Model, message).maybe_hint(error.hint()),
        Error::Checkpoint(error) => Failure::from(error),
        Error::CannotContinue { .. } => Failure::new(ExitCode::Model, message),
        Error::Torch(error) => of_torch(error),
        // What to do depends on the run.
        Error::NotFinite { .. } | Error::WeightsNotFinite { .. } => Failure::new(ExitCode::NonFinite, message),
        Error::Features(error) => of_features(error),
        Error::Storage { .. } => Failure::new(ExitCode::Storage, message),
        Error::TakenOver { .. } => Failure::new(ExitCode::FolderInUse, message)
            .hint("choose another folder with `--output`; where this run's folder was moved, it goes on there"),
        Error::Rank(_) => Failure::new(ExitCode::Rank, message)
            .hint("the same command goes on from the last checkpoint; the log of the rank that is named says more"),
        Error::RanksDiffer { .. } => Failure::new(ExitCode::Rank, message)
            .hint("start the same program with the same files and settings on every machine (`sdtrain env` shows what each is told)"),
        Error::OtherRun { .. } => Failure::new(ExitCode::Configuration, message)
            .hint(
                "give the run another `name`, move the old folder aside with `--resume never`, or go on with the changes by naming \
                 them in `checkpoint.allow_changes`",
            ),
        Error::DoesNotFit { .. } => Failure::new(ExitCode::NonFinite, message).hint(
            "the same command with `--set precision.save=fp32` (or bf16, which has the range of fp32) writes it from the last \
             checkpoint",
        ),
    }
}

/// The failure that an error of the features crate amounts to.
pub fn of_features(error: sdtrain_features::Error) -> Failure {
    use sdtrain_features::Error;
    let (message, hint) = (error.to_string(), error.hint());
    match error {
        Error::Data(error) => Failure::from(error),
        Error::Model(error) => of_model(error),
        Error::Torch(error) => of_torch(error),
        Error::LatentsNotFinite { .. } | Error::StatesNotFinite { .. } => {
            Failure::new(ExitCode::NonFinite, message).maybe_hint(hint)
        }
        Error::Cache(_) | Error::Image { .. } => Failure::new(ExitCode::Storage, message).maybe_hint(hint),
        Error::NoEncoder { .. } => Failure::new(ExitCode::Model, message).maybe_hint(hint),
    }
}

/// The failure that an error of the model crate amounts to.
pub fn of_model(error: sdtrain_model::Error) -> Failure {
    match error {
        sdtrain_model::Error::StateDict(error) => Failure::from(error),
        sdtrain_model::Error::Torch(error) => of_torch(error),
        sdtrain_model::Error::Scheduler(error) => {
            Failure::new(ExitCode::Model, error.to_string()).maybe_hint(error.hint())
        }
        sdtrain_model::Error::Tokenizer(error) => Failure::from(error),
        other => Failure::new(ExitCode::Model, other.to_string()),
    }
}

/// The failure that an error of the adapter crate amounts to.
pub fn of_adapter(error: sdtrain_adapter::Error) -> Failure {
    let hint = error.hint();
    match error {
        sdtrain_adapter::Error::StateDict(error) => Failure::from(error),
        sdtrain_adapter::Error::Torch(error) => of_torch(error),
        sdtrain_adapter::Error::NoTargets(_) => {
            Failure::new(ExitCode::Configuration, error.to_string()).maybe_hint(hint)
        }
        other => Failure::new(ExitCode::Model, other.to_string()).maybe_hint(hint),
    }
}

/// The failure that an error of the pipeline crate amounts to.
pub fn of_pipeline(error: sdtrain_pipeline::Error) -> Failure {
    let message = error.to_string();
    match error {
        sdtrain_pipeline::Error::Size { .. } | sdtrain_pipeline::Error::InitSize { .. } => {
            Failure::new(ExitCode::Configuration, message)
        }
        sdtrain_pipeline::Error::Strength { .. } => Failure::new(ExitCode::Configuration, message)
            .hint("0.5 to 0.8 keeps what the picture shows, 1 keeps next to nothing"),
        sdtrain_pipeline::Error::NoStep { .. } => {
            Failure::new(ExitCode::Configuration, message).hint("take a greater strength, or more steps")
        }
        sdtrain_pipeline::Error::NothingMasked { .. } => Failure::new(ExitCode::Configuration, message)
            .hint("a mask that was saved the other way round has to be inverted first"),
        sdtrain_pipeline::Error::NeedsPicture { .. } => Failure::new(ExitCode::Configuration, message)
            .hint("add `--init-image`, a picture that the base model made"),
        sdtrain_pipeline::Error::NeedsMask => Failure::new(ExitCode::Configuration, message)
            .hint("add `--mask`, a picture that is white where it is painted anew; white everywhere paints all of it"),
        sdtrain_pipeline::Error::NotFinite { .. } => {
            Failure::new(ExitCode::NonFinite, message).hint("compute in `bf16` or `fp32`")
        }
        sdtrain_pipeline::Error::BrokenOff => Failure::new(ExitCode::Stopped, message),
        sdtrain_pipeline::Error::Write { .. } | sdtrain_pipeline::Error::Read { .. } => {
            Failure::new(ExitCode::Storage, message)
        }
        sdtrain_pipeline::Error::Sampler(error) => {
            Failure::new(ExitCode::Configuration, message).maybe_hint(error.hint())
        }
        sdtrain_pipeline::Error::Model(error) => of_model(error),
        sdtrain_pipeline::Error::Torch(error) => of_torch(error),
    }
}

/// As [`of_pipeline`], where no configuration of a training could help.
pub fn of_drawing(error: sdtrain_pipeline::Error) -> Failure {
    let (sdtrain_pipeline::Error::Torch(torch) | sdtrain_pipeline::Error::Model(sdtrain_model::Error::Torch(torch))) =
        &error
    else {
        return of_pipeline(error);
    };
    match torch {
        sdtrain_torch::Error::OutOfMemory(_) => Failure::new(ExitCode::DeviceMemory, torch.to_string())
            .hint("draw smaller pictures (`--width`, `--height`), or compute in `--dtype bf16`"),
        _ => of_pipeline(error),
    }
}

/// The failure that an error of the evaluate crate amounts to.
pub fn of_evaluate(error: sdtrain_evaluate::Error) -> Failure {
    let message = error.to_string();
    match error {
        sdtrain_evaluate::Error::NoProduct { .. } => Failure::new(ExitCode::Configuration, message),
        sdtrain_evaluate::Error::Data(error) => Failure::from(error),
        sdtrain_evaluate::Error::Features(error) => of_features(error),
        sdtrain_evaluate::Error::Model(error) => of_model(error),
        sdtrain_evaluate::Error::Adapter(error) => of_adapter(error),
        sdtrain_evaluate::Error::Pipeline(error) => of_pipeline(error),
        sdtrain_evaluate::Error::StateDict(error) => Failure::from(error),
        sdtrain_evaluate::Error::Torch(error) => of_torch(error),
        sdtrain_evaluate::Error::Scheduler(error) => Failure::new(ExitCode::Model, message).maybe_hint(error.hint()),
        sdtrain_evaluate::Error::Storage(error) => Failure::from(error),
    }
}

/// The failure that an error of libtorch amounts to.
pub fn of_torch(error: sdtrain_torch::Error) -> Failure {
    let message = error.to_string();
    match error {
        sdtrain_torch::Error::OutOfMemory(_) => Failure::new(ExitCode::DeviceMemory, message).hint(
            "set `train.gradient_checkpointing = true`, a smaller `data.batch_size` with more \
             `train.gradient_accumulation_steps`, or `precision.compute = \"bf16\"`",
        ),
        sdtrain_torch::Error::Cuda(_) => {
            Failure::new(ExitCode::Configuration, message).hint("`--device cpu` needs no GPU")
        }
        _ => Failure::new(ExitCode::Internal, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(config: &TrainConfig, error: Error) -> String {
        let failure = of_run(error, config);
        assert_eq!(failure.code, ExitCode::NonFinite);
        failure.problems.0[0].hint.clone().expect("there is a way out")
    }

    #[test]
    fn numbers_that_are_not_finite_come_with_what_may_be_to_blame_in_this_run() {
        let of_fp16 = ["`precision.compute`", "loss scale", "VAE", "`model.vae`"];
        let of_fused = ["`train.fused_backward`", "`train.max_skipped_steps`"];
        let mut config = TrainConfig::default();
        for (compute, fused) in [(FloatType::Fp32, false), (FloatType::Fp16, false), (FloatType::Bf16, true)] {
            (config.precision.compute, config.train.fused_backward) = (compute, fused);
            let images = vec!["`images/0.png`".to_owned()];
            for (error, are_weights) in
                [(Error::NotFinite { step: 3, images }, false), (Error::WeightsNotFinite { step: 3 }, true)]
            {
                let hint = hint_of(&config, error);
                // Where weights are to blame, no step was said to be skipped.
                assert!(!are_weights || !hint.contains("skipped"), "{hint}");
                assert_eq!(hint.contains("some steps before the one that is named"), are_weights, "{hint}");
                assert!(hint.contains("lower `optimizer.learning_rate`") && hint.contains("`--resume PATH`"), "{hint}");
                let is_fp16 = compute == FloatType::Fp16;
                assert!(of_fp16.iter().all(|named| hint.contains(named) == is_fp16), "{hint}");
                let ends_with_the_first = fused && !are_weights;
                assert!(of_fused.iter().all(|named| hint.contains(named) == ends_with_the_first), "{hint}");
            }
        }
        config.optimizer = OptimizerConfig::Adafactor(Default::default());
        assert!(hint_of(&config, Error::WeightsNotFinite { step: 3 }).contains("`optimizer.relative_step = false`"));
    }
}
