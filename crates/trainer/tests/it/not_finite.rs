//! A number that is none, in one step of a run: nothing of it reaches a weight, and the images are named.

use crate::replay::{project, run, tensor};
use sdtrain_model::TensorReader;
use sdtrain_state_dict::{Reader, SafetensorsFile, write_source};
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::Error;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tch::Tensor;

/// The recorded run with `value` in one place of the latents of these steps.
pub fn spoiled(folder: &Path, steps: &[u64], value: f64) -> String {
    let golden = SafetensorsFile::open(fixture_folder().join("trace.safetensors")).expect("a fixture");
    let tensors: Vec<(String, Tensor)> = golden
        .names()
        .into_iter()
        .map(|name| {
            let found = tensor(&golden, name);
            if steps.iter().any(|step| name == format!("step.{step}.latents")) {
                let _ = found.view([-1]).get(5).fill_(value);
            }
            (name.to_string(), found)
        })
        .collect();
    let path = folder.join("spoiled.safetensors");
    let reader = TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), None);
    write_source(&path, &reader, &BTreeMap::new()).expect("there is room");
    format!("debug.trace_inputs={}", path.display())
}

fn losses(trace: &SafetensorsFile) -> Vec<f64> {
    (1..=10).map(|step| tensor(trace, &format!("step.{step}.loss")).double_value(&[])).collect()
}

#[test]
fn a_step_with_such_a_number_is_left_out_and_the_run_goes_on() {
    for value in [f64::NAN, f64::INFINITY] {
        let folder = project();
        let trace = run("trace", folder.path(), &[&spoiled(folder.path(), &[4, 5], value)]).expect("it goes on");
        for (index, loss) in losses(&trace).into_iter().enumerate() {
            assert_eq!(loss.is_finite(), ![4, 5].contains(&(index + 1)), "step {}", index + 1);
        }
        let finals = trace.names().into_iter().filter(|name| name.starts_with("final."));
        assert!(finals.into_iter().all(|name| tensor(&trace, name).isfinite().all().int64_value(&[]) == 1));
        let scalars = fs::read_to_string(folder.path().join("output/scalars.jsonl")).expect("the run wrote it");
        let counted: Vec<&str> = scalars.lines().filter(|line| line.contains("train/skipped_steps")).collect();
        assert_eq!(counted.len(), 2, "{scalars}");
        assert!(counted[1].contains("2"), "{counted:?}");
    }
}

#[test]
fn too_many_in_a_row_end_the_run_and_name_the_images() {
    for (steps, changes) in [(&[4][..], "train.max_skipped_steps=0"), (&[3, 4, 5][..], "train.max_skipped_steps=2")] {
        let folder = project();
        let spoiled = spoiled(folder.path(), steps, f64::NAN);
        match run("trace", folder.path(), &[&spoiled, changes]) {
            Err(Error::NotFinite { step, images }) => {
                assert_eq!(step, *steps.last().expect("there is one"));
                assert!(!images.is_empty() && images.iter().all(|image| image.contains(".png")), "{images:?}");
            }
            other => panic!("{changes}: {:?}", other.map(|_| "it went on")),
        }
        assert!(!folder.path().join("output/checkpoints/step-000010").exists());
    }
}

#[test]
fn a_run_may_end_in_such_a_step_where_the_next_loss_is_a_number() {
    let folder = project();
    let last = spoiled(folder.path(), &[8, 9], f64::NAN);
    let trace = run("trace", folder.path(), &[&last, "train.max_steps=9"]).expect("its weights are those of step 7");
    let folder = project();
    let shorter = run("trace", folder.path(), &["train.max_steps=7"]).expect("a run");
    for name in trace.names().into_iter().filter(|name| name.starts_with("final.")) {
        assert_eq!(tensor(&trace, name), tensor(&shorter, name), "{name}");
    }
}

#[test]
fn a_run_does_not_end_where_no_step_shows_that_its_weights_are_good() {
    let folder = project();
    let last = spoiled(folder.path(), &[8, 9, 10], f64::NAN);
    let changes = [&last[..], "train.max_steps=9", "train.max_skipped_steps=2"];
    assert!(matches!(run("trace", folder.path(), &changes), Err(Error::NotFinite { step: 9, .. })));
    assert!(!folder.path().join("output/trace.safetensors").exists());
}

#[test]
fn weights_out_of_all_bounds_are_no_product() {
    let folder = project();
    let huge = ["optimizer.learning_rate=1e30", "train.max_steps=1"];
    assert!(matches!(run("trace", folder.path(), &huge), Err(Error::WeightsNotFinite { step: 1 })));
    assert!(!folder.path().join("output/checkpoints/step-000001").exists());
}

/// The step after it is the first that shows it, and its images have done nothing.
#[test]
fn weights_that_an_update_has_spoiled_are_not_told_as_images_that_did() {
    let folder = project();
    let huge = ["optimizer.learning_rate=1e30", "train.max_steps=5", "train.max_skipped_steps=3"];
    assert!(matches!(run("trace", folder.path(), &huge), Err(Error::WeightsNotFinite { step: 1 })));
    assert!(!folder.path().join("output/not-finite").exists());
}
