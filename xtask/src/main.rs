//! Chores of the repository: `cargo xtask <chore>`.

mod docs;
mod layers;
mod posters;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>
  docs [--check]   write docs/reference, or fail when it is not what the code says
  layers           check which crate uses which
  posters …        draw the sample images";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("docs") => docs::run(&args[1..]),
        Some("layers") => layers::run(),
        Some("posters") => posters::run(&args[1..]),
        _ => Err(USAGE.into()),
    }
}

/// The folder of the workspace.
fn repository() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}
