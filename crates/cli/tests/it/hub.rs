//! Models on the Hugging Face hub: what a command fetches of them, and when.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use sdtrain_state_dict::{Dtype, TensorEntry, write};
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

use crate::project::{Answer, CONFIG, Project};
use crate::server::{COMMIT, Server, TOKEN};

/// A project whose model is on a hub, with weights that say nothing, and a program with an engine that repeats its arguments.
struct OnHub {
    project: Project,
    server: Server,
    program: PathBuf,
}

impl OnHub {
    fn new() -> OnHub {
        let project = Project::new();
        project.write("run.toml", &CONFIG.replace("\"model\"", "\"hf:org/repo\"").replace("init = \"random\"\n", ""));
        let mut files = BTreeMap::new();
        for name in ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"] {
            let config = fs::read_to_string(project.path(&format!("model/{name}"))).expect("it was written");
            // As many as its tokenizer has.
            let config = config.replace("\"vocab_size\": 300", "\"vocab_size\": 521");
            files.insert(name.to_owned(), config.into_bytes());
        }
        fs::remove_dir_all(project.path("model")).expect("its own folder");
        files.insert("scheduler/scheduler_config.json".to_owned(), b"{}".to_vec());
        for (name, content) in PromptTokenizer::from_words(&["red", "bottle"], 77).files() {
            files.insert(format!("tokenizer/{name}"), content);
        }
        for name in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
            files.insert(format!("{name}.safetensors"), vec![name.len() as u8; 2000]);
            files.insert(format!("{name}.fp16.safetensors"), vec![name.len() as u8; 1000]);
        }
        let server = Server::start(&[]);
        server.set().files = files;
        let program = project.with_engine("echo \"engine:$*\"\nexit 75");
        OnHub { project, server, program }
    }

    fn run(&self, args: &[&str]) -> Answer {
        self.run_with(&[], args)
    }

    fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Answer {
        let cache = self.project.path("hub");
        let usual = [
            ("HF_ENDPOINT", self.server.endpoint.as_str()),
            ("HF_HUB_CACHE", cache.to_str().expect("plain text")),
            ("HF_TOKEN", TOKEN),
            ("HF_HUB_OFFLINE", "0"),
        ];
        let answer = self.project.run_with(&self.program, &[&usual[..], variables].concat(), args);
        assert!(!answer.stderr.contains(TOKEN) && !answer.stdout.contains(TOKEN), "{}", answer.stderr);
        answer
    }

    /// How many files of weights have been sent.
    fn sent(&self) -> usize {
        self.server
            .requests()
            .iter()
            .filter(|line| line.starts_with("content") && line.contains(".safetensors"))
            .count()
    }
}

#[test]
fn check_says_what_would_be_fetched_and_leaves_it_there() {
    let on_hub = OnHub::new();
    let answer = on_hub.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains("diffusers folder whose weights are still to be fetched"), "{}", answer.stdout);
    let line = "to fetch   `hf:org/repo`: 5.9 KiB in unet/diffusion_pytorch_model.safetensors (2.0 KiB), ";
    assert!(answer.stdout.contains(line), "{}", answer.stdout);
    assert_eq!(on_hub.sent(), 0);
    let answer = on_hub.run(&["check", "run.toml", "--set", "model.variant=\"fp16\""]);
    assert!(answer.stdout.contains("2.9 KiB in unet/diffusion_pytorch_model.fp16.safetensors"), "{}", answer.stdout);
    let answer = on_hub.run(&["check", "run.toml", "--set", "model.init=\"random\""]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(!answer.stdout.contains("to fetch"), "{}", answer.stdout);
}

#[test]
fn a_run_fetches_its_model_once_and_before_the_engine_begins() {
    let on_hub = OnHub::new();
    let answer = on_hub.run(&["--config", "run.toml"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(75), "engine:--config run.toml\n"), "{}", answer.stderr);
    assert_eq!(answer.stderr, "fetching 3 files of `hf:org/repo`: 5.9 KiB to `hub`\n");
    assert_eq!(on_hub.sent(), 3);
    let weights = format!("hub/models--org--repo/snapshots/{COMMIT}/unet/diffusion_pytorch_model.safetensors");
    assert_eq!(fs::read(on_hub.project.path(&weights)).expect("it was fetched"), [28; 2000]);
    let asked = on_hub.server.requests().len();
    // Nothing is asked for any more; what the weights are is looked at now.
    let sample = ["sample", "--model", "hf:org/repo", "--prompt", "x", "--output", "out"];
    let answer = on_hub.run_with(&[("HF_HUB_OFFLINE", "1")], &sample);
    assert_eq!(answer.code, Some(75), "{}", answer.stderr);
    assert_eq!(on_hub.server.requests().len(), asked);
    let answer = on_hub.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    assert!(answer.stderr.contains("diffusion_pytorch_model.safetensors"), "{}", answer.stderr);
}

