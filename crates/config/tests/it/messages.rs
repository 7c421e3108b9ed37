//! Each kind of mistake, with the exact words.

use std::path::Path;

use sdtrain_config::{Document, hint_for_key};

use crate::sections::{Config, Method, Optimizer, Resolution, messages, parsed};

/// The messages for a text that is right but for these lines; `[model]` stands on lines 1 and 2.
fn messages_after_model(text: &str) -> String {
    messages(&format!("[model]\npath = \"m\"\n{text}"))
}

#[test]
fn a_right_file_has_no_messages() {
    let config = parsed(
        "name = \"a\"\nmethod = \"full\"\n[model]\npath = \"m\"\n[data]\nresolution = [512, 768]\n\
         [optimizer]\ntype = \"sgd\"\nmomentum = 1\n[train]\nmax_steps = 1_000\n",
    );
    assert_eq!(config.method, Method::Full);
    assert_eq!(config.data.resolution, Resolution::Size([512, 768]));
    assert!(matches!(config.optimizer, Optimizer::Sgd(sgd) if sgd.momentum == 1.0));
    assert_eq!(config.train.max_steps, Some(1000));
}

#[test]
fn a_mistyped_key_is_shown_with_its_line_and_the_nearest_name() {
    assert_eq!(
        messages_after_model("[optimizer]\ntype = \"adamw\"\nweigth_decay = 0.1\n"),
        "error: run.toml:5: unknown key `optimizer.weigth_decay` with `type = \"adamw\"`\n  \
         hint: did you mean `weight_decay`?"
    );
}

#[test]
fn a_mistyped_section_is_shown_at_its_header() {
    assert_eq!(
        messages_after_model("\n[optimiser]\ntype = \"adamw\"\n"),
        "error: run.toml:4: unknown key `optimiser`\n  hint: did you mean `optimizer`?"
    );
}

#[test]
fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
    assert_eq!(
        messages("max_steps = 5\n[model]\npath = \"m\"\n"),
        "error: run.toml:1: unknown key `max_steps`\n  hint: did you mean `train.max_steps`?"
    );
}

#[test]
fn a_key_of_another_program_is_translated() {
    assert_eq!(
        messages("max_train_steps = 5\n[model]\npath = \"m\"\n"),
        "error: run.toml:1: unknown key `max_train_steps`\n  hint: it is called `train.max_steps` here"
    );
}

#[test]
fn a_key_like_no_other_gets_the_list() {
    assert_eq!(
        messages_after_model("[train]\nfoo = 5\n"),
        "error: run.toml:4: unknown key `train.foo`\n  hint: known here: `max_steps`, `prompts`"
    );
}

#[test]
fn a_key_of_another_type_is_unknown_to_this_one() {
    assert_eq!(
        messages_after_model("[optimizer]\ntype = \"adamw\"\nmomentum = 0.9\n"),
        "error: run.toml:5: unknown key `optimizer.momentum` with `type = \"adamw\"`\n  \
         hint: known here: `betas`, `learning_rate`, `type`, `weight_decay`"
    );
}

#[test]
fn a_wrong_word_gets_the_choices_and_the_nearest() {
    assert_eq!(
        messages("method = \"lorra\"\n[model]\npath = \"m\"\n"),
        "error: run.toml:1: `method` must be `lora` or `full`, not \"lorra\"\n  hint: did you mean `lora`?"
    );
    assert_eq!(
        messages("method = 1\n[model]\npath = \"m\"\n"),
        "error: run.toml:1: `method` must be `lora` or `full`, not 1"
    );
}

#[test]
fn a_wrong_type_name_gets_the_choices() {
    assert_eq!(
        messages_after_model("[optimizer]\nlearning_rate = 1e-4\ntype = \"adam\"\nbetas = 3\n"),
        "error: run.toml:5: `optimizer.type` must be `adamw` or `sgd`, not \"adam\"\n  hint: did you mean `adamw`?"
    );
}

#[test]
fn a_section_without_its_type_takes_the_default_one() {
    let config = parsed("[model]\npath = \"m\"\n[optimizer]\nlearning_rate = 3\n");
    assert!(matches!(config.optimizer, Optimizer::AdamW(adamw) if adamw.learning_rate == 3.0));
}

