//! What a case is, and how it is judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sdtrain_test_support::{copy_folder, fixture_folder};

use crate::ending::end_of;

/// Address space that the program has for a case, in KiB: a file may ask for more than there is, but not get it.
const ADDRESS_SPACE: u64 = 1 << 20;

/// A bad file or model.
pub struct Case {
    pub name: String,
    /// Makes it in an empty folder.
    make: Box<dyn Fn(&Path)>,
    /// Arguments of `sdtrain`.
    arguments: Vec<String>,
    code: i32,
    /// What the message names, and further parts of it.
    says: Vec<String>,
}

impl Case {
    /// A single file that `sdtrain inspect` must refuse with a message that has `says` in it.
    pub fn file(name: &str, file: &str, content: impl Into<Vec<u8>>, says: &str) -> Case {
        let (path, content) = (file.to_owned(), content.into());
        Case {
            name: name.to_owned(),
            make: Box::new(move |folder| fs::write(folder.join(&path), &content).unwrap()),
            arguments: vec!["inspect".to_owned(), file.to_owned()],
            code: 4,
            says: vec![format!("`{file}`"), says.to_owned()],
        }
    }

    /// The tiny SD1 model of the fixtures, changed so that `sdtrain check` must refuse it with a message about `file`.
    pub fn model(name: &str, file: &str, change: impl Fn(&Path) + 'static, says: &str) -> Case {
        let make = move |folder: &Path| {
            copy_folder(&fixture("tiny_sd1"), &folder.join("model"));
            project(folder, "");
            change(&folder.join("model"));
        };
        Case {
            name: name.to_owned(),
            make: Box::new(make),
            arguments: ["check", "run.toml"].map(str::to_owned).into(),
            code: 4,
            says: vec![file.to_owned(), says.to_owned()],
        }
    }

    /// The same with the good model and further lines of configuration.
    pub fn with_good_model(
        name: &str,
        file: &str,
        lines: &'static str,
        make: impl Fn(&Path) + 'static,
        says: &str,
    ) -> Case {
        let make = move |folder: &Path| {
            copy_folder(&fixture("tiny_sd1"), &folder.join("model"));
            project(folder, lines);
            make(folder);
        };
        Case { make: Box::new(make), ..Case::model(name, file, |_| {}, says) }
    }

    /// A further part of the message.
    pub fn and(mut self, says: &str) -> Case {
        self.says.push(says.to_owned());
        self
    }

    /// Other arguments.
    pub fn arguments(self, arguments: &[&str]) -> Case {
        Case { arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(), ..self }
    }
}

/// A configuration for `model` with one image.
fn project(folder: &Path, lines: &str) {
    fs::create_dir(folder.join("data")).unwrap();
    image::RgbImage::new(64, 64).save(folder.join("data/a.png")).unwrap();
    fs::write(folder.join("data/a.txt"), "a red bottle").unwrap();
    let config = format!(
        "[model]\npath = \"model\"\n[data]\nresolution = 64\n[[data.subsets]]\npath = \"data\"\n[train]\nmax_steps = 2\n{lines}"
    );
    fs::write(folder.join("run.toml"), config).unwrap();
}

/// A file or folder of the golden files.
pub fn fixture(name: &str) -> PathBuf {
    fixture_folder().join(name)
}

/// Judges every case; all that are judged otherwise than expected are in the one panic.
pub fn judge(cases: Vec<Case>) {
    let faults: Vec<String> =
        cases.iter().filter_map(|case| Some(format!("{}: {}", case.name, fault(case)?))).collect();
    assert!(faults.is_empty(), "{} cases:\n{}", faults.len(), faults.join("\n"));
}

/// What is wrong with how the program judges, if anything.
fn fault(case: &Case) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    (case.make)(folder.path());
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {ADDRESS_SPACE} && exec \"$@\""), "sh", env!("CARGO_BIN_EXE_sdtrain")]);
    let Some((code, said)) = end_of(command.args(&case.arguments).current_dir(folder.path())) else {
        return Some("took longer than a minute".to_owned());
    };
    if said.contains("panicked") || said.contains("fault of the program") || said.contains("memory allocation") {
        return Some(format!("panicked:\n{said}"));
    }
    if code != Some(case.code) {
        return Some(format!("ended with {code:?}:\n{said}"));
    }
    if said.lines().filter(|line| line.starts_with("error")).count() != 1 {
        return Some(format!("did not say one thing:\n{said}"));
    }
    if said.len() > 4000 || said.chars().any(|character| character.is_control() && character != '\n') {
        return Some(format!("is not fit for a terminal: {} bytes", said.len()));
    }
    case.says.iter().find(|part| !said.contains(*part)).map(|part| format!("did not say `{part}`:\n{said}"))
}
