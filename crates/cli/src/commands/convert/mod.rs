//! `sdtrain convert`: a model, ControlNet, VAE, LoRA or learned word in another format, the numbers unchanged unless another number format is
//! asked for.

mod control_net;
mod left_out;
mod lora;
pub(crate) mod model;
mod vae;
mod words;

use sdtrain_files::say;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sdtrain_hub::Wanted;
use sdtrain_recipe::{HubName, published_name};
use sdtrain_state_dict::maps::peft_metadata;
use sdtrain_state_dict::{
    Converted, Dtype, Error as FileError, ForInpainting, FromReader, Reader, SafetensorsFile, has_averaged, open_file,
    recognise, with_averaged_unet, without_averaged_unet, write_source,
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
    check_flags(args, is_repository(&args.input)?)?;
    let input = &fetched(&args.input)?;
    check_paths(input, &args.output)?;
    if control_net::is_one(input)? {
        let left_out = control_net::convert(input, args)?;
        tell_of_result(&args.output, &left_out);
        return Ok(());
    }
    if args.to.is_model()
        && let Some(file) = vae::find(input)?
    {
        tell_of_result(&args.output, &vae::convert(file, input, args)?);
        return Ok(());
    }
    let is_folder = input.is_dir();
    if is_folder && !args.to.is_model() {
        let message = format!("`{}` is a folder, and {} is a file", args.input.display(), wanted(args.to));
        return Err(Failure::new(ExitCode::Model, message).hint("name the file in it"));
    }
    let left_out = match args.to {
        Format::SingleFile if is_folder => model::to_single_file(input, &args.output, args.dtype, args.inpainting)?,
        Format::Diffusers if is_folder => model::folder_to_folder(input, &args.output, args.dtype, args.inpainting)?,
        Format::SingleFile => {
            let file = open_file(input)?;
            let drops_mean = args.drop_ema && has_averaged(&*file);
            let is_changed = args.dtype.is_some() || args.inpainting || args.extract_ema || drops_mean;
            if !is_changed && SafetensorsFile::open(input).is_ok() && recognise(&file).is_model() {
                return Err(already(&args.input, "it is a single file of safetensors already")
                    .hint("`--dtype` writes it with other numbers, `--drop-ema` without a running mean"));
            }
            return convert_model(Arc::from(file), args);
        }
        Format::Diffusers => return convert_model(Arc::from(open_file(input)?), args),
        Format::KohyaLora | Format::PeftLora => {
            let file = with_dtype(open_file(input)?, args.dtype)?;
            let kind = recognise(&file);
            if !kind.is_adapter() {
                return Err(Failure::new(
                    ExitCode::Model,
                    format!("`{}` is a {kind}, not a LoRA", args.input.display()),
                ));
            }
            match args.to {
                Format::KohyaLora => {
                    lora::to_kohya(&file, &args.output)?;
                    Vec::new()
                }
                _ => lora::to_peft(&file, &args.output)?,
            }
        }
        Format::KohyaEmbedding | Format::DiffusersEmbedding | Format::SdxlEmbedding => {
            words::convert(&*with_dtype(open_file(input)?, args.dtype)?, args)?
        }
    };
    tell_of_result(&args.output, &left_out);
    Ok(())
}

/// Converts the whole model in `file`, a single file, as `args` says.
pub fn convert_model(file: Arc<dyn Reader>, args: &ConvertArgs) -> Result<(), Failure> {
    make_parent(&args.output)?;
    let kind = recognise(&file);
    let not_wanted = |what: &str| {
        let message = format!("`{}` is a {kind}, not {what}", args.input.display());
        Err(Failure::new(ExitCode::Model, message))
    };
    if !kind.is_model() {
        return not_wanted("a whole model");
    }
    let dropped = left_out::running_mean(&file.names()).filter(|_| args.drop_ema);
    let file = match (args.extract_ema, args.drop_ema) {
        (true, _) => with_averaged_unet(file)?,
        (false, true) => without_averaged_unet(file)?,
        (false, false) => file,
    };
    let file = with_dtype(Box::new(file), args.dtype)?;
    let file: Arc<dyn Reader> = match args.inpainting {
        true => Arc::from(Box::new(ForInpainting::new(file)?) as Box<dyn Reader>),
        false => Arc::from(file),
    };
    let left_out = match args.to {
        Format::Diffusers => model::to_folder(file, &args.output, args.tokenizer.as_deref())?,
        // All tensors under their names: nothing is left out but what the flags say.
        Format::SingleFile => {
            let mut metadata = kept_metadata(&*file);
            metadata.insert("format".to_owned(), "pt".to_owned());
            write_source(&args.output, &FromReader(&*file), &metadata)?;
            dropped.into_iter().collect()
        }
        Format::KohyaLora
        | Format::PeftLora
        | Format::KohyaEmbedding
        | Format::DiffusersEmbedding
        | Format::SdxlEmbedding => return not_wanted(wanted(args.to)),
    };
    tell_of_result(&args.output, &left_out);
    Ok(())
}

/// Says what was written, after what it cannot hold.
fn tell_of_result(output: &Path, left_out: &[String]) {
    for what in left_out {
        say!("left out: {what}");
    }
    say!("wrote `{}`", output.display());
}

