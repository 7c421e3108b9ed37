//! Hands over to `sdtrain-engine`, the program that computes with tensors.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::{ExitCode, Failure};

const NAME: &str = "sdtrain-engine";

/// How much libtorch's profiler says on standard error: from 0 (all) over 4 (errors) to 5 (nothing).
const PROFILER_SAYS: &str = "KINETO_LOG_LEVEL";

/// Becomes the engine, with the arguments of this very call. Comes back only when that fails.
pub(crate) fn become_engine() -> Failure {
    let engine = match path() {
        Ok(engine) => engine,
        Err(failure) => return failure,
    };
    let mut args = std::env::args_os();
    // The command that was typed: it stands in `run.json` and in lists of processes.
    let name = args.next().unwrap_or_else(|| "sdtrain".into());
    let args: Vec<OsString> = args.collect();
    let mut command = Command::new(&engine);
    if std::env::var_os(PROFILER_SAYS).is_none() {
        // Nothing: without a GPU, that there is none would be an "ERROR" line in the middle of a profile.
        command.env(PROFILER_SAYS, "5");
    }
    let error = command.arg0(name).args(args).exec();
    let message = format!("cannot start `{}`: {error}", engine.display());
    Failure::new(ExitCode::Internal, message)
}

/// The engine beside this program.
fn path() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot tell where this program lies: {error}")))?;
    let engine = this.with_file_name(NAME);
    if engine.is_file() {
        return Ok(engine);
    }
    let folder = this.parent().unwrap_or(&this).display();
    Err(Failure::new(
        ExitCode::Internal,
        format!("`{NAME}` is missing: it should lie beside this program in `{folder}`"),
    )
    .hint("`scripts/run` builds both"))
}
