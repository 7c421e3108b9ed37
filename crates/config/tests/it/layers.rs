//! One file that describes several documents.

use sdtrain_config::{Layers, Problems};
use std::fs;

const TEXT: &str = "\
[train]
max_steps = 5
threads = 1
[optimizer]
type = \"adamw\"
beta = 3
[[stages]]
name = \"first\"
[stages.train]
max_epochs = 2
[stages.optimizer]
type = \"lion\"
[[stages]]
name = \"second\"
train.threads = 4
";

fn load(text: &str, overrides: &[&str]) -> Result<Layers, Problems> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("run.toml");
    fs::write(&file, text).expect("a new file");
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Layers::load(&file, "stages", &overrides)
}

fn messages(text: &str, overrides: &[&str]) -> String {
    let problems = load(text, overrides).expect_err("something is wrong").0;
    problems.into_iter().map(|problem| format!("{}: {}\n", problem.line.unwrap_or(0), problem.message)).collect()
}

#[test]
fn each_table_lies_over_what_is_common() {
    let Layers { base, layers } = load(TEXT, &[]).expect("right");
    assert!(!base.has("stages") && base.has("train.threads"));
    let [first, second] = &layers[..] else { panic!("{layers:?}") };
    assert_eq!((first.name.as_str(), second.name.as_str()), ("first", "second"));
    let number =
        |layer: &sdtrain_config::Layer, section: &str, key: &str| layer.whole.table()[section][key].as_integer();
    assert_eq!((number(first, "train", "threads"), number(second, "train", "threads")), (Some(1), Some(4)));
    assert!(first.own.has("train.max_epochs") && !first.own.has("train.max_steps") && !first.own.has("name"));
    // What a stage says is nearer than what is common, so that of two keys that exclude each other its own is meant.
    assert!(first.whole.distance("train.max_epochs") < first.whole.distance("train.max_steps"));
    // The settings of another type do not fit this one.
    assert!(!first.whole.has("optimizer.beta") && second.whole.has("optimizer.beta"));
    assert_eq!(first.whole.problem("train.max_epochs", "x").line, Some(10));
}

#[test]
fn overrides_are_for_all_or_for_one_of_them() {
    let overrides = ["train.threads=9", "stages.second.train.threads=7", "stages.first.train.max_epochs=3"];
    let Layers { base, layers } = load(TEXT, &overrides).expect("right");
    let threads = |table: &toml::Table| table["train"]["threads"].as_integer();
    assert_eq!(threads(base.table()), Some(9));
    assert_eq!(layers.iter().map(|layer| threads(layer.whole.table())).collect::<Vec<_>>(), [Some(9), Some(7)]);
    assert_eq!(layers[0].whole.table()["train"]["max_epochs"].as_integer(), Some(3));
    assert!(layers[1].own.has("train.threads") && !layers[0].own.has("train.threads"));
}

#[test]
fn an_override_of_one_may_change_an_entry_of_a_common_list() {
    let text =
        "[[subsets]]\nrepeats = 1\n[[subsets]]\nrepeats = 1\n[[stages]]\nname = \"a\"\n[[stages]]\nname = \"b\"\n";
    let Layers { layers, .. } =
        load(text, &["stages.b.subsets.1.repeats=2", "stages.b.train={ steps = 3 }"]).expect("right");
    let repeats = |layer: usize| layers[layer].whole.table()["subsets"][1]["repeats"].as_integer();
    assert_eq!((repeats(0), repeats(1)), (Some(1), Some(2)));
    let own = ["subsets", "subsets.1", "subsets.1.repeats", "subsets.0", "train.steps", "train.epochs"]
        .map(|key| layers[1].own.has(key));
    assert_eq!(own, [true, true, true, false, true, false]);
    assert!(!layers[0].own.has("subsets"));
}

#[test]
fn an_override_can_take_away_what_a_table_says() {
    let text = "[[stages]]\nname = \"a\"\n[[stages.words]]\nword = \"x\"\ninitial = \"file\"\n";
    let has_initial = |overrides: &[&str]| load(text, overrides).expect("right").layers[0].own.has("words.0.initial");
    assert!(has_initial(&[]) && !has_initial(&["stages.a.words=[{word='x'}]"]));
}

#[test]
fn what_is_for_one_is_nearer_than_what_is_for_all() {
    let overrides = ["stages.second.train.max_epochs=2", "train.max_steps=9"];
    let Layers { layers, .. } = load(TEXT, &overrides).expect("right");
    let [first, second] = &layers[..] else { panic!("{layers:?}") };
    assert!(second.whole.distance("train.max_epochs") < second.whole.distance("train.max_steps"));
    // And every override is nearer than a file.
    assert!(first.whole.distance("train.max_steps") < first.whole.distance("train.max_epochs"));
    assert!(second.whole.distance("train.max_steps") < second.whole.distance("train.threads"));
}

#[test]
fn a_file_without_the_list_is_one_document() {
    let Layers { base, layers } = load("a = 1\n", &["b=2"]).expect("right");
    assert!(layers.is_empty() && base.has("a") && base.has("b"));
}

#[test]
fn tables_that_cannot_be_told_apart_are_refused() {
    let text = "[[stages]]\nname = \"a\"\n[[stages]]\nname = \"a\"\n[[stages]]\n[[stages]]\nname = \"a/b\"\n[[stages]]\nname = \"c\"\nextends = \"d\"\n";
    let expected = "4: `stages.1.name`: there is a `a` already\n5: missing key `stages.2.name`\n\
                    7: `stages.3.name` must be made of letters, digits, `-` and `_`\n\
                    10: `stages.4.extends`: `extends` stands above `[[stages]]`\n";
    assert_eq!(messages(text, &[]), expected);
    assert_eq!(messages("stages = 3\n", &[]), "1: `stages` must be a list of tables\n");
}

#[test]
fn an_override_of_no_stage_is_refused() {
    let found = messages(TEXT, &["stages.third.train.threads=1", "stages=[]", "stages.first.name=x"]);
    let expected = "0: `--set stages.third.train.threads=1`: there is no `stages.third`\n\
                    0: `--set stages=[]` does not say what it changes\n\
                    0: `--set stages.first.name=x`: names stay as they are\n";
    assert_eq!(found, expected);
}
