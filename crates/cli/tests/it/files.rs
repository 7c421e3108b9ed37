//! `sdtrain inspect` and `sdtrain convert`.

use std::collections::BTreeMap;

use sdtrain_state_dict::{Dtype, TensorEntry, write};

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
