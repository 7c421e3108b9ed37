//! `sdtrain convert` of a built-in model, whose weights are inside this program alone.

use crate::failure::of_model;
use sdtrain::args::ConvertArgs;
use sdtrain::{ExitCode, Failure, convert_model};
use std::sync::Arc;

pub fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let Some(name) = args.input.to_str().and_then(|text| text.strip_prefix("builtin:")) else {
        let message = format!("`sdtrain-engine` converts built-in models only, not `{}`", args.input.display());
        return Err(Failure::new(ExitCode::Configuration, message).hint("call `sdtrain convert`"));
    };
    let file = sdtrain_model::open_builtin(name).map_err(of_model)?;
    convert_model(Arc::new(file), args)
}
