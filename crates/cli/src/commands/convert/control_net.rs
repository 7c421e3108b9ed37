//! ControlNets: the original names in one file, a folder of diffusers'.

use std::collections::BTreeMap;
use std::path::Path;

use sdtrain_state_dict::{
    ControlNet, FileKind, FromReader, Reader, SafetensorsFile, is_control_net_folder, open_component, open_file,
    read_json, recognise, write_network_folder, write_source,
};

use super::{already, left_out, refuse_flags_of_models, wanted, with_dtype, without_paths};
use crate::args::{ConvertArgs, Format};
use crate::{ExitCode, Failure};

/// Whether the file or folder at `input` is one.
pub(super) fn is_one(input: &Path) -> Result<bool, Failure> {
    Ok(match input.is_dir() {
        true => is_control_net_folder(input),
        false => matches!(recognise(&open_file(input)?), FileKind::ControlNet { .. }),
    })
}

/// The one at `input` as `args` says; what the result cannot hold, in words.
pub(super) fn convert(input: &Path, args: &ConvertArgs) -> Result<Vec<String>, Failure> {
    let named = args.input.display();
    refuse_flags_of_models(args, "a ControlNet")?;
    let found = open(input, args)?;
    found.report()?.into_result()?;
    // The configuration of a file is in its metadata, or was only assumed.
    let metadata = || {
        let mut metadata = without_paths(found.network.metadata());
        metadata.insert("format".to_owned(), "pt".to_owned());
        metadata.extend(input.is_dir().then(|| found.metadata()));
        metadata
    };
    match args.to {
        Format::SingleFile => {
            if args.dtype.is_none() && is_original_file(input) {
                return Err(already(&args.input, "it is a single file of safetensors already")
                    .hint("`--dtype` writes it with other numbers"));
            }
            write_source(&args.output, &FromReader(&found.to_ldm()?), &metadata())?;
        }
        Format::Diffusers if args.output.extension().is_some_and(|end| end == "safetensors") => {
            write_source(&args.output, &FromReader(&found.network), &metadata())?;
        }
        Format::Diffusers => {
            write_network_folder(&args.output, &found.config, &FromReader(&found.network), &BTreeMap::new())?;
        }
        Format::KohyaLora
        | Format::PeftLora
        | Format::KohyaEmbedding
        | Format::DiffusersEmbedding
        | Format::SdxlEmbedding => {
            let message = format!("`{named}` is a ControlNet, not {}", wanted(args.to));
            return Err(Failure::new(ExitCode::Model, message));
        }
    }
    Ok(left_out::beside_control_net(&found.others))
}

/// Its numbers have the type that is asked for.
fn open(input: &Path, args: &ConvertArgs) -> Result<ControlNet<Box<dyn Reader>>, Failure> {
    if input.is_dir() {
        let weights = open_component(input, "diffusion_pytorch_model", None)?;
        return Ok(ControlNet::new(with_dtype(weights, args.dtype)?, read_json(&input.join("config.json"))?)?);
    }
    Ok(ControlNet::of_file(with_dtype(open_file(input)?, args.dtype)?)?)
}

