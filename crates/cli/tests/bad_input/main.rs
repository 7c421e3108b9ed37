//! A corpus of bad input, made by code: each case has its verdict, which the program must reach without a panic, in time,
//! naming the file, and leaving nothing behind.

mod captions;
mod configs;
mod corpus;
#[path = "../shared/ending.rs"]
mod ending;
mod folders;
mod images;
mod kohya;
mod parquet;
mod tables;
mod tar;
#[path = "../shared/tiny_model.rs"]
mod tiny_model;

use corpus::{Case, judge};

#[test]
fn images_get_their_verdict() {
    judge(images::cases());
}

#[test]
fn captions_get_their_verdict() {
    judge(captions::cases());
}

#[test]
fn folders_get_their_verdict() {
    judge(folders::cases());
}

#[test]
fn tables_get_their_verdict() {
    judge(tables::cases());
}

#[test]
fn tar_files_get_their_verdict() {
    judge(tar::cases());
}

#[test]
fn parquet_files_get_their_verdict() {
    judge(parquet::cases());
}

#[test]
fn dataset_files_of_kohyas_scripts_get_their_verdict() {
    judge(kohya::cases());
}

#[test]
fn configurations_get_their_verdict() {
    judge(configs::cases());
}

#[test]
fn there_are_at_least_two_hundred_cases_with_names_of_their_own() {
    let topics = [
        images::cases(),
        captions::cases(),
        folders::cases(),
        tables::cases(),
        tar::cases(),
        parquet::cases(),
        kohya::cases(),
        configs::cases(),
    ];
    let mut names: Vec<String> = topics.into_iter().flatten().map(|case: Case| case.name).collect();
    assert!(names.len() >= 200, "{}", names.len());
    names.sort();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None);
}
