//! Which of the captions of an image a visit begins with.

use sdtrain_random::Stream;
use sdtrain_recipe::Subset;

use crate::source::SourceCaption;

/// One by the weights of those that the image has.
pub(super) fn drawn<'a>(captions: &'a [SourceCaption], subset: &Subset, random: &mut Stream) -> &'a str {
    let weighted = weighted(captions, subset);
    let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut left = random.uniform() * total;
    for &(text, weight) in &weighted {
        if left < weight {
            return text;
        }
        left -= weight;
    }
    // Rounding may leave a rest behind the last one.
    weighted.last().map_or("", |(text, _)| text)
}

/// The one of the largest weight, of several the first.
pub(super) fn likeliest<'a>(captions: &'a [SourceCaption], subset: &Subset) -> &'a str {
    let weighted = weighted(captions, subset);
    let largest = weighted.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
    weighted.iter().find(|(_, weight)| *weight == largest).map_or("", |(text, _)| text)
}

/// All that can be drawn.
pub(super) fn possible<'a>(captions: &'a [SourceCaption], subset: &Subset) -> Vec<&'a str> {
    let texts: Vec<&str> = weighted(captions, subset).into_iter().map(|(text, _)| text).collect();
    if texts.is_empty() { vec![""] } else { texts }
}

/// The captions that can be chosen, with their weights. An empty one is no choice where another has text, and one whose weight
/// is 0 only where the image has nothing else.
fn weighted<'a>(captions: &'a [SourceCaption], subset: &Subset) -> Vec<(&'a str, f64)> {
    let with_text = |caption: &&SourceCaption| !caption.text.is_empty();
    let found: Vec<&SourceCaption> = match captions.iter().any(|caption| with_text(&caption)) {
        true => captions.iter().filter(with_text).collect(),
        false => captions.iter().collect(),
    };
    let weight = |caption: &SourceCaption| subset.captions.get(caption.source).map_or(1.0, |file| file.weight);
    let chosen: Vec<(&str, f64)> = found.iter().map(|caption| (caption.text.as_str(), weight(caption))).collect();
    match chosen.iter().any(|(_, weight)| *weight > 0.0) {
        true => chosen.into_iter().filter(|(_, weight)| *weight > 0.0).collect(),
        false => chosen.into_iter().map(|(text, _)| (text, 1.0)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use sdtrain_random::Purpose;
    use sdtrain_recipe::CaptionFile;

    use super::*;

    fn subset(weights: &[f64]) -> Subset {
        let captions = weights.iter().map(|&weight| CaptionFile { weight, ..CaptionFile::default() }).collect();
        Subset { captions, ..Subset::default() }
    }

    fn captions(texts: &[(usize, &str)]) -> Vec<SourceCaption> {
        texts.iter().map(|&(source, text)| SourceCaption { source, text: text.to_owned() }).collect()
    }

    fn count(texts: &[(usize, &str)], weights: &[f64], wanted: &str) -> usize {
        let (captions, subset) = (captions(texts), subset(weights));
        let drawn = |example| drawn(&captions, &subset, &mut Stream::new(7, Purpose::Caption, 0, example)).to_owned();
        (0..2000).filter(|&example| drawn(example) == wanted).count()
    }

    #[test]
    fn captions_are_drawn_as_often_as_their_weights_say() {
        // 1900 and 100 expected, standard deviation 9.7: five of them.
        for weights in [[95.0, 5.0], [0.95, 0.05]] {
            let original = count(&[(0, "long"), (1, "original")], &weights, "original");
            assert!((52..=148).contains(&original), "{original}");
        }
        assert_eq!(count(&[(0, "long"), (1, "original")], &[0.0, 1.0], "original"), 2000);
    }

    #[test]
    fn what_is_missing_or_empty_leaves_its_share_to_the_others() {
        assert_eq!(count(&[(1, "original")], &[95.0, 5.0], "original"), 2000);
        assert_eq!(count(&[(0, ""), (1, "original")], &[95.0, 5.0], "original"), 2000);
        // The only one is better than none, even where it is not wanted.
        assert_eq!(count(&[(1, "original")], &[1.0, 0.0], "original"), 2000);
        assert_eq!(count(&[(0, ""), (1, "")], &[1.0, 1.0], ""), 2000);
        assert_eq!(count(&[], &[1.0, 1.0], ""), 2000);
    }

    #[test]
    fn outside_of_training_the_likeliest_counts() {
        let captions = captions(&[(0, "a"), (1, "b"), (2, "c")]);
        assert_eq!(likeliest(&captions, &subset(&[1.0, 3.0, 3.0])), "b");
        assert_eq!(likeliest(&captions, &Subset::default()), "a");
        assert_eq!(likeliest(&[], &Subset::default()), "");
        assert_eq!(possible(&captions, &subset(&[1.0, 0.0, 3.0])), ["a", "c"]);
    }
}
