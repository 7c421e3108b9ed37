//! `sdtrain merge`: refuses what cannot be merged, then becomes the engine.

use std::path::Path;

use sdtrain_hub::Wanted;
use sdtrain_state_dict::{open_file, recognise};

use crate::args::{Format, MergeArgs};
use crate::engine::become_engine;
use crate::hub_files::{HubFiles, local_file, whole_model, wrong_model};
use crate::{ExitCode, Failure};

/// Comes back only with a failure.
pub(crate) fn run(args: &MergeArgs) -> Result<(), Failure> {
    let adapters = args.lora.iter().filter_map(|lora| Some((lora.path.to_str()?, Wanted::File)));
    // They are looked at before the model, which is larger, is fetched.
    HubFiles::prepare(adapters)?.fetch()?;
    if let Some(failure) = check(args).into_iter().reduce(Failure::and) {
        return Err(failure);
    }
    HubFiles::prepare(args.model.iter().map(|model| (model.as_str(), whole_model())))?.fetch()?;
    Err(become_engine())
}

/// Everything that is wrong, before half a second goes into loading libtorch.
fn check(args: &MergeArgs) -> Vec<Failure> {
    let mut failures = Vec::new();
    let wrong = |message: &str, hint: &str| Failure::new(ExitCode::Configuration, message).hint(hint);
    failures.extend(args.model.as_deref().and_then(wrong_model));
    if args.format().is_embedding() {
        let message = "`--to` names a form of learned words, and adapters are merged";
        failures.push(wrong(message, "set `--to kohya-lora` or `--to peft-lora`; `sdtrain convert` writes words"));
    }
    let folds = args.format().is_model();
    if folds && args.model.is_none() {
        let message = "a whole model can only come out where one goes in";
        failures.push(wrong(message, "name the model that the adapters become a part of with `--model`"));
    }
    if folds && (args.rank.is_some() || args.conv_rank.is_some()) {
        let message = "`--rank` and `--conv-rank` are for a merged adapter; a model takes all of the change";
        failures.push(wrong(message, "remove them, or set `--to kohya-lora`"));
    }
    if args.conv_rank.is_some() && args.rank.is_none() {
        failures.push(wrong("`--conv-rank` is set without `--rank`", "set both, or neither to lose nothing"));
    }
    if args.full_diff && (args.rank.is_some() || args.conv_rank.is_some()) {
        let message = "`--full-diff` keeps all of the change, and `--rank` a part of it";
        failures.push(wrong(message, "keep the one that is meant"));
    }
    if args.full_diff && args.format() != Format::KohyaLora {
        let message =
            "`--full-diff` writes an adapter under LyCORIS' names, which only `--to kohya-lora` has a place for";
        failures.push(wrong(message, "set `--to kohya-lora`, or remove `--full-diff`"));
    }
    for lora in &args.lora {
        if let Err(failure) = check_adapter(&lora.path, &args.output) {
            failures.push(failure);
        }
    }
    if args.format() != Format::Diffusers && args.output.is_dir() {
        let message = format!("`{}` is a folder; the result is a file", args.output.display());
        failures.push(Failure::new(ExitCode::Configuration, message));
    }
    failures
}

fn check_adapter(path: &Path, output: &Path) -> Result<(), Failure> {
    let path = &local_file(path)?;
    let kind = recognise(&open_file(path)?);
    if !kind.is_adapter() {
        return Err(Failure::new(ExitCode::Model, format!("`{}` is a {kind}, not an adapter", path.display()))
            .hint("the model that adapters become a part of is named with `--model`"));
    }
    match (path.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) if input == output => {
            let message = format!("`{}` cannot be merged onto itself", path.display());
            Err(Failure::new(ExitCode::Configuration, message).hint("name another file with `--output`"))
        }
        _ => Ok(()),
    }
}
