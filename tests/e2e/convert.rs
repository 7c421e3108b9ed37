//! Models in other formats draw the same pictures.

use crate::project::Project;
use std::fs;

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
