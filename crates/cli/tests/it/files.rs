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
    // Nothing would change.
    let answer = project.run(&["convert", "--to", "single-file", "whole.safetensors", "other.safetensors"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("a single file of safetensors already") && answer.stderr.contains("--dtype"),
        "{}",
        answer.stderr
    );
}

#[test]
fn what_a_conversion_is_not_made_for_is_refused() {
    let project = with_lora();
    for (arguments, code, said) in [
        (&["lora.safetensors", "out", "--to", "single-file", "--inpainting"][..], 4, "not a whole model"),
        (&["lora.safetensors", "out", "--to", "single-file"], 4, "not a whole model"),
        (&["lora.safetensors", "out", "--to", "peft-lora", "--inpainting"], 2, "an adapter has no input channels"),
        (&["model", "out", "--to", "diffusers", "--extract-ema"], 2, "`--extract-ema` is for a single file"),
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
