//! A folder with images, a configuration and a very small model, and the program called in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::tiny_model::TINY_MODEL;

pub const CONFIG: &str = "\
[model]
path = \"model\"
init = \"random\"
[data]
resolution = 64
batch_size = 2
[[data.subsets]]
path = \"images\"
repeats = 2
[train]
max_steps = 20
";

pub struct Project(tempfile::TempDir);

impl Project {
    /// A project whose configuration is right.
    pub fn new() -> Project {
        let project = Project(tempfile::tempdir().expect("a temporary folder"));
        project.write("run.toml", CONFIG);
        for index in 0..4 {
            project.write_image(&format!("images/{index}.png"), 64, 64);
            project.write(&format!("images/{index}.txt"), "a red bottle");
        }
        for (name, text) in TINY_MODEL {
            project.write(&format!("model/{name}"), text);
        }
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a new folder");
        fs::write(path, text).expect("a new file");
    }

    pub fn write_image(&self, name: &str, width: u32, height: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a new folder");
        image::RgbImage::new(width, height).save(path).expect("a new file");
    }

    pub fn run(&self, args: &[&str]) -> Answer {
        self.run_program(Path::new(env!("CARGO_BIN_EXE_sdtrain")), args)
    }

    pub fn run_program(&self, program: &Path, args: &[&str]) -> Answer {
        self.run_with(program, &[], args)
    }

    /// A copy of the program, with a shell script as its engine beside it.
    ///
    /// By another process: a file that this one writes cannot be started while a thread beside it starts another.
    pub fn with_engine(&self, script: &str) -> PathBuf {
        self.write("engine.sh", &format!("#!/bin/sh\n{script}\n"));
        let folder = self.path("bin");
        fs::create_dir_all(&folder).expect("a new folder");
        let program = folder.join("sdtrain");
        let copies = [
            (PathBuf::from(env!("CARGO_BIN_EXE_sdtrain")), &program),
            (self.path("engine.sh"), &folder.join("sdtrain-engine")),
        ];
        for (from, to) in copies {
            let copied = Command::new("install").args(["-m", "755"]).arg(from).arg(to).status();
            assert!(copied.is_ok_and(|status| status.success()));
        }
        program
    }

    /// The same with more variables in the environment.
    pub fn run_with(&self, program: &Path, variables: &[(&str, &str)], args: &[&str]) -> Answer {
        let mut command = Command::new(program);
        command.args(args).envs(variables.iter().copied()).current_dir(self.0.path());
        let output = command.output().expect("it starts");
        let root = self.0.path().canonicalize().expect("it exists").display().to_string();
        Answer::new(output, &root)
    }
}

/// What the program said, with the project's folder taken out.
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    fn new(output: Output, root: &str) -> Answer {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace(&format!("{root}/"), "").replace(root, ".");
        Answer { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
