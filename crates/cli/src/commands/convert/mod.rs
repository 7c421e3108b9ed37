//! `sdtrain convert`: a model or LoRA in another format, the numbers unchanged.

mod lora;
pub(crate) mod model;

use std::path::Path;
use std::sync::Arc;

use sdtrain_state_dict::{
    Error as FileError, FileKind, ForInpainting, FromReader, Reader, open_file, recognise, write_source,
};

use crate::args::{ConvertArgs, Format};
use crate::engine::become_engine;
use crate::{ExitCode, Failure};

/// Converts and says what was written.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    if args.input.to_str().is_some_and(|text| text.starts_with("builtin:")) {
        // Only the engine has the weights inside.
        return Err(become_engine());
    }
    check_paths(&args.input, &args.output)?;
    let is_folder = args.input.is_dir();
    match args.to {
        Format::KohyaLora | Format::PeftLora if args.inpainting => {
            let message = "`--inpainting` is for whole models: an adapter has no input channels".to_owned();
            return Err(Failure::new(ExitCode::Configuration, message));
        }
        Format::SingleFile if is_folder => model::to_single_file(&args.input, &args.output, args.inpainting)?,
        Format::Diffusers if is_folder && args.inpainting => model::folder_for_inpainting(&args.input, &args.output)?,
        // In the format that it has.
        Format::SingleFile if args.inpainting => return convert_model(Arc::from(open_file(&args.input)?), args),
        Format::SingleFile => return Err(already(&args.input, "only a diffusers folder becomes a single file")),
        Format::Diffusers if is_folder => {
            return Err(already(&args.input, "only a single file becomes a diffusers folder"));
        }
        Format::Diffusers => return convert_model(Arc::from(open_file(&args.input)?), args),
        Format::KohyaLora | Format::PeftLora => {
            let file = open_file(&args.input)?;
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

/// Converts the whole model in `file`, a single file, as `args` says.
pub fn convert_model(file: Arc<dyn Reader>, args: &ConvertArgs) -> Result<(), Failure> {
    make_parent(&args.output)?;
    let file: Arc<dyn Reader> = if args.inpainting { Arc::new(ForInpainting::new(file)?) } else { file };
    match args.to {
        Format::Diffusers => model::to_folder(file, &args.output)?,
        Format::SingleFile => write_source(&args.output, &FromReader(&*file), file.metadata())?,
        Format::KohyaLora | Format::PeftLora => {
            let message = format!("`{}` is a whole model, not a LoRA", args.input.display());
            return Err(Failure::new(ExitCode::Model, message));
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
    make_parent(output)
}

fn make_parent(output: &Path) -> Result<(), Failure> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|source| FileError::Save { path: folder.to_path_buf(), source }.into())
}

fn already(input: &Path, message: &str) -> Failure {
    Failure::new(ExitCode::Configuration, format!("`{}`: {message}", input.display()))
}