#[test]
fn every_other_mistake_is_found_before_the_weights_come() {
    let on_hub = OnHub::new();
    let answer = on_hub.run(&["--config", "run.toml", "--set", "data.batch_size=0"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(on_hub.server.requests().is_empty());
    for index in 0..4 {
        fs::remove_file(on_hub.project.path(&format!("images/{index}.png"))).expect("its own file");
    }
    let answer = on_hub.run(&["--config", "run.toml"]);
    assert_eq!(answer.code, Some(3), "{}", answer.stderr);
    let answer = on_hub.run(&["sample", "--model", "hf:org/repo", "--prompt", "x", "--output", "o", "--lora", "no"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(2), "error: `--lora no` does not exist\n"));
    assert_eq!(on_hub.sent(), 0);
}

#[test]
fn a_file_of_a_repository_is_fetched_inspected_and_converted() {
    let on_hub = OnHub::new();
    let module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    let tensor = |suffix: &str, shape: &[usize]| {
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        TensorEntry { name: format!("{module}.{suffix}"), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    };
    let tensors = [tensor("lora_down.weight", &[64, 32]), tensor("lora_up.weight", &[32, 64]), tensor("alpha", &[])];
    let path = on_hub.project.path("lora.safetensors");
    write(&path, &tensors, &BTreeMap::new()).expect("a writable folder");
    on_hub.server.set().files.insert("lora/a.safetensors".to_owned(), fs::read(path).expect("it was just written"));
    let name = "hf:org/repo/lora/a.safetensors";
    let answer = on_hub.run(&["inspect", name]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains("kohya LoRA"), "{}", answer.stdout);
    let answer = on_hub.run(&["convert", name, "peft.safetensors", "--to", "peft-lora"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), "wrote `peft.safetensors`\n"));
    assert_eq!(on_hub.sent(), 1);
    let answer = on_hub.run(&["merge", "--lora", &format!("{name}:0.5"), "--output", "out/merged.safetensors"]);
    assert_eq!(answer.code, Some(75), "{}", answer.stderr);
    for key in ["lora.initial", "model.fuse"] {
        let set = match key {
            "lora.initial" => format!("lora={{rank = 64, initial = \"{name}\"}}"),
            _ => format!("model.fuse=[{{path = \"{name}\"}}]"),
        };
        let answer = on_hub.run(&["check", "run.toml", "--set", &set]);
        assert_eq!(answer.code, Some(0), "{key}: {} {}", answer.stdout, answer.stderr);
    }
}

#[test]
fn a_picture_to_start_from_and_its_mask_come_from_the_hub_as_well() {
    let on_hub = OnHub::new();
    for name in ["picture.png", "mask.png"] {
        on_hub.server.set().files.insert(name.to_owned(), b"read by the engine".to_vec());
    }
    let sample = ["sample", "--model", "hf:org/repo", "--prompt", "x", "--output", "out"];
    let pictures = ["--init-image", "hf:org/repo/picture.png", "--mask", "hf:org/repo/mask.png"];
    let answer = on_hub.run(&[&sample[..], &pictures].concat());
    assert_eq!(answer.code, Some(75), "{}", answer.stderr);
    for name in ["picture.png", "mask.png"] {
        let path = on_hub.project.path(&format!("hub/models--org--repo/snapshots/{COMMIT}/{name}"));
        assert_eq!(fs::read(path).expect("it was fetched"), b"read by the engine");
    }
}

#[test]
fn a_repository_is_converted_to_a_folder_and_to_a_file_and_is_no_lora() {
    let on_hub = OnHub::new();
    for (arguments, said) in [
        (&["--to", "peft-lora"][..], "names a whole model, not a LoRA"),
        (&["--to", "diffusers", "--extract-ema"], "`--extract-ema` is for a single file"),
    ] {
        let answer = on_hub.run(&[&["convert", "hf:org/repo", "out"], arguments].concat());
        assert_eq!(answer.code, Some(2), "{}", answer.stderr);
        assert!(answer.stderr.contains(said), "{}", answer.stderr);
    }
    assert_eq!(on_hub.sent(), 0);
    // Its weights are fetched, and are no weights.
    for arguments in [&["--to", "diffusers", "--inpainting"][..], &["--to", "diffusers"], &["--to", "single-file"]] {
        let answer = on_hub.run(&[&["convert", "hf:org/repo", "out"], arguments].concat());
        assert_eq!(answer.code, Some(4), "{}", answer.stderr);
        assert!(answer.stderr.contains("diffusion_pytorch_model.safetensors"), "{}", answer.stderr);
        assert_eq!(on_hub.sent(), 3);
    }
}

#[test]
fn a_model_that_is_not_here_is_inspected_by_its_configurations() {
    let on_hub = OnHub::new();
    let answer = on_hub.run(&["inspect", "hf:org/repo", "--json"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let json: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    assert_eq!((&json["kind"], &json["family"]), (&"diffusers_folder".into(), &"sd1".into()));
    assert!(json["to_fetch"][0].as_str().is_some_and(|text| text.starts_with("`hf:org/repo`: 5.9 KiB in ")), "{json}");
    assert_eq!(on_hub.sent(), 0);
}

#[test]
fn an_autoencoder_comes_from_the_hub_as_well() {
    let on_hub = OnHub::new();
    let set = ["--set", "model.init=\"random\"", "--set", "model.vae=\"hf:org/repo/vae\""];
    let answer = on_hub.run(&[&["check", "run.toml"], &set[..]].concat());
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let line = "to fetch   `hf:org/repo/vae`: 2.0 KiB in vae/diffusion_pytorch_model.safetensors (2.0 KiB)\n";
    assert!(answer.stdout.contains(line), "{}", answer.stdout);
    let answer = on_hub.run(&[&["--config", "run.toml"], &set[..]].concat());
    assert_eq!((answer.code, on_hub.sent()), (Some(75), 1), "{}", answer.stderr);
}

#[test]
fn another_text_encoder_and_its_tokenizer_come_from_the_hub_as_well() {
    let on_hub = OnHub::new();
    let set = ["--set", "model.init=\"random\"", "--set", "model.text_encoder=\"hf:org/repo\""];
    let answer = on_hub.run(&[&["check", "run.toml"], &set[..]].concat());
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stdout.contains("with the text encoder in `hf:org/repo`\n"), "{}", answer.stdout);
    let line = "to fetch   `hf:org/repo`: 2.0 KiB in text_encoder/model.safetensors (2.0 KiB)\n";
    assert!(answer.stdout.contains(line), "{}", answer.stdout);
    assert_eq!(on_hub.sent(), 0);
    let tokenizer = |name: &str| format!("model.tokenizer=\"{name}\"");
    let answer = on_hub.run(&[&["check", "run.toml", "--set", &tokenizer("hf:org/repo")], &set[..]].concat());
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(answer.stderr.contains("the one of the model in it is `hf:org/repo/tokenizer`"), "{}", answer.stderr);
    let named = tokenizer("hf:org/repo/tokenizer");
    let answer = on_hub.run(&[&["--config", "run.toml", "--set", &named], &set[..]].concat());
    assert_eq!((answer.code, on_hub.sent()), (Some(75), 1), "{}", answer.stderr);
}

#[test]
fn what_the_hub_refuses_ends_with_its_exit_code() {
    let on_hub = OnHub::new();
    let answer = on_hub.run(&["--config", "run.toml", "--set", "model.path=\"hf:org\""]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.stderr.contains("`model.path`: `hf:org` names nothing on the Hugging Face hub"),
        "{}",
        answer.stderr
    );
    let answer = on_hub.run(&["--config", "run.toml", "--set", "model.path=\"hf:org/other\""]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("has no repository `org/other`"), "{}", answer.stderr);
    on_hub.server.set().wants_token = Some("another");
    let answer = on_hub.run(&["check", "run.toml"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("hint: accept its licence at"), "{}", answer.stderr);
    on_hub.server.set().wants_token = None;
    on_hub.server.set().instead.insert("unet/diffusion_pytorch_model.safetensors".to_owned(), vec![8; 2000]);
    let answer = on_hub.run(&["--config", "run.toml"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(4), ""));
    assert!(answer.stderr.contains("came with the hash"), "{}", answer.stderr);
    let answer = on_hub.run_with(&[("HF_HUB_CACHE", "/proc/none")], &["--config", "run.toml"]);
    assert_eq!(answer.code, Some(7), "{}", answer.stderr);
}
