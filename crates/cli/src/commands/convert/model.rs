//! Whole models: a single file with the original names, a diffusers folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sdtrain_state_dict::maps::text_places::TextFolder;
use sdtrain_state_dict::metadata::ModelSpec;
use sdtrain_state_dict::{
    Dtype, Family, FileKind, ForInpainting, FromReader, PipelineConfigs, PipelineWeights, Reader, TensorSource,
    canonical_text_encoder, canonical_unet, canonical_vae, ldm_single_file, open_component, read_json, recognise,
    text_positions, to_ldm, write_diffusers_folder, write_source,
};
use sdtrain_tokenizer::{Misfit, PromptTokenizer, Tokenizer, reads_like_clip};
use serde_json::Value as Json;

use super::{left_out, with_dtype};
use crate::model_parts::{Networks, word_table};
use crate::{ExitCode, Failure};

/// A single file as a diffusers folder, with the tokenizer in the folder `tokenizer` where one is named; what the folder cannot hold, in
/// words.
pub(super) fn to_folder(
    file: Arc<dyn Reader>,
    folder: &Path,
    tokenizer: Option<&Path>,
) -> Result<Vec<String>, Failure> {
    let path = file.path().to_path_buf();
    let kind = recognise(&file);
    let FileKind::Ldm { family, .. } = kind else {
        let message =
            format!("`{}` is a {kind}; only a whole model in a single file becomes a diffusers folder", path.display());
        return Err(Failure::new(ExitCode::Model, message));
    };
    let parts = ldm_single_file(file.clone())?;
    let lacks = |part: &str| Failure::new(ExitCode::Model, format!("`{}` holds no {part}", path.display()));
    let vae = parts.vae.as_ref().ok_or_else(|| lacks("VAE"))?;
    match (parts.text_encoders.len(), family.text_places().len()) {
        (0, _) => return Err(lacks("text encoder")),
        (1, 2) => return Err(lacks("second text encoder")),
        _ => {}
    }
    let (configs, carried) = match embedded(file.as_ref(), family)? {
        Some((configs, tokenizers)) => (configs, Some(tokenizers)),
        None => (plain_configs(family, file.as_ref(), &parts.unet)?, None),
    };
    // What lacks a tensor must not look like a whole model from now on.
    let networks = Networks { unet: &parts.unet, vae: Some(vae), text_encoders: &parts.text_encoders };
    networks.check_fit(&path, family, &configs)?;
    let tokenizers = tokenizers_of(&path, family, &configs, tokenizer, carried)?;
    let files: Vec<_> = tokenizers.iter().map(PromptTokenizer::files).collect();
    let (unet, vae) = (FromReader(&parts.unet), FromReader(vae));
    let text_encoders: Vec<_> = parts.text_encoders.iter().map(|encoder| FromReader(&**encoder)).collect();
    let text_encoders = text_encoders.iter().map(|encoder| encoder as &dyn TensorSource).collect();
    let weights = PipelineWeights { unet: &unet, vae: &vae, text_encoders };
    write_diffusers_folder(folder, family, &configs, &files, &weights, &BTreeMap::new())?;
    Ok(left_out::of_single_file(&file.names(), &parts.leftover))
}

/// The tokenizers of the model in the single file at `path`: the one in the folder `named`, those that the file carries, or CLIP's.
fn tokenizers_of(
    path: &Path,
    family: Family,
    configs: &PipelineConfigs,
    named: Option<&Path>,
    carried: Option<Vec<PromptTokenizer>>,
) -> Result<Vec<PromptTokenizer>, Failure> {
    match (named, carried) {
        (Some(folder), _) => Ok(vec![named_tokenizer(path, family, configs, folder)?]),
        (None, Some(carried)) => Ok(carried),
        (None, None) => {
            configs.check_reads_words_of_clip(path)?;
            let tokenizer = |pad: &&str| Ok(PromptTokenizer::builtin_padded_with(pad)?);
            family.pad_tokens().iter().map(tokenizer).collect()
        }
    }
}

