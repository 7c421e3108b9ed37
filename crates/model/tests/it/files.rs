//! A model out of a diffusers folder and out of a single file, and into both.

use sdtrain_diffusion::PredictionType;
use sdtrain_model::{Frozen, LoadOptions, Parameters, PromptReading, StableDiffusion, load, read_tensor};
use sdtrain_state_dict::{
    Dtype, Family, ForInpainting, FromReader, Joined, PipelineConfigs, Reader, SafetensorsFile, TensorEntry, read_json,
    sd2_predicts_noise, write, write_source, write_to,
};
use sdtrain_tokenizer::Tokenizer;
use sdtrain_torch_test_support::{
    assert_equal, assert_near, fixture_folder, write_editing_folder, write_inpainting_folder,
};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

fn options() -> LoadOptions {
    LoadOptions::new(Device::Cpu, Kind::Float)
}

fn loaded(path: &Path, options: &LoadOptions) -> StableDiffusion {
    let loaded = load(path.to_str().expect("paths of tests are plain"), options);
    loaded.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn refused(path: &Path, options: &LoadOptions) -> String {
    match load(path.to_str().expect("paths of tests are plain"), options) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error.to_string(),
    }
}

/// The tiny models of all families.
const TINY: [&str; 3] = ["tiny_sd1", "tiny_sd2", "tiny_sdxl"];
/// Those of SD1's shape with other text encoders or vocabularies, and SDXL's refiner, which have no single file of other programs beside them.
const FOLDERS_ALONE: [&str; 4] = ["tiny_taiyi", "tiny_pai", "tiny_japanese", "tiny_sdxl_refiner"];

fn tiny_folder() -> StableDiffusion {
    loaded(&fixture_folder().join("tiny_sd1"), &options())
}

