//! Which images are held out of the training: so many, chosen by the seed, and never one side of two copies.

use std::collections::BTreeMap;

use sdtrain_random::{Purpose, permutation};

use crate::DataError;
use crate::content;
use crate::scan::Image;

/// What is held out.
pub(crate) struct Split {
    /// Of each image whether it is held out; at least one is, and at least one is not.
    pub is_held_out: Vec<bool>,
    /// What to say about it.
    pub warnings: Vec<String>,
}

/// Chooses `part` of the images that are samples of what is to be learned. Images with the same bytes stay together, whatever
/// they are called; those that are no samples, and what is the same as one of them, are not held out.
pub(crate) fn choose(
    images: &[Image],
    seed: u64,
    part: f64,
    is_sample: impl Fn(&Image) -> bool,
) -> Result<Split, DataError> {
    let samples: Vec<usize> = (0..images.len()).filter(|&index| is_sample(&images[index])).collect();
    let total = samples.len();
    if total < 2 {
        return Err(DataError::NoSplit { what: "there is only one image, so none can be held out".to_owned() });
    }
    let first_copies = content::first_copies(images);
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, first) in first_copies.iter().enumerate() {
        members.entry(*first).or_default().push(index);
    }
    members.retain(|_, copies| copies.iter().all(|&copy| is_sample(&images[copy])));
    if members.len() < 2 {
        let what =
            format!("the {total} images are copies of each other or of regularization images, so none can be held out");
        return Err(DataError::NoSplit { what });
    }
    let wanted = ((total as f64 * part).round() as usize).clamp(1, total - 1);
    let shuffled = permutation(total, seed, Purpose::Validation, 0).into_iter().map(|index| samples[index]);
    let order: Vec<usize> = shuffled.filter(|index| members.contains_key(&first_copies[*index])).collect();
    let mut is_held_out = vec![false; images.len()];
    let mut held_out = 0;
    for index in &order {
        let copies = &members[&first_copies[*index]];
        if !is_held_out[*index] && held_out + copies.len() <= wanted {
            copies.iter().for_each(|copy| is_held_out[*copy] = true);
            held_out += copies.len();
        }
    }
    if held_out == 0 {
        // Every picture has more copies than images are wanted; the one with the fewest comes nearest.
        let smallest = order.iter().min_by_key(|index| members[&first_copies[**index]].len());
        for copy in smallest.iter().flat_map(|index| &members[&first_copies[**index]]) {
            is_held_out[*copy] = true;
        }
    }
    let copied: Vec<(usize, usize)> =
        first_copies.iter().enumerate().filter(|(index, first)| index != *first).map(|(i, f)| (i, *f)).collect();
    let warnings = copied.first().map(|(copy, first)| {
        format!(
            "{} images have the same bytes as another one, `{}` as `{}` for instance; `validation.split` keeps copies on one side",
            copied.len(),
            images[*copy].location.path().display(),
            images[*first].location.path().display()
        )
    });
    Ok(Split { is_held_out, warnings: warnings.into_iter().collect() })
}
