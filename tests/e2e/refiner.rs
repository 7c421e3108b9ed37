//! SDXL's refiner: it goes on from pictures, is converted both ways and trained.

use crate::project::{Project, fixture};

#[test]
fn the_refiner_goes_on_from_a_picture_and_is_trained_without_drawing() {
    let project = Project::new();
    let refiner = fixture("tiny_sdxl_refiner").display().to_string();
    let (said, _) = project.expect(0, &["inspect", &refiner]);
    assert!(said.contains("sdxl_refiner"), "{said}");

    let sample = ["sample", "--prompt", "a red star", "--steps", "5", "--output", "drawn"];
    let (_, said) = project.expect(2, &[&sample[..], &["--model", &refiner]].concat());
    assert!(said.contains("goes on from a picture") && said.contains("--init-image PICTURE"), "{said}");
    let from = ["--init-image", "images/0.png", "--strength", "0.4"];
    let drawn = |model: &str| {
        project.expect(0, &[&sample[..], &["--model", model], &from[..]].concat());
        image::open(project.path("drawn/00000-0.png")).expect("a picture").into_rgb8()
    };
    let of_folder = drawn(&refiner);
    project.expect(0, &["convert", &refiner, "single.safetensors", "--to", "single-file"]);
    let (said, _) = project.expect(0, &["inspect", "single.safetensors"]);
    assert!(said.contains("single-file SDXL refiner checkpoint") && said.contains("text_encoder_2"), "{said}");
    project.expect(0, &["convert", "single.safetensors", "folder", "--to", "diffusers"]);
    for other in ["single.safetensors", "folder"] {
        assert!(drawn(other) == of_folder, "{other}");
    }

    let train = ["--config", "run.toml", "--set", &format!("model.path={refiner}")].map(str::to_owned);
    let train: Vec<&str> = train.iter().map(String::as_str).collect();
    let (_, said) = project.expect(2, &[&train[..], &["--set", "samples.prompts=[\"a star\"]"]].concat());
    assert!(said.contains("`samples`: a model of the SDXL refiner family goes on from a picture"), "{said}");
    let class =
        ["--set", "samples.prompts=[]", "--set", "method=dreambooth", "--set", "dreambooth.class_prompt=a star"];
    let (_, said) = project.expect(2, &[&train[..], &class].concat());
    assert!(said.contains("`dreambooth.prior`: a model of the SDXL refiner family goes on from a picture"), "{said}");
    let few = ["--set", "dreambooth.class_data_dir=class", "--output", "of-dreambooth"];
    let (_, said) = project.expect(2, &[&train[..], &class, &few].concat());
    assert!(said.contains("100 class images are missing in `"), "{said}");
    project.expect(
        0,
        &[&train[..], &["--set", "method=lora", "--set", "samples.prompts=[]", "--output", "of-lora"]].concat(),
    );
}