/// UNet, VAE and the first text encoder.
fn networks(model: &StableDiffusion) -> [(&'static str, &Parameters); 3] {
    let all = model.networks();
    [all[0], all[1], all[2]]
}

/// Same parameters, same configurations, same tokenizer.
fn assert_same_model(found: &StableDiffusion, expected: &StableDiffusion) {
    assert_eq!(found.networks().len(), expected.networks().len());
    for ((network, found), (_, expected)) in found.networks().into_iter().zip(expected.networks()) {
        assert_eq!(found.iter().count(), expected.iter().count(), "{network}: number of parameters");
        for (name, tensor) in expected.iter() {
            let found = found.get(name).unwrap_or_else(|| panic!("{network}.{name} is missing"));
            assert_equal(&format!("{network}.{name}"), found, tensor);
        }
    }
    let (found_configs, configs) = (found.configs(), expected.configs());
    assert_eq!(found_configs.unet, configs.unet);
    assert_eq!(found_configs.vae, configs.vae);
    assert_eq!(found_configs.text_encoders, configs.text_encoders);
    assert_eq!(found_configs.zeros_for_empty_prompt, configs.zeros_for_empty_prompt);
    assert_eq!(found_configs.scheduler.to_json(), configs.scheduler.to_json());
    for (found, expected) in found.text_encoders.iter().zip(&expected.text_encoders) {
        for prompt in ["a poster with a red bottle", "一只红色的瓶子，油画", "赤いボトル、油絵"] {
            assert_eq!(found.tokenizer.encode(prompt), expected.tokenizer.encode(prompt));
        }
        assert_eq!(found.tokenizer.files(), expected.tokenizer.files());
    }
}

#[test]
fn a_folder_and_a_single_file_of_one_model_are_equal() {
    for name in TINY {
        let folder = fixture_folder().join(name);
        let single = LoadOptions { config: Some(folder.clone()), ..options() };
        let file = fixture_folder().join(format!("{name}.safetensors"));
        assert_same_model(&loaded(&file, &single), &loaded(&folder, &options()));
    }
}

#[test]
fn a_model_knows_the_side_of_the_pictures_that_it_was_made_for() {
    // 16 latents of 4 pixels each.
    assert_eq!(tiny_folder().resolution(), Some(64));
}

#[test]
fn a_saved_folder_loads_as_the_same_model() {
    for name in TINY.into_iter().chain(FOLDERS_ALONE) {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (model, folder) = (loaded(&fixture_folder().join(name), &options()), scratch.path().join("model"));
        model.save_folder(&folder, None, &BTreeMap::new()).expect("there is room");
        assert_same_model(&loaded(&folder, &options()), &model);
        // Saving over it replaces it and leaves nothing else behind.
        model.save_folder(&folder, None, &BTreeMap::new()).expect("there is room");
        assert_eq!(std::fs::read_dir(scratch.path()).expect("it exists").count(), 1);
    }
}

#[test]
fn a_saved_single_file_describes_itself_and_loads_as_the_same_model() {
    for name in TINY.into_iter().chain(FOLDERS_ALONE) {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let model = loaded(&fixture_folder().join(name), &options());
        let path = scratch.path().join("model.safetensors");
        let metadata = BTreeMap::from([("modelspec.title".to_string(), "a test".to_string())]);
        model.save_single_file(&path, None, &metadata).expect("there is room");
        assert_same_model(&loaded(&path, &options()), &model);
        let file = SafetensorsFile::open(&path).expect("it was just written");
        assert_eq!(file.metadata()["modelspec.title"], "a test");
        if FOLDERS_ALONE.contains(&name) {
            continue;
        }
        // The same names and shapes as the file that was written beside diffusers.
        let theirs = fixture_folder().join(format!("{name}.safetensors"));
        let theirs = SafetensorsFile::open(theirs).expect("a fixture");
        assert_eq!(file.names(), theirs.names());
        for name in file.names() {
            let (ours, theirs) = (file.info(name).expect("listed"), theirs.info(name).expect("listed"));
            assert_eq!(ours.shape, theirs.shape, "{name}");
        }
    }
}

/// That `model` is the same again from `folder` and from a single file beside it, and that diffusers is told the class of pipeline whose
/// name ends in `class_end`.
fn assert_saved_in_both_forms(model: &StableDiffusion, folder: &Path, class_end: &str) {
    let single = folder.with_extension("safetensors");
    model.save_single_file(&single, None, &BTreeMap::new()).expect("there is room");
    assert_same_model(&loaded(&single, &options()), model);
    model.save_folder(folder, None, &BTreeMap::new()).expect("there is room");
    assert_same_model(&loaded(folder, &options()), model);
    let class = read_json(&folder.join("model_index.json")).expect("written")["_class_name"].clone();
    assert!(class.as_str().is_some_and(|class| class.ends_with(class_end)), "{class}");
}

#[test]
fn a_model_for_inpainting_is_saved_as_it_was_loaded() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| scratch.path().join(name);
    for name in TINY {
        write_inpainting_folder(name, &path(name));
        let model = loaded(&path(name), &options());
        assert!(model.takes_mask());
        assert_saved_in_both_forms(&model, &path(&format!("{name} again")), "InpaintPipeline");
    }
}

#[test]
fn a_model_for_editing_is_loaded_from_either_form_saved_and_not_drawn_with() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| scratch.path().join(name);
    for name in TINY {
        write_editing_folder(name, &path(name));
        let model = loaded(&path(name), &options());
        assert_eq!(model.unet.parameters().get("conv_in.weight").expect("every UNet has it").size()[1], 8);
        assert!(!model.takes_mask());
        let said = model.check_input().unwrap_err().to_string();
        assert!(said.contains("is a model for editing by instruction (InstructPix2Pix)"), "{said}");
        assert_saved_in_both_forms(&model, &path(&format!("{name} again")), "InstructPix2PixPipeline");
    }
    assert!(tiny_folder().check_input().is_ok());
}

