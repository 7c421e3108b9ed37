//! A folder with a configuration and the images it names.

use std::fs;
use std::path::PathBuf;

use sdtrain_config::Problems;
use sdtrain_recipe::{Loaded, TrainConfig};

/// The shortest configuration that is right; lines are counted from here in messages.
pub const SMALLEST: &str = "\
[model]
path = \"builtin:poster-tiny\"
[[data.subsets]]
path = \"../images\"
[train]
max_steps = 10
";

pub struct Project(tempfile::TempDir);

impl Project {
    /// `configs/run.toml` with this text, beside a folder `images`.
    pub fn new(text: &str) -> Project {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("configs")).expect("a new folder");
        fs::create_dir(folder.path().join("images")).expect("a new folder");
        let project = Project(folder);
        project.write("configs/run.toml", text);
        project
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a new file");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn load_with(&self, overrides: &[&str]) -> Result<Loaded, Problems> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        TrainConfig::load(&self.path("configs/run.toml"), &overrides)
    }

    pub fn load(&self) -> TrainConfig {
        self.load_with(&[]).unwrap_or_else(|problems| panic!("{problems}")).config
    }

    /// The messages, with the folder's own name taken out.
    pub fn messages_with(&self, overrides: &[&str]) -> String {
        let problems = self.load_with(overrides).expect_err("something is wrong");
        let folder = self.0.path().display().to_string();
        problems.to_string().replace(&format!("{folder}/"), "").replace(&folder, ".")
    }
}