/// The tokenizer in `folder` for the text encoder of the single file at `path`.
fn named_tokenizer(
    path: &Path,
    family: Family,
    configs: &PipelineConfigs,
    folder: &Path,
) -> Result<PromptTokenizer, Failure> {
    let [config] = configs.text_encoders.as_slice() else {
        let message = format!("`--tokenizer`: a model of the {} family has two text encoders", family.title());
        return Err(
            Failure::new(ExitCode::Configuration, message).hint("leave the flag out: such a model keeps its own")
        );
    };
    let tokenizer = PromptTokenizer::from_folder(folder)?;
    let rows = config["vocab_size"].as_u64().map_or(usize::MAX, |rows| rows as usize);
    if let Some(misfit) = Misfit::of(&tokenizer, word_table(config, rows)).filter(Misfit::is_certain) {
        let named = format!("tokenizer in `{}`", folder.display());
        let message = format!("`{}`: {}", path.display(), misfit.in_words(&named, "text encoder"));
        return Err(Failure::new(ExitCode::Model, message).hint("`--tokenizer` names the folder of its own"));
    }
    Ok(tokenizer.at_most(text_positions(config)))
}

/// The networks of a diffusers folder and what describes them.
struct Folder {
    family: Family,
    configs: PipelineConfigs,
    unet: Box<dyn Reader>,
    vae: Box<dyn Reader>,
    text_encoders: Vec<Box<dyn Reader>>,
}

impl Folder {
    /// Its numbers have the type `dtype`, where there is one; with `for_inpainting` its UNet is made one for inpainting.
    fn open(folder: &Path, dtype: Option<Dtype>, for_inpainting: bool) -> Result<Folder, Failure> {
        let family = Family::of_supported_folder(folder)?;
        let unet = canonical_unet(open_component(&folder.join("unet"), "diffusion_pytorch_model", None)?)?;
        let vae = canonical_vae(open_component(&folder.join("vae"), "diffusion_pytorch_model", None)?)?;
        let text_encoder = |place: &TextFolder| -> Result<Box<dyn Reader>, Failure> {
            let network = canonical_text_encoder(open_component(&folder.join(place.network), "model", None)?)?;
            with_dtype(Box::new(network), dtype)
        };
        let text_encoders = family.text_folders().iter().map(text_encoder).collect::<Result<Vec<_>, Failure>>()?;
        let configs = PipelineConfigs::of_folder(folder, family)?;
        let networks = Networks { unet: &unet, vae: Some(&vae), text_encoders: &text_encoders };
        networks.check_fit(folder, family, &configs)?;
        let (configs, unet): (_, Box<dyn Reader>) = match for_inpainting {
            true => (configs.for_inpainting(), Box::new(ForInpainting::new(unet)?)),
            false => (configs, Box::new(unet)),
        };
        let (unet, vae) = (with_dtype(unet, dtype)?, with_dtype(Box::new(vae), dtype)?);
        Ok(Folder { family, configs, unet, vae, text_encoders })
    }
}

/// A diffusers folder as another one, of safetensors whatever its weights lie in; what that cannot hold, in words.
pub(super) fn folder_to_folder(
    input: &Path,
    output: &Path,
    dtype: Option<Dtype>,
    for_inpainting: bool,
) -> Result<Vec<String>, Failure> {
    let Folder { family, configs, unet, vae, text_encoders } = Folder::open(input, dtype, for_inpainting)?;
    let files = |place: &TextFolder| -> Result<_, Failure> {
        Ok(PromptTokenizer::from_folder(input.join(place.tokenizer))?.files())
    };
    let tokenizers = family.text_folders().iter().map(files).collect::<Result<Vec<_>, _>>()?;
    let (unet, vae) = (FromReader(&unet), FromReader(&vae));
    let text_encoders: Vec<_> = text_encoders.iter().map(|encoder| FromReader(&**encoder)).collect();
    let text_encoders = text_encoders.iter().map(|encoder| encoder as &dyn TensorSource).collect();
    let weights = PipelineWeights { unet: &unet, vae: &vae, text_encoders };
    write_diffusers_folder(output, family, &configs, &tokenizers, &weights, &BTreeMap::new())?;
    Ok(left_out::other_parts(&read_json(&input.join("model_index.json"))?, family))
}