#[test]
fn a_model_made_for_inpainting_predicts_as_before_whatever_the_mask() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    for name in TINY {
        let file = SafetensorsFile::open(fixture_folder().join(format!("{name}.safetensors"))).expect("a fixture");
        let path = scratch.path().join(format!("{name}.safetensors"));
        let wider = ForInpainting::new(file).expect("it has 4 channels");
        write_source(&path, &FromReader(&wider), wider.metadata()).expect("there is room");
        let config = Some(fixture_folder().join(name));
        // The file of the fixture carries no configuration: that of its folder, with the channels of the file.
        let folder = scratch.path().join(name);
        write_inpainting_folder(name, &folder);
        let plain = fixture_folder().join(format!("{name}.safetensors"));
        let plain = loaded(&plain, &LoadOptions { config, ..options() });
        let wider = loaded(&path, &LoadOptions { config: Some(folder), ..options() });
        assert!(wider.takes_mask() && !plain.takes_mask());
        let draw = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (latents, channels) = (draw(&[2, 4, 8, 8]), draw(&[2, 5, 8, 8]));
        let timesteps = Tensor::from_slice(&[10i64, 900]);
        let predicted = |model: &StableDiffusion, input: &Tensor| {
            let text =
                model.encode_prompts(&["a cat".into(), "".into()], &PromptReading::default()).expect("it has words");
            let sizes = [sdtrain_model::PictureSizes::whole(32, 32); 2];
            let conditions = model.conditions(&text, model.time_ids(&sizes).expect("two sizes").as_ref());
            tch::no_grad(|| model.unet.forward(input, &timesteps, &conditions, false))
        };
        let (found, expected) =
            (predicted(&wider, &Tensor::cat(&[&latents, &channels], 1)), predicted(&plain, &latents));
        // fp32: the convolution adds zeros between its sums.
        assert_near(name, &found, &expected, 1e-5);
    }
}

#[test]
fn a_single_file_of_sd2_says_what_it_predicts_or_predicts_the_velocity() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let theirs = SafetensorsFile::open(fixture_folder().join("tiny_sd2.safetensors")).expect("a fixture");
    let said = |key: &str, value: &str| BTreeMap::from([(key.to_string(), value.to_string())]);
    for (metadata, predicts_noise) in [
        (BTreeMap::new(), false),
        (said("modelspec.prediction_type", "epsilon"), true),
        (said("modelspec.prediction_type", "v"), false),
        (said("modelspec.architecture", "stable-diffusion-v2-512"), true),
        (said("modelspec.architecture", "stable-diffusion-v2-768-v"), false),
    ] {
        let path = scratch.path().join("model.safetensors");
        write_source(&path, &FromReader(&theirs), &metadata).expect("there is room");
        let file = SafetensorsFile::open(&path).expect("it was just written");
        assert_eq!(sd2_predicts_noise(&file).expect("readable"), predicts_noise, "{metadata:?}");
    }
}

#[test]
fn a_saved_sd2_says_what_it_predicts_to_readers_that_know_nothing_else_of_it() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let path = scratch.path().join("model.safetensors");
    let mut model = loaded(&fixture_folder().join("tiny_sd2"), &options());
    for prediction in [PredictionType::Epsilon, PredictionType::VPrediction] {
        model.scheduler.prediction_type = Some(prediction);
        model.save_single_file(&path, None, &BTreeMap::new()).expect("there is room");
        let file = SafetensorsFile::open(&path).expect("it was just written");
        assert_eq!(sd2_predicts_noise(&file).expect("readable"), prediction == PredictionType::Epsilon);
        let assumed = PipelineConfigs::assumed_of(&file, Family::Sd2).expect("readable");
        assert_eq!(assumed.is_v_prediction(), prediction == PredictionType::VPrediction);
    }
}

#[test]
fn saved_half_precision_is_the_rounded_model() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (model, path) = (tiny_folder(), scratch.path().join("half.safetensors"));
    model.save_single_file(&path, Some(Kind::Half), &BTreeMap::new()).expect("there is room");
    let half = loaded(&path, &options());
    for ((network, found), (_, expected)) in networks(&half).into_iter().zip(networks(&model)) {
        for (name, tensor) in expected.iter() {
            let rounded = tensor.to_kind(Kind::Half).to_kind(Kind::Float);
            assert_equal(&format!("{network}.{name}"), found.get(name).expect("same names"), &rounded);
        }
    }
}

