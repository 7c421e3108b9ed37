//! The nearest known name for a mistyped one.

/// The candidate that was probably meant.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let simple = |name: &str| name.to_lowercase().replace('-', "_");
    let typed = simple(typed);
    // A third of the letters may differ; two always may, except in names so short that everything is near.
    let allowed = match typed.chars().count() {
        0..=2 => 0,
        3 => 1,
        length => (length / 3).max(2),
    };
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&typed, &simple(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `` `a`, `b` or `c` ``
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{listed, nearest};

    #[test]
    fn finds_swapped_missing_and_wrong_letters() {
        let keys = ["weight_decay", "learning_rate", "eps", "betas"];
        assert_eq!(nearest("weigth_decay", keys), Some("weight_decay"));
        assert_eq!(nearest("learningrate", keys), Some("learning_rate"));
        assert_eq!(nearest("Learning-Rate", keys), Some("learning_rate"));
        assert_eq!(nearest("esp", keys), Some("eps"));
    }

    #[test]
    fn is_silent_when_nothing_is_near() {
        assert_eq!(nearest("momentum", ["weight_decay", "eps"]), None);
        assert_eq!(nearest("lr", ["eps", "l1"]), None);
    }

    #[test]
    fn lists_names_as_in_a_sentence() {
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
