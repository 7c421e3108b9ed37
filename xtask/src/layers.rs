//! `cargo xtask layers`: holds the crates' real dependencies against the table of the architecture.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;

use serde_json::Value as Json;

/// A crate's folder, whether it may link libtorch, and the crates it may use; those must stand above it.
struct Layer {
    name: &'static str,
    torch: bool,
    uses: &'static [&'static str],
}

const fn free(name: &'static str, uses: &'static [&'static str]) -> Layer {
    Layer { name, torch: false, uses }
}

const fn torch(name: &'static str, uses: &'static [&'static str]) -> Layer {
    Layer { name, torch: true, uses }
}

/// Lowest first, so an arrow can only go down.
const LAYERS: &[Layer] = &[
    free("config", &[]),
    free("files", &[]),
    free("checkpoint", &["files"]),
    free("random", &[]),
    free("ranks", &[]),
    free("run-log", &["checkpoint", "files"]),
    free("signals", &[]),
    free("state-dict", &["files"]),
    free("tokenizer", &[]),
    torch("torch", &[]),
    free("posters", &["random"]),
    free("recipe", &["config"]),
    free("test-support", &["state-dict"]),
    free("data-loader", &["checkpoint", "config", "files", "random", "recipe", "state-dict", "tokenizer"]),
    free("hub", &["files", "recipe", "state-dict", "tokenizer"]),
    free("feature-cache", &["data-loader", "files", "recipe", "state-dict"]),
    free("dataset-report", &["data-loader", "recipe", "tokenizer"]),
    torch("torch-test-support", &["state-dict", "test-support"]),
    torch("diffusion", &["random", "recipe", "torch"]),
    torch("optimizer", &["random", "recipe", "torch"]),
    torch("model", &["diffusion", "random", "recipe", "state-dict", "tokenizer", "torch"]),
    torch("features", &["data-loader", "feature-cache", "files", "model", "recipe", "torch"]),
    torch("adapter", &["model", "random", "recipe", "state-dict", "tokenizer", "torch"]),
    torch("pipeline", &["checkpoint", "diffusion", "model", "random", "recipe", "tokenizer", "torch"]),
    torch(
        "evaluate",
        &[
            "adapter",
            "checkpoint",
            "data-loader",
            "diffusion",
            "features",
            "model",
            "pipeline",
            "posters",
            "random",
            "recipe",
            "state-dict",
            "torch",
        ],
    ),
    torch(
        "trainer",
        &[
            "adapter",
            "checkpoint",
            "config",
            "data-loader",
            "diffusion",
            "evaluate",
            "feature-cache",
            "features",
            "files",
            "model",
            "optimizer",
            "pipeline",
            "posters",
            "random",
            "ranks",
            "recipe",
            "run-log",
            "signals",
            "state-dict",
            "tokenizer",
            "torch",
        ],
    ),
    free(
        "cli",
        &[
            "checkpoint",
            "config",
            "data-loader",
            "dataset-report",
            "files",
            "hub",
            "random",
            "ranks",
            "recipe",
            "signals",
            "state-dict",
            "tokenizer",
        ],
    ),
    torch(
        "engine",
        &[
            "adapter",
            "checkpoint",
            "cli",
            "config",
            "data-loader",
            "diffusion",
            "evaluate",
            "feature-cache",
            "features",
            "files",
            "model",
            "optimizer",
            "pipeline",
            "posters",
            "random",
            "ranks",
            "recipe",
            "run-log",
            "signals",
            "state-dict",
            "tokenizer",
            "torch",
            "trainer",
        ],
    ),
    // The harness of tests/crash.
    free("crash", &["checkpoint", "data-loader", "feature-cache", "recipe", "run-log", "state-dict"]),
    free("xtask", &["cli", "config", "posters", "random", "recipe", "state-dict", "tokenizer"]),
];

/// Crates that bind to libtorch.
const BINDINGS: [&str; 2] = ["tch", "torch-sys"];

/// Fails with every arrow that the table does not allow.
pub fn run() -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(crate::repository())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    let mistakes = mistakes(&serde_json::from_slice(&output.stdout)?);
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(mistakes.join("\nerror: ").into()),
    }
}

fn mistakes(metadata: &Json) -> Vec<String> {
    let layers: BTreeMap<&str, &Layer> = LAYERS.iter().map(|layer| (layer.name, layer)).collect();
    let mut mistakes = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = folder_name(package["name"].as_str().unwrap_or_default());
        let Some(layer) = layers.get(name) else {
            mistakes.push(format!("`{name}` is not in the table of xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let in_tests_only = dependency["kind"] == "dev";
            if !layer.torch && BINDINGS.contains(&used) {
                mistakes.push(format!("`{name}` uses `{used}`, but is to be free of libtorch"));
            }
            if dependency["path"].is_null() {
                continue;
            }
            let used = folder_name(used);
            if !layer.torch && layers.get(used).is_some_and(|used| used.torch) {
                mistakes.push(format!("`{name}` uses `{used}`, but is to be free of libtorch"));
            } else if !in_tests_only && !layer.uses.contains(&used) {
                mistakes.push(format!("`{name}` uses `{used}`; allowed: {}", layer.uses.join(", ")));
            }
        }
    }
    mistakes
}

/// The folder of a package: `sdtrain-model` lies in `model`, and `sdtrain` in `cli`.
fn folder_name(package: &str) -> &str {
    match package {
        "sdtrain" => "cli",
        other => other.strip_prefix("sdtrain-").unwrap_or(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, used: &str, path: Option<&str>, kind: Option<&str>) -> Json {
        json!({"packages": [{"name": name, "dependencies": [{"name": used, "path": path, "kind": kind}]}]})
    }

    #[test]
    fn arrows_of_the_table_only_go_down() {
        for (place, layer) in LAYERS.iter().enumerate() {
            for used in layer.uses {
                let below = LAYERS[..place].iter().find(|lower| lower.name == *used);
                assert!(below.is_some(), "{} uses {used}, which does not stand above it in the list", layer.name);
                assert!(layer.torch || !below.is_some_and(|lower| lower.torch), "{} is to be free", layer.name);
            }
        }
    }

    #[test]
    fn an_arrow_upwards_is_named() {
        let metadata = package("sdtrain-config", "sdtrain-recipe", Some("crates/recipe"), None);
        assert_eq!(mistakes(&metadata), ["`config` uses `recipe`; allowed: "]);
    }

    #[test]
    fn libtorch_in_a_free_crate_is_named_even_in_tests() {
        let expected = "`cli` uses `model`, but is to be free of libtorch";
        assert_eq!(mistakes(&package("sdtrain", "sdtrain-model", Some("crates/model"), Some("dev"))), [expected]);
        let expected = "`recipe` uses `tch`, but is to be free of libtorch";
        assert_eq!(mistakes(&package("sdtrain-recipe", "tch", None, None)), [expected]);
    }

    #[test]
    fn tests_may_use_more_and_unknown_crates_must_be_entered() {
        assert!(mistakes(&package("sdtrain-config", "sdtrain-random", Some("crates/random"), Some("dev"))).is_empty());
        assert_eq!(
            mistakes(&json!({"packages": [{"name": "sdtrain-video", "dependencies": []}]})),
            ["`video` is not in the table of xtask/src/layers.rs"]
        );
    }
}