/// sd-scripts#653, kohya_ss#2674, stable-diffusion-webui#12019: SD's VAE is computed in fp16, whose range it leaves.
#[test]
fn sd_scripts_653_each_network_loads_in_its_own_dtype() {
    let wanted = LoadOptions { unet_in_f32: true, ..LoadOptions::new(Device::Cpu, Kind::BFloat16) };
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("base");
    tiny_folder().save_folder(&folder, None, &BTreeMap::new()).expect("there is room");
    let kind = |parameters: &Parameters| parameters.iter().next().expect("a network has parameters").1.kind();
    // What the VAE's `config.json` says of `force_upcast`, and what the VAE is then kept in. One of SD1 or SD2 says nothing and overflows
    // in fp16 (sd-scripts#653, kohya_ss#2674, stable-diffusion-webui#12019); SDXL's asks for fp32.
    for (said, in_bf16, in_fp16) in [
        (None, Kind::BFloat16, Kind::Float),
        (Some(true), Kind::Float, Kind::Float),
        (Some(false), Kind::BFloat16, Kind::Half),
    ] {
        let path = folder.join("vae/config.json");
        let mut config = read_json(&path).expect("it was written");
        match said {
            Some(said) => config["force_upcast"] = said.into(),
            None => drop(config.as_object_mut().expect("an object").remove("force_upcast")),
        }
        std::fs::write(&path, config.to_string()).expect("there is room");
        let kinds = |options: &LoadOptions| {
            let model = loaded(&folder, options);
            assert_eq!(model.vae.config().force_upcast, said);
            networks(&model).map(|(_, parameters)| kind(parameters))
        };
        assert_eq!(kinds(&wanted), [Kind::Float, in_bf16, Kind::BFloat16], "{said:?}");
        assert_eq!(kinds(&LoadOptions::new(Device::Cpu, Kind::Half)), [Kind::Half, in_fp16, Kind::Half], "{said:?}");
        assert_eq!(kinds(&options()), [Kind::Float; 3], "{said:?}");
        // What was said is said again, and nothing where nothing was.
        let copy = scratch.path().join("copy");
        loaded(&folder, &options()).save_folder(&copy, None, &BTreeMap::new()).expect("there is room");
        let written = read_json(&copy.join("vae/config.json")).expect("it was written");
        assert_eq!(written["force_upcast"].as_bool(), said);
        std::fs::remove_dir_all(&copy).expect("it is there");
    }
}

#[test]
fn another_vae_loads_from_a_folder_and_from_files_in_both_namings() {
    let model = tiny_folder();
    let theirs = fixture_folder();
    for vae in ["tiny_sd1/vae", "tiny_sd1/vae/diffusion_pytorch_model.safetensors", "tiny_sd1.safetensors"] {
        let with_vae = LoadOptions { vae: Some(theirs.join(vae)), ..options() };
        assert_same_model(&loaded(&theirs.join("tiny_sd1"), &with_vae), &model);
    }
}

