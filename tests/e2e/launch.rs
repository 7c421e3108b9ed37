//! Several processes: which one this is, and starting them.

use crate::project::Project;
use std::fs;

#[test]
fn variables_of_torchrun_are_recognised_and_contradictions_refused() {
    let project = Project::new();
    let with_rank = |rank: &str| {
        let mut command = project.command(&["env"]);
        command.envs([("RANK", rank), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")]);
        command.envs([("MASTER_ADDR", "node0"), ("MASTER_PORT", "29400"), ("TORCHELASTIC_USE_AGENT_STORE", "True")]);
        let output = command.output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = with_rank("3");
    assert_eq!(code, Some(0));
    assert!(said.starts_with("rank 3 of 4 processes, local rank 1 of 2 on this node (torchrun)\n"), "{said}");
    let (code, _, said) = with_rank("4");
    assert_eq!(code, Some(2));
    assert!(said.contains("RANK      `4`    must be less than `WORLD_SIZE`, which is 4"), "{said}");
}

#[test]
fn a_launcher_shows_each_line_with_its_rank_and_ends_as_its_processes_do() {
    let project = Project::new();
    let (said, _) = project.expect(0, &["launch", "--nproc", "2", "--", "check", "--config", "run.toml"]);
    for rank in ["[rank 0] ", "[rank 1] "] {
        assert!(said.lines().any(|line| line.starts_with(rank)), "{said}");
    }
    let (_, said) = project.expect(2, &["launch", "--nproc", "2", "--", "check", "--config", "none.toml"]);
    assert!(said.contains("ended with exit code 2: the command line or configuration is wrong"), "{said}");
}

/// The command of two ranks: `run.toml` without what the first rank alone draws and measures, changed by `changes`.
fn two_ranks<'a>(project: &Project, launch: &[&'a str], changes: &[&'a str]) -> Vec<&'a str> {
    let text = fs::read_to_string(project.path("run.toml")).unwrap();
    let (kept, _) = text.split_once("[samples]").expect("it draws samples");
    project.write("ranks.toml", &format!("{kept}[samples]\nprompts = []\n"));
    let each = ["data.batch_size=1"];
    let settings = each.iter().chain(changes).flat_map(|&change| ["--set", change]);
    ["launch", "--nproc", "2"]
        .into_iter()
        .chain(launch.iter().copied())
        .chain(["--", "train", "--config", "ranks.toml"])
        .chain(settings)
        .collect()
}

/// How many of `what` each rank has encoded, as the first one says.
fn encoded(said: &str, what: &str) -> Vec<usize> {
    let start = format!("{what} encoded: ");
    let by_rank = said.lines().find_map(|line| line.split_once(start.as_str())).expect(said).1;
    by_rank.split(", ").map(|part| part.split(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn ranks_share_out_what_a_cache_lacks() {
    let project = Project::new();
    let folder = format!("data.cache_dir={}", project.path("cache").display());
    let changes = ["data.cache_text_encoder_outputs=true", "lora.train_text_encoder=false", &folder];
    let (_, said) = project.expect(0, &two_ranks(&project, &[], &changes));
    let images = encoded(&said, "images");
    assert_eq!((images.len(), images.iter().sum::<usize>()), (2, 6), "each picture by one rank: {said}");
    assert!(images.iter().all(|&made| made > 0), "{said}");
    // Which rank a text falls to its letters decide.
    let texts: usize = encoded(&said, "texts").iter().sum();
    assert!(texts >= 6, "{said}");
    assert!(said.contains("[rank 0] latents: 6 of 6 images are in"), "nothing was left for the lead: {said}");
    let all = format!("[rank 0] text encoder outputs: {texts} of {texts} texts are in");
    assert!(said.contains(&all), "each text by one rank: {said}");
}
