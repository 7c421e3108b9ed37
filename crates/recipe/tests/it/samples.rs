//! Prompts of samples: options behind them, settings of their own, and prompt files of kohya's scripts.

use sdtrain_recipe::{Picture, SamplePrompt, SamplerName, TrainConfig};

use crate::project::{Project, SMALLEST};

fn with(samples: &str) -> Project {
    Project::new(&format!("{SMALLEST}[samples]\n{samples}"))
}

fn seen(config: &TrainConfig) -> Vec<(String, u64, u32, u32)> {
    let of = |picture: Picture| (picture.prompt, picture.seed, picture.width, picture.height);
    config.sample_pictures().into_iter().map(of).collect()
}

#[test]
fn prompts_are_texts_with_options_and_tables_side_by_side() {
    let project = with(
        "seed = 10\nprompts = [\"a\", \"b --d 3 --w 256 --n blurry\", { prompt = \"c --d 3\", height = 128, sampler = \"euler\" }]",
    );
    let config = project.load();
    let expected = [("a", 10, 512, 512), ("b", 3, 256, 512), ("c --d 3", 12, 512, 128)];
    assert_eq!(seen(&config), expected.map(|(prompt, seed, width, height)| (prompt.to_owned(), seed, width, height)));
    let pictures = config.sample_pictures();
    assert_eq!((pictures[1].negative.as_str(), pictures[2].sampler), ("blurry", Some(SamplerName::Euler)));
    assert_eq!(config.samples.prompts[0], SamplePrompt::Text("a".to_owned()));
    project.write("configs/again.toml", &config.to_toml());
    let again = TrainConfig::load(&project.path("configs/again.toml"), &[]).unwrap().config;
    assert_eq!(again, config, "{}", config.to_toml());
}

#[test]
fn a_prompt_file_of_kohyas_scripts_becomes_part_of_the_configuration() {
    let project = with("prompts = [\"first\"]\nprompts_file = \"prompts.txt\"");
    let lines = "\u{feff}# a note\n\na cat, asleep --w 519 --h 768 --s 20 --l 7 --d 1 --n low quality\r\nn a dog\n";
    project.write("configs/prompts.txt", lines);
    let config = project.load();
    assert_eq!(config.samples.prompts_file, None);
    let expected = [("first", 0, 512, 512), ("a cat, asleep", 1, 512, 768), ("n a dog", 2, 512, 512)];
    assert_eq!(seen(&config), expected.map(|(prompt, seed, width, height)| (prompt.to_owned(), seed, width, height)));
    let cat = &config.sample_pictures()[1];
    assert_eq!((cat.steps, cat.guidance, cat.negative.as_str()), (20, 7.0, "low quality"));
}

#[test]
fn what_is_wrong_with_a_prompt_is_named_with_its_place() {
    let project = with("prompts = [\"a --x 3\"]\nprompts_file = \"prompts.txt\"");
    project.write("configs/prompts.txt", "good\nbad --w wide\n");
    let messages = project.messages_with(&[]);
    assert!(messages.contains("configs/run.toml:8: `samples.prompts.0`: unknown option `--x`"), "{messages}");
    assert!(messages.contains("configs/prompts.txt:2: `--w` takes a number, not \"wide\""), "{messages}");
    assert!(messages.contains("hint: behind a prompt: `--w` width"), "{messages}");

    let project = with("prompts_file = \"prompts.txt\"");
    assert!(project.messages_with(&[]).contains("`samples.prompts_file`: `configs/prompts.txt` does not exist"));
    project.write("configs/prompts.txt", "\n# nothing\n");
    assert!(project.messages_with(&[]).contains("holds no prompt"));
    project.write("configs/prompts.json", "[]");
    let messages = project.messages_with(&["samples.prompts_file=configs/prompts.json"]);
    assert!(messages.contains("prompts.json` "), "{messages}");
}

#[test]
fn settings_of_a_single_prompt_are_checked() {
    for (prompt, expected) in [
        ("{ prompt = \"a\", steps = 0 }", "`samples.prompts.0.steps` must be at least 1, not 0"),
        (
            "{ prompt = \"a\", width = 100 }",
            "`samples.prompts.0.width` must be a multiple of 8, not 100\n  hint: the nearest is 104",
        ),
        ("{ prompt = \"a\", guidance = -1 }", "`samples.prompts.0.guidance` must not be negative, and is -1"),
        ("{ prompt = \"a\", scale = 7 }", "unknown key `samples.prompts.0.scale`\n  hint: known here: `guidance`, "),
        ("{ steps = 3 }", "missing key `samples.prompts.0.prompt`"),
        ("7", "`samples.prompts.0` must be text or a table, not 7"),
    ] {
        let messages = with(&format!("prompts = [{prompt}]")).messages_with(&[]);
        assert!(messages.contains(expected), "{prompt}: {messages}");
    }
}