#[test]
fn another_vae_is_kept_in_what_its_own_configuration_asks_for() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    // As sdxl-vae-fp16-fix says of itself that it does not overflow.
    let fixed = scratch.path().join("fixed");
    let ordinary = fixture_folder().join("tiny_sd1/vae");
    std::fs::create_dir(&fixed).expect("there is room");
    let mut config = read_json(&ordinary.join("config.json")).expect("a fixture");
    config["force_upcast"] = false.into();
    std::fs::write(fixed.join("config.json"), config.to_string()).expect("there is room");
    let weights = "diffusion_pytorch_model.safetensors";
    std::fs::copy(ordinary.join(weights), fixed.join(weights)).expect("there is room");
    let with = |base: &Path, vae: &Path, compute: Kind| {
        loaded(base, &LoadOptions { vae: Some(vae.to_path_buf()), ..LoadOptions::new(Device::Cpu, compute) })
    };
    let kind = |model: &StableDiffusion| model.vae.parameters().iter().next().expect("it has one").1.kind();
    let base = fixture_folder().join("tiny_sd1");
    let in_fp16 = with(&base, &fixed, Kind::Half);
    assert_eq!(kind(&in_fp16), Kind::Half);
    assert_eq!(kind(&with(&base, &ordinary, Kind::Half)), Kind::Float);
    // Not in bf16 either (SDXL's says the same).
    assert_eq!(kind(&with(&base, &fixed, Kind::BFloat16)), Kind::BFloat16);
    assert_eq!(kind(&with(&base, &ordinary, Kind::BFloat16)), Kind::Float);
    // A base whose own VAE is fixed.
    let fixed_base = scratch.path().join("base");
    let mut model = tiny_folder();
    model.save_folder(&fixed_base, None, &BTreeMap::new()).expect("there is room");
    std::fs::copy(fixed.join("config.json"), fixed_base.join("vae/config.json")).expect("there is room");
    assert_eq!(kind(&loaded(&fixed_base, &LoadOptions::new(Device::Cpu, Kind::Half))), Kind::Half);
    assert_eq!(kind(&with(&fixed_base, &ordinary, Kind::Half)), Kind::Float);
    // fp16 has eleven bits: a picture is the same to a level or two of 256.
    model.vae = with(&base, &fixed, Kind::Float).vae;
    let latents = Tensor::arange(4 * 8 * 8, (Kind::Float, Device::Cpu)).sin().reshape([1, 4, 8, 8]);
    let pictures = [&in_fp16, &model].map(|model| model.decode_latents(&latents).expect("latents of its kind"));
    let apart = (&pictures[0] - &pictures[1]).abs().max().double_value(&[]);
    assert!(apart > 0.0 && apart < 2.0 / 127.5, "{apart}");
}

#[test]
fn a_folder_with_a_pickle_of_weights_is_the_same_model() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (model, folder) = (loaded(&fixture_folder().join("tiny_taiyi"), &options()), scratch.path().join("model"));
    model.save_folder(&folder, None, &BTreeMap::new()).expect("there is room");
    let text_encoder = folder.join("text_encoder");
    std::fs::remove_file(text_encoder.join("model.safetensors")).expect("it was just written");
    let pickle = fixture_folder().join("pickles/pytorch_model.bin");
    std::fs::copy(pickle, text_encoder.join("pytorch_model.bin")).expect("there is room");
    assert_same_model(&loaded(&folder, &options()), &model);
}

#[test]
fn random_weights_are_a_function_of_the_seed() {
    let random = |seed| loaded(&fixture_folder().join("tiny_sd1"), &LoadOptions { random: Some(seed), ..options() });
    assert_same_model(&random(7), &random(7));
    let [first, other] =
        [random(7), random(8)].map(|model| model.unet.parameters().get("conv_in.weight").unwrap().copy());
    assert!(!first.equal(&other));
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_tensors_names() {
    let folder = fixture_folder();
    let message = refused(&folder.join("tiny_sd1.safetensors"), &options());
    assert!(message.contains("tiny_sd1.safetensors` does not fit the model: "), "{message}");
    assert!(message.contains(" of the wrong shape") && message.contains("wrong shape: … and "), "{message}");
    let message = refused(&folder.join("lora_kohya.safetensors"), &options());
    assert!(message.contains("lora_kohya.safetensors") && message.contains("SD1"), "{message}");
}

#[test]
fn a_single_file_keeps_a_noise_schedule_that_is_not_sd1s() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (mut model, path) = (tiny_folder(), scratch.path().join("v.safetensors"));
    model.scheduler.prediction_type = Some(PredictionType::VPrediction);
    model.scheduler.rescale_betas_zero_snr = Some(true);
    model.save_single_file(&path, None, &BTreeMap::new()).expect("there is room");
    assert_same_model(&loaded(&path, &options()), &model);
}

