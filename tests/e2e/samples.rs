//! Pictures during a run: they show it, and leave it as it is.

use crate::project::Project;
use std::fs;

#[test]
fn drawing_pictures_changes_no_bit_of_the_training() {
    let project = Project::new();
    let run = |output: &str, more: &[&str]| {
        let args = ["--config", "run.toml", "--output", output, "--set", "data.subsets.0.caption_dropout_rate=0.3"];
        project.expect(0, &[&args[..], &["--set", "lora.dropout=0.2"], more].concat());
        let metrics = fs::read_to_string(project.path(output).join("metrics.jsonl")).unwrap();
        let numbers = |line: &str| {
            let row = serde_json::from_str::<serde_json::Value>(line).unwrap();
            (row["loss"].to_string(), row["grad_norm"].to_string())
        };
        let product = fs::read(project.path(output).join("run.safetensors")).unwrap();
        // What follows the header, which names the configuration's digest and times.
        let header = u64::from_le_bytes(*product.first_chunk().unwrap()) as usize;
        (metrics.lines().map(numbers).collect::<Vec<_>>(), product[8 + header..].to_vec())
    };
    let without = run("without", &["--set", "samples.prompts=[]"]);
    // Noise in every step of the sampler, after every step of the training.
    let with = run("with", &["--set", "samples.every_steps=1", "--set", "samples.sampler=\"euler_a\""]);
    assert!(project.path("with/samples/step-000003/grid.png").is_file());
    assert!(without == with);
}

#[test]
fn each_prompt_is_drawn_in_its_own_way() {
    let project = Project::new();
    project.write("prompts.txt", "# kohya's form\npicture 2 --w 96 --h 64 --d 9 --s 3 --l 1\npicture 3 --ss euler\n");
    let set = ["--set", "samples.prompts_file=\"prompts.txt\"", "--set", "samples.every_epochs=1"];
    project.expect(0, &[&["--config", "run.toml"], &set[..]].concat());
    for step in ["step-000000", "step-000006"] {
        let drawn = |name: &str| {
            let path = project.path("outputs/run/samples").join(step).join(name);
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            (image::open(path).unwrap().to_rgb8().dimensions(), text)
        };
        assert_eq!(drawn("00-0.png").0, (64, 64));
        let (size, text) = drawn("01-9.png");
        assert_eq!(size, (96, 64));
        assert!(text.contains("picture 2\nSteps: 3,") && text.contains("CFG scale: 1,"), "{text:.400}");
        assert!(drawn("02-2.png").1.contains("Sampler: euler,"), "{step}");
    }
    assert!(project.path("outputs/run/samples/grid.png").is_file());
}
