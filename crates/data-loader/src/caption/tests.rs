//! The chain as a whole: what its steps do together, and that none disturbs the draws of another.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn of_visit_at(caption: &str, subset: &Subset, progress: Progress, example: u64) -> String {
    let captions = [SourceCaption { source: 0, text: caption.to_owned() }];
    super::of_visit(&captions, subset, 9, progress, example)
}

fn of_visit(caption: &str, subset: &Subset, example: u64) -> String {
    of_visit_at(caption, subset, Progress { epoch: 2, step: 100, total_steps: 200 }, example)
}

fn of_visits(caption: &str, subset: &Subset) -> BTreeSet<String> {
    (0..300).map(|example| of_visit(caption, subset, example)).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn shuffling() -> Subset {
    Subset { shuffle_caption: true, ..Subset::default() }
}

#[test]
fn names_and_streams_are_unique() {
    for (index, step) in CAPTION_STEPS.iter().enumerate() {
        assert_ne!(step.stream(), 0);
        for other in &CAPTION_STEPS[..index] {
            assert_ne!(step.name(), other.name());
            assert_ne!(step.stream(), other.stream());
        }
    }
}

#[test]
fn without_options_the_caption_stays_as_it_is() {
    let caption = "a ,b,, c ";
    assert_eq!(of_visit(caption, &Subset::default(), 3), caption);
    assert_eq!(of_visit("{a|b}||| c;;;d", &Subset::default(), 3), "{a|b}||| c;;;d");
}

#[test]
fn a_dropped_caption_has_no_prefix() {
    let subset = Subset { caption_dropout_rate: 1.0, caption_prefix: text("trigger"), ..Subset::default() };
    assert_eq!(of_visit("a, b", &subset, 3), "");
}

#[test]
fn the_prefix_is_one_of_the_tokens_kept_and_stands_before_any_line() {
    let subset = Subset {
        enable_wildcard: true,
        keep_tokens: 1,
        caption_prefix: text("trigger,"),
        caption_suffix: text(", end"),
        ..shuffling()
    };
    let captions = of_visits("a, b\nc", &subset);
    assert!(captions.iter().all(|caption| caption.starts_with("trigger, ")), "{captions:?}");
    assert!(captions.contains("trigger, end, c") && captions.contains("trigger, b, a, end"), "{captions:?}");
}

#[test]
fn keeps_the_tokens_in_front_and_reaches_every_order_of_the_rest() {
    let orders = of_visits("t,a , b,c", &Subset { keep_tokens: 1, ..shuffling() });
    assert_eq!(orders.len(), 6);
    assert!(orders.iter().all(|order| order.starts_with("t, ")));
    assert!(orders.contains("t, c, a, b"));
    assert_eq!(of_visits("a,,b", &Subset { keep_tokens: 3, ..shuffling() }), set(&["a, , b"]));
    assert_eq!(of_visits("", &Subset { keep_tokens: 1, ..shuffling() }), set(&[""]));
}

#[test]
fn joins_with_a_comma_whatever_the_separator() {
    let subset = Subset { caption_separator: "|".to_owned(), keep_tokens: 2, ..shuffling() };
    assert_eq!(of_visit("a, b| c", &subset, 0), "a, b, c");
}

#[test]
fn only_what_stands_between_the_marks_is_shuffled_and_dropped() {
    let subset = Subset { keep_tokens_separator: text("|||"), caption_tag_dropout_rate: 0.5, ..shuffling() };
    let captions = of_visits("t, u ||| a, b ||| x", &subset);
    assert_eq!(captions, set(&["t, u, x", "t, u, a, x", "t, u, b, x", "t, u, a, b, x", "t, u, b, a, x"]));
}

#[test]
fn what_a_secondary_separator_joins_stays_together() {
    let subset = Subset { secondary_separator: text(";;;"), ..shuffling() };
    assert_eq!(of_visits("red;;; bottle, b", &subset), set(&["red, bottle, b", "b, red, bottle"]));
    assert_eq!(of_visit("red;;;b", &Subset { shuffle_caption: false, ..subset }, 0), "red,b");
}

#[test]
fn a_choice_of_several_parts_is_made_before_they_are_parts() {
    let subset = Subset { enable_wildcard: true, keep_tokens: 1, ..shuffling() };
    assert_eq!(of_visits("t, {a, b|c}", &subset), set(&["t, a, b", "t, b, a", "t, c"]));
}

#[test]
fn tags_are_dropped_as_often_as_it_says_and_those_kept_never() {
    let subset = Subset { caption_tag_dropout_rate: 0.25, keep_tokens: 1, ..Subset::default() };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for example in 0..1000 {
        for part in of_visit("t, a, b", &subset, example).split(", ") {
            *counts.entry(part.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(counts["t"], 1000);
    // 750 expected of each, standard deviation 13.7: five of them.
    assert!((682..=818).contains(&counts["a"]) && (682..=818).contains(&counts["b"]), "{counts:?}");
    let all = Subset { caption_tag_dropout_rate: 1.0, ..subset };
    assert_eq!(of_visits("t, a, b", &all), set(&["t"]));
}

#[test]
fn a_caption_grows_by_its_first_parts_whatever_the_order() {
    let subset = Subset { keep_tokens: 1, token_warmup_step: 8.0, ..shuffling() };
    for step in 0..10 {
        let progress = Progress { epoch: 0, step, total_steps: 100 };
        let caption = of_visit_at("t, a, b, c, d, e", &subset, progress, 5);
        let parts: BTreeSet<&str> = caption.split(", ").collect();
        let count = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5][step as usize];
        assert_eq!(parts, ["t", "a", "b", "c", "d", "e"].into_iter().take(count + 1).collect());
    }
}

/// Every step that draws, alone and beside all others: what it draws stays.
#[test]
fn no_option_changes_what_another_draws() {
    let caption = "a, {b|c|d}, e, f, g\nh, {i|j}, k, l, m";
    let base = Subset { enable_wildcard: true, ..shuffling() };
    let dropping = Subset { caption_dropout_rate: 0.5, ..base.clone() };
    let affixed = Subset { keep_tokens: 1, caption_prefix: text("t,"), ..base.clone() };
    let in_tags = Subset { caption_tag_dropout_rate: 0.4, ..base.clone() };
    let mut dropped = 0;
    for example in 0..200 {
        let alone = of_visit(caption, &base, example);
        let with_dropout = of_visit(caption, &dropping, example);
        if with_dropout.is_empty() {
            dropped += 1;
        } else {
            assert_eq!(with_dropout, alone);
        }
        assert_eq!(of_visit(caption, &affixed, example), format!("t, {alone}"));
        // Fewer tags, in the same order.
        let with_fewer_tags = of_visit(caption, &in_tags, example);
        let mut all = alone.split(", ");
        assert!(with_fewer_tags.is_empty() || with_fewer_tags.split(", ").all(|tag| all.any(|other| other == tag)));
    }
    assert!((60..140).contains(&dropped), "{dropped}");
}

#[test]
fn the_step_decides_how_much_of_a_caption_there_is_and_nothing_else() {
    let subset = Subset { enable_wildcard: true, token_warmup_step: 10.0, token_warmup_min: 5, ..shuffling() };
    for example in 0..50 {
        let at =
            |step| of_visit_at("a, b\nc, {d|e}, f", &subset, Progress { epoch: 1, step, total_steps: 50 }, example);
        assert_eq!(at(0), at(7));
        assert_eq!(at(0), at(40));
    }
}

#[test]
fn what_is_dropped_says_nothing_about_the_order_of_the_rest() {
    let subset = Subset { caption_dropout_rate: 0.5, ..shuffling() };
    let captions: Vec<String> = (0..200).map(|example| of_visit("a, b", &subset, example)).collect();
    let count = |wanted: &str| captions.iter().filter(|caption| *caption == wanted).count();
    // 50 expected of each, standard deviation 6: five of them.
    assert!((20..=80).contains(&count("a, b")) && (20..=80).contains(&count("b, a")), "{captions:?}");
}

#[test]
fn outside_of_training_nothing_is_left_to_chance() {
    let subset = Subset {
        keep_tokens_separator: text("|||"),
        enable_wildcard: true,
        caption_dropout_rate: 1.0,
        caption_dropout_every_n_epochs: 1,
        caption_tag_dropout_rate: 1.0,
        token_warmup_step: 1000.0,
        caption_prefix: text("p"),
        ..shuffling()
    };
    let captions = [SourceCaption { source: 0, text: "t ||| a, {b|long}, c\nsecond".to_owned() }];
    assert_eq!(plain(&captions, &subset), "p t, a, b, c");
    assert_eq!(longest_of_each(&captions, &subset), ["p t, a, long, c", "p second"]);
    assert_eq!(longest_of_each(&captions, &Subset::default()), ["t ||| a, {b|long}, c"]);
    assert_eq!(plain(&[], &subset), "p");
}
