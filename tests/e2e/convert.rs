//! Models in other formats draw the same pictures.

use crate::project::{Project, fixture};
use sdtrain_state_dict::{Dtype, Reader, SafetensorsFile, TensorEntry, read_json, write};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn the_built_in_base_draws_the_same_as_a_folder_and_as_a_file() {
    let project = Project::new();
    project.expect(0, &["convert", "builtin:poster-tiny", "folder", "--to", "diffusers"]);
    project.expect(0, &["convert", "builtin:poster-tiny", "base.safetensors", "--to", "single-file"]);
    project.expect(0, &["convert", "folder", "again.safetensors", "--to", "single-file"]);
    let draw = |model: &str| {
        let args = ["sample", "--model", model, "--prompt", "a red star", "--steps", "2", "--output", "drawn"];
        project.expect(0, &args);
        image::open(project.path("drawn/00000-0.png")).expect("a picture").into_rgb8()
    };
    let expected = draw("builtin:poster-tiny");
    for form in ["folder", "base.safetensors", "again.safetensors"] {
        assert!(draw(form) == expected, "{form}");
        let path = project.path("drawn");
        fs::remove_dir_all(path).expect("it is there");
    }
}

#[test]
fn a_built_in_base_is_no_lora() {
    let project = Project::new();
    let (_, stderr) = project.expect(4, &["convert", "builtin:poster-tiny", "out.safetensors", "--to", "kohya-lora"]);
    assert!(stderr.contains("not a LoRA"), "{stderr}");
}

#[test]
fn nothing_of_anybody_else_is_lost() {
    let project = Project::new();
    project.expect(0, &["convert", "builtin:poster-tiny", "model", "--to", "diffusers"]);
    project.expect(0, &["convert", "model", "model/whole.safetensors", "--to", "single-file"]);
    let (_, said) = project.expect(7, &["convert", "model/whole.safetensors", "model", "--to", "diffusers"]);
    assert!(said.contains("whole.safetensors"), "{said}");
    assert!(project.path("model/whole.safetensors").is_file());
}

/// Every weight file below a folder with its content.
fn weights(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in ["unet", "vae", "text_encoder"] {
        for entry in fs::read_dir(folder.join(part)).expect("a part of a model").flatten() {
            let name = format!("{part}/{}", entry.file_name().to_string_lossy());
            if name.ends_with(".safetensors") {
                found.insert(name, fs::read(entry.path()).expect("readable"));
            }
        }
    }
    found
}

#[test]
fn a_model_of_the_sd2_family_is_recognised_converted_there_and_back_and_trained() {
    let project = Project::new();
    let sd2 = fixture("tiny_sd2").display().to_string();
    let (said, _) = project.expect(0, &["inspect", &sd2]);
    assert!(said.contains("sd2"), "{said}");
    project.expect(0, &["convert", &sd2, "single.safetensors", "--to", "single-file"]);
    let (said, _) = project.expect(0, &["inspect", "single.safetensors"]);
    assert!(said.contains("SD2 checkpoint"), "{said}");
    project.expect(0, &["convert", "single.safetensors", "again", "--to", "diffusers"]);
    assert!(weights(&project.path("again")) == weights(&fixture("tiny_sd2")));
    // Ten steps from either form are the same, and the LoRA says what it is for.
    let product = |model: &str, folder: &str| {
        let path = format!("model.path={model}");
        project.expect(0, &["--config", "run.toml", "--set", &path, "--output", folder]);
        let (said, _) = project.expect(0, &["inspect", &format!("{folder}/run.safetensors")]);
        assert!(said.contains("stable-diffusion-v2-768-v/lora") && said.contains("sd_v2_v"), "{said}");
        project.path(folder).join("evaluation.json")
    };
    let losses = |path| -> serde_json::Value {
        let text = fs::read_to_string(path).expect("a run writes it");
        serde_json::from_str(&text).expect("JSON")
    };
    let of_folder = losses(product(&sd2, "of-folder"));
    let single = project.path("single.safetensors").display().to_string();
    assert_eq!(losses(product(&single, "of-file"))["rows"], of_folder["rows"]);
}

