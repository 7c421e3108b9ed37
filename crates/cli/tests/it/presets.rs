//! `sdtrain check` over the configurations of `configs/presets`, on a machine that has none of their models.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::project::Project;

#[test]
fn what_a_preset_lacks_is_named_with_the_command_that_fetches_it() {
    let project = Project::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/presets");
    let expected = |name: &str| -> &[&str] {
        match name {
            "chinese_finetune.toml" => &["IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1"],
            "domain_pretraining.toml" => &["alibaba-pai/pai-diffusion-artist-large-zh"],
            "japanese_two_stages.toml" => &["CompVis/stable-diffusion-v1-4"],
            other => panic!("`{other}` is not tested"),
        }
    };
    let row = |index: usize| format!("{{\"file_name\": \"{index}.png\", \"zh_prompt\": \"猫\", \"text\": \"猫\"}}\n");
    project.write("images/metadata.jsonl", &(0..4).map(row).collect::<String>());
    let mut found = 0;
    for entry in fs::read_dir(&folder).expect("the folder of presets").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".toml") {
            continue;
        }
        found += 1;
        let images = format!("data.subsets.0.path={}", project.path("images").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_sdtrain"));
        command.args([
            "check",
            &entry.path().display().to_string(),
            "--set",
            &images,
            "--set",
            "data.subsets.0.repeats=2",
        ]);
        let cache = project.path("no-cache");
        let output =
            command.env("HF_HUB_CACHE", cache).env("HF_HUB_OFFLINE", "1").output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert_eq!(said.matches("error: ").count(), expected(&name).len(), "{name}: {said}");
        for repository in expected(&name) {
            let what = format!("`hf:{repository}` is not in the Hugging Face cache");
            assert!(said.contains(&what) && said.contains(&format!("`hf download {repository}`")), "{name}: {said}");
        }
    }
    assert_eq!(found, 3);
}
