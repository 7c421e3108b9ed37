//! How a run's folders are called that belong to a step: checkpoints, sets of pictures.

const PREFIX: &str = "step-";

/// `step-000250`: a step's number in six digits or more, so that names sort as steps do up to a million.
pub fn step_name(step: u64) -> String {
    format!("{PREFIX}{step:06}")
}

/// The step in such a name; none in another.
pub fn step_of_name(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_steps_are_the_same() {
        assert_eq!(step_name(250), "step-000250");
        for step in [0, 250, 999_999, 1_000_000] {
            assert_eq!(step_of_name(&step_name(step)), Some(step));
        }
        for other in ["step-", "step-1.json", ".tmp-step-000250", "latest"] {
            assert_eq!(step_of_name(other), None, "{other}");
        }
    }
}