#[test]
fn unloaded_networks_come_back_when_they_are_asked() {
    let (kept, model) = (tiny_folder(), tiny_folder());
    let numbers = |model: &StableDiffusion| -> usize {
        [model.vae.parameters(), model.text_encoders[0].network.parameters()]
            .map(|parameters| parameters.count())
            .iter()
            .sum()
    };
    for network in [Frozen::Vae, Frozen::TextEncoder] {
        model.unload(network).unwrap();
        model.unload(network).unwrap();
    }
    assert_eq!(numbers(&model), 0);

    let pixels = Tensor::linspace(-1.0, 1.0, 3 * 16 * 16, (Kind::Float, Device::Cpu)).view([1, 3, 16, 16]);
    let prompts = ["a red bottle".to_string()];
    let reading = PromptReading::default();
    assert_eq!(model.encode_images(&pixels, None).unwrap(), kept.encode_images(&pixels, None).unwrap());
    assert_eq!(model.encode_prompts(&prompts, &reading).unwrap(), kept.encode_prompts(&prompts, &reading).unwrap());
    assert_eq!(numbers(&model), numbers(&kept));

    // A file of the whole model has them, too.
    model.unload(Frozen::TextEncoder).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bytes = |model: &StableDiffusion, name: &str| {
        let path = folder.path().join(name);
        model.save_single_file(&path, None, &BTreeMap::new()).unwrap();
        std::fs::read(path).unwrap()
    };
    assert!(bytes(&model, "unloaded.safetensors") == bytes(&kept, "kept.safetensors"));
}

/// While a run goes on, somebody may put another model into the place of its own.
#[test]
fn a_network_that_has_become_another_on_disk_is_not_taken_for_the_one_that_was_freed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut other = tiny_folder();
    other.save_single_file(&path, None, &BTreeMap::new()).unwrap();
    let model = loaded(&path, &options());
    let pixels = Tensor::zeros([1, 3, 16, 16], (Kind::Float, Device::Cpu));
    model.unload(Frozen::Vae).unwrap();
    let _ = model.encode_images(&pixels, None).expect("the file is as it was");
    model.unload(Frozen::Vae).unwrap();
    let (_, weight) = other.vae.parameters().iter().last().expect("it has weights");
    let _ = tch::no_grad(|| weight.shallow_clone().g_add_scalar_(0.5));
    std::fs::remove_file(&path).unwrap();
    other.save_single_file(&path, None, &BTreeMap::new()).unwrap();
    let error = model.encode_images(&pixels, None).expect_err("it is another").to_string();
    assert!(error.contains("is another file than the one that was loaded"), "{error}");
    other = loaded(&path, &options());
    let _ = other.encode_images(&pixels, None).expect("nothing is wrong with it");
}

#[test]
fn eight_bit_floats_become_what_is_computed_in() {
    let golden = SafetensorsFile::open(fixture_folder().join("float8.safetensors")).unwrap();
    for format in ["e4m3", "e5m2"] {
        let read = |kind| read_tensor(&golden, &format!("input.{format}"), kind, Device::Cpu).unwrap();
        let bits = sdtrain_state_dict::read_integers(&golden, &format!("output.{format}")).unwrap();
        let expected: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits as u32)).collect();
        assert_eq!((read(None).kind(), read(Some(Kind::BFloat16)).kind()), (Kind::Float, Kind::BFloat16));
        // Both fit into a bf16 and all but the largest into a half, so nothing is rounded.
        for found in [read(None), read(Some(Kind::BFloat16)).to_kind(Kind::Float)] {
            let found = Vec::<f32>::try_from(found).unwrap();
            let same = |(found, expected): (&f32, &f32)| found == expected || (found.is_nan() && expected.is_nan());
            assert!(found.len() == 256 && found.iter().zip(&expected).all(same), "{format}: {found:?}");
        }
    }
}

/// Every tensor of a file.
fn entries(file: &SafetensorsFile) -> Vec<TensorEntry> {
    let entry = |name: &str| {
        let info = file.info(name).expect("listed");
        let (dtype, shape) = (info.dtype, info.shape.clone());
        TensorEntry { name: name.to_string(), dtype, shape, bytes: file.bytes(name).unwrap().into_owned() }
    };
    file.names().into_iter().map(entry).collect()
}

