//! A corpus of bad model files, made by code: each case has its verdict, which the program must reach without a panic, in time and in a
//! gigabyte of memory, in one message that names the file.

mod adapters;
mod configs;
mod corpus;
#[path = "../shared/ending.rs"]
mod ending;
mod pickles;
mod safetensors;
mod shards;
mod tensors;
mod tokenizers;
mod zips;

use corpus::{Case, judge};

type Cases = fn() -> Vec<Case>;

/// Every topic with its cases, as docs/reliability.md lists them.
const TOPICS: [(&str, Cases); 8] = [
    ("safetensors: lengths, header, offsets, types, names", safetensors::cases),
    ("pickles: names, calls, instructions, tensors, storages", pickles::cases),
    ("zips around pickles, and the older form", zips::cases),
    ("indices of shards", shards::cases),
    ("`config.json` and `model_index.json`", configs::cases),
    ("missing, extra and wrongly shaped tensors, other kinds of files", tensors::cases),
    ("adapters for another model", adapters::cases),
    ("tokenizers", tokenizers::cases),
];

#[test]
fn safetensors_files_get_their_verdict() {
    judge(safetensors::cases());
}

#[test]
fn pickles_get_their_verdict() {
    judge(pickles::cases());
}

#[test]
fn zips_get_their_verdict() {
    judge(zips::cases());
}

#[test]
fn indices_get_their_verdict() {
    judge(shards::cases());
}

#[test]
fn configurations_get_their_verdict() {
    judge(configs::cases());
}

#[test]
fn tensors_that_do_not_fit_get_their_verdict() {
    judge(tensors::cases());
}

#[test]
fn adapters_get_their_verdict() {
    judge(adapters::cases());
}

#[test]
fn tokenizers_get_their_verdict() {
    judge(tokenizers::cases());
}

#[test]
fn there_are_as_many_cases_as_the_documentation_says_with_names_of_their_own() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reliability.md");
    let page = std::fs::read_to_string(page).unwrap();
    let all = TOPICS.map(|(topic, cases)| (topic, cases()));
    let rows: Vec<String> = all.iter().map(|(topic, cases)| format!("| {topic} | {} |\n", cases.len())).collect();
    let count: usize = all.iter().map(|(_, cases)| cases.len()).sum();
    let table = format!("{}| together | {count} |\n", rows.concat());
    assert!(page.contains(&table), "docs/reliability.md lacks the table\n{table}");
    let mut names: Vec<String> = all.into_iter().flat_map(|(_, cases)| cases).map(|case| case.name).collect();
    assert!(names.len() >= 120, "{}", names.len());
    names.sort();
    assert_eq!(names.windows(2).find(|pair| pair[0] == pair[1]), None);
}
