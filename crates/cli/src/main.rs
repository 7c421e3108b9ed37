//! Parses the arguments, runs the command, prints an error once, ends with its exit code.

use sdtrain::args::Cli;
use sdtrain::{finish, run};

fn main() -> std::process::ExitCode {
    sdtrain_signals::refuse_large_files();
    finish(|| run(Cli::from_args(std::env::args_os())))
}
