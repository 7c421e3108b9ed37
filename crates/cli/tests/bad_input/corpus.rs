//! What a case is, and how it is judged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sdtrain_data_loader::{DataError, DataSet};
use sdtrain_recipe::TrainConfig;

use crate::ending::end_of;
use crate::tiny_model::TINY_MODEL;

/// What becomes of the input; the text is a part of what is said about it.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// A run would start: exit code 0. The summary holds this, and every image can be read.
    Accepted(&'static str),
    /// The image is left out by name when the data is opened. Where it is one in a hundred the run goes on; in less, exit code 3.
    LeftOut(&'static str),
    /// The image is named when it is decoded, and another stands in for it; where there are less than a hundred, an error.
    LeftOutWhenRead(&'static str),
    /// A run would not start: the exit code, and a part of the message.
    Refused(i32, &'static str),
}

/// One bad input.
pub struct Case {
    pub name: String,
    verdict: Verdict,
    /// Files by their path in the project.
    files: Vec<(String, Vec<u8>)>,
    /// What files cannot say: links, pipes, holes.
    prepare: Option<fn(&Path)>,
    /// Further lines of the subset; its `path` unless that is among them is `data`.
    subset: String,
    /// The whole configuration in place of the usual one.
    config: Option<String>,
    /// The file that the message must name.
    names: String,
    /// Whether the case can be made for this user at all.
    applies: fn() -> bool,
}

impl Case {
    /// A case about `data/a.png`, which is yet to be made.
    pub fn new(name: impl Into<String>, verdict: Verdict) -> Case {
        Case {
            name: name.into(),
            verdict,
            files: Vec::new(),
            prepare: None,
            subset: String::new(),
            config: None,
            names: "data/a.png".to_owned(),
            applies: || true,
        }
    }

    /// An image with a caption, both in `data`.
    pub fn image(self, name: &str, bytes: impl Into<Vec<u8>>) -> Case {
        let caption = Path::new(name).with_extension("txt").display().to_string();
        let case = self.data(name, bytes).data(&caption, "a caption");
        Case { names: format!("data/{name}"), ..case }
    }

    /// A file in `data`.
    pub fn data(self, name: &str, content: impl Into<Vec<u8>>) -> Case {
        self.file(&format!("data/{name}"), content)
    }

    /// A file in the project.
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Case {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    pub fn verdict(self, verdict: Verdict) -> Case {
        Case { verdict, ..self }
    }

    pub fn prepare(self, prepare: fn(&Path)) -> Case {
        Case { prepare: Some(prepare), ..self }
    }

    pub fn subset(self, lines: &str) -> Case {
        Case { subset: lines.to_owned(), ..self }
    }

    pub fn config(self, text: impl Into<String>) -> Case {
        Case { config: Some(text.into()), names: "run.toml".to_owned(), ..self }
    }

    pub fn names(self, file: &str) -> Case {
        Case { names: file.to_owned(), ..self }
    }

    pub fn applies(self, applies: fn() -> bool) -> Case {
        Case { applies, ..self }
    }

    fn make(&self, root: &Path, model: &Path) {
        fs::create_dir_all(root.join("data")).unwrap();
        for (name, content) in &self.files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let path = if self.subset.contains("path = ") { "" } else { "path = \"data\"\n" };
        let usual = format!("[[data.subsets]]\n{path}{}\n[train]\nmax_steps = 2\n", self.subset);
        let text = match &self.config {
            Some(text) => text.clone(),
            None => format!("[data]\nresolution = 64\n{usual}"),
        };
        let text = format!("{text}\n[model]\npath = \"{}\"\ninit = \"random\"\n", model.display());
        fs::write(root.join("run.toml"), text).unwrap();
        if let Some(prepare) = self.prepare {
            prepare(root);
        }
    }
}

/// A model of a few small files, and a hundred good images.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Shared {
        let shared = Shared(tempfile::tempdir().unwrap());
        for (name, text) in TINY_MODEL {
            let path = shared.model().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir(shared.good()).unwrap();
        let good = crate::images::png();
        for index in 0..100 {
            fs::write(shared.good().join(format!("{index}.png")), &good).unwrap();
            fs::write(shared.good().join(format!("{index}.txt")), "a good one").unwrap();
        }
        shared
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model")
    }

    fn good(&self) -> PathBuf {
        self.0.path().join("good")
    }
}

/// Judges every case; all that are judged otherwise than expected are in the one panic.
pub fn judge(cases: Vec<Case>) {
    let shared = Shared::new();
    let mut faults = Vec::new();
    for case in cases.into_iter().filter(|case| (case.applies)()) {
        let project = tempfile::tempdir().unwrap();
        let root = project.path().canonicalize().unwrap();
        case.make(&root, &shared.model());
        let before = tree(&root);
        let fault = of_program(&case, &root).or_else(|| of_library(&case, &root, &shared));
        let left = (tree(&root) != before).then(|| "left something behind".to_owned());
        if let Some(fault) = fault.or(left) {
            faults.push(format!("{}: {:?}: {fault}", case.name, case.verdict));
        }
    }
    assert!(faults.is_empty(), "{} cases:\n{}", faults.len(), faults.join("\n"));
}

/// What is wrong with how the program judges, if anything.
fn of_program(case: &Case, root: &Path) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdtrain"));
    let Some((code, said)) = end_of(command.args(["check", "run.toml"]).current_dir(root)) else {
        return Some("took longer than a minute".to_owned());
    };
    if said.contains("panicked") || said.contains("fault of the program") {
        return Some(format!("panicked:\n{said}"));
    }
    let (wanted, part) = match case.verdict {
        Verdict::Accepted(part) => (0, part),
        Verdict::LeftOut(part) => (3, part),
        // Only decoding shows it, and the program decodes nothing before a run.
        Verdict::LeftOutWhenRead(_) => (0, ""),
        Verdict::Refused(code, part) => (code, part),
    };
    if code != Some(wanted) {
        return Some(format!("ended with {code:?}:\n{said}"));
    }
    if !said.contains(part) {
        return Some(format!("did not say `{part}`:\n{said}"));
    }
    let is_named =
        said.contains(&case.names) || matches!(case.verdict, Verdict::LeftOutWhenRead(_) | Verdict::Accepted(_));
    (!is_named).then(|| format!("did not name `{}`:\n{said}", case.names))
}

/// The same for the library that reads the images, which a run is made of.
fn of_library(case: &Case, root: &Path, shared: &Shared) -> Option<String> {
    if matches!(case.verdict, Verdict::Refused(..)) {
        return None;
    }
    let mut config = match TrainConfig::load(&root.join("run.toml"), &[]) {
        Ok(loaded) => loaded.config,
        Err(problems) => return Some(format!("has a wrong configuration: {problems}")),
    };
    if let Verdict::Accepted(_) = case.verdict {
        let data = match DataSet::open(&config.data, 1, 16) {
            Ok(data) => data,
            Err(error) => return Some(format!("does not open: {error}")),
        };
        return (0..data.images()).find_map(|image| {
            let loaded = data.load_image(image, false);
            loaded.map_or_else(
                |error| Some(error.to_string()),
                |loaded| (loaded.image != image).then(|| "is not read".into()),
            )
        });
    }
    // One in a hundred and one.
    let mut good = config.data.subsets[0].clone();
    good.path = shared.good();
    good.metadata_file = None;
    good.format = sdtrain_recipe::SourceFormat::Folder;
    (good.image_column, good.caption_column) = (None, None);
    (good.conditioning_image_column, good.loss_weight_column) = (None, None);
    config.data.subsets.push(good);
    let data = match DataSet::open(&config.data, 1, 16) {
        Ok(data) => data,
        Err(error) => return Some(format!("is not left out: {error}")),
    };
    let is_bad = |path: &Path| path.display().to_string().contains(&case.names);
    let problems = match case.verdict {
        Verdict::LeftOut(_) => data.report().dropped.clone(),
        _ => {
            let Some(bad) = (0..data.images()).find(|image| is_bad(data.path(*image))) else {
                return Some(format!("is not listed; left out are {:?}", data.report().dropped));
            };
            match data.load_image(bad, false) {
                Ok(loaded) if loaded.image != bad => data.unreadable(),
                Ok(_) => return Some("is read".to_owned()),
                // Of its bucket there may be no other.
                Err(DataError::BucketUnreadable { unreadable, .. }) => unreadable,
                Err(error) => return Some(format!("ends the run: {error}")),
            }
        }
    };
    let (Verdict::LeftOut(part) | Verdict::LeftOutWhenRead(part)) = case.verdict else { return None };
    match problems.as_slice() {
        [problem] if is_bad(&problem.path) && problem.reason.contains(part) => None,
        other => Some(format!("is told as {other:?}")),
    }
}

/// Everything below a folder with its length; links are not followed.
fn tree(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut tree = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            tree.insert(entry.path(), if metadata.is_dir() { 0 } else { metadata.len() });
        }
    }
    tree
}