/// Every tensor below a diffusers folder, behind the name of its network: dtype, shape and bytes.
fn tensors(folder: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let networks = [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("text_encoder_2", "model"),
    ];
    for (network, stem) in networks {
        let path = folder.join(network).join(format!("{stem}.safetensors"));
        // SDXL's refiner has no first text encoder, and only SDXL a second one.
        if !path.is_file() {
            continue;
        }
        let file = SafetensorsFile::open(&path).expect("weights");
        for name in file.names() {
            let (info, bytes) = (file.info(name).expect("listed"), file.bytes(name).expect("readable"));
            found.insert(format!("{network}.{name}"), (info.dtype, info.shape.clone(), bytes.into_owned()));
        }
    }
    found
}

/// Writes the fixture `name` into the folder `target` of the project with a UNet of 8 input channels, as InstructPix2Pix has.
fn write_editing_folder(project: &Project, name: &str, target: &str) {
    let base = fixture(name).display().to_string();
    project.expect(0, &["convert", &base, target, "--to", "diffusers"]);
    let unet = project.path(target).join("unet");
    let mut config = read_json(&unet.join("config.json")).expect("written");
    config["in_channels"] = 8.into();
    fs::write(unet.join("config.json"), config.to_string()).expect("there is room");
    let weights = unet.join("diffusion_pytorch_model.safetensors");
    let entries: Vec<TensorEntry> = {
        let file = SafetensorsFile::open(&weights).expect("written");
        let entry = |name: &str| {
            let (info, bytes) = (file.info(name).expect("listed"), file.bytes(name).expect("readable"));
            let (mut shape, mut bytes) = (info.shape.clone(), bytes.into_owned());
            if name == "conv_in.weight" {
                shape[1] *= 2;
                bytes.extend(bytes.clone());
            }
            TensorEntry { name: name.to_owned(), dtype: info.dtype, shape, bytes }
        };
        file.names().into_iter().map(entry).collect()
    };
    write(&weights, &entries, &BTreeMap::new()).expect("there is room");
}

#[test]
fn every_kind_of_model_is_the_same_to_the_byte_behind_a_single_file() {
    let project = Project::new();
    let plain = ["tiny_sd1", "tiny_sd2", "tiny_sdxl", "tiny_sdxl_refiner", "tiny_taiyi", "tiny_pai", "tiny_japanese"];
    let mut folders: Vec<_> = plain.iter().map(|name| (name.to_string(), fixture(name))).collect();
    for name in ["tiny_sd1", "tiny_sdxl"] {
        let painting = format!("{name}-painting");
        let base = fixture(name).display().to_string();
        project.expect(0, &["convert", &base, &painting, "--to", "diffusers", "--inpainting"]);
        let folder = project.path(&painting);
        assert_eq!(tensors(&folder)["unet.conv_in.weight"].1[1], 9, "{painting}");
        folders.push((painting, folder));
        let editing = format!("{name}-editing");
        write_editing_folder(&project, name, &editing);
        folders.push((editing.clone(), project.path(&editing)));
    }
    for (name, folder) in folders {
        let (single, again) = (format!("{name}.safetensors"), format!("{name}-again"));
        project.expect(0, &["convert", &folder.display().to_string(), &single, "--to", "single-file"]);
        project.expect(0, &["convert", &single, &again, "--to", "diffusers"]);
        let (before, after) = (tensors(&folder), tensors(&project.path(&again)));
        assert!(before.keys().any(|tensor| tensor.starts_with("text_encoder")), "{name}");
        assert!(before.keys().eq(after.keys()), "{name}: other names");
        for (tensor, content) in &before {
            assert!(after[tensor] == *content, "{name}: {tensor} differs");
        }
        let channels =
            |folder: &Path| read_json(&folder.join("unet/config.json")).expect("written")["in_channels"].clone();
        assert_eq!(channels(&project.path(&again)), channels(&folder), "{name}");
    }
}

