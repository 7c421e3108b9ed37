//! Several processes: which one this is, and starting them.

use crate::project::{Project, fixture};
use image::{Rgb, RgbImage};
use sdtrain_test_support::copy_folder;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

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

/// Two ranks without a launcher, each in the folder of its project and with arguments of its own: how they end, and what they say.
fn ends_of(ranks: [(&Project, &[&str]); 2], config: &Path, output: &Path) -> [(Option<i32>, String); 2] {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let start = |rank: usize| -> Child {
        let (project, own) = ranks[rank];
        let mut command = project.command(&["train"]);
        command.arg("--config").arg(config).arg("--output").arg(output).args(own);
        for (name, value) in [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2)] {
            command.env(name, value.to_string());
        }
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        // As on two machines: what one has read, the other has not.
        command.env("XDG_CACHE_HOME", project.path("user-cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
    };
    [start(0), start(1)].map(|child| {
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// A copy of the fixtures' model at `target`, where one weight of the UNet has another sign.
fn other_model(target: &Path) {
    copy_folder(&fixture("tiny_sd1"), target);
    let weights = target.join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = header["conv_in.bias"]["data_offsets"][1].as_u64().expect("it has a bias") as usize;
    // The last byte of a number holds its sign.
    bytes[8 + length + end - 1] ^= 0x80;
    fs::write(&weights, bytes).unwrap();
}

/// Ranks of two machines, where the same paths may hold other files: the system's name for "where this process is" stands for that.
#[test]
fn ranks_with_other_files_or_threads_are_refused_by_name() {
    const CONFIG: &str = "name = \"run\"\nseed = 7\n[model]\npath = \"/proc/self/cwd/model\"\n[data]\nresolution = 64\n\
                          batch_size = 1\n[[data.subsets]]\npath = \"/proc/self/cwd/images\"\n[lora]\nrank = 2\n\
                          [train]\nmax_steps = 2\nthreads = 1\n[log]\ntensorboard = false\n";
    const WORDS: [&str; 4] = ["images and captions: ", "content: base: ", "processor threads: ", "configuration, `"];
    let project_with = |has_other_model: bool| {
        let project = Project::new();
        match has_other_model {
            true => other_model(&project.path("model")),
            false => std::os::unix::fs::symlink(fixture("tiny_sd1"), project.path("model")).unwrap(),
        }
        project
    };
    let first = project_with(false);
    first.write("shared.toml", CONFIG);
    let other_image = |project: &Project| {
        RgbImage::from_pixel(64, 64, Rgb([1, 2, 3])).save(project.path("images/1.png")).unwrap();
    };
    let cases: [(&str, bool, &[&str], &[&str]); 4] = [
        ("nothing", false, &[], &[]),
        ("an image", false, &[], &WORDS[..1]),
        ("a weight", true, &[], &WORDS[1..2]),
        ("threads", false, &["--set", "train.threads=2"], &WORDS[2..]),
    ];
    for (what, has_other_model, own, named) in cases {
        let second = project_with(has_other_model);
        if what == "an image" {
            other_image(&second);
        }
        let ends = ends_of([(&first, &[]), (&second, own)], &first.path("shared.toml"), &first.path(what));
        for (code, said) in ends {
            assert_eq!(code, Some(if named.is_empty() { 0 } else { 8 }), "{what}: {said}");
            for words in WORDS {
                let lines: Vec<&str> = said.lines().filter(|line| line.contains(words)).collect();
                assert_eq!(!lines.is_empty(), named.contains(&words), "{what}: `{words}` in {said}");
                let names = |rank: &str| lines.iter().any(|line| line.ends_with(rank));
                assert!(lines.is_empty() || (names("at rank 0") && names("at rank 1")), "{what}: {said}");
            }
        }
    }
}
