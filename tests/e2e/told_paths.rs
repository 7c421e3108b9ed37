//! What leaves the machine tells nothing of the folders that it was made in.

use crate::project::{Project, fixture};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder that nobody else is to hear of.
const PRIVATE: &str = "of-jane-doe-5d1c";

/// A project whose images, configuration, base and outputs lie in that folder.
fn project() -> Project {
    let project = Project::new();
    fs::create_dir(project.path(PRIVATE)).expect("a new folder");
    for name in ["images", "run.toml"] {
        fs::rename(project.path(name), project.path(PRIVATE).join(name)).expect("the same disk");
    }
    let base = fixture("tiny_sd1").display().to_string();
    project.expect(0, &["convert", &base, &within(&project, "base.safetensors"), "--to", "single-file"]);
    project
}

/// The whole path of something in the folder.
fn within(project: &Project, name: &str) -> String {
    project.path(PRIVATE).join(name).display().to_string()
}

/// All files below a folder but checkpoints, which are for continuing on this machine.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true if path.ends_with("checkpoints") => {}
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn holds(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

#[test]
fn no_product_and_no_picture_tells_a_path() {
    let project = project();
    let train = |output: &str, changes: &[&str]| {
        let base = format!("model.path={}", within(&project, "base.safetensors"));
        let (config, output) = (within(&project, "run.toml"), within(&project, output));
        let mut args = vec!["--config", &config, "--output", &output, "--set", &base, "--set", "train.max_steps=2"];
        args.extend(changes.iter().flat_map(|change| ["--set", *change]));
        project.expect(0, &args);
        PathBuf::from(output)
    };
    let words = "textual_inversion.tokens=[{word=\"snorp\"}]";
    let prefix = "data.subsets.0.caption_prefix=\"a snorp,\"";
    let lora = train("lora", &[]);
    let peft = train("peft", &["lora.format=peft"]);
    let full = train("full", &["method=full"]);
    let folder = train("folder", &["method=full", "full.format=diffusers"]);
    let learned = train("words", &["method=textual_inversion", words, prefix]);
    // A stage further, on all of them.
    let adapter = lora.join("run.safetensors").display().to_string();
    let fused = train("fused", &[&format!("model.fuse=[{{path=\"{adapter}\"}}]")]);

    let is = |path: &Path, extensions: &[&str]| extensions.iter().any(|one| path.extension() == Some(one.as_ref()));
    let mut told = vec![project.path(PRIVATE).join("base.safetensors")];
    // Beside products a run keeps records for its user, such as `run.json`.
    for output in [&lora, &peft, &full, &folder, &learned, &fused] {
        let of_run: Vec<PathBuf> =
            files(output).into_iter().filter(|path| is(path, &["safetensors", "pt", "png"])).collect();
        for extension in ["safetensors", "png"] {
            assert!(of_run.iter().any(|path| is(path, &[extension])), "{}: no {extension}", output.display());
        }
        told.extend(of_run);
    }
    told.extend(files(&folder.join("run")));

    let word =
        files(&learned).into_iter().find(|path| is(path, &["safetensors"])).expect("a word").display().to_string();
    let (base, image, drawn) =
        (within(&project, "base.safetensors"), within(&project, "images/0.png"), within(&project, "drawn"));
    let sample = ["sample", "--model", &base, "--prompt", "a snorp", "--steps", "2", "--output", &drawn];
    let with = ["--lora", &adapter, "--embedding", &word, "--init-image", &image, "--vae", &base];
    project.expect(0, &[&sample[..], &with].concat());
    let picture = Path::new(&drawn).join("00000-0.png");
    let merged = within(&project, "merged.safetensors");
    project.expect(0, &["merge", "--model", &base, "--lora", &adapter, "--output", &merged]);
    told.extend([picture.clone(), PathBuf::from(&merged)]);

    // What would be found is in there: names without their folders.
    let content = |path: &Path| fs::read(path).expect("written");
    let picture = content(&picture);
    assert!(holds(&picture, "Model: base.safetensors") && holds(&picture, "Init image: 0.png"));
    assert!(holds(&content(Path::new(&adapter)), "base.safetensors"));
    let above = project.path(PRIVATE).parent().expect("it lies in a folder").display().to_string();
    let fixtures = fixture("tiny_sd1").canonicalize().expect("a fixture").display().to_string();
    for path in told {
        let bytes = content(&path);
        for secret in [PRIVATE, &above, &fixtures, &fixture("").display().to_string()] {
            assert!(!holds(&bytes, secret), "{} tells `{secret}`", path.display());
        }
    }
}
