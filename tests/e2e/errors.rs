//! Bad input gets one clear message and its own exit code.

use crate::project::{Project, fixture};
use sdtrain_state_dict::{Dtype, Reader, SafetensorsFile, TensorEntry, write};
use sdtrain_test_support::copy_folder;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// telemt#760, moraine#34, freenet#5131, sd-scripts: unknown keys are ignored.
#[test]
fn telemt_760_every_problem_of_a_configuration_is_named_at_once() {
    let project = Project::new();
    let text = fs::read_to_string(project.path("run.toml")).unwrap();
    project.write("run.toml", &text.replace("batch_size = 2", "batch_sise = 2").replace("rank = 4", "rank = \"four\""));
    let (_, said) = project.expect(2, &["--config", "run.toml"]);
    assert!(said.contains("unknown key `data.batch_sise`") && said.contains("did you mean `batch_size`"), "{said}");
    assert!(said.contains("lora.rank"), "{said}");
}

#[test]
fn a_missing_caption_is_an_error_unless_it_may_be_empty() {
    let project = Project::new();
    fs::remove_file(project.path("images/3.txt")).unwrap();
    let (_, said) = project.expect(3, &["--config", "run.toml"]);
    assert!(said.contains("3.png"), "{said}");
    project.expect(0, &["--config", "run.toml", "--set", "data.caption.missing=\"empty\""]);
}

#[test]
fn an_empty_folder_says_what_was_looked_for() {
    let project = Project::new();
    fs::remove_dir_all(project.path("images")).unwrap();
    fs::create_dir(project.path("images")).unwrap();
    let (_, said) = project.expect(3, &["--config", "run.toml", "--set", "validation.split=0.5"]);
    assert!(said.contains("no images found"), "{said}");
}

/// ComfyUI#14989: a download that was cut off is loaded.
#[test]
fn comfy_ui_14989_a_truncated_model_file_is_named() {
    let project = Project::new();
    let whole = fs::read(crate::project::fixture("tiny_sd1.safetensors")).unwrap();
    fs::write(project.path("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    let (_, said) = project.expect(4, &["--config", "run.toml", "--set", "model.path=\"cut.safetensors\""]);
    assert!(said.contains("cut.safetensors"), "{said}");
}

/// deepinv#525, deepinv#550, CellBender#241, DeepTab#411, torchtune#481, metatrain#448, pangaea-bench#104: two runs write into one folder.
#[test]
fn deepinv_525_a_second_run_in_the_same_folder_is_refused() {
    let project = Project::new();
    let long = ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]"];
    let running = project.start(&long);
    running.wait_for(|| project.path("outputs/run/config.toml").is_file());
    let said = refused_unread(&project, 9, &long);
    running.kill();
    assert!(said.contains("in use by another run (process"), "{said}");
}

/// What is said of an output folder that nothing can be written to, with images that are wrong as well: whoever looks at those first
/// says so, and with another exit code. It is said by a copy of the program without the engine beside it, so at once: before libtorch is
/// loaded, and with no weight read.
pub(crate) fn refused_unread(project: &Project, code: i32, args: &[&str]) -> String {
    fs::copy(project.path("images/3.png"), project.path("images/without_caption.png")).expect("there is room");
    let alone = project.path("sdtrain");
    // By another process, whose copy nobody else has open for writing when it is started.
    let copied =
        Command::new("cp").arg(project.command(&[]).get_program()).arg(&alone).status().expect("`cp` is there");
    assert!(copied.success());
    let output = Command::new(&alone).args(args).current_dir(project.path(".")).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("without_caption") && !said.contains("images found"), "the data were read: {said}");
    said
}