#[test]
fn each_wrong_kind_of_value_is_named() {
    for (line, message) in [
        ("max_steps = \"10\"", "`train.max_steps` must be a whole number, not \"10\"\n  hint: remove the quotes"),
        ("max_steps = 1.5", "`train.max_steps` must be a whole number, not 1.5"),
        ("max_steps = true", "`train.max_steps` must be a whole number, not true"),
        ("max_steps = [1]", "`train.max_steps` must be a whole number, not a list"),
        ("max_steps = { a = 1 }", "`train.max_steps` must be a whole number, not a table"),
        ("max_steps = 2024-01-01", "`train.max_steps` must be a whole number, not the date 2024-01-01"),
        ("max_steps = -1", "`train.max_steps` must be at least 0, not -1"),
        ("prompts = \"a\"", "`train.prompts` must be a list, not \"a\"\n  hint: put it in brackets: [\"a\"]"),
        ("prompts = [\"a\", 1]", "`train.prompts.1` must be text, not 1\n  hint: put it in quotes: \"1\""),
    ] {
        assert_eq!(
            messages_after_model(&format!("[train]\n{line}\n")),
            format!("error: run.toml:4: {message}"),
            "{line}"
        );
    }
}

#[test]
fn a_value_of_several_forms_names_them_all() {
    for (line, message) in [
        ("resolution = \"512\"", "must be a whole number or a list, not \"512\"\n  hint: remove the quotes"),
        ("resolution = -5", "must be at least 0, not -5"),
        ("resolution = 5_000_000_000", "must be at most 4294967295, not 5000000000"),
        ("resolution = [512]", "must have 2 entries, not 1"),
    ] {
        assert_eq!(
            messages_after_model(&format!("[data]\n{line}\n")),
            format!("error: run.toml:4: `data.resolution` {message}"),
        );
    }
    assert_eq!(
        messages_after_model("[data]\nresolution = [512, 1.5]\n"),
        "error: run.toml:4: `data.resolution.1` must be a whole number, not 1.5"
    );
}

#[test]
fn numbers_that_are_not_numbers_are_refused() {
    assert_eq!(
        messages_after_model("[optimizer]\ntype = \"adamw\"\nlearning_rate = nan\nweight_decay = inf\n"),
        "error: run.toml:5: `optimizer.learning_rate` must be a number, not nan\n\
         error: run.toml:6: `optimizer.weight_decay` must be a number, not inf"
    );
}

#[test]
fn an_entry_of_a_list_of_tables_has_its_own_line() {
    assert_eq!(
        messages_after_model(
            "[[data.subsets]]\npath = \"a\"\n[[data.subsets]]\nrepeats = 2\n\n[[data.subsets]]\npath = \"b\"\n\
             shufle_caption = true\n"
        ),
        "error: run.toml:5: missing key `data.subsets.1.path`\n  hint: The folder\n\
         error: run.toml:10: unknown key `data.subsets.2.shufle_caption`\n  hint: did you mean `shuffle_caption`?"
    );
}

#[test]
fn one_table_where_a_list_of_tables_belongs_is_explained() {
    assert_eq!(
        messages_after_model("[data.subsets]\npath = \"a\"\n"),
        "error: run.toml:3: `data.subsets` must be a list of tables, not one table\n  hint: write `[[data.subsets]]`"
    );
}

#[test]
fn a_word_where_a_section_belongs_is_explained() {
    assert_eq!(
        messages("optimizer = \"adamw\"\nmodel = \"m\"\n"),
        "error: run.toml:1: `optimizer` must be a table, not \"adamw\"\n  \
         hint: write a section `[optimizer]` with `type = \"adamw\"`\n\
         error: run.toml:2: `model` must be a table, not \"m\"\n  hint: write a section `[model]`"
    );
}

#[test]
fn a_missing_key_is_shown_at_its_section_with_its_meaning() {
    assert_eq!(
        messages("name = \"a\"\n[model]\nvae = \"v\"\n"),
        "error: run.toml:2: missing key `model.path`\n  hint: Where it is"
    );
}

#[test]
fn a_missing_section_is_named() {
    assert_eq!(messages("name = \"a\"\n"), "error: run.toml: missing section `[model]`\n  hint: it needs `path`");
}

