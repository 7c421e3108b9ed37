#![doc = include_str!("../README.md")]

mod convert;
mod dataset_cache;
mod evaluate;
mod failure;
mod init_image;
mod merge;
mod sample;
mod train;

use sdtrain::args::{Cli, Command, DatasetArgs, DatasetCommand};
use sdtrain::{ExitCode, Failure, finish};

fn main() -> std::process::ExitCode {
    // Before any thread is made: each has from its maker what it lets pass.
    sdtrain_signals::refuse_large_files();
    sdtrain_torch::keep_freed_memory();
    // Those who read a number of threads say so again.
    sdtrain_torch::use_threads(None);
    finish(|| run(Cli::from_args(std::env::args_os())))
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Dataset(DatasetArgs { command: DatasetCommand::Cache(args) }) => dataset_cache::run(&args),
        _ => Err(Failure::new(
            ExitCode::Configuration,
            "`sdtrain-engine` trains, samples, evaluates, merges and converts what is built in",
        )
        .hint("call `sdtrain` instead: it knows every command")),
    }
}
