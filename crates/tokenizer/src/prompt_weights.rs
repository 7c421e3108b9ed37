//! `(word:1.2)`: how much attention the parts of a prompt get, in the notation of AUTOMATIC1111's web UI.

/// A part of a prompt with the factor of its text states.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedText {
    /// The text, brackets and backslashes taken out.
    pub text: String,
    /// The factor; 1 changes nothing.
    pub weight: f64,
}

/// What `(…)` multiplies by, and `[…]` divides by.
const STEP: f64 = 1.1;

/// No factor is further from 0 than this, however deep the brackets: text states must stay finite.
const LARGEST: f64 = 100.0;

/// The parts of a prompt, in order, those of equal weight together; at least one, which may be empty.
///
/// `(a)` is 1.1 times `a`, `[a]` is `a` divided by 1.1, `(a:1.3)` is 1.3 times `a`; they may lie in each other. A bracket that is
/// never closed ends with the prompt, one that was never opened is text. `\(`, `\)`, `\[`, `\]` and `\\` are the characters
/// themselves, and any other backslash vanishes. That is how kohya's sd-scripts reads `--weighted_captions`.
pub fn parse_prompt_weights(prompt: &str) -> Vec<WeightedText> {
    let mut parts: Vec<WeightedText> = Vec::new();
    // For each open bracket, the part that it begins with.
    let (mut round, mut square) = (Vec::new(), Vec::new());
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let closed = closing_weight(rest).filter(|_| !round.is_empty());
        let (text, length) = match first {
            '\\' => {
                let escaped = rest[1..].chars().next().filter(|next| "()[]\\".contains(*next));
                (if escaped.is_some() { &rest[1..2] } else { "" }, 1 + usize::from(escaped.is_some()))
            }
            '(' => {
                round.push(parts.len());
                rest = &rest[1..];
                continue;
            }
            '[' => {
                square.push(parts.len());
                rest = &rest[1..];
                continue;
            }
            ':' if closed.is_some() => {
                let (weight, length) = closed.unwrap_or((1.0, 1));
                multiply(&mut parts, round.pop(), weight);
                rest = &rest[length..];
                continue;
            }
            ')' if !round.is_empty() => {
                multiply(&mut parts, round.pop(), STEP);
                rest = &rest[1..];
                continue;
            }
            ']' if !square.is_empty() => {
                multiply(&mut parts, square.pop(), 1.0 / STEP);
                rest = &rest[1..];
                continue;
            }
            ')' | ']' | ':' => (&rest[..1], 1),
            _ => {
                let length = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                (&rest[..length], length)
            }
        };
        parts.push(WeightedText { text: text.to_owned(), weight: 1.0 });
        rest = &rest[length..];
    }
    for (open, factor) in [(round, STEP), (square, 1.0 / STEP)] {
        for start in open {
            multiply(&mut parts, Some(start), factor);
        }
    }
    merged(parts)
}

/// `:1.2)` at the start of a text: the number, and how many bytes it takes with its colon and bracket.
fn closing_weight(text: &str) -> Option<(f64, usize)> {
    let number = text.strip_prefix(':')?;
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let end = digits.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    if !digits[end..].starts_with(')') {
        return None;
    }
    let length = number.len() - digits.len() + end;
    Some((number[..length].parse().ok()?, length + 2))
}

fn multiply(parts: &mut [WeightedText], start: Option<usize>, factor: f64) {
    for part in &mut parts[start.unwrap_or(0)..] {
        part.weight *= factor;
    }
}

fn merged(parts: Vec<WeightedText>) -> Vec<WeightedText> {
    let mut merged: Vec<WeightedText> = Vec::new();
    for WeightedText { text, weight } in parts {
        // 0 times infinity is no number.
        let weight = if weight.is_nan() { 0.0 } else { weight.clamp(-LARGEST, LARGEST) };
        match merged.last_mut() {
            Some(last) if last.weight == weight => last.text.push_str(&text),
            _ => merged.push(WeightedText { text, weight }),
        }
    }
    if merged.is_empty() {
        merged.push(WeightedText { text: String::new(), weight: 1.0 });
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(prompt: &str) -> Vec<(String, f64)> {
        // Products of a few factors, so far from each other that four digits tell them apart.
        let rounded = |weight: f64| (weight * 1e4).round() / 1e4;
        parse_prompt_weights(prompt).into_iter().map(|part| (part.text, rounded(part.weight))).collect()
    }

    fn check(prompt: &str, expected: &[(&str, f64)]) {
        let expected: Vec<(String, f64)> = expected.iter().map(|&(text, weight)| (text.to_owned(), weight)).collect();
        assert_eq!(parts(prompt), expected, "{prompt}");
    }

    #[test]
    fn brackets_weigh_what_is_in_them() {
        check("a red bottle", &[("a red bottle", 1.0)]);
        check("a (red) bottle", &[("a ", 1.0), ("red", 1.1), (" bottle", 1.0)]);
        check("a [red] bottle", &[("a ", 1.0), ("red", 0.9091), (" bottle", 1.0)]);
        check("(red:1.3)", &[("red", 1.3)]);
        check("(red:-.5), (x:+2)", &[("red", -0.5), (", ", 1.0), ("x", 2.0)]);
        check("((a) b:2)", &[("a", 2.2), (" b", 2.0)]);
        check("(a [b])", &[("a ", 1.1), ("b", 1.0)]);
        check("(a)(b)", &[("ab", 1.1)]);
        check("", &[("", 1.0)]);
        check("()", &[("", 1.0)]);
    }

    #[test]
    fn brackets_without_a_partner() {
        check("a (b", &[("a ", 1.0), ("b", 1.1)]);
        check("a ((b [c", &[("a ", 1.0), ("b ", 1.21), ("c", 1.1)]);
        check("a) b] c:1.2)", &[("a) b] c:1.2)", 1.0)]);
        check("[a:1.2)", &[("a:1.2)", 0.9091)]);
    }

    #[test]
    fn what_is_no_weight_is_text() {
        check("ratio 16:9, at 10:30", &[("ratio 16:9, at 10:30", 1.0)]);
        check("(a: b)", &[("a: b", 1.1)]);
        check("(a:1.2 )", &[("a:1.2 ", 1.1)]);
        check("(a:1.2.3)", &[("a:1.2.3", 1.1)]);
        check("(a:.)", &[("a:.", 1.1)]);
        check("(a:)", &[("a:", 1.1)]);
    }

    #[test]
    fn a_backslash_makes_brackets_text() {
        check(r"a \(b\) \[c\] \\", &[(r"a (b) [c] \", 1.0)]);
        check(r"(a\):1.5)", &[("a)", 1.5)]);
        check(r"a\b\", &[("ab", 1.0)]);
        check(r"\瓶", &[("瓶", 1.0)]);
    }

    #[test]
    fn weights_stay_finite() {
        check(&"(".repeat(9000), &[("", 1.0)]);
        let deep = format!("{}a", "(".repeat(9000));
        check(&deep, &[("a", 100.0)]);
        check(&format!("((a:{}):0)", "9".repeat(400)), &[("a", 0.0)]);
        check("(a:-9999)", &[("a", -100.0)]);
    }
}