/// Whether nothing would change: a safetensors file with the original names and nothing beside them.
fn is_original_file(input: &Path) -> bool {
    let is_original = |file: SafetensorsFile| {
        matches!(recognise(&file), FileKind::ControlNet { diffusers: false, with_model: false, .. })
    };
    SafetensorsFile::open(input).is_ok_and(is_original)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use sdtrain_state_dict::architecture::{self, Shapes};
    use sdtrain_state_dict::{Dtype, TensorEntry, write};
    use serde_json::{Value as Json, json};

    use super::*;

    /// A folder with a very small ControlNet of SD1's kind.
    fn write_tiny(folder: &Path) -> Json {
        let config = json!({
            "_class_name": "ControlNetModel", "block_out_channels": [32, 64], "cross_attention_dim": 768,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "layers_per_block": 1,
            "conditioning_embedding_out_channels": [4, 8], "global_pool_conditions": true,
        });
        let shapes: Shapes = architecture::control_net(&config).expect("complete");
        let entry = |(index, (name, shape)): (usize, (&String, &Vec<usize>))| {
            let count = shape.iter().product::<usize>();
            let bytes = (0..count).flat_map(|at| ((at + index) as f32).to_le_bytes()).collect();
            TensorEntry { name: name.clone(), dtype: Dtype::F32, shape: shape.clone(), bytes }
        };
        let tensors: Vec<TensorEntry> = shapes.iter().enumerate().map(entry).collect();
        fs::create_dir_all(folder).expect("a writable folder");
        fs::write(folder.join("config.json"), format!("{config:#}\n")).expect("a writable folder");
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        write(&folder.join("diffusion_pytorch_model.safetensors"), &tensors, &metadata).expect("a writable folder");
        config
    }

    fn arguments(input: PathBuf, output: PathBuf, to: Format) -> ConvertArgs {
        ConvertArgs {
            input,
            output,
            to,
            extract_ema: false,
            drop_ema: false,
            tokenizer: None,
            dtype: None,
            inpainting: false,
        }
    }

    #[test]
    fn a_folder_becomes_one_file_and_the_same_folder_again() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        write_tiny(&path("before"));
        let run = |from: &str, into: &str, to: Format| {
            convert(&path(from), &arguments(path(from), path(into), to)).expect("complete")
        };
        assert_eq!(run("before", "single.safetensors", Format::SingleFile), [""; 0]);
        assert_eq!(run("single.safetensors", "after", Format::Diffusers), [""; 0]);
        for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
            let read = |folder: &str| fs::read(path(folder).join(name)).expect("written");
            assert!(read("before") == read("after"), "{name}");
        }
        // One file with diffusers' names.
        run("before", "names.safetensors", Format::Diffusers);
        run("names.safetensors", "of names", Format::Diffusers);
        for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
            let read = |folder: &str| fs::read(path(folder).join(name)).expect("written");
            assert!(read("before") == read("of names"), "{name}");
        }
        run("after", "again.safetensors", Format::SingleFile);
        let read = |name: &str| fs::read(path(name)).expect("written");
        assert!(read("single.safetensors") == read("again.safetensors"));
        let single = SafetensorsFile::open(path("single.safetensors")).expect("written");
        for name in
            ["input_hint_block.6.weight", "zero_convs.3.0.bias", "middle_block_out.0.weight", "time_embed.0.bias"]
        {
            assert!(single.info(&format!("control_model.{name}")).is_some(), "{name}");
        }
        let failure = convert(
            &path("single.safetensors"),
            &arguments(path("single.safetensors"), path("other.safetensors"), Format::SingleFile),
        );
        assert!(
            failure.expect_err("nothing would change").problems.to_string().contains("a single file of safetensors")
        );
    }

    #[test]
    fn the_whole_model_beside_it_is_left_out_and_said() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        write_tiny(&path("folder"));
        let to_file = arguments(path("folder"), path("single.safetensors"), Format::SingleFile);
        convert(&path("folder"), &to_file).expect("complete");
        let single = SafetensorsFile::open(path("single.safetensors")).expect("written");
        let tensor = |name: &str| {
            let info = single.info(name).expect("listed");
            let bytes = single.bytes(name).expect("listed").into_owned();
            TensorEntry { name: name.to_owned(), dtype: info.dtype, shape: info.shape.clone(), bytes }
        };
        let mut tensors: Vec<TensorEntry> = single.names().into_iter().map(tensor).collect();
        for name in ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.bias"] {
            tensors.push(TensorEntry { name: name.into(), dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] });
        }
        write(&path("whole.safetensors"), &tensors, single.metadata()).expect("a writable folder");
        assert!(is_one(&path("whole.safetensors")).expect("a file"));
        let to_folder = arguments(path("whole.safetensors"), path("again"), Format::Diffusers);
        let left_out = convert(&path("whole.safetensors"), &to_folder).expect("complete");
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].starts_with("2 tensors beside the ControlNet: `first_stage_model."), "{left_out:?}");
        // Alone it is as it was.
        let alone = arguments(path("whole.safetensors"), path("alone.safetensors"), Format::SingleFile);
        convert(&path("whole.safetensors"), &alone).expect("the model goes");
        let read = |name: &str| fs::read(path(name)).expect("written");
        assert!(read("alone.safetensors") == read("single.safetensors"));
    }

    #[test]
    fn what_does_not_fit_or_is_not_meant_is_refused() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        let mut config = write_tiny(&path("folder"));
        let refused = |arguments: ConvertArgs| {
            let failure = convert(&arguments.input.clone(), &arguments).expect_err("it is refused");
            failure.problems.to_string()
        };
        let to = |to: Format| arguments(path("folder"), path("out"), to);
        assert!(refused(to(Format::KohyaLora)).contains("is a ControlNet, not a LoRA"));
        let inpainting = ConvertArgs { inpainting: true, ..to(Format::Diffusers) };
        assert!(refused(inpainting).contains("`--inpainting` is for whole models"));
        config["cross_attention_dim"] = 1024.into();
        fs::write(path("folder/config.json"), config.to_string()).expect("a writable folder");
        let said = refused(to(Format::SingleFile));
        assert!(said.contains("does not fit the model") && said.contains("of the wrong shape"), "{said}");
        assert!(!path("out").exists());
    }
}
