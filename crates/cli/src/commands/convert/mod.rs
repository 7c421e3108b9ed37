//! `sdtrain convert`: a model or LoRA in another format, the numbers unchanged unless another number format is asked for.

mod lora;
pub(crate) mod model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sdtrain_recipe::{FloatType, HubName};
use sdtrain_state_dict::{
    Converted, Dtype, Error as FileError, FileKind, ForInpainting, FromReader, Reader, open_file, recognise,
    with_averaged_unet, write_source,
};

use crate::args::{ConvertArgs, Format};
use crate::engine::become_engine;
use crate::hub_files::{HubFiles, local_file, parse, whole_model};
use crate::{ExitCode, Failure};

/// Converts and says what was written.
pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    if args.input.to_str().is_some_and(|text| text.starts_with("builtin:")) {
        // Only the engine has the weights inside.
        return Err(become_engine());
    }
    let input = &fetched(&args.input, args.to)?;
    check_paths(input, &args.output)?;
    let refused = |message: &str| Err(Failure::new(ExitCode::Configuration, message));
    if args.extract_ema && args.to != Format::Diffusers {
        return refused("`--extract-ema` is for a single file that becomes a folder (`--to diffusers`)");
    }
    let is_folder = input.is_dir();
    match args.to {
        Format::KohyaLora | Format::PeftLora if args.inpainting => {
            return refused("`--inpainting` is for whole models: an adapter has no input channels");
        }
        Format::SingleFile if is_folder => {
            model::to_single_file(input, &args.output, args.dtype, args.inpainting)?;
        }
        Format::Diffusers if is_folder && args.inpainting && args.dtype.is_none() => {
            model::folder_for_inpainting(input, &args.output)?;
        }
        // In the format that it has.
        Format::SingleFile if args.inpainting => return convert_model(Arc::from(open_file(input)?), args),
        Format::SingleFile => file_to_single_file(args, input)?,
        Format::Diffusers if is_folder => {
            return Err(already(&args.input, "only a single file becomes a diffusers folder"));
        }
        Format::Diffusers => {
            let file: Arc<dyn Reader> = Arc::from(open_file(input)?);
            return convert_model(if args.extract_ema { with_averaged_unet(file)? } else { file }, args);
        }
        Format::KohyaLora | Format::PeftLora => {
            let file = opened(input, args.dtype)?;
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
    let file = with_dtype(file, args.dtype)?;
    let file = match args.inpainting {
        true => Arc::from(Box::new(ForInpainting::new(file)?) as Box<dyn Reader>),
        false => file,
    };
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

/// What is to be converted, as a file or folder; what is on the hub is fetched, unless it would be of no use.
fn fetched(input: &Path, to: Format) -> Result<PathBuf, Failure> {
    let Some(text) = input.to_str().filter(|text| HubName::is_one(text)) else { return Ok(input.to_owned()) };
    let is_whole = parse(text)?.path.is_none();
    if is_whole && to != Format::SingleFile {
        return Err(already(input, "names a diffusers model, which becomes a single file")
            .hint(format!("one file of it is named as `{text}/FILE`")));
    }
    HubFiles::prepare([(text, whole_model())])?.fetch()?;
    local_file(input)
}

/// A model in one file, of PyTorch or with other numbers, as one safetensors file: all its tensors under their names.
fn file_to_single_file(args: &ConvertArgs, input: &Path) -> Result<(), Failure> {
    let file = opened(input, args.dtype)?;
    let kind = recognise(&file);
    if !kind.is_model() {
        let message = format!("`{}` is a {kind}, not a whole model", args.input.display());
        return Err(Failure::new(ExitCode::Model, message));
    }
    let is_pickle = sdtrain_state_dict::SafetensorsFile::open(input).is_err();
    if !is_pickle && args.dtype.is_none() {
        return Err(already(&args.input, "it is a single file of safetensors already")
            .hint("`--dtype` writes it with other numbers"));
    }
    let mut metadata = file.metadata().clone();
    metadata.insert("format".to_owned(), "pt".to_owned());
    Ok(write_source(&args.output, &FromReader(&file), &metadata)?)
}

fn opened(input: &Path, dtype: Option<FloatType>) -> Result<Arc<dyn Reader>, Failure> {
    with_dtype(Arc::from(open_file(input)?), dtype)
}

/// The tensors of `reader` in the number format that is asked for.
fn with_dtype(reader: Arc<dyn Reader>, dtype: Option<FloatType>) -> Result<Arc<dyn Reader>, Failure> {
    Ok(match dtype {
        Some(dtype) => Arc::from(Box::new(Converted::new(reader, file_type(dtype))?) as Box<dyn Reader>),
        None => reader,
    })
}

/// What a file calls a number format.
fn file_type(dtype: FloatType) -> Dtype {
    match dtype {
        FloatType::Fp32 => Dtype::F32,
        FloatType::Bf16 => Dtype::Bf16,
        FloatType::Fp16 => Dtype::F16,
    }
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