/// A diffusers folder as a single file; what that cannot hold, in words.
pub(crate) fn to_single_file(
    folder: &Path,
    output: &Path,
    dtype: Option<Dtype>,
    for_inpainting: bool,
) -> Result<Vec<String>, Failure> {
    let Folder { family, configs, unet, vae, text_encoders } = Folder::open(folder, dtype, for_inpainting)?;
    let spec = ModelSpec::of_single_file(family, configs.is_v_prediction(), configs.resolution(), output);
    let mut metadata = spec.keys();
    metadata.insert("format".to_owned(), "pt".to_owned());
    let tokenizer = PromptTokenizer::from_folder(folder.join(family.text_folders()[0].tokenizer));
    // One that cannot be read is missed only where readers of the file have none for it.
    if !configs.is_plain(family) || tokenizer.as_ref().is_ok_and(|own| !reads_like_clip(own)) {
        metadata.extend(configs.to_metadata(&tokenizer?.files()));
    }
    let text_encoders: Vec<&dyn Reader> = text_encoders.iter().map(|encoder| &**encoder).collect();
    write_source(output, &FromReader(&to_ldm(family, &*unet, &*vae, &text_encoders)?), &metadata)?;
    let mut left_out = left_out::other_parts(&read_json(&folder.join("model_index.json"))?, family);
    // One that cannot be read is none that would be lost.
    let files = |place: &TextFolder| PromptTokenizer::from_folder(folder.join(place.tokenizer)).ok();
    let tokenizers: Vec<_> = family.text_folders().iter().filter_map(files).map(|found| found.files()).collect();
    left_out.extend(left_out::other_tokenizer(&tokenizers));
    Ok(left_out)
}

/// The configurations and the tokenizers that a single file carries, since it has other sizes than its family's release.
pub(crate) fn embedded(
    file: &dyn Reader,
    family: Family,
) -> Result<Option<(PipelineConfigs, Vec<PromptTokenizer>)>, Failure> {
    let Some((configs, files)) = PipelineConfigs::from_metadata(file.path(), file.metadata())? else {
        return Ok(None);
    };
    let tokenizer = |(pad, config): (&&str, &Json)| {
        Ok(PromptTokenizer::embedded(file.path(), &files, pad, text_positions(config))?)
    };
    let tokenizers = family.pad_tokens().iter().zip(&configs.text_encoders).map(tokenizer);
    let tokenizers = tokenizers.collect::<Result<_, Failure>>()?;
    Ok(Some((configs, tokenizers)))
}

