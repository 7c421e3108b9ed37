//! What ranks must have in common before their first step, and how a difference is told.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a rank would compute with, by name, each as a short text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts(pub BTreeMap<String, String>);

impl Facts {
    pub fn to_json(&self) -> String {
        serde_json::json!(self.0).to_string()
    }
}

/// The beginning of a digest, which tells two apart in a message.
pub(crate) fn short(digest: &str) -> String {
    digest.chars().take(16).collect()
}

/// Refuses ranks that differ; `all` is what each of them said, in their order.
pub(super) fn compare(all: &[String]) -> Result<()> {
    let facts: Vec<BTreeMap<String, String>> =
        all.iter().map(|text| serde_json::from_str(text).unwrap_or_default()).collect();
    let names: std::collections::BTreeSet<&String> = facts.iter().flat_map(BTreeMap::keys).collect();
    let mut table = String::new();
    for name in names {
        let mut ranks_by_value: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (rank, own) in facts.iter().enumerate() {
            ranks_by_value.entry(own.get(name).map_or("absent", String::as_str)).or_default().push(rank);
        }
        if ranks_by_value.len() > 1 {
            for (value, ranks) in ranks_by_value {
                let word = if ranks.len() == 1 { "rank" } else { "ranks" };
                let _ = write!(table, "\n  {name}: {value} at {word} {}", super::list(&ranks));
            }
        }
    }
    match table.is_empty() {
        true => Ok(()),
        false => Err(Error::RanksDiffer { table }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(seed: &str, data: &str) -> String {
        Facts(BTreeMap::from([("seed".into(), seed.into()), ("data".into(), data.into())])).to_json()
    }

    #[test]
    fn what_differs_is_named_with_its_ranks() {
        let same = || facts("1", "a");
        assert!(compare(&[same(), same(), same()]).is_ok());
        let error = compare(&[same(), facts("2", "a"), same(), facts("2", "b")]).unwrap_err().to_string();
        assert!(error.contains("seed: 1 at ranks 0 and 2\n  seed: 2 at ranks 1 and 3"), "{error}");
        assert!(error.contains("data: a at ranks 0, 1 and 2\n  data: b at rank 3"), "{error}");
    }
}
