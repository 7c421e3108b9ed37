//! Patterns over module paths: `unet.*.attn2.*`.

/// Whether `pattern` matches the whole of `path`; `*` stands for any text, dots included.
pub fn matches_pattern(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    // Taking the first occurrence of each middle part leaves the most text for those behind it.
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    const TO_Q: &str = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";

    #[test]
    fn a_star_stands_for_any_text_with_dots() {
        assert!(matches_pattern("unet.*.attn1.*", TO_Q));
        assert!(matches_pattern("*", TO_Q));
        assert!(matches_pattern("unet.*to_q", TO_Q));
        assert!(!matches_pattern("unet.*.attn2.*", TO_Q));
        assert!(!matches_pattern("text_encoder.*", TO_Q));
    }

    #[test]
    fn a_pattern_without_a_star_is_the_whole_path() {
        assert!(matches_pattern(TO_Q, TO_Q));
        assert!(!matches_pattern("unet.down_blocks.0", TO_Q));
        assert!(!matches_pattern("", TO_Q));
    }

    #[test]
    fn text_is_not_counted_twice() {
        assert!(!matches_pattern("ab*ba", "aba"));
        assert!(matches_pattern("ab*ba", "abba"));
        assert!(matches_pattern("a*b*b", "abb"));
        assert!(!matches_pattern("a*b*b", "ab"));
    }
}