/// A file without configurations must have the sizes of its family, or a reader could not know them.
fn plain_configs(family: Family, file: &dyn Reader, unet: &dyn Reader) -> Result<PipelineConfigs, Failure> {
    let shape = |name: &str| unet.info(name).map(|info| info.shape.clone()).unwrap_or_default();
    let conv_in = shape("conv_in.weight");
    // The outermost level of some families attends to nothing; the middle always does.
    let context = shape("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight");
    let width = context.get(1).copied().and_then(Family::of_text_width);
    if conv_in.first() != Some(&320) || width != Some(family) {
        let (path, title) = (file.path().display(), family.title());
        let message = format!("`{path}` has other sizes than {title} and carries no configuration");
        return Err(Failure::new(ExitCode::Model, message));
    }
    Ok(PipelineConfigs::assumed_of(file, family)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use sdtrain_state_dict::{SafetensorsFile, TensorEntry, write};

    use std::fs;
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use sdtrain_state_dict::architecture::{self, Shapes};

    /// A diffusers folder with very small networks, weights of any kind.
    pub(crate) fn write_tiny_folder(folder: &Path) {
        let mut configs = PipelineConfigs::sd1();
        let PipelineConfigs { unet, vae, text_encoders, .. } = &mut configs;
        let text_encoder = &mut text_encoders[0];
        unet["block_out_channels"] = json!([32, 64]);
        unet["down_block_types"] = json!(["CrossAttnDownBlock2D", "DownBlock2D"]);
        unet["up_block_types"] = json!(["UpBlock2D", "CrossAttnUpBlock2D"]);
        unet["layers_per_block"] = json!(1);
        unet["cross_attention_dim"] = json!(32);
        vae["block_out_channels"] = json!([32, 32]);
        vae["layers_per_block"] = json!(1);
        for (key, value) in
            [("vocab_size", 300), ("hidden_size", 32), ("intermediate_size", 64), ("num_hidden_layers", 2)]
        {
            text_encoder[key] = json!(value);
        }
        let tokenizer = PromptTokenizer::from_words(&["red", "bottle"], 77);
        let weights = tempfile::tempdir().expect("a temporary folder");
        let parts = [
            ("unet", architecture::unet(unet)),
            ("vae", architecture::vae(vae)),
            ("text_encoder", architecture::text_encoder(text_encoder)),
        ]
        .map(|(name, shapes)| {
            let path = weights.path().join(name);
            write_weights(&path, &shapes.expect("complete"));
            SafetensorsFile::open(&path).expect("it was just written")
        });
        let [unet, vae, text_encoder] = [0, 1, 2].map(|part: usize| FromReader(&parts[part]));
        let weights = PipelineWeights { unet: &unet, vae: &vae, text_encoders: vec![&text_encoder] };
        write_diffusers_folder(folder, Family::Sd1, &configs, &[tokenizer.files()], &weights, &BTreeMap::new())
            .expect("a writable folder");
    }

    fn write_weights(path: &Path, shapes: &Shapes) {
        let tensors: Vec<TensorEntry> = shapes
            .iter()
            .enumerate()
            .map(|(index, (name, shape))| {
                let count: usize = shape.iter().product();
                let bytes = (0..count).flat_map(|at| ((at + index) as f32).to_le_bytes()).collect();
                TensorEntry { name: name.clone(), dtype: Dtype::F32, shape: shape.clone(), bytes }
            })
            .collect();
        write(path, &tensors, &BTreeMap::new()).expect("a writable folder");
    }

    /// Every file below a folder with its content.
    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => all.extend(files(&path)),
                path => drop(all.insert(path.clone(), fs::read(&path).expect("a file"))),
            }
        }
        all
    }

    #[test]
    fn a_folder_becomes_one_file_and_the_same_folder_again() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (before, single, after) =
            (place.path().join("before"), place.path().join("single.safetensors"), place.path().join("after"));
        write_tiny_folder(&before);
        to_single_file(&before, &single, None, false).expect("a complete folder");
        to_folder(Arc::new(SafetensorsFile::open(&single).expect("it was just written")), &after, None)
            .expect("it carries its configurations");
        let relative = |folder: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
            let strip = |(path, content): (PathBuf, Vec<u8>)| {
                (path.strip_prefix(folder).expect("it lies in the folder").to_path_buf(), content)
            };
            files(folder).into_iter().map(strip).collect()
        };
        let (before, after) = (relative(&before), relative(&after));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (path, content) in &before {
            assert!(after[path] == *content, "{} differs", path.display());
        }
    }

    #[test]
    fn a_model_made_for_inpainting_is_the_same_from_folder_and_file() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        write_tiny_folder(&path("plain"));
        to_single_file(&path("plain"), &path("plain.safetensors"), None, false).expect("a complete folder");
        folder_to_folder(&path("plain"), &path("folder"), None, true).expect("a complete folder");
        to_single_file(&path("plain"), &path("single.safetensors"), None, true).expect("a complete folder");
        let from_file = ForInpainting::new(SafetensorsFile::open(path("plain.safetensors")).expect("written"));
        let from_file: Arc<dyn Reader> = Arc::new(from_file.expect("it has 4 channels"));
        to_folder(from_file, &path("folder of a file"), None).expect("it carries its configurations");
        to_folder(
            Arc::new(SafetensorsFile::open(path("single.safetensors")).expect("written")),
            &path("folder of both"),
            None,
        )
        .expect("it carries its configurations");
        let read = |folder: &str, name: &str| fs::read(path(folder).join(name)).expect("written");
        for other in ["folder of a file", "folder of both"] {
            for name in ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"] {
                assert!(read(other, name) == read("folder", name), "{other}: {name}");
            }
        }
        let index = read_json(&path("folder/model_index.json")).expect("written");
        assert_eq!(index["_class_name"], "StableDiffusionInpaintPipeline");
        assert_eq!(read_json(&path("folder/unet/config.json")).expect("written")["in_channels"], 9);
        let unet = open_component(&path("folder/unet"), "diffusion_pytorch_model", None).expect("written");
        assert_eq!(unet.info("conv_in.weight").expect("every UNet has it").shape, [32, 9, 3, 3]);
        let failure = folder_to_folder(&path("folder"), &path("again"), None, true).expect_err("it is one");
        assert!(failure.problems.to_string().contains("is made for inpainting already"));
    }

    #[test]
    fn a_folder_becomes_another_one_with_other_numbers_and_for_inpainting() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        write_tiny_folder(&path("plain"));
        let left_out = folder_to_folder(&path("plain"), &path("same"), None, false).expect("a complete folder");
        assert_eq!(left_out, [""; 0]);
        let content = |folder: &str| files(&path(folder)).into_values().collect::<Vec<_>>();
        assert!(content("same") == content("plain"));
        folder_to_folder(&path("plain"), &path("half"), Some(Dtype::Bf16), true).expect("a complete folder");
        let unet = open_component(&path("half/unet"), "diffusion_pytorch_model", None).expect("written");
        let first = unet.info("conv_in.weight").expect("every UNet has it");
        assert_eq!((first.dtype, &first.shape[..]), (Dtype::Bf16, &[32, 9, 3, 3][..]));
        let mut index = read_json(&path("plain/model_index.json")).expect("written");
        index["safety_checker"] = json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
        fs::write(path("plain/model_index.json"), index.to_string()).expect("a writable folder");
        for left_out in [
            folder_to_folder(&path("plain"), &path("same"), None, false).expect("a complete folder"),
            to_single_file(&path("plain"), &path("single.safetensors"), None, false).expect("a complete folder"),
        ] {
            assert_eq!(left_out, ["`safety_checker` of the folder: nothing here reads it"]);
        }
    }

    #[test]
    fn a_single_file_says_what_it_is_and_what_it_predicts() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, single) = (place.path().join("folder"), place.path().join("single.safetensors"));
        write_tiny_folder(&folder);
        to_single_file(&folder, &single, None, false).expect("a complete folder");
        let file = SafetensorsFile::open(&single).expect("it was just written");
        let said = file.metadata().iter().filter_map(|(key, value)| Some((key.strip_prefix("modelspec.")?, &**value)));
        assert_eq!(
            said.collect::<Vec<(&str, &str)>>(),
            [
                ("architecture", "stable-diffusion-v1"),
                ("implementation", "https://github.com/Stability-AI/generative-models"),
                ("prediction_type", "epsilon"),
                // Latents of 64, of a VAE that halves once.
                ("resolution", "128x128"),
                ("sai_model_spec", "1.0.1"),
                ("title", "single"),
            ]
        );
        let mut unet = read_json(&folder.join("unet/config.json")).expect("written");
        unet["use_linear_projection"] = json!(true);
        unet["sample_size"] = json!([64, 48]);
        fs::write(folder.join("unet/config.json"), unet.to_string()).expect("a writable folder");
        let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
        write_weights(&weights, &architecture::unet(&unet).expect("complete"));
        for (prediction_type, said, architecture) in
            [("epsilon", "epsilon", "stable-diffusion-v2-512"), ("v_prediction", "v", "stable-diffusion-v2-768-v")]
        {
            let scheduler = json!({"prediction_type": prediction_type}).to_string();
            fs::write(folder.join("scheduler/scheduler_config.json"), scheduler).expect("a writable folder");
            to_single_file(&folder, &single, None, false).expect("a complete folder");
            let file = SafetensorsFile::open(&single).expect("it was just written");
            assert_eq!(file.metadata()["modelspec.prediction_type"], said);
            assert_eq!(file.metadata()["modelspec.architecture"], architecture);
            assert!(!file.metadata().contains_key("modelspec.resolution"), "it is no square");
        }
    }

    #[test]
    fn a_folder_that_is_something_else_is_not_replaced() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, single) = (place.path().join("folder"), place.path().join("single.safetensors"));
        write_tiny_folder(&folder);
        to_single_file(&folder, &single, None, false).expect("a complete folder");
        let photos = place.path().join("photos");
        fs::create_dir(&photos).expect("a new folder");
        fs::write(photos.join("holiday.jpg"), "x").expect("a new file");
        let failure = to_folder(Arc::new(SafetensorsFile::open(&single).expect("written")), &photos, None)
            .expect_err("photos are no model");
        assert_eq!(failure.code, ExitCode::Storage);
        assert!(photos.join("holiday.jpg").exists());
    }

    #[test]
    fn a_model_that_lacks_a_tensor_is_not_converted() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        write_tiny_folder(&path("folder"));
        to_single_file(&path("folder"), &path("whole.safetensors"), None, false).expect("a complete folder");
        let whole = SafetensorsFile::open(path("whole.safetensors")).expect("it was just written");
        let entry = |name: &str| TensorEntry {
            name: name.to_owned(),
            dtype: whole.info(name).expect("listed").dtype,
            shape: whole.info(name).expect("listed").shape.clone(),
            bytes: whole.bytes(name).expect("listed").into_owned(),
        };
        let lost = ["model.diffusion_model.time_embed.0.bias", "first_stage_model.quant_conv.bias"];
        let kept = whole.names().into_iter().filter(|name| !lost.contains(name)).map(entry);
        write(&path("some.safetensors"), &kept.collect::<Vec<_>>(), whole.metadata()).expect("a writable folder");
        let some = Arc::new(SafetensorsFile::open(path("some.safetensors")).expect("it was just written"));
        let said = to_folder(some, &path("out"), None).expect_err("two are missing").problems.to_string();
        for words in ["2 missing", "unet/time_embedding.linear_1.bias", "vae/quant_conv.bias"] {
            assert!(said.contains(words), "`{words}` is not in\n{said}");
        }
        let mut vae = read_json(&path("folder/vae/config.json")).expect("written");
        vae["layers_per_block"] = json!(2);
        fs::write(path("folder/vae/config.json"), vae.to_string()).expect("a writable folder");
        for said in [
            to_single_file(&path("folder"), &path("out"), None, false).expect_err("a layer is missing"),
            folder_to_folder(&path("folder"), &path("out"), None, false).expect_err("a layer is missing"),
        ] {
            assert!(said.problems.to_string().contains("missing: vae/decoder."), "{}", said.problems);
        }
        assert!(!path("out").exists());
    }

    #[test]
    fn a_small_file_without_configurations_is_refused() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, single) = (place.path().join("folder"), place.path().join("single.safetensors"));
        write_tiny_folder(&folder);
        to_single_file(&folder, &single, None, false).expect("a complete folder");
        let bare = place.path().join("bare.safetensors");
        let file = SafetensorsFile::open(&single).expect("written");
        write_source(&bare, &FromReader(&file), &BTreeMap::new()).expect("a writable folder");
        let failure =
            to_folder(Arc::new(SafetensorsFile::open(&bare).expect("written")), &place.path().join("out"), None)
                .expect_err("nobody could know its sizes");
        assert!(failure.problems.to_string().contains("has other sizes than SD1 and carries no configuration"));
        assert!(!place.path().join("out").exists() && !place.path().join(".out.partial").exists());
    }
}
