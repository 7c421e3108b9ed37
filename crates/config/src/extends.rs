//! `extends = "base.toml"`: a configuration that continues another one.

use std::path::{Path, PathBuf};

use toml::Value;

use crate::problem::Problem;
use crate::tree::{Node, NodeValue, parse_file};

/// The key that names the file, or files, a configuration continues.
pub(crate) const EXTENDS: &str = "extends";

/// Reads a file and everything it continues, merged.
pub(crate) fn read_with_bases(path: &Path) -> Result<Node, Vec<Problem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    let mut chain = vec![path.to_owned()];
    merge_bases(parse_file(&text, path, chain.len())?, path, &mut chain)
}

/// Puts `node`, written in `path`, on top of the files its `extends` names.
pub(crate) fn merge_bases(mut node: Node, path: &Path, chain: &mut Vec<PathBuf>) -> Result<Node, Vec<Problem>> {
    let NodeValue::Table(entries) = &mut node.value else {
        return Ok(node);
    };
    let Some(extends) = entries.remove(EXTENDS) else {
        return Ok(node);
    };
    let Some(names) = names_of(&extends) else {
        let problem = extends.origin.problem("`extends` must be a file name or a list of them".to_owned());
        return Err(vec![problem]);
    };

    let mut problems = Vec::new();
    let mut merged: Option<Node> = None;
    for name in names {
        let base_path = path.parent().unwrap_or(Path::new("")).join(&name);
        match read_base(&base_path, &extends, chain) {
            Ok(base) => {
                merged = Some(match merged {
                    Some(merged) => merged.merged_with(base),
                    None => base,
                });
            }
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(match merged {
        Some(base) => base.merged_with(node),
        None => node,
    })
}

fn read_base(path: &Path, extends: &Node, chain: &mut Vec<PathBuf>) -> Result<Node, Vec<Problem>> {
    if chain.iter().any(|earlier| same_file(earlier, path)) {
        let mut circle: Vec<String> = chain.iter().map(|file| file_name(file)).collect();
        circle.push(file_name(path));
        let message = format!("`extends` goes in a circle: {}", circle.join(" → "));
        return Err(vec![extends.origin.problem(message)]);
    }
    let text = text_of(path).map_err(|message| {
        vec![
            extends
                .origin
                .problem(format!("cannot read `{}`, which this file extends: {message}", path.display()))
                .hint("the path is relative to the file it is written in"),
        ]
    })?;
    chain.push(path.to_owned());
    let merged = parse_file(&text, path, chain.len()).and_then(|node| merge_bases(node, path, chain));
    chain.pop();
    merged
}

fn names_of(extends: &Node) -> Option<Vec<String>> {
    match extends.to_value() {
        Value::String(name) => Some(vec![name]),
        Value::Array(names) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// The text of a configuration, or why it cannot be read.
pub(crate) fn read_text(path: &Path) -> Result<String, Problem> {
    text_of(path)
        .map_err(|message| Problem::new(format!("cannot read the configuration `{}`: {message}", path.display())))
}

fn text_of(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    })?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