#[test]
fn what_does_not_fit_in_the_networks_of_a_single_file_is_one_report() {
    let file = SafetensorsFile::open(fixture_folder().join("tiny_sd1.safetensors")).unwrap();
    let mut some = entries(&file);
    some.retain(|tensor| {
        !["first_stage_model.quant_conv.bias", "model.diffusion_model.out.2.bias"].contains(&tensor.name.as_str())
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.safetensors");
    write(&path, &some, file.metadata()).unwrap();
    let single = LoadOptions { config: Some(fixture_folder().join("tiny_sd1")), ..options() };
    let said = refused(&path, &single);
    assert!(said.contains("some.safetensors` does not fit the model: 2 missing\n"), "{said}");
    assert!(
        said.contains("missing: unet/conv_out.bias [4]") && said.contains("missing: vae/quant_conv.bias [8]"),
        "{said}"
    );
    // What stands in the place of the model's own does not count.
    let other = LoadOptions { vae: Some(fixture_folder().join("tiny_sd1/vae")), ..single };
    let said = refused(&path, &other);
    assert!(said.contains("does not fit the model: 1 missing\n") && said.contains("unet/conv_out.bias"), "{said}");
}

#[test]
fn a_weight_with_numbers_that_are_none_is_refused_with_its_name() {
    let file = SafetensorsFile::open(fixture_folder().join("tiny_sd1.safetensors")).unwrap();
    let whole = entries(&file);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spoiled.safetensors");
    let single = LoadOptions { config: Some(fixture_folder().join("tiny_sd1")), ..options() };
    // By the file's own names, not by diffusers'.
    for (name, elements) in [
        ("model.diffusion_model.out.2.bias", 4),
        ("first_stage_model.decoder.conv_out.bias", 3),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", 32),
    ] {
        let mut spoiled = whole.clone();
        let tensor = spoiled.iter_mut().find(|tensor| tensor.name == name).expect("every model has it");
        tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        tensor.bytes[8..12].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
        write(&path, &spoiled, file.metadata()).unwrap();
        let said = refused(&path, &single);
        let expected = format!("tensor `{name}` holds 2 of {elements} numbers that are not finite");
        assert!(said.contains(&expected) && said.contains("spoiled.safetensors"), "{said}");
    }
}

#[test]
fn a_model_says_which_tensors_of_its_file_belong_to_no_network() {
    let source = fixture_folder().join("tiny_sd1.safetensors");
    let single = LoadOptions { config: Some(fixture_folder().join("tiny_sd1")), ..options() };
    assert_eq!(loaded(&source, &single).unknown_tensors, None);
    let file = SafetensorsFile::open(&source).unwrap();
    let extra = TensorEntry { name: "extra.weight".into(), dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
    let mut bytes = Vec::new();
    write_to(&mut bytes, &[extra][..], &BTreeMap::new()).unwrap();
    let parts: Vec<Box<dyn Reader>> =
        vec![Box::new(SafetensorsFile::from_bytes(bytes, "extra").unwrap()), Box::new(file)];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("more.safetensors");
    let joined = Joined::new(&path, parts).unwrap();
    write_source(&path, &FromReader(&joined), joined.metadata()).unwrap();
    let said = loaded(&path, &single).unknown_tensors;
    assert_eq!(said.as_deref(), Some("one tensor of no network that is known: `extra.weight`"));
}

#[test]
fn a_tokenizer_of_another_model_is_refused_beside_weights_that_are_read() {
    let other = LoadOptions { tokenizer: Some(fixture_folder().join("bert_tokenizer")), ..options() };
    let sd1 = fixture_folder().join("tiny_sd1");
    let said = refused(&sd1, &other);
    assert!(said.contains("mark of the tokenizer is token") && said.ends_with("they are not of one model"), "{said}");
    // A text encoder whose weights are drawn can learn any words that it has room for.
    loaded(&sd1, &LoadOptions { random: Some(1), ..other });
}