#[test]
fn a_model_for_editing_is_inspected_and_converted_and_refused_by_name_where_it_would_be_used() {
    let project = Project::new();
    write_editing_folder(&project, "tiny_sd1", "edit");
    project.expect(0, &["convert", "edit", "edit.safetensors", "--to", "single-file"]);
    for model in ["edit", "edit.safetensors"] {
        let (said, _) = project.expect(0, &["inspect", model]);
        assert!(said.contains("for editing by instruction") && said.contains('8'), "{said}");
        let path = format!("model.path={model}");
        for command in ["train", "check"] {
            let (_, said) = project.expect(2, &[command, "--config", "run.toml", "--set", &path]);
            assert!(
                said.contains("editing by instruction (InstructPix2Pix, 8 input channels), and no method"),
                "{said}"
            );
            assert!(said.contains("  hint: ") && said.matches("error: ").count() == 1, "{said}");
        }
        let (_, said) = project.expect(4, &["sample", "--model", model, "--prompt", "a cat", "--output", "drawn"]);
        assert!(said.contains("is a model for editing by instruction (InstructPix2Pix)"), "{said}");
        assert!(said.contains("  hint: take a model with 4 input channels"), "{said}");
    }
    assert!(!project.path("drawn").exists());
    project.expect(0, &["convert", "edit.safetensors", "again", "--to", "diffusers"]);
    let again = read_json(&project.path("again/model_index.json")).expect("written");
    assert_eq!(again["_class_name"], "StableDiffusionInstructPix2PixPipeline");
}

#[test]
fn a_lora_without_names_of_layers_is_drawn_with_and_converted_like_the_same_with_names() {
    let project = Project::new();
    let model = fixture("tiny_sd1").display().to_string();
    let draw = |lora: &str| {
        let lora = fixture(&format!("module_list/{lora}")).display().to_string();
        let args =
            ["sample", "--model", &model, "--lora", &lora, "--prompt", "a cat", "--steps", "2", "--output", "drawn"];
        project.expect(0, &args);
        image::open(project.path("drawn/00000-0.png")).expect("a picture").into_bytes()
    };
    let with_names = draw("peft.safetensors");
    assert!(draw("lora.safetensors") == with_names && draw("lora.pt") != with_names);
    for (form, name) in [("kohya-lora", "kohya.safetensors"), ("peft-lora", "peft.safetensors")] {
        let list = fixture("module_list/lora.pt").display().to_string();
        project.expect(0, &["convert", &list, name, "--to", form]);
        let args =
            ["sample", "--model", &model, "--lora", name, "--prompt", "a cat", "--steps", "2", "--output", "converted"];
        project.expect(0, &args);
        let converted = image::open(project.path("converted/00000-0.png")).expect("a picture").into_bytes();
        assert!(converted == draw("lora.pt"), "{form}");
    }
}

#[test]
fn a_lora_of_attention_processors_draws_the_same_behind_every_form() {
    let project = Project::new();
    let model = fixture("tiny_sd1").display().to_string();
    let draw = |lora: Option<&str>| {
        let mut args = vec!["sample", "--model", &model, "--prompt", "a cat", "--steps", "2", "--output", "drawn"];
        args.extend(lora.into_iter().flat_map(|lora| ["--lora", lora]));
        project.expect(0, &args);
        image::open(project.path("drawn/00000-0.png")).expect("a picture").into_bytes()
    };
    let pickle = fixture("attention_processors/pytorch_model.bin").display().to_string();
    let expected = draw(Some(pickle.as_str()));
    assert!(expected != draw(None));
    for (form, name) in [("kohya-lora", "kohya.safetensors"), ("peft-lora", "peft.safetensors")] {
        project.expect(0, &["convert", &pickle, name, "--to", form]);
        assert!(draw(Some(name)) == expected, "{form}");
    }
}
