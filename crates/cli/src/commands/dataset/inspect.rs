//! `sdtrain dataset inspect`: what a data set holds and what a run would make of it.

use std::fs;

use sdtrain_data_loader::{DataError, TokenWindow};
use sdtrain_dataset_report::{Depth, Inspection, Survey, html};

use super::Wanted;
use super::progress::Progress;
use crate::args::DatasetInspectArgs;
use crate::{ExitCode, Failure, print_answer};

/// Columns where the terminal does not say how many it has.
const COLUMNS: usize = 100;

pub(super) fn run(args: &DatasetInspectArgs) -> Result<(), Failure> {
    let Wanted { data, seed, bucket_step, tokenizer, token_limit, prompt_weights } =
        Wanted::of(args.folder.as_ref(), args.config.as_ref(), &args.set)?;
    let depth = if args.quick { Depth::Header } else { Depth::Pixels };
    let progress = Progress::start();
    let survey = Survey::of(&data, depth, &|done, all| progress.report(done, all))?;
    progress.end();
    let window = TokenWindow { tokenizer: &tokenizer, limit: token_limit, prompt_weights };
    let inspection = Inspection::of(&survey, depth, &data, seed, bucket_step, window)?;
    if let Some(file) = &args.html {
        let page = html::page(&inspection, &survey, &data, bucket_step)?;
        let written = match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => fs::create_dir_all(parent).and_then(|()| fs::write(file, page)),
            None => fs::write(file, page),
        };
        written.map_err(|e| Failure::new(ExitCode::Storage, format!("cannot write `{}`: {e}", file.display())))?;
    }
    print_answer(&match args.json {
        true => serde_json::to_string_pretty(&inspection).expect("texts and numbers are always JSON") + "\n",
        false => inspection.text(columns()),
    });
    if inspection.kept == 0 {
        let dropped = Vec::new();
        return Err(DataError::NothingLeft { found: inspection.found, dropped }.into());
    }
    Ok(())
}

fn columns() -> usize {
    let stated = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let real = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    stated.or_else(real).unwrap_or(COLUMNS)
}
