//! `sdtrain convert`: a model or LoRA in another format, the numbers unchanged.

mod lora;
pub(crate) mod model;
mod sd1;

use std::path::Path;
use std::sync::Arc;

use sdtrain_state_dict::{Error as FileError, FileKind, SafetensorsFile, recognise};

use crate::args::{ConvertArgs, Format};
use crate::{ExitCode, Failure};

/// Converts and says what was written.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    check_paths(&args.input, &args.output)?;
    match args.to {
        Format::SingleFile if args.input.is_dir() => model::to_single_file(&args.input, &args.output)?,
        Format::SingleFile => return Err(already(&args.input, "only a diffusers folder becomes a single file")),
        Format::Diffusers if args.input.is_dir() => {
            return Err(already(&args.input, "only a single file becomes a diffusers folder"));
        }
        Format::Diffusers => model::to_folder(Arc::new(SafetensorsFile::open(&args.input)?), &args.output)?,
        Format::KohyaLora | Format::PeftLora => {
            let file = SafetensorsFile::open(&args.input)?;
            let kind = recognise(&file);
            if !matches!(kind, FileKind::KohyaLora { .. } | FileKind::PeftLora { .. }) {
                return Err(Failure::new(
                    ExitCode::Model,
                    format!("`{}` is a {kind}, not a LoRA", args.input.display()),
                ));
            }
            match args.to {
                Format::KohyaLora => lora::to_kohya(&file, &args.output)?,
                _ => lora::to_peft(&file, &args.output)?,
            }
        }
    }
    eprintln!("wrote `{}`", args.output.display());
    Ok(())
}

fn check_paths(input: &Path, output: &Path) -> Result<(), Failure> {
    let refused = |message: String| Err(Failure::new(ExitCode::Configuration, message));
    if !input.exists() {
        return refused(format!("`{}` does not exist", input.display()));
    }
    if let (Ok(input), Ok(output)) = (input.canonicalize(), output.canonicalize())
        && input == output
    {
        return refused(format!("`{}` cannot be converted onto itself", input.display()));
    }
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|source| FileError::Save { path: folder.to_path_buf(), source }.into())
}

fn already(input: &Path, message: &str) -> Failure {
    Failure::new(ExitCode::Configuration, format!("`{}`: {message}", input.display()))
}