#[test]
fn a_file_in_the_place_of_the_output_folder_is_refused_before_the_images_are_looked_at() {
    for (taken, args) in [
        ("outputs", &["--config", "run.toml"][..]),
        ("outputs/run", &["--config", "run.toml"]),
        ("outputs/run", &["--config", "run.toml", "--resume", "never"]),
        ("elsewhere", &["--config", "run.toml", "--output", "elsewhere"]),
    ] {
        let project = Project::new();
        fs::create_dir_all(project.path(taken).parent().unwrap()).unwrap();
        project.write(taken, "taken");
        let said = refused_unread(&project, 7, args);
        assert!(said.contains("nothing can be written to") && said.contains(taken), "{said}");
        assert_eq!(fs::read_to_string(project.path(taken)).unwrap(), "taken");
    }
}

/// Of a link the link alone would be moved, and the new run would lie beside it, perhaps on another disk; `.` and a mounted disk have no
/// name that could be changed.
#[test]
fn an_output_folder_that_cannot_be_moved_aside_is_refused_before_the_images_are_looked_at() {
    let project = Project::new();
    fs::create_dir_all(project.path("big/run/checkpoints")).unwrap();
    std::os::unix::fs::symlink("big/run", project.path("sl")).unwrap();
    for output in ["sl", "sl/"] {
        let said = refused_unread(&project, 2, &["--config", "run.toml", "--output", output, "--resume", "never"]);
        assert!(said.contains("cannot be moved aside: it is a symbolic link to"), "{said}");
        assert!(said.contains("hint: name the folder that the link points at") && said.contains("big/run`"), "{said}");
    }
    assert!(project.path("sl").is_symlink() && !project.path("sl.1").exists());
    assert!(project.path("big/run/checkpoints").is_dir());
    fs::create_dir(project.path("checkpoints")).unwrap();
    let said = refused_unread(&project, 2, &["--config", "run.toml", "--output", ".", "--resume", "never"]);
    assert!(
        said.contains("`.` cannot be moved aside") && said.contains("hint: name the folder from the one"),
        "{said}"
    );
}

/// Nothing has to be moved aside for a run that is the first in its folder.
#[test]
fn a_link_to_an_empty_folder_is_an_output_folder() {
    let project = Project::new();
    fs::create_dir_all(project.path("big/run")).unwrap();
    std::os::unix::fs::symlink("big/run", project.path("sl")).unwrap();
    project.expect(0, &["--config", "run.toml", "--output", "sl", "--resume", "never"]);
    assert!(project.path("big/run/run.safetensors").is_file());
}

#[test]
fn a_checkpoint_that_is_not_there_is_no_reason_to_begin_anew() {
    let project = Project::new();
    let (_, said) = project.expect(4, &["--config", "run.toml", "--resume", "outputs/run/checkpoints/step-000002"]);
    assert!(said.contains("`--resume outputs/run/checkpoints/step-000002` does not exist"), "{said}");
    assert!(said.contains("hint: it is `auto`, `never` or the path of a checkpoint"), "{said}");
    assert!(!project.path("outputs").exists());
}

/// As a copy that was broken off leaves it, or a disk that lost a bit.
#[test]
fn a_checkpoint_that_is_named_and_damaged_is_refused_with_its_file_and_a_way_out() {
    type Damage = fn(&mut Vec<u8>);
    const CUT_OFF: Damage = |bytes| bytes.truncate(bytes.len() / 2);
    const FLIPPED: Damage = |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]", "--set", "checkpoint.keep_last=9"];
    project.expect(0, &args);
    let checkpoints = project.path("outputs/run/checkpoints");
    let latest = || fs::read_to_string(checkpoints.join("latest")).unwrap();
    let product = || fs::read(project.path("outputs/run/run.safetensors")).unwrap();
    let before = (latest(), product());
    for (file, damage, reason) in [
        ("tensors.safetensors", CUT_OFF, "`tensors.safetensors` has "),
        ("tensors.safetensors", FLIPPED, "the content of `tensors.safetensors` is not what was written"),
        ("state.json", FLIPPED, "the content of `state.json` is not what was written"),
        ("config.toml", CUT_OFF, "`config.toml` has "),
        ("MANIFEST.json", CUT_OFF, "its MANIFEST.json cannot be read"),
    ] {
        let path = checkpoints.join("step-000004").join(file);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damage(&mut damaged);
        fs::write(&path, damaged).unwrap();
        let resume = ["--resume", "outputs/run/checkpoints/step-000004"];
        let (_, said) = project.expect(4, &[&args[..], &resume].concat());
        let named = format!("`outputs/run/checkpoints/step-000004` is not a complete checkpoint: {reason}");
        assert!(said.contains(&named), "{said}");
        assert!(said.contains("hint: `--resume auto` takes the newest complete checkpoint"), "{said}");
        assert_eq!(latest(), before.0, "{file}: {said}");
        assert!(product() == before.1 && checkpoints.join("step-000006").is_dir(), "{file}: {said}");
        assert!(!project.path("outputs/run/checkpoints-set-aside").exists(), "{file}: {said}");
        fs::write(&path, whole).unwrap();
    }
    // Whole again, it is gone back to.
    project.expect(0, &[&args[..], &["--resume", "outputs/run/checkpoints/step-000004"]].concat());
    assert!(product() == before.1);
}

