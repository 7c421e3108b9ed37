//! `[[stages]]`: what a stage begins with, and what cannot follow from the one before.

use std::path::{Path, PathBuf};

use sdtrain_recipe::{Plan, TrainConfig};

use crate::project::{Project, SMALLEST};

const TWO: &str = "[[stages]]\nname = \"first\"\n[[stages]]\nname = \"second\"\n";
const PRODUCT: &str = "/out/first/run-first.safetensors";

fn overrides(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The second stage as it runs behind the first, whose folder is `/out/first`.
fn second(project: &Project, set: &[&str]) -> TrainConfig {
    let plan =
        Plan::load(&project.path("configs/run.toml"), &overrides(set)).unwrap_or_else(|problems| panic!("{problems}"));
    plan.runs[1].after(&plan.runs[0].loaded.config, Path::new("/out/first"))
}

fn messages(project: &Project, set: &[&str]) -> String {
    Plan::load(&project.path("configs/run.toml"), &overrides(set)).expect_err("something is wrong").to_string()
}

#[test]
fn an_adapter_that_all_stages_have_is_where_the_first_begins() {
    let project = Project::new(&format!("{SMALLEST}[lora]\ninitial = \"first.safetensors\"\n{TWO}"));
    for name in ["first", "other"] {
        project.write(&format!("configs/{name}.safetensors"), "");
    }
    let other = project.path("configs/other.safetensors");
    let common = format!("lora.initial={}", other.display());
    let own = format!("stages.second.lora.initial={}", other.display());
    assert_eq!(second(&project, &[]).lora.initial, Some(PathBuf::from(PRODUCT)));
    assert_eq!(second(&project, &[&common]).lora.initial, Some(PathBuf::from(PRODUCT)));
    assert_eq!(second(&project, &[&own]).lora.initial, Some(other), "what the stage itself says stands");
}

#[test]
fn words_are_learned_on_whatever_they_started_as() {
    let word = "[[textual_inversion.tokens]]\nword = \"<cat>\"\ninitial_words = \"cat\"\n";
    let project = Project::new(&format!("method = \"textual_inversion\"\n{SMALLEST}{word}{TWO}"));
    let config = second(&project, &[]);
    let token = &config.textual_inversion.tokens[0];
    assert_eq!((token.initial.as_deref(), &token.initial_words), (Some(Path::new(PRODUCT)), &None));
    let file = project.path("configs/cat.safetensors");
    project.write("configs/cat.safetensors", "");
    // What the stage says of the word replaces the common list.
    let own = format!("stages.second.textual_inversion.tokens=[{{word='<cat>', initial='{}'}}]", file.display());
    assert_eq!(second(&project, &[&own]).textual_inversion.tokens[0].initial, Some(file));
}

#[test]
fn adapters_of_convolutions_are_trained_on_in_their_size() {
    let lora = "[lora]\nconvolutions = true\nconv_rank = 2\n";
    let project = Project::new(&format!("{SMALLEST}{lora}{TWO}"));
    second(&project, &[]);
    let found = messages(&project, &["stages.second.lora.conv_rank=4"]);
    for expected in [
        "`lora.conv_rank` is 4, but the adapters of the stage before have 2",
        "`lora.conv_alpha` is 4, but the adapters of the stage before have 2",
    ] {
        assert!(found.contains(expected), "{found}");
    }
    assert!(!found.contains("`lora.rank`"), "{found}");
    second(&project, &["lora.convolutions=false", "stages.second.lora.conv_rank=4"]);
}

#[test]
fn an_override_of_a_stage_may_change_a_common_subset() {
    let subset = "[[data.subsets]]\npath = \"../images\"\n";
    let project = Project::new(&format!("{SMALLEST}{subset}{TWO}"));
    let config = second(&project, &["stages.second.data.subsets.1.repeats=2"]);
    assert_eq!(config.data.subsets[1].repeats, 2.0);
}

#[test]
fn a_name_that_only_a_stage_makes_too_long_is_refused_there() {
    let project = Project::new(&format!("{SMALLEST}{TWO}"));
    let name = |length: usize| format!("name={}", "a".repeat(length));
    second(&project, &[&name(194)]);
    let found = messages(&project, &[&name(195)]);
    assert!(found.contains("stage `second`: ") && found.contains("`name` has 202 bytes"), "{found}");
    assert!(!found.contains("stage `first`"), "{found}");
}

#[test]
fn a_stage_begins_with_what_its_base_was_made_of_too() {
    let whole = "[[stages]]\nname = \"whole\"\nmethod = \"full\"\n";
    let project = Project::new(&format!("{SMALLEST}{whole}{TWO}"));
    let own = "stages.second.model.path=builtin:poster-tiny";
    for (set, expected) in [(vec![], [true, true, false]), (vec![own], [false, true, false])] {
        let plan = Plan::load(&project.path("configs/run.toml"), &overrides(&set))
            .unwrap_or_else(|problems| panic!("{problems}"));
        let first = plan.runs[1].after(&plan.runs[0].loaded.config, Path::new("/out/whole"));
        let second = plan.runs[2].after(&first, Path::new("/out/first"));
        let folders = ["/out/whole", "/out/first", "/out/fir"].map(Path::new);
        assert_eq!(folders.map(|folder| second.begins_with_something_in(folder)), expected, "{set:?}");
    }
}

#[test]
fn a_stage_that_learns_words_on_begins_with_their_file() {
    let word = "[[textual_inversion.tokens]]\nword = \"<cat>\"\ninitial_words = \"cat\"\n";
    let project = Project::new(&format!("method = \"textual_inversion\"\n{SMALLEST}{word}{TWO}"));
    assert!(second(&project, &[]).begins_with_something_in(Path::new("/out/first")));
}
