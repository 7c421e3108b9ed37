//! `extends`: which file wins, and where a message points.

use std::fs;
use std::path::{Path, PathBuf};

use sdtrain_config::{Document, Problems};

use crate::sections::{Config, Optimizer};

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Folder {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a new folder");
            fs::write(path, text).expect("a new file");
        }
        Folder(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, name: &str) -> Result<Document, Problems> {
        Document::load(&self.path(name), &[])
    }

    /// The messages, with the folder's own name taken out.
    fn messages(&self, name: &str) -> String {
        let problems = match self.load(name) {
            Ok(document) => document.parse::<Config>().expect_err("something is wrong"),
            Err(problems) => problems,
        };
        problems.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn this_file_wins_and_tables_are_merged() {
    let folder = Folder::with(&[
        (
            "base.toml",
            "name = \"base\"\n[model]\npath = \"m\"\nvae = \"v\"\n[train]\nmax_steps = 5\nprompts = [\"a\", \"b\"]\n",
        ),
        ("run.toml", "extends = \"base.toml\"\nname = \"run\"\n[model]\nvae = \"w\"\n[train]\nprompts = [\"c\"]\n"),
    ]);
    let document = folder.load("run.toml").expect("both are right");
    assert!(!document.table().contains_key("extends"));
    let config: Config = document.parse().expect("both fit");
    assert_eq!(config.name, "run");
    assert_eq!(config.model.path, "m");
    assert_eq!(config.model.vae.as_deref(), Some(Path::new("w")));
    assert_eq!(config.train.max_steps, Some(5));
    assert_eq!(config.train.prompts, ["c"]);
}

#[test]
fn later_files_of_a_list_win_and_bases_have_bases() {
    let folder = Folder::with(&[
        ("parts/model.toml", "extends = \"deep.toml\"\n[model]\npath = \"m\"\n"),
        ("parts/deep.toml", "name = \"deep\"\n[train]\nmax_steps = 1\n"),
        ("parts/train.toml", "[train]\nmax_steps = 2\n"),
        ("run.toml", "extends = [\"parts/model.toml\", \"parts/train.toml\"]\n"),
    ]);
    let config: Config = folder.load("run.toml").and_then(|document| document.parse()).expect("all are right");
    assert_eq!((config.name.as_str(), config.train.max_steps), ("deep", Some(2)));
}

#[test]
fn another_type_starts_its_table_afresh() {
    let folder = Folder::with(&[
        ("base.toml", "[model]\npath = \"m\"\n[optimizer]\ntype = \"adamw\"\nbetas = [0.5, 0.5]\nweight_decay = 1\n"),
        ("run.toml", "extends = \"base.toml\"\n[optimizer]\ntype = \"sgd\"\nmomentum = 0.5\n"),
        ("same.toml", "extends = \"base.toml\"\n[optimizer]\ntype = \"adamw\"\nlearning_rate = 0.5\n"),
    ]);
    let config: Config = folder.load("run.toml").and_then(|document| document.parse()).expect("right");
    assert!(matches!(config.optimizer, Optimizer::Sgd(sgd) if sgd.momentum == 0.5));
    let config: Config = folder.load("same.toml").and_then(|document| document.parse()).expect("right");
    assert!(
        matches!(config.optimizer, Optimizer::AdamW(adamw) if adamw.learning_rate == 0.5 && adamw.weight_decay == 1.0)
    );
}

#[test]
fn a_message_names_the_file_that_has_the_mistake() {
    let folder = Folder::with(&[
        ("base.toml", "[model]\npth = \"m\"\n"),
        ("run.toml", "extends = \"base.toml\"\n[model]\npath = \"m\"\n[train]\nmax_step = 1\n"),
    ]);
    assert_eq!(
        folder.messages("run.toml"),
        "error: base.toml:2: unknown key `model.pth`\n  hint: did you mean `path`?\n\
         error: run.toml:5: unknown key `train.max_step`\n  hint: did you mean `max_steps`?"
    );
}

#[test]
fn a_path_is_relative_to_the_file_it_is_written_in() {
    let folder = Folder::with(&[
        ("parts/base.toml", "[model]\npath = \"m\"\nvae = \"v\"\n"),
        ("run.toml", "extends = \"parts/base.toml\"\n[model]\nvae = \"w\"\n"),
    ]);
    let overrides = ["train.prompts=[\"x\"]".to_owned()];
    let document = Document::load(&folder.path("run.toml"), &overrides).expect("right");
    assert_eq!(document.folder_of("model.path"), folder.path("parts"));
    assert_eq!(document.folder_of("model.vae"), folder.path(""));
    assert_eq!(document.folder_of("train.prompts"), std::env::current_dir().expect("there is one"));
    let distances = ["train.prompts", "model.vae", "model.path", "name"].map(|key| document.distance(key));
    assert_eq!(distances, [Some(0), Some(1), Some(2), None]);
}

#[test]
fn a_circle_is_refused() {
    let folder =
        Folder::with(&[("a.toml", "name = \"a\"\nextends = \"b.toml\"\n"), ("b.toml", "extends = \"a.toml\"\n")]);
    assert_eq!(folder.messages("a.toml"), "error: b.toml:1: `extends` goes in a circle: a.toml → b.toml → a.toml");
}

#[test]
fn a_base_that_is_not_there_is_shown_where_it_is_named() {
    let folder = Folder::with(&[("run.toml", "name = \"a\"\nextends = [\"no.toml\", \"neither.toml\"]\n")]);
    assert_eq!(
        folder.messages("run.toml"),
        "error: run.toml:2: cannot read `no.toml`, which this file extends: there is no such file\n  \
         hint: the path is relative to the file it is written in\n\
         error: run.toml:2: cannot read `neither.toml`, which this file extends: there is no such file\n  \
         hint: the path is relative to the file it is written in"
    );
}

#[test]
fn extends_must_name_files() {
    let folder = Folder::with(&[("run.toml", "extends = 5\n")]);
    assert_eq!(folder.messages("run.toml"), "error: run.toml:1: `extends` must be a file name or a list of them");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::with(&[("folder/x.toml", "")]);
    assert_eq!(folder.messages("no.toml"), "error: cannot read the configuration `no.toml`: there is no such file");
    assert_eq!(folder.messages("folder"), "error: cannot read the configuration `folder`: it is a folder");
    fs::write(folder.path("latin.toml"), b"name = \"\xe9\"\n").expect("a new file");
    assert_eq!(
        folder.messages("latin.toml"),
        "error: cannot read the configuration `latin.toml`: it is not UTF-8 text"
    );
}