/// Whether a name is that of a whole repository on the hub.
fn is_repository(input: &Path) -> Result<bool, Failure> {
    match input.to_str().filter(|text| HubName::is_one(text)) {
        Some(text) => Ok(parse(text)?.path.is_none()),
        None => Ok(false),
    }
}

/// What becomes a file of `format`, which is none of a model.
fn wanted(format: Format) -> &'static str {
    if format.is_embedding() { "a textual inversion embedding" } else { "a LoRA" }
}

/// Refuses the flags of whole models where the input is `what`, such as "a VAE".
fn refuse_flags_of_models(args: &ConvertArgs, what: &str) -> Result<(), Failure> {
    let flags = [
        ("--inpainting", args.inpainting),
        ("--extract-ema", args.extract_ema),
        ("--drop-ema", args.drop_ema),
        ("--tokenizer", args.tokenizer.is_some()),
    ];
    match flags.into_iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((flag, _)) => {
            let message = format!("`{}` is {what}, and `{flag}` is for whole models", args.input.display());
            Err(Failure::new(ExitCode::Configuration, message).hint("leave the flag out"))
        }
    }
}

/// What can be told to be wrong before anything is fetched or opened.
fn check_flags(args: &ConvertArgs, is_repository: bool) -> Result<(), Failure> {
    let refused = |message: &str| Failure::new(ExitCode::Configuration, message);
    let wanted = wanted(args.to);
    if !args.to.is_model() && args.inpainting {
        return Err(refused(&format!("`--inpainting` is for whole models: {wanted} has no input channels")));
    }
    if !args.to.is_model() && is_repository {
        let hint = format!("one file of it is named as `{}/FILE`", args.input.display());
        return Err(already(&args.input, &format!("names a whole model, not {wanted}")).hint(hint));
    }
    if !args.to.is_model()
        && let Some(dtype) = args.dtype.filter(|dtype| dtype.size() == 1)
    {
        // The scale of a LoRA lies beside its weights: an alpha of 33 would become 32.
        return Err(refused(&format!(
            "`--dtype` of 8 bits ({dtype}) is for models, ControlNets and VAEs, not {wanted}"
        ))
        .hint("4 bits of precision would change what it does; `--dtype fp16` is as small as it gets"));
    }
    if args.tokenizer.is_some() && (args.to != Format::Diffusers || is_repository || args.input.is_dir()) {
        return Err(refused("`--tokenizer` is for a single file that becomes a folder (`--to diffusers`)")
            .hint("a folder has its tokenizer inside; leave the flag out"));
    }
    let of_mean = [("--extract-ema", args.extract_ema), ("--drop-ema", args.drop_ema)];
    let Some((flag, _)) = of_mean.into_iter().find(|(_, is_set)| *is_set) else { return Ok(()) };
    if !args.to.is_model() {
        return Err(refused(&format!("`{flag}` is for whole models: {wanted} has no running mean beside it"))
            .hint("leave the flag out"));
    }
    if is_repository || args.input.is_dir() {
        return Err(refused(&format!(
            "`{flag}` is for a single file, which can have a running mean beside its weights"
        ))
        .hint("a folder has none; leave the flag out"));
    }
    if args.drop_ema && args.to == Format::Diffusers {
        return Err(refused("`--drop-ema` is for `--to single-file`: a folder never holds the running mean")
            .hint("leave the flag out, or take the mean in place of the weights with `--extract-ema`"));
    }
    Ok(())
}

/// What is to be converted, as a file or folder; what is on the hub is fetched.
fn fetched(input: &Path) -> Result<PathBuf, Failure> {
    let Some(text) = input.to_str().filter(|text| HubName::is_one(text)) else { return Ok(input.to_owned()) };
    let model = HubFiles::prepare([(text, whole_model())]);
    model.or_else(|failure| HubFiles::prepare([(text, Wanted::Vae)]).map_err(|_| failure))?.fetch()?;
    local_file(input)
}

/// The tensors of `reader` in the number format that is asked for.
fn with_dtype(reader: Box<dyn Reader>, dtype: Option<Dtype>) -> Result<Box<dyn Reader>, Failure> {
    Ok(match dtype {
        Some(dtype) => Box::new(Converted::new(reader, dtype)?),
        None => reader,
    })
}

/// The metadata of `file` that stay true in another form: hashes belong to the old bytes, and PEFT's description to its own form.
fn kept_metadata(file: &dyn Reader) -> BTreeMap<String, String> {
    let mut metadata = without_paths(file.metadata());
    metadata.retain(|key, _| !key.starts_with("sshs_") && key != peft_metadata::KEY && key != "modelspec.hash_sha256");
    metadata
}

/// The same texts, but of a whole path, as some programs leave them beside the weights of a pickle, only its last part: the result may go
/// to others.
fn without_paths(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let told = |text: &str| {
        let is_line = !text.contains('\n');
        if is_line && Path::new(text).is_absolute() {
            published_name(text)
        } else if is_line && text.get(1..3) == Some(":\\") {
            text.rsplit('\\').next().unwrap_or(text).to_owned()
        } else {
            text.to_owned()
        }
    };
    metadata.iter().map(|(key, text)| (key.clone(), told(text))).collect()
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