#[test]
fn what_a_run_would_refuse_is_refused_by_check_before_anything_is_written() {
    let project = Project::new();
    fs::create_dir(project.path("nothing")).unwrap();
    project.write("text.safetensors", "no tensors");
    fs::create_dir(project.path("edges")).unwrap();
    for index in 0..6 {
        let name = format!("{index}.png");
        fs::copy(project.path("images").join(&name), project.path("edges").join(&name)).unwrap();
    }
    for (change, code, words) in [
        ("validation.path=nothing", 3, "no images found"),
        ("lora.initial=text.safetensors", 4, "text.safetensors"),
        ("data.resolution=98", 2, "multiples of 4"),
        (
            "data.subsets.0.extra_images=[{column=\"edges\", path=\"edges\"}]",
            2,
            "control images and pairs of images are read",
        ),
    ] {
        for command in ["check", "train"] {
            let (_, said) = project.expect(code, &[command, "--config", "run.toml", "--set", change]);
            assert!(said.contains(words), "{command} {change}: {said}");
        }
    }
    assert!(!project.path("outputs").exists());
}

/// RT-DETR#337, wd14-tagger#28, kraken#299: one bad image ends a run, or is left out without its name.
#[test]
fn rt_detr_337_an_image_that_is_left_out_is_named_at_the_start_and_at_the_end() {
    let project = Project::new();
    let picture = fs::read(project.path("images/1.png")).unwrap();
    for index in 6..260 {
        fs::write(project.path(&format!("images/{index}.png")), &picture).unwrap();
        fs::write(project.path(&format!("images/{index}.txt")), "another").unwrap();
    }
    // The end is there and the middle is not: only decoding shows it.
    let mut broken = picture.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    fs::write(project.path("images/7.png"), broken).unwrap();
    fs::write(project.path("images/8.png"), &picture[..picture.len() / 2]).unwrap();
    let args = ["--config", "run.toml", "--set", "train.max_steps=2", "--set", "samples.prompts=[]"];
    let (_, said) = project.expect(0, &[&args[..], &["--set", "validation.evaluate_at_end=false"]].concat());
    assert!(said.contains("8.png") && said.contains("left out"), "{said}");
    assert!(said.rfind("7.png").is_some_and(|at| at > said.rfind("step 2/2").unwrap_or(0)), "{said}");
}

