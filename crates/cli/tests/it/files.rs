//! `sdtrain inspect` and `sdtrain convert`.

use std::collections::BTreeMap;

use sdtrain_state_dict::{Dtype, Reader, SafetensorsFile, TensorEntry, write};

use crate::project::Project;

const MODULE: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";

/// A project with `lora.safetensors`: one layer of rank 2 and alpha 1 beside SD1's text states.
fn with_lora() -> Project {
    let project = Project::new();
    let tensor = |suffix: &str, shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        let bytes = std::iter::repeat_n(1.0_f32.to_le_bytes(), count).flatten().collect();
        TensorEntry { name: format!("{MODULE}.{suffix}"), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    };
    let tensors = [tensor("lora_down.weight", &[2, 768]), tensor("lora_up.weight", &[320, 2]), tensor("alpha", &[])];
    let metadata = BTreeMap::from([("ss_network_dim".to_owned(), "2".to_owned())]);
    write(&project.path("lora.safetensors"), &tensors, &metadata).expect("a writable folder");
    project
}

#[test]
fn a_lora_is_described() {
    let answer = with_lora().run(&["inspect", "lora.safetensors"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let lines: Vec<(&str, &str)> =
        answer.stdout.lines().filter_map(|line| line.trim().split_once("  ")).map(|(a, b)| (a, b.trim())).collect();
    for expected in [
        ("kind", "kohya LoRA"),
        (
            "because",
            "it has `lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight` [2, 768]",
        ),
        ("family", "sd1"),
        ("tensors", "3"),
        ("modules", "1"),
        ("rank", "2"),
        ("alpha", "1.0"),
        ("adapts", "unet (1)"),
        ("ss_network_dim", "2"),
    ] {
        assert!(lines.contains(&expected), "{expected:?} is not in\n{}", answer.stdout);
    }
}

#[test]
fn a_lora_is_described_in_json() {
    let answer = with_lora().run(&["inspect", "lora.safetensors", "--json"]);
    let description: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    assert_eq!(description["kind"], "kohya_lora");
    assert_eq!(description["family"], "sd1");
    assert_eq!((&description["rank"], &description["alpha"]), (&2.into(), &1.0.into()));
    assert_eq!(description["tensors"][format!("{MODULE}.lora_down.weight")]["shape"], serde_json::json!([2, 768]));
    assert_eq!(description["metadata"]["ss_network_dim"], "2");
    assert_eq!(description["reason"], format!("it has `{MODULE}.lora_down.weight` [2, 768]"));
}

#[test]
fn a_lora_is_converted_to_peft_and_recognised() {
    let project = with_lora();
    let answer = project.run(&["convert", "lora.safetensors", "out/peft.safetensors", "--to", "peft-lora"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), "wrote `out/peft.safetensors`\n"));
    let answer = project.run(&["inspect", "out/peft.safetensors"]);
    assert!(answer.stdout.contains("PEFT LoRA"), "{}", answer.stdout);
}

#[test]
fn what_is_no_model_is_refused_with_exit_code_4() {
    let project = Project::new();
    project.write("model.ckpt", "PK");
    let answer = project.run(&["inspect", "model.ckpt"]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    assert!(answer.stderr.starts_with("error: `model.ckpt` is not a usable PyTorch file"));
    assert_eq!(project.run(&["inspect", "images"]).code, Some(4));
    let answer = project.run(&["inspect", "nothing"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(2), "error: `nothing` does not exist\n"));
}

#[test]
fn an_output_folder_names_its_products_and_checkpoints() {
    let project = Project::new();
    project.write("out/config.toml", "name = \"a\"\nmethod = \"lora\"\n");
    project.write("out/a.safetensors", "");
    project.write("out/checkpoints/step-000010/MANIFEST.json", r#"{"step": 10, "files": []}"#);
    let answer = project.run(&["inspect", "out", "--json"]);
    let description: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    assert_eq!(description["kind"], "output_folder");
    assert_eq!(description["products"], serde_json::json!(["a.safetensors"]));
    assert_eq!(description["checkpoints"], serde_json::json!(["step-000010"]));
    let answer = project.run(&["inspect", "out/checkpoints/step-000010"]);
    assert!(answer.stdout.contains("checkpoint that a run continues from"), "{}", answer.stdout);
}

#[test]
fn a_file_is_not_converted_onto_itself() {
    let answer = with_lora().run(&["convert", "lora.safetensors", "lora.safetensors", "--to", "peft-lora"]);
    assert_eq!(answer.code, Some(2));
    assert_eq!(answer.stderr, "error: `lora.safetensors` cannot be converted onto itself\n");
}

/// A file of tensors in PyTorch's older form: pickles one after the other, the numbers behind them.
fn as_checkpoint(tensors: &[TensorEntry], steps: u8) -> Vec<u8> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: usize| [b"\x8a\x08", &(number as u64).to_le_bytes()[..]].concat();
    let lengths =
        |all: &[usize]| [b"(", &all.iter().flat_map(|&length| number(length)).collect::<Vec<u8>>()[..], b"t"].concat();
    let (mut model, mut keys, mut numbers) = (b"\x80\x02}".to_vec(), b"\x80\x02](".to_vec(), Vec::new());
    model.extend([&text("global_step")[..], b"K", &[steps], b"s", &text("state_dict"), b"}"].concat());
    for (index, tensor) in tensors.iter().enumerate() {
        let (key, count) = (text(&index.to_string()), tensor.shape.iter().product::<usize>());
        let class: &[u8] =
            if tensor.dtype == Dtype::F32 { b"ctorch\nFloatStorage\n" } else { b"ctorch\nLongStorage\n" };
        let stride: Vec<usize> =
            (0..tensor.shape.len()).map(|from| tensor.shape[from + 1..].iter().product()).collect();
        let storage = [b"(", &text("storage")[..], class, &key, &text("cpu"), &number(count), b"NtQ"].concat();
        let view = [&storage[..], b"K\0", &lengths(&tensor.shape), &lengths(&stride), b"\x89NtR"].concat();
        model.extend([&text(&tensor.name)[..], b"ctorch._utils\n_rebuild_tensor_v2\n(", &view, b"s"].concat());
        keys.extend(key);
        numbers.extend([&(count as u64).to_le_bytes()[..], &tensor.bytes].concat());
    }
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [&head[..], &model, b"s.", &keys, b"e.", &numbers].concat()
}

#[test]
fn a_checkpoint_of_pytorch_becomes_one_file_with_the_same_tensors_or_with_half_the_bits() {
    let project = Project::new();
    let model =
        SafetensorsFile::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny_sd1.safetensors"))
            .expect("a golden file");
    let tensor = |name: &str| {
        let info = model.info(name).expect("listed");
        let bytes = model.bytes(name).expect("listed").into_owned();
        TensorEntry { name: name.to_owned(), dtype: info.dtype, shape: info.shape.clone(), bytes }
    };
    let tensors: Vec<TensorEntry> = model.names().into_iter().map(tensor).collect();
    std::fs::write(project.path("model.ckpt"), as_checkpoint(&tensors, 7)).expect("a writable folder");
    let convert = |arguments: &[&str]| {
        let answer = project.run(&[&["convert", "--to", "single-file"], arguments].concat());
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    };
    convert(&["model.ckpt", "whole.safetensors"]);
    convert(&["model.ckpt", "half.safetensors", "--dtype", "fp16"]);
    convert(&["whole.safetensors", "again.safetensors", "--dtype", "fp16"]);
    convert(&["whole.safetensors", "eight.safetensors", "--dtype", "fp8_e4m3"]);
    convert(&["eight.safetensors", "wide.safetensors", "--dtype", "fp32"]);
    convert(&["wide.safetensors", "narrow.safetensors", "--dtype", "fp8_e4m3"]);
    let open = |name: &str| SafetensorsFile::open(project.path(name)).expect("it was written");
    let (whole, half) = (open("whole.safetensors"), open("half.safetensors"));
    assert_eq!(whole.names(), model.names());
    assert_eq!(whole.metadata()["global_step"], "7");
    for name in model.names() {
        assert_eq!(
            (whole.info(name), whole.bytes(name).expect("listed")),
            (model.info(name), model.bytes(name).expect("listed"))
        );
        let is_float = model.info(name).expect("listed").dtype == Dtype::F32;
        assert_eq!(half.info(name).expect("listed").dtype, if is_float { Dtype::F16 } else { Dtype::I64 });
    }
    let read = |name: &str| std::fs::read(project.path(name)).expect("it was written");
    assert!(read("half.safetensors") == read("again.safetensors"));
    // Numbers of 8 bits are the same behind 32.
    assert!(read("eight.safetensors") == read("narrow.safetensors"));
    let eight = open("eight.safetensors");
    let types: Vec<Dtype> = eight.names().into_iter().map(|name| eight.info(name).expect("listed").dtype).collect();
    assert!(types.contains(&Dtype::F8E4m3) && !types.contains(&Dtype::F32));
    // Nothing would change.
    let answer = project.run(&["convert", "--to", "single-file", "whole.safetensors", "other.safetensors"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("a single file of safetensors already") && answer.stderr.contains("--dtype"),
        "{}",
        answer.stderr
    );
}

/// The tiny model, and the same with a running mean beside its UNet that is twice each weight.
fn with_running_mean() -> (Vec<TensorEntry>, Vec<TensorEntry>) {
    let model = SafetensorsFile::open(fixture("tiny_sd1.safetensors")).expect("a golden file");
    let plain: Vec<TensorEntry> = tensors(&model)
        .into_iter()
        .map(|(name, (dtype, shape, bytes))| TensorEntry { name, dtype, shape, bytes })
        .collect();
    let mut both = plain.clone();
    for tensor in plain.iter().filter(|tensor| tensor.name.starts_with(UNET)) {
        let name = format!("model_ema.{}", tensor.name.trim_start_matches("model.").replace('.', ""));
        both.push(TensorEntry { name, bytes: twice(&tensor.bytes), ..tensor.clone() });
    }
    let decay = TensorEntry { name: "model_ema.decay".to_owned(), dtype: Dtype::F32, shape: vec![], bytes: vec![0; 4] };
    both.push(decay);
    (plain, both)
}

const UNET: &str = "model.diffusion_model.";

fn twice(floats: &[u8]) -> Vec<u8> {
    floats.as_chunks().0.iter().flat_map(|&bytes| (2.0 * f32::from_le_bytes(bytes)).to_le_bytes()).collect()
}

#[test]
fn the_running_mean_of_a_checkpoint_takes_the_weights_place_in_a_single_file_or_is_dropped() {
    let project = Project::new();
    let (plain, both) = with_running_mean();
    std::fs::write(project.path("model.ckpt"), as_checkpoint(&both, 7)).expect("a writable folder");
    let converted = |arguments: &[&str]| converted(&project, &[&["--to", "single-file"], arguments].concat());
    let read = |name: &str| tensors(&SafetensorsFile::open(project.path(name)).expect("it was written"));
    // Without a flag both are kept.
    converted(&["model.ckpt", "both.safetensors"]);
    assert_eq!(read("both.safetensors").len(), both.len());
    converted(&["model.ckpt", "mean.safetensors", "--extract-ema"]);
    let said = converted(&["model.ckpt", "trained.safetensors", "--drop-ema"]);
    assert!(said.starts_with("left out: the running mean of the UNet's weights"), "{said}");
    let (mean, trained) = (read("mean.safetensors"), read("trained.safetensors"));
    assert_eq!((mean.len(), trained.len()), (plain.len(), plain.len()));
    for tensor in &plain {
        let name = &tensor.name;
        assert!(trained[name].2 == tensor.bytes, "{name}");
        let expected = if name.starts_with(UNET) { twice(&tensor.bytes) } else { tensor.bytes.clone() };
        assert!(mean[name].2 == expected, "{name}");
    }
    // The same of a safetensors file.
    converted(&["both.safetensors", "again.safetensors", "--drop-ema"]);
    assert!(read("again.safetensors") == trained);
    converted(&["both.safetensors", "half.safetensors", "--extract-ema", "--dtype", "fp16"]);
    let half = read("half.safetensors");
    assert_eq!(half.len(), plain.len());
    assert!(half.iter().all(|(name, (dtype, ..))| !name.starts_with(UNET) || *dtype == Dtype::F16));
    for (arguments, code, said) in [
        (&["trained.safetensors", "out", "--to", "single-file", "--extract-ema"][..], 4, "holds no running mean"),
        (
            &["trained.safetensors", "out", "--to", "single-file", "--drop-ema"],
            2,
            "a single file of safetensors already",
        ),
        (&["model.ckpt", "out", "--to", "diffusers", "--drop-ema"], 2, "`--drop-ema` is for `--to single-file`"),
        (&["model.ckpt", "out", "--to", "peft-lora", "--extract-ema"], 2, "`--extract-ema` is for whole models"),
        (&["model.ckpt", "out", "--to", "single-file", "--drop-ema", "--extract-ema"], 2, "cannot be used with"),
    ] {
        let answer = project.run(&[&["convert"], arguments].concat());
        assert_eq!(answer.code, Some(code), "{arguments:?}: {}", answer.stderr);
        assert!(answer.stderr.contains(said), "{arguments:?}: {}", answer.stderr);
        assert!(!project.path("out").exists(), "{arguments:?}");
    }
}

#[test]
fn what_a_conversion_is_not_made_for_is_refused() {
    let project = with_lora();
    for (arguments, code, said) in [
        (&["lora.safetensors", "out", "--to", "single-file", "--inpainting"][..], 4, "not a whole model"),
        (&["lora.safetensors", "out", "--to", "single-file"], 4, "not a whole model"),
        (&["lora.safetensors", "out", "--to", "peft-lora", "--inpainting"], 2, "a LoRA has no input channels"),
        (&["model", "out", "--to", "diffusers", "--extract-ema"], 2, "`--extract-ema` is for a single file"),
        (
            &["lora.safetensors", "out", "--to", "peft-lora", "--dtype", "fp8_e4m3"],
            2,
            "is for models, ControlNets and VAEs",
        ),
        (&["lora.safetensors", "out", "--to", "peft-lora", "--dtype", "fp8"], 2, "fp8_e5m2"),
        (&["model", "out", "--to", "kohya-lora"], 4, "`model` is a folder, and a LoRA is a file"),
        (
            &["model/vae", "out", "--to", "sdxl-embedding"],
            4,
            "is a folder, and a textual inversion embedding is a file",
        ),
    ] {
        let answer = project.run(&[&["convert"], arguments].concat());
        assert_eq!(answer.code, Some(code), "{}", answer.stderr);
        assert!(answer.stderr.contains(said), "{}", answer.stderr);
    }
}

/// The folder `control` of a project: a very small ControlNet as diffusers writes one.
fn write_control_net(project: &Project) {
    let config = r#"{
        "_class_name": "ControlNetModel", "block_out_channels": [8, 8], "cross_attention_dim": 768, "norm_num_groups": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "layers_per_block": 1, "class_embed_type": null,
        "conditioning_embedding_out_channels": [2, 4]
    }"#;
    project.write("control/config.json", config);
    let config = serde_json::from_str(config).expect("JSON");
    let entry = |(name, shape): (String, Vec<usize>)| {
        let count = shape.iter().product::<usize>();
        let bytes = (0..count).flat_map(|at| (at as f32 / 8.0).to_le_bytes()).collect();
        TensorEntry { name, dtype: Dtype::F32, shape, bytes }
    };
    let shapes = sdtrain_state_dict::architecture::control_net(&config).expect("complete");
    let tensors: Vec<TensorEntry> = shapes.into_iter().map(entry).collect();
    write(&project.path("control/diffusion_pytorch_model.safetensors"), &tensors, &BTreeMap::new())
        .expect("a writable folder");
}

#[test]
fn a_control_net_is_described_and_converted_there_and_back() {
    let project = Project::new();
    write_control_net(&project);
    for (arguments, wrote) in [
        (["control", "single.safetensors", "--to", "single-file"], "single.safetensors"),
        (["single.safetensors", "again", "--to", "diffusers"], "again"),
        (["again", "second.safetensors", "--to", "single-file"], "second.safetensors"),
    ] {
        let answer = project.run(&[&["convert"], &arguments[..]].concat());
        assert_eq!((answer.code, answer.stderr), (Some(0), format!("wrote `{wrote}`\n")));
    }
    let open = |name: &str| SafetensorsFile::open(project.path(name)).expect("it was written");
    let before = open("control/diffusion_pytorch_model.safetensors");
    let after = open("again/diffusion_pytorch_model.safetensors");
    assert_eq!(before.names(), after.names());
    for name in before.names() {
        assert!(before.bytes(name).expect("listed") == after.bytes(name).expect("listed"), "{name}");
    }
    let read = |name: &str| std::fs::read(project.path(name)).expect("it was written");
    assert!(read("single.safetensors") == read("second.safetensors"));
    for (path, kind, first) in [
        (
            "control",
            "diffusers ControlNet of the SD1 family",
            "`controlnet_cond_embedding.conv_in.weight` [2, 3, 3, 3]",
        ),
        ("single.safetensors", "ControlNet of the SD1 family", "`control_model.time_embed.0.weight` [32, 8]"),
    ] {
        let answer = project.run(&["inspect", path]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        for words in
            [kind, first, "sd1", "zero convolutions", "10 tensors", "names and shapes are those of its configuration"]
        {
            assert!(answer.stdout.contains(words), "`{words}` is not in\n{}", answer.stdout);
        }
        let answer = project.run(&["inspect", path, "--json"]);
        let description: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert_eq!((&description["kind"], &description["family"]), (&"controlnet".into(), &"sd1".into()));
        assert_eq!(description["parts"]["control_image"]["tensor_count"], 8);
    }
    let config = std::fs::read_to_string(project.path("control/config.json")).expect("written");
    project.write("control/config.json", &config.replace("[2, 4]", "[2, 5]"));
    let answer = project.run(&["inspect", "control"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains("wrong shape: controlnet_cond_embedding.conv_out.weight"), "{}", answer.stdout);
    let answer = project.run(&["convert", "control", "other.safetensors", "--to", "single-file"]);
    assert_eq!(answer.code, Some(4));
    assert!(answer.stderr.contains("does not fit the model"), "{}", answer.stderr);
}

#[test]
fn a_control_net_in_place_of_a_model_is_refused_by_name() {
    let project = Project::new();
    write_control_net(&project);
    project.run(&["convert", "control", "single.safetensors", "--to", "single-file"]);
    for model in ["control", "single.safetensors"] {
        let path = format!("model.path={model}");
        for arguments in [
            &["check", "run.toml", "--set", &path, "--set", "model.init=pretrained"][..],
            &["--config", "run.toml", "--set", &path, "--set", "model.init=pretrained"],
            &["sample", "--model", model, "--prompt", "x", "--output", "out"],
        ] {
            let answer = project.run(arguments);
            assert_eq!((answer.code, answer.stdout.as_str()), (Some(4), ""), "{arguments:?}: {}", answer.stderr);
            assert_eq!(answer.stderr.matches("error: ").count(), 1, "{}", answer.stderr);
            assert!(answer.stderr.contains("is a ControlNet"), "{}", answer.stderr);
            assert!(answer.stderr.contains("neither trained nor drawn with yet"), "{}", answer.stderr);
        }
    }
}

fn fixture(name: &str) -> String {
    format!("{}/../../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Every tensor of a file: type, shape and bytes.
fn tensors(file: &dyn Reader) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let tensor = |name: &str| {
        let (info, bytes) = (file.info(name).expect("listed"), file.bytes(name).expect("listed"));
        (name.to_owned(), (info.dtype, info.shape.clone(), bytes.into_owned()))
    };
    file.names().into_iter().map(tensor).collect()
}

/// Converts in `project`, which must succeed; what is said of it.
fn converted(project: &Project, arguments: &[&str]) -> String {
    let answer = project.run(&[&["convert"], arguments].concat());
    assert_eq!(answer.code, Some(0), "{arguments:?}: {}", answer.stderr);
    answer.stderr
}

#[test]
fn a_vae_goes_through_every_form_and_back_to_the_byte() {
    let project = Project::new();
    let convert = |arguments: &[&str]| converted(&project, arguments);
    let open = |name: &str| SafetensorsFile::open(project.path(name)).expect("it was written");
    let folder = fixture("tiny_sd1/vae");
    let of_folder = SafetensorsFile::open(format!("{folder}/diffusion_pytorch_model.safetensors")).expect("golden");
    assert_eq!(convert(&[folder.as_str(), "ldm.safetensors", "--to", "single-file"]), "wrote `ldm.safetensors`\n");
    let ldm = open("ldm.safetensors");
    assert_eq!(ldm.info("encoder.mid.attn_1.q.weight").expect("the original name").shape, [16, 16, 1, 1]);
    let said = project.run(&["inspect", "ldm.safetensors"]).stdout;
    assert!(said.contains("VAE under the original names"), "{said}");
    // As it lies in a whole model, and as a pickle with what else trainings leave in it.
    let named = |prefix: &str, (name, (dtype, shape, bytes)): (String, (Dtype, Vec<usize>, Vec<u8>))| TensorEntry {
        name: format!("{prefix}{name}"),
        dtype,
        shape,
        bytes,
    };
    let prefixed: Vec<_> = tensors(&ldm).into_iter().map(|tensor| named("first_stage_model.", tensor)).collect();
    write(&project.path("prefixed.safetensors"), &prefixed, ldm.metadata()).expect("a writable folder");
    let said = project.run(&["inspect", "prefixed.safetensors"]).stdout;
    assert!(said.contains("VAE under the original names"), "{said}");
    let mut trained: Vec<_> = tensors(&ldm).into_iter().map(|tensor| named("", tensor)).collect();
    for name in ["loss.logvar", "other.weight"] {
        let bytes = 1_f32.to_le_bytes().to_vec();
        trained.push(TensorEntry { name: name.to_owned(), dtype: Dtype::F32, shape: vec![1], bytes });
    }
    std::fs::write(project.path("model.vae.pt"), as_checkpoint(&trained, 1)).expect("a writable folder");
    convert(&["ldm.safetensors", "folder", "--to", "diffusers"]);
    convert(&["prefixed.safetensors", "folder of a part", "--to", "diffusers"]);
    convert(&["folder", "diffusers.safetensors", "--to", "diffusers"]);
    convert(&["diffusers.safetensors", "again.safetensors", "--to", "single-file"]);
    let said = convert(&["model.vae.pt", "of a pickle.safetensors", "--to", "diffusers"]);
    assert_eq!(
        said,
        "left out: one tensor of no network that is known: `other.weight`\nwrote `of a pickle.safetensors`\n"
    );
    let said = project.run(&["inspect", "folder"]).stdout;
    assert!(said.contains("diffusers VAE"), "{said}");
    let names = ["folder", "folder of a part"].map(|name| format!("{name}/diffusion_pytorch_model.safetensors"));
    for name in names.iter().map(String::as_str).chain(["diffusers.safetensors", "of a pickle.safetensors"]) {
        assert!(tensors(&open(name)) == tensors(&of_folder), "{name}");
    }
    assert!(tensors(&open("again.safetensors")) == tensors(&ldm));
    let config = |path: String| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(path).expect("written")).expect("JSON")
    };
    let before = config(format!("{folder}/config.json"));
    for name in ["folder", "folder of a part"] {
        assert_eq!(config(project.path(name).join("config.json").display().to_string()), before, "{name}");
    }
    // Half the bits, of either form the same.
    convert(&["ldm.safetensors", "half.safetensors", "--to", "diffusers", "--dtype", "fp16"]);
    convert(&[folder.as_str(), "half of a folder.safetensors", "--to", "diffusers", "--dtype", "fp16"]);
    assert!(tensors(&open("half.safetensors")) == tensors(&open("half of a folder.safetensors")));
}

#[test]
fn a_vae_that_is_not_what_is_asked_for_is_refused() {
    let project = Project::new();
    let folder = fixture("tiny_sd1/vae");
    let convert = |arguments: &[&str]| project.run(&[&["convert"], arguments].concat());
    let answer = convert(&[folder.as_str(), "vae.safetensors", "--to", "single-file"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let file = SafetensorsFile::open(project.path("vae.safetensors")).expect("it was written");
    let entries: Vec<TensorEntry> = tensors(&file)
        .into_iter()
        .map(|(name, (dtype, shape, bytes))| TensorEntry { name, dtype, shape, bytes })
        .collect();
    let write = |name: &str, tensors: &[TensorEntry], metadata: &BTreeMap<String, String>| {
        write(&project.path(name), tensors, metadata).expect("a writable folder");
    };
    write("small.safetensors", &entries, &BTreeMap::new());
    write("broken.safetensors", &entries, &BTreeMap::from([("sdtrain.vae".to_owned(), "{".to_owned())]));
    let without = |lost: &str| entries.iter().filter(|entry| !entry.name.contains(lost)).cloned().collect::<Vec<_>>();
    write("incomplete.safetensors", &without("quant_conv"), file.metadata());
    for (arguments, code, said) in [
        (&["small.safetensors", "out", "--to", "diffusers"][..], 4, "carries no configuration"),
        (&["broken.safetensors", "out", "--to", "diffusers"], 4, "has broken metadata `sdtrain.vae`"),
        (&["incomplete.safetensors", "out", "--to", "diffusers"], 4, "missing: quant_conv.weight"),
        (&[folder.as_str(), "out", "--to", "diffusers", "--inpainting"], 2, "is for whole models"),
        (&["small.safetensors", "out", "--to", "diffusers", "--extract-ema"], 2, "is for whole models"),
        (&["small.safetensors", "out", "--to", "kohya-lora"], 4, "not a LoRA"),
    ] {
        let answer = convert(arguments);
        assert_eq!(answer.code, Some(code), "{arguments:?}: {}", answer.stderr);
        assert!(answer.stderr.contains(said), "{arguments:?}: {}", answer.stderr);
        assert!(!project.path("out").exists(), "{arguments:?}");
    }
    // Other names need no configuration.
    let answer = convert(&["small.safetensors", "names.safetensors", "--to", "diffusers"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), "wrote `names.safetensors`\n"));
}

#[test]
fn learned_words_go_through_every_form_with_the_same_numbers() {
    let project = Project::new();
    let convert = |arguments: &[&str]| converted(&project, arguments);
    let open = |name: &str| SafetensorsFile::open(project.path(name)).expect("it was written");
    let only = |file: &SafetensorsFile| -> (String, Vec<usize>, Vec<u8>) {
        let [name] = file.names()[..] else { panic!("one tensor, not {:?}", file.names()) };
        let (shape, bytes) = (file.info(name).expect("listed").shape.clone(), file.bytes(name).expect("listed"));
        (name.to_owned(), shape, bytes.into_owned())
    };
    // AUTOMATIC1111's pickle of two vectors, whose word is said beside them.
    let pickle = fixture("pickles/embedding.pt");
    assert_eq!(
        convert(&[pickle.as_str(), "kohya.safetensors", "--to", "kohya-embedding"]),
        "wrote `kohya.safetensors`\n"
    );
    let (name, shape, numbers) = only(&open("kohya.safetensors"));
    assert_eq!((name.as_str(), &shape[..]), ("emb_params", &[2, 768][..]));
    assert_eq!(open("kohya.safetensors").metadata()["name"], "snorp");
    convert(&["kohya.safetensors", "diffusers.safetensors", "--to", "diffusers-embedding"]);
    assert_eq!(only(&open("diffusers.safetensors")), ("snorp".to_owned(), vec![2, 768], numbers));
    convert(&["diffusers.safetensors", "again.safetensors", "--to", "kohya-embedding"]);
    let read = |name: &str| std::fs::read(project.path(name)).expect("it was written");
    assert!(read("again.safetensors") == read("kohya.safetensors"));
    // diffusers' `learned_embeds.bin`, whose only vector has one dimension.
    let entry = |name: &str, width: usize| TensorEntry {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: vec![width],
        bytes: (0..width).flat_map(|at| (at as f32).to_le_bytes()).collect(),
    };
    std::fs::write(project.path("learned_embeds.bin"), as_checkpoint(&[entry("<cat>", 768)], 1)).expect("a new file");
    convert(&["learned_embeds.bin", "cat.safetensors", "--to", "kohya-embedding", "--dtype", "fp16"]);
    let cat = open("cat.safetensors");
    assert_eq!(
        (&cat.metadata()["name"][..], &cat.info("emb_params").expect("one").shape[..]),
        ("<cat>", &[1, 768][..])
    );
    assert_eq!(cat.info("emb_params").expect("one").dtype, Dtype::F16);
    // SDXL's pair keeps its names, and a file that says no word is called like it.
    let pair = [entry("clip_g", 1280), entry("clip_l", 768)];
    write(&project.path("dog.safetensors"), &pair, &BTreeMap::new()).expect("a writable folder");
    convert(&["dog.safetensors", "pair.safetensors", "--to", "sdxl-embedding"]);
    let written = open("pair.safetensors");
    assert_eq!((written.names(), &written.metadata()["name"][..]), (vec!["clip_g", "clip_l"], "dog"));
    assert_eq!(written.bytes("clip_g").expect("listed"), pair[0].bytes);
    for name in ["dog.safetensors", "pair.safetensors"] {
        let answer = project.run(&["inspect", name, "--json"]);
        let said: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert_eq!((&said["kind"], &said["family"]), (&"textual_inversion".into(), &"sdxl".into()), "{name}");
        assert_eq!((&said["width"], &said["second_width"]), (&768.into(), &1280.into()), "{name}");
    }
    for (arguments, code, said) in [
        (&["dog.safetensors", "out", "--to", "kohya-embedding"][..], 4, "`--to sdxl-embedding` has names for both"),
        (&["cat.safetensors", "out", "--to", "sdxl-embedding"], 4, "for one text encoder, and SDXL has two"),
        (&["cat.safetensors", "out", "--to", "kohya-lora"], 4, "not a LoRA"),
        (&["cat.safetensors", "out", "--to", "sdxl-embedding", "--inpainting"], 2, "is for whole models"),
        (&["run.toml", "out", "--to", "kohya-embedding"], 4, "`run.toml`"),
        (&["images/0.png", "out", "--to", "kohya-embedding"], 4, "learned words that lie in pictures are not read"),
    ] {
        let answer = project.run(&[&["convert"], arguments].concat());
        assert_eq!(answer.code, Some(code), "{arguments:?}: {}", answer.stderr);
        assert!(answer.stderr.contains(said), "{arguments:?}: {}", answer.stderr);
    }
}

#[test]
fn what_is_converted_tells_no_path_that_the_file_before_told() {
    let project = Project::new();
    let tensor =
        TensorEntry { name: "emb_params".into(), dtype: Dtype::F32, shape: vec![768], bytes: vec![0; 768 * 4] };
    let before = [
        ("name", "cat"),
        ("sd_checkpoint_name", "/home/jane/models/m.ckpt"),
        ("of_windows", "C:\\Users\\jane\\m.ckpt"),
        ("comment", "/ or not,\nas one likes"),
    ];
    let metadata = before.map(|(key, text)| (key.to_owned(), text.to_owned())).into();
    write(&project.path("cat.safetensors"), &[tensor], &metadata).expect("a writable folder");
    let answer = project.run(&["convert", "cat.safetensors", "word.safetensors", "--to", "diffusers-embedding"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let word = SafetensorsFile::open(project.path("word.safetensors")).expect("it was written");
    for (key, text) in
        [("name", "cat"), ("sd_checkpoint_name", "m.ckpt"), ("of_windows", "m.ckpt"), ("comment", before[3].1)]
    {
        assert_eq!(word.metadata()[key], text, "{key}");
    }
}

#[test]
fn words_that_a_lora_brings_along_stay_with_it_or_are_said_to_be_left_out() {
    const WORD: &str = "bundle_emb.<s1>.string_to_param.*";
    let project = Project::new();
    let convert = |arguments: &[&str]| converted(&project, arguments);
    let open = |name: &str| tensors(&SafetensorsFile::open(project.path(name)).expect("it was written"));
    // cloneofsimo's, whose word stands beside its matrices.
    let lora = fixture("module_list/lora.safetensors");
    assert_eq!(convert(&[lora.as_str(), "kohya.safetensors", "--to", "kohya-lora"]), "wrote `kohya.safetensors`\n");
    let kohya = open("kohya.safetensors");
    let word = kohya.get(WORD).expect("the word came along");
    let said = convert(&["kohya.safetensors", "peft.safetensors", "--to", "peft-lora"]);
    assert!(said.starts_with("left out: the words that come along, `<s1>`: ") && said.lines().count() == 2, "{said}");
    assert!(open("peft.safetensors").keys().all(|name| name.contains("lora")), "diffusers would refuse it");
    let said = convert(&["kohya.safetensors", "word.safetensors", "--to", "kohya-embedding"]);
    assert!(said.starts_with("left out: ") && said.contains("tensors beside the words: `lora_"), "{said}");
    let written = SafetensorsFile::open(project.path("word.safetensors")).expect("it was written");
    assert_eq!(written.names(), ["emb_params"]);
    assert_eq!(written.bytes("emb_params").expect("listed"), word.2);
    assert_eq!(written.metadata()["name"], "<s1>");
}

#[test]
fn several_words_of_sd2_are_known_for_words_by_what_their_file_says() {
    let project = Project::new();
    let entry = |word: &str| TensorEntry {
        name: format!("bundle_emb.{word}.string_to_param.*"),
        dtype: Dtype::F32,
        shape: vec![1, 1024],
        bytes: vec![0; 1024 * 4],
    };
    for (said, architecture) in [
        (None, "stable-diffusion-v2/textual-inversion"),
        (Some("sd_v2"), "stable-diffusion-v2-512/textual-inversion"),
        (Some("sd_v2_v"), "stable-diffusion-v2-768-v/textual-inversion"),
    ] {
        let metadata = said.map(|version| ("ss_base_model_version".to_owned(), version.to_owned()));
        let metadata = metadata.into_iter().collect();
        write(&project.path("two.safetensors"), &[entry("a"), entry("b")], &metadata).expect("a writable folder");
        converted(&project, &["two.safetensors", "words.safetensors", "--to", "diffusers-embedding"]);
        let words = SafetensorsFile::open(project.path("words.safetensors")).expect("it was written");
        assert_eq!((words.names(), &words.metadata()["modelspec.architecture"][..]), (vec!["a", "b"], architecture));
        let answer = project.run(&["inspect", "words.safetensors", "--json"]);
        let told: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert_eq!(told["kind"], "textual_inversion", "{told}");
    }
}

#[test]
fn several_learned_words_keep_their_names() {
    let project = with_lora();
    let entry = |name: &str| TensorEntry {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: vec![1, 768],
        bytes: vec![0; 768 * 4],
    };
    let says_so =
        BTreeMap::from([("modelspec.architecture".to_owned(), "stable-diffusion-v1/textual-inversion".to_owned())]);
    write(&project.path("two.safetensors"), &[entry("a"), entry("b")], &says_so).expect("a writable folder");
    let convert = |arguments: &[&str]| project.run(&[&["convert"], arguments].concat());
    let answer = convert(&["two.safetensors", "words.safetensors", "--to", "diffusers-embedding"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let words = SafetensorsFile::open(project.path("words.safetensors")).expect("it was written");
    assert_eq!((words.names(), words.metadata().contains_key("name")), (vec!["a", "b"], false));
    let answer = convert(&["two.safetensors", "out", "--to", "kohya-embedding"]);
    assert!(answer.code == Some(4) && answer.stderr.contains("holds several words"), "{}", answer.stderr);
    let answer = convert(&["lora.safetensors", "out", "--to", "kohya-embedding"]);
    assert!(answer.stderr.contains("is a kohya LoRA, not a textual inversion embedding"), "{}", answer.stderr);
    let merge = ["merge", "--lora", "lora.safetensors", "--output", "out", "--to", "sdxl-embedding"];
    let answer = project.run(&merge);
    assert!(answer.code == Some(2) && answer.stderr.contains("adapters are merged"), "{}", answer.stderr);
}
