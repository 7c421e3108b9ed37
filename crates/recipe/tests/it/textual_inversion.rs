//! Words that are learned: what the section may say, with the exact words of what it may not.

use sdtrain_recipe::{CaptionTemplates, TrainConfig, TrainableKind};

use crate::project::{Project, SMALLEST};

const WORD: &str = "[[textual_inversion.tokens]]\nword = \"<cat>\"\n";

/// The smallest configuration that learns `<cat>`.
fn learning() -> Project {
    Project::new(&format!("method = \"textual_inversion\"\n{SMALLEST}{WORD}"))
}

/// The one message that these overrides lead to, without the word `error` and the place.
fn message(overrides: &[&str]) -> String {
    let messages = learning().messages_with(overrides);
    messages.strip_prefix("error: ").expect("a message").to_owned()
}

#[test]
fn a_word_alone_is_enough() {
    let config = learning().load();
    assert_eq!(config.trainable_kind(), TrainableKind::TextualInversion);
    assert_eq!(config.textual_inversion.templates, CaptionTemplates::Captions);
    assert!(config.trains_text_encoder() && config.learned_tokens().len() == 1);
    assert_eq!(config.learned_tokens()[0].vectors, None);
}

#[test]
fn beside_a_lora_the_text_encoder_runs_in_every_step() {
    let words = format!("{SMALLEST}{WORD}");
    let config = Project::new(&words).load();
    assert_eq!(config.trainable_kind(), TrainableKind::Lora);
    assert!(config.trains_text_encoder() && !config.lora.train_text_encoder);
    assert!(!Project::new(SMALLEST).load().trains_text_encoder());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (overrides, expected) in [
        (
            &["textual_inversion.tokens=[]"][..],
            "there is no word to learn\n  \
             hint: add a section `[[textual_inversion.tokens]]` with `word = \"<mycat>\"`",
        ),
        (
            &["textual_inversion.tokens.0.word=''"],
            "`textual_inversion.tokens.0.word` is empty\n  \
             hint: it is what captions and prompts call the thing, such as `<mycat>`",
        ),
        (
            &["textual_inversion.tokens.0.word='two words'"],
            "`textual_inversion.tokens.0.word` is one word, without blanks, commas and slashes, not \"two words\"",
        ),
        (
            &["textual_inversion.tokens.0.word='<>'"],
            "`textual_inversion.tokens.0.word`: \"<>\" has neither letter nor digit for a file to be called by",
        ),
        (
            &["textual_inversion.tokens=[{word='<cat>'}, {word='Cat'}]"],
            "the words \"<cat>\" and \"Cat\" have the same letters\n  hint: prompts and files do not tell them apart",
        ),
        (&["textual_inversion.tokens.0.vectors=0"], "`textual_inversion.tokens.0.vectors` must be at least 1, not 0"),
        (
            &["textual_inversion.tokens.0.initial_words=' '"],
            "`textual_inversion.tokens.0.initial_words` is empty\n  \
             hint: without the key the vectors are drawn by chance",
        ),
        (&["textual_inversion.learning_rate=-1"], "`textual_inversion.learning_rate` must not be negative, and is -1"),
        (
            &["textual_inversion.bundle=true"],
            "there is no LoRA that the words could be put into\n  hint: remove the key",
        ),
        (
            &["textual_inversion.templates=object", "textual_inversion.tokens=[{word='<cat>'}, {word='<dog>'}]"],
            "a template's sentences hold a single word, and there are several\n  \
             hint: write captions that say which word an image shows",
        ),
        (
            &["method=full"],
            "words are learned alone or beside a LoRA, not with `full`\n  \
             hint: set `method = \"textual_inversion\"`, or remove the words",
        ),
        (
            &["method=lora", "textual_inversion.tokens=[]", "textual_inversion.preserve_norm=true"],
            "`textual_inversion` is set, but no word is learned: `textual_inversion.tokens` is empty",
        ),
    ] {
        let found = message(overrides);
        assert!(found.contains(expected), "{overrides:?}:\n{found}\ninstead of\n{expected}");
    }
}

#[test]
fn a_file_to_begin_with_is_seen_from_the_configuration_and_excludes_words() {
    let project = learning();
    let missing = "textual_inversion.tokens.0.initial=cat.safetensors";
    assert!(project.messages_with(&[missing]).contains("`textual_inversion.tokens.0.initial`: `"));
    project.write("configs/cat.safetensors", "");
    let text = format!("method = \"textual_inversion\"\n{SMALLEST}{WORD}initial = \"cat.safetensors\"\n");
    project.write("configs/run.toml", &text);
    let config = project.load();
    assert_eq!(config.textual_inversion.tokens[0].initial.as_deref(), Some(&*project.path("configs/cat.safetensors")));
    let both = project.messages_with(&["textual_inversion.tokens.0.initial_words=cat"]);
    assert!(both.contains("`textual_inversion.tokens.0.initial_words` and `initial` are both set"), "{both}");
}

#[test]
fn words_are_looked_for_in_captions_whatever_the_case_of_their_letters() {
    let config = learning().load();
    let check = |config: &TrainConfig, captions: &[&str]| {
        config.check_words_are_used(captions.iter().map(|caption| caption.to_string()))
    };
    assert_eq!(check(&config, &["", "a <CAT>, sitting"]), Ok(()));
    let (message, hint) = check(&config, &["a cat"]).unwrap_err();
    assert_eq!(message, "no caption holds `<cat>`, so nothing would be learned");
    assert!(hint.contains("caption_prefix = \"<cat>,\""), "{hint}");
    let mut by_template = config;
    by_template.textual_inversion.templates = CaptionTemplates::Style;
    assert_eq!(check(&by_template, &[""]), Ok(()));
}

#[test]
fn file_names_have_the_words_letters() {
    let config = Project::new(&format!("{SMALLEST}{WORD}[[textual_inversion.tokens]]\nword = \"zen-2_b\"\n")).load();
    let files: Vec<String> = config.textual_inversion.word_files("run").collect();
    assert_eq!(files, ["run-cat.safetensors", "run-zen-2b.safetensors"]);
}
