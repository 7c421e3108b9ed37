#![doc = include_str!("../README.md")]

mod activations;
pub mod args;
mod class_images;
mod commands;
mod engine;
mod estimate;
mod exit_code;
mod group_rates;
mod hub_files;
mod initial_adapter;
mod learned_words;
mod less_memory;
mod lora_targets;
mod machine;
mod model_parts;
mod model_tokenizer;
mod output_folder;
mod report;
mod room;
mod trained;

pub use commands::convert::convert_model;
pub use commands::train::default_output;
pub use exit_code::ExitCode;
pub use hub_files::{local_file, model_location};
pub use less_memory::too_little_memory;
pub use report::{Failure, finish, print_answer};

use args::{Cli, Command};

/// Runs one command of the front program.
pub fn run(cli: Cli) -> Result<(), Failure> {
    // First of all, so that there is no moment in which a process could outlive the launcher that it belongs to.
    sdtrain_ranks::die_with_launcher().map_err(|error| Failure::new(ExitCode::Rank, error.to_string()))?;
    match cli.command {
        Command::Train(args) => commands::train::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Sample(args) => commands::sample::run(&args),
        Command::Evaluate(args) => commands::evaluate::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Merge(args) => commands::merge::run(&args),
        Command::Dataset(args) => commands::dataset::run(&args),
        Command::Launch(args) => commands::launch::run(&args),
        Command::Env(args) => commands::env::run(&args),
    }
}
