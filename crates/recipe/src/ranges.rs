//! Ranges of numbers, told in one wording for every section whose settings check themselves.

/// One thing that is wrong within a section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mistake {
    /// The key within the section; empty where it is the section as a whole.
    pub key: String,
    /// What is wrong, to be read behind the key's full name.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

/// What is said of a number that is infinite where it is used, in fp32; to be read behind the key's name.
pub(crate) fn too_large_for_fp32(value: f64) -> Option<String> {
    let is_infinite = value.is_finite() && !(value as f32).is_finite();
    is_infinite.then(|| format!("must be a number that fp32 has, which ends at {:.1e}, not {value:e}", f32::MAX))
}

/// The same of a number above 0 that is 0 there: as an `eps` it would divide by 0, as a rate it would train nothing.
pub(crate) fn too_small_for_fp32(value: f64) -> Option<String> {
    let is_zero = value > 0.0 && value as f32 == 0.0;
    is_zero.then(|| format!("must be a number that fp32 has, which begins at {:.1e}, not {value:e}", f32::from_bits(1)))
}

/// Collects what is wrong with the settings of one section.
#[derive(Debug, Default)]
pub struct Ranges {
    pub(crate) mistakes: Vec<Mistake>,
}

impl Ranges {
    /// Reports `message`, which follows the name of the key.
    pub fn mistake(&mut self, key: &str, message: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.mistakes.push(Mistake { key: key.to_owned(), message: message.into(), hint });
    }

    /// More than 0, also in fp32, and a number there.
    pub fn positive(&mut self, key: &str, value: f64) {
        if !(value > 0.0 && value.is_finite()) {
            self.mistake(key, format!("must be greater than 0, not {value}"), None);
        } else if let Some(message) = too_large_for_fp32(value).or_else(|| too_small_for_fp32(value)) {
            self.mistake(key, message, None);
        }
    }

    /// 0 or more, and a number in fp32.
    pub fn not_negative(&mut self, key: &str, value: f64) {
        if !(value >= 0.0 && value.is_finite()) {
            self.mistake(key, format!("must not be negative, and is {value}"), None);
        } else if let Some(message) = too_large_for_fp32(value) {
            self.mistake(key, message, None);
        }
    }

    /// 0 to 1.
    pub fn share(&mut self, key: &str, value: f64) {
        if !(0.0..=1.0).contains(&value) {
            self.mistake(key, format!("must be between 0 and 1, not {value}"), None);
        }
    }

    /// How slowly a running mean follows: 0 or more and less than 1.
    pub fn decay(&mut self, key: &str, value: f64) {
        if !(0.0..1.0).contains(&value) {
            self.mistake(key, format!("must be at least 0 and less than 1, not {value}"), None);
        }
    }

    /// Likewise, for each of them.
    pub fn decays(&mut self, key: &str, values: &[f64]) {
        values.iter().for_each(|&value| self.decay(key, value));
    }

    /// 1 or more.
    pub fn at_least_one(&mut self, key: &str, value: u64) {
        if value == 0 {
            self.mistake(key, "must be at least 1, not 0", None);
        }
    }

    /// A number of steps, or less than 1 for a share of the run.
    pub fn steps_or_share(&mut self, key: &str, value: f64) {
        if !(value >= 0.0 && value.is_finite()) {
            self.mistake(key, format!("must not be negative, and is {value}"), None);
        } else if value >= 1.0 && value.fract() != 0.0 {
            let hint = "a number of steps, or less than 1 for a share of the run";
            self.mistake(key, format!("must be a whole number, not {value}"), Some(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(value: f64) -> String {
        let mut ranges = Ranges::default();
        ranges.positive("eps", value);
        ranges.mistakes.into_iter().map(|mistake| mistake.message).collect()
    }

    #[test]
    fn a_positive_number_is_positive_in_fp32_as_well() {
        assert_eq!(said(1e-46), "must be a number that fp32 has, which begins at 1.4e-45, not 1e-46");
        assert!(said(1e-300).contains("not 1e-300"));
        assert!(said(1e39).contains("which ends at 3.4e38"));
        assert_eq!(said(0.0), "must be greater than 0, not 0");
        for value in [1e-45, 1e-30, 1e-8, 1e38] {
            assert_eq!(said(value), "", "{value:e}");
        }
    }
}
