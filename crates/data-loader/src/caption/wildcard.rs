//! `{red|green|blue}`: one of several texts inside a caption.

use std::ops::ControlFlow;

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use super::{Caption, CaptionStep, Reading};

/// The braces of `enable_wildcard`.
pub(super) struct Wildcard;

impl CaptionStep for Wildcard {
    fn name(&self) -> &'static str {
        "wildcard"
    }

    fn stream(&self) -> u64 {
        5
    }

    fn apply(&self, caption: &mut Caption, subset: &Subset, reading: Reading, random: &mut Stream) -> ControlFlow<()> {
        if subset.enable_wildcard {
            caption.text = resolved(&caption.text, |choices| reading.choose(choices, random));
        }
        ControlFlow::Continue(())
    }
}

/// The text with one choice from each pair of braces, inner ones first. `{{` and `}}` are literal braces, as in kohya's
/// sd-scripts; where two choices are open, which it does not know, `}}` closes both. What is never closed stays as it is written,
/// and so does `{}`.
fn resolved(text: &str, mut choose: impl FnMut(&[&str]) -> usize) -> String {
    let mut done = String::with_capacity(text.len());
    // For each brace that is open: where its choices begin in `done`, which holds the braces and bars themselves as well.
    let mut open: Vec<Vec<usize>> = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("{{") {
            done.push('{');
            rest = behind;
            continue;
        }
        if let Some(behind) = rest.strip_prefix("}}").filter(|_| open.len() < 2) {
            done.push('}');
            rest = behind;
            continue;
        }
        rest = &rest[next.len_utf8()..];
        match (next, open.last_mut()) {
            ('{', _) => {
                done.push('{');
                open.push(vec![done.len()]);
            }
            ('|', Some(begins)) => {
                done.push('|');
                begins.push(done.len());
            }
            ('}', Some(begins)) if begins[0] < done.len() => {
                let ends = begins[1..].iter().map(|&begin| begin - 1).chain([done.len()]);
                let choices: Vec<&str> = begins.iter().zip(ends).map(|(&begin, end)| &done[begin..end]).collect();
                let chosen = choices[choose(&choices)].to_owned();
                done.truncate(begins[0] - 1);
                done.push_str(&chosen);
                open.pop();
            }
            ('}', _) => {
                done.push('}');
                open.pop();
            }
            _ => done.push(next),
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sdtrain_random::Purpose;

    use super::super::Progress;
    use super::*;

    fn all(text: &str) -> BTreeSet<String> {
        let draw = |example| {
            let mut caption = Caption { text: text.to_owned(), parts: None };
            let subset = Subset { enable_wildcard: true, ..Subset::default() };
            let mut random = Stream::new(7, Purpose::Caption, 0, example);
            let end = Wildcard.apply(&mut caption, &subset, Reading::Training(Progress::default()), &mut random);
            assert!(end.is_continue());
            caption.text
        };
        (0..300).map(draw).collect()
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn each_choice_is_made_now_and_then() {
        assert_eq!(all("a {red|green|blue} cat"), set(&["a red cat", "a green cat", "a blue cat"]));
        assert_eq!(all("{a|b}, {c|d}"), set(&["a, c", "a, d", "b, c", "b, d"]));
        assert_eq!(all("{very |}big"), set(&["very big", "big"]));
        assert_eq!(all("{|}"), set(&[""]));
        assert_eq!(all("{alone}"), set(&["alone"]));
        assert_eq!(all("{赤|青}い"), set(&["赤い", "青い"]));
    }

    #[test]
    fn choices_lie_in_choices() {
        assert_eq!(all("{a|{b|c} d}!"), set(&["a!", "b d!", "c d!"]));
        assert_eq!(all("{a|{b|c}}"), set(&["a", "b", "c"]));
        assert_eq!(all("{ {a|b}|{c|{d|e}}}"), set(&[" a", " b", "c", "d", "e"]));
    }

    #[test]
    fn doubled_braces_are_braces() {
        assert_eq!(all("{{a|b}}"), set(&["{a|b}"]));
        assert_eq!(all("{a}}|b{{}"), set(&["a}", "b{"]));
        assert_eq!(all("{{{a|b}"), set(&["{a", "{b"]));
    }

    #[test]
    fn what_is_no_choice_stays() {
        for text in ["a | b", "a {b|c", "a } b", "{}", "a {} b", "|", ""] {
            assert_eq!(all(text), set(&[text]));
        }
        // The outer brace is never closed.
        assert_eq!(all("{a {b|c}"), set(&["{a b", "{a c"]));
    }

    #[test]
    fn is_off_by_default_and_takes_the_first_outside_of_training() {
        let apply = |subset: &Subset, reading| {
            let mut caption = Caption { text: "{a|bbb|cc}".to_owned(), parts: None };
            let _ = Wildcard.apply(&mut caption, subset, reading, &mut Stream::new(7, Purpose::Caption, 0, 0));
            caption.text
        };
        assert_eq!(apply(&Subset::default(), Reading::Training(Progress::default())), "{a|bbb|cc}");
        let subset = Subset { enable_wildcard: true, ..Subset::default() };
        assert_eq!(apply(&subset, Reading::Plain), "a");
        assert_eq!(apply(&subset, Reading::Longest), "bbb");
    }

    #[test]
    fn any_text_ends_somewhere() {
        let mut random = Stream::new(1, Purpose::Caption, 0, 0);
        for _ in 0..2000 {
            let length = random.below(40);
            let text: String = (0..length).map(|_| ['{', '}', '|', 'a', '瓶'][random.below(5) as usize]).collect();
            let result = resolved(&text, |choices| choices.len() - 1);
            assert!(result.len() <= text.len(), "{text}");
        }
        let deep = "{a|".repeat(20_000) + &"}".repeat(20_000);
        assert_eq!(resolved(&deep, |_| 0), "a");
    }
}
