//! Bad input gets one clear message and its own exit code.

use crate::project::Project;
use std::fs;

#[test]
fn every_problem_of_a_configuration_is_named_at_once() {
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

#[test]
fn a_truncated_model_file_is_named() {
    let project = Project::new();
    let whole = fs::read(crate::project::fixture("tiny_sd1.safetensors")).unwrap();
    fs::write(project.path("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    let (_, said) = project.expect(4, &["--config", "run.toml", "--set", "model.path=\"cut.safetensors\""]);
    assert!(said.contains("cut.safetensors"), "{said}");
}

#[test]
fn a_second_run_in_the_same_folder_is_refused() {
    let project = Project::new();
    let long = ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]"];
    let mut child = project.command(&long).stderr(std::process::Stdio::null()).spawn().unwrap();
    let began = std::time::Instant::now();
    while !project.path("outputs/run/config.toml").is_file() {
        assert!(began.elapsed().as_secs() < 120);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let (_, said) = project.expect(9, &long);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("in use"), "{said}");
}