#[test]
fn a_model_that_is_not_supported_is_refused_by_name() {
    let project = Project::new();
    copy_folder(&fixture("tiny_sd1"), &project.path("model"));
    let config = fs::read_to_string(project.path("model/unet/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let mut refused = |channels: u64, code: i32, words: &str| {
        config["in_channels"] = channels.into();
        project.write("model/unet/config.json", &config.to_string());
        for command in ["check", "train"] {
            let args = [command, "--config", "run.toml", "--set", "model.path=model", "--set", "model.init=random"];
            let (_, said) = project.expect(code, &args);
            assert!(said.contains(words), "{said}");
        }
    };
    refused(7, 4, "with 7 input channels; only those with 4, those for editing by instruction with 8");
    refused(
        8,
        2,
        "is made for editing by instruction (InstructPix2Pix, 8 input channels), and no method trains that yet",
    );
}

#[test]
fn more_sampling_steps_than_the_sampler_has_are_refused_before_anything_is_encoded() {
    let project = Project::new();
    let (_, said) = project.expect(2, &["--config", "run.toml", "--set", "samples.steps=1001"]);
    assert!(said.contains("`samples.steps`") && said.contains("1001 steps over 1000"), "{said}");
    assert!(!said.contains("images found"), "the data were opened: {said}");
}

/// Changes the tensors of a file.
fn change(path: &Path, change: impl Fn(&mut Vec<TensorEntry>)) {
    let file = SafetensorsFile::open(path).unwrap();
    let tensor = |name: &str| {
        let info = file.info(name).unwrap();
        let bytes = file.bytes(name).unwrap().into_owned();
        TensorEntry { name: name.to_owned(), dtype: info.dtype, shape: info.shape.clone(), bytes }
    };
    let mut tensors: Vec<TensorEntry> = file.names().into_iter().map(tensor).collect();
    change(&mut tensors);
    write(path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn whoever_opens_a_model_tells_all_of_its_tensors_that_do_not_fit() {
    let project = Project::new();
    copy_folder(&fixture("tiny_sd1"), &project.path("model"));
    change(&project.path("model/unet/diffusion_pytorch_model.safetensors"), |tensors| {
        tensors.retain(|tensor| !tensor.name.starts_with("conv_in."));
        for tensor in tensors.iter_mut().filter(|tensor| tensor.name.ends_with("attn2.to_k.weight")) {
            tensor.shape = vec![tensor.shape[0], 1024];
            tensor.bytes = vec![0; tensor.shape[0] * 1024 * tensor.dtype.size()];
        }
        tensors.push(TensorEntry { name: "more".into(), dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] });
    });
    let lora = fixture("lora_kohya.safetensors").display().to_string();
    for args in [
        &["check", "--config", "run.toml", "--set", "model.path=model"][..],
        &["train", "--config", "run.toml", "--set", "model.path=model"],
        &["sample", "--model", "model", "--prompt", "a cat", "--output", "drawn"],
        &["merge", "--model", "model", "--lora", &lora, "--output", "merged"],
    ] {
        let (_, said) = project.expect(4, args);
        for words in [
            "does not fit the model: 2 missing, 1 unexpected, ",
            "missing: conv_in.bias [8]",
            "missing: conv_in.weight [8, 4, 3, 3]",
            "unexpected: more",
            "wrong shape: ",
            "the file fits the SD2 family better: it reads text states of 1024 numbers",
        ] {
            assert!(said.contains(words), "{args:?}: `{words}` is not in\n{said}");
        }
    }
    let vae = project.path("vae.safetensors");
    fs::copy(fixture("tiny_sd1/vae/diffusion_pytorch_model.safetensors"), &vae).unwrap();
    change(&vae, |tensors| tensors.retain(|tensor| tensor.name != "quant_conv.bias"));
    let model = fixture("tiny_sd1").display().to_string();
    for args in [
        &["train", "--config", "run.toml", "--set", "model.vae=vae.safetensors"][..],
        &["sample", "--model", &model, "--vae", "vae.safetensors", "--prompt", "a cat", "--output", "drawn"],
    ] {
        let (_, said) = project.expect(4, args);
        assert!(said.contains("vae.safetensors` does not fit the model: 1 missing"), "{args:?}: {said}");
        assert!(said.contains("missing: quant_conv.bias [8]"), "{args:?}: {said}");
    }
    assert!(!project.path("drawn").exists() && !project.path("merged").exists());
}