#[test]
fn all_mistakes_appear_together_in_the_order_of_lines() {
    assert_eq!(
        messages(
            "nam = \"a\"\nmethod = \"ful\"\n[train]\nmax_steps = \"x\"\n[optimizer]\ntype = \"sgd\"\n\
             learning_rat = 1.0\n[data]\nresolution = [1]\n"
        ),
        "error: run.toml:1: unknown key `nam`\n  hint: did you mean `name`?\n\
         error: run.toml:2: `method` must be `lora` or `full`, not \"ful\"\n  hint: did you mean `full`?\n\
         error: run.toml:4: `train.max_steps` must be a whole number, not \"x\"\n\
         error: run.toml:7: unknown key `optimizer.learning_rat` with `type = \"sgd\"`\n  \
         hint: did you mean `learning_rate`?\n\
         error: run.toml:9: `data.resolution` must have 2 entries, not 1\n\
         error: run.toml: missing section `[model]`\n  hint: it needs `path`"
    );
}

#[test]
fn the_rest_can_be_read_although_something_is_wrong() {
    let text = "[model]\npath = \"m\"\n[train]\nmax_steps = \"x\"\n[[data.subsets]]\npath = \"a\"\nrepeat = 3\n";
    let document = Document::from_str(text, Path::new("run.toml")).expect("the syntax is right");
    let parsed = document.parse_what_fits::<Config>();
    let keys: Vec<&str> = parsed.faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["train.max_steps", "data.subsets.0.repeat"]);
    assert!(parsed.is_faulty("train") && parsed.is_faulty("data.subsets.0") && !parsed.is_faulty("model"));
    let config = parsed.value.expect("what is left is a configuration");
    assert_eq!(config.train.max_steps, None);
    assert_eq!(config.data.subsets[0].path, "a");
}

#[test]
fn every_slip_of_syntax_is_shown_with_its_line() {
    let problems = messages("name = \n[model]\npath = \"m\npath = \"n\"\n");
    assert!(problems.contains("error: run.toml:1: "), "{problems}");
    assert!(problems.contains("error: run.toml:3: "), "{problems}");
}

#[test]
fn a_key_written_twice_is_shown() {
    let problems = messages("[model]\npath = \"m\"\npath = \"n\"\n");
    assert!(problems.starts_with("error: run.toml:3: duplicate key"), "{problems}");
}

#[test]
fn a_number_beyond_the_range_is_shown() {
    assert_eq!(
        messages_after_model("[train]\nmax_steps = 99999999999999999999\n"),
        "error: run.toml:4: the number 99999999999999999999 is too large"
    );
}

#[test]
fn a_problem_of_a_check_is_shown_at_the_key_or_the_nearest_table_around_it() {
    let document =
        Document::from_str("[model]\npath = \"m\"\n\n[train]\nmax_steps = 1\n", Path::new("run.toml")).expect("right");
    assert_eq!(document.problem("train.max_steps", "too short").to_string(), "run.toml:5: too short");
    assert_eq!(document.problem("train.max_epochs", "absent").to_string(), "run.toml:4: absent");
    assert_eq!(
        document.problem("data.subsets", "absent").hint("add one").to_string(),
        "run.toml: absent\n  hint: add one"
    );
}

#[test]
fn a_key_that_stands_as_text_is_looked_up_as_one_in_a_file() {
    for key in ["name", "train", "train.max_steps", "optimizer.type", "optimizer.momentum", "data.subsets"] {
        assert_eq!(hint_for_key::<Config>(key), None, "{key}");
    }
    for (key, hint) in [
        ("trian", "did you mean `train`?"),
        ("train.max_step", "did you mean `max_steps`?"),
        ("train.", "known here: `max_steps`, `prompts`"),
        ("max_steps", "did you mean `train.max_steps`?"),
        ("train.max_steps.more", "there is nothing below `train.max_steps`, which is named as a whole"),
        ("data.subsets.0.path", "there is nothing below `data.subsets`, which is named as a whole"),
    ] {
        assert_eq!(hint_for_key::<Config>(key).as_deref(), Some(hint), "{key}");
    }
}
