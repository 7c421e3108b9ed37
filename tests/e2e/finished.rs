//! A run that is over: what is still to be done where its product or its configuration is not as it was.

use crate::project::Project;
use std::fs;

/// Deleted by mistake, or wanted in another form: nothing of it is trained again.
#[test]
fn the_product_of_a_finished_run_that_is_missed_is_written_from_its_last_checkpoint() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]"];
    project.expect(0, &args);
    let path = |name: &str| project.path("outputs/run").join(name);
    let product = || fs::read(path("run.safetensors")).expect("a product");
    let before = product();
    fs::remove_file(path("run.safetensors")).unwrap();
    let (_, said) = project.expect(0, &args);
    assert!(said.contains("run.safetensors` is not there: it is written from the checkpoint of step 6"), "{said}");
    assert!(said.contains("saved outputs/run/run.safetensors") && product() == before, "{said}");
    let (_, said) = project.expect(0, &args);
    assert!(said.contains("holds this run, finished;") && !said.contains("saved "), "{said}");
    // What is told of it is done, and stays so.
    let bf16 = [&args[..], &["--set", "precision.save=bf16"]].concat();
    let (_, said) = project.expect(0, &bf16);
    assert!(said.contains("`precision.save` is another now") && product() != before, "{said}");
    let (_, said) = project.expect(0, &bf16);
    assert!(said.contains("holds this run, finished;"), "{said}");
    let other = [&args[..], &["--set", "name=other", "--output", "outputs/run"]].concat();
    let (_, said) = project.expect(0, &other);
    assert!(path("other.safetensors").is_file() && path("run.safetensors").is_file(), "{said}");
    assert_eq!(fs::read_to_string(path("metrics.jsonl")).unwrap().lines().count(), 6, "{said}");
    // Without a checkpoint nobody can.
    fs::remove_dir_all(path("checkpoints")).unwrap();
    fs::remove_file(path("other.safetensors")).unwrap();
    let (_, said) = project.expect(4, &other);
    assert!(said.contains("other.safetensors` is not there") && said.contains("put it or a checkpoint back"), "{said}");
}

#[test]
fn a_finished_folder_without_its_configuration_is_held_against_that_of_its_checkpoint() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]"];
    project.expect(0, &args);
    fs::remove_file(project.path("outputs/run/config.toml")).unwrap();
    let (_, said) = project.expect(2, &[&args[..], &["--set", "seed=9"]].concat());
    assert!(said.contains("these keys differ: seed"), "{said}");
    let (_, said) = project.expect(0, &args);
    assert!(said.contains("holds this run, finished;"), "{said}");
}
