//! How often each image is seen an epoch: `repeats` and `weight` of its subset, and as many regularization images as others.

use sdtrain_recipe::Subset;

use super::repeats::{Repeats, most_visits};
use crate::DataError;

/// The repeats of every image. `groups` is the group of each subset, `subset_of` the subset of each image.
///
/// Regularization images are counted out against the others of their group as kohya's sd-scripts do
/// (`DreamBoothDataset.__init__`): one after the other with their repeats until there are as many; where they do not suffice,
/// round after round one more of each. Those that are not needed have no repeats.
pub(crate) fn repeats_of_images(
    subsets: &[Subset],
    groups: &[usize],
    subset_of: &[usize],
) -> Result<Vec<Repeats>, DataError> {
    let of_subset: Vec<Repeats> = weighted(subsets, subset_of).into_iter().map(Repeats::of).collect();
    let mut repeats: Vec<Repeats> = subset_of.iter().map(|&subset| of_subset[subset]).collect();
    let group_count = groups.iter().max().map_or(0, |last| last + 1);
    for group in 0..group_count {
        let of_kind = |is_regularization: bool| -> Vec<usize> {
            let fits =
                |subset: usize| groups[subset] == group && subsets[subset].is_regularization == is_regularization;
            (0..repeats.len()).filter(|&image| fits(subset_of[image])).collect()
        };
        let (others, regularization) = (of_kind(false), of_kind(true));
        let Some(&first) = regularization.first() else { continue };
        if others.is_empty() {
            return Err(DataError::OnlyRegularization { path: subsets[subset_of[first]].path.clone() });
        }
        let wanted = most_visits(others.iter().map(|&image| repeats[image]));
        for (&image, visits) in regularization
            .iter()
            .zip(counted_out(wanted, regularization.iter().map(|&image| repeats[image].in_every_epoch()).collect()))
        {
            repeats[image] = Repeats::whole(visits);
        }
    }
    Ok(repeats)
}

/// Visits of each regularization image that make `wanted` of them; `own` are the repeats that they are set to.
fn counted_out(wanted: u64, own: Vec<u64>) -> Vec<u64> {
    let mut sum = 0u64;
    let mut visits: Vec<u64> = own
        .iter()
        .map(|&own| {
            let taken = if sum < wanted { own } else { 0 };
            sum += taken;
            taken
        })
        .collect();
    let missing = wanted.saturating_sub(sum);
    let (rounds, rest) = (missing / visits.len() as u64, missing % visits.len() as u64);
    for (place, visits) in visits.iter_mut().enumerate() {
        *visits += rounds + u64::from((place as u64) < rest);
    }
    visits
}

/// The repeats of each subset with which its weight is its share of the epoch's visits.
fn weighted(subsets: &[Subset], subset_of: &[usize]) -> Vec<f64> {
    let mut images = vec![0u64; subsets.len()];
    for &subset in subset_of {
        images[subset] += 1;
    }
    let weighs = |subset: usize| images[subset] > 0 && subsets[subset].weight.is_some();
    let weight_of = |subset: usize| subsets[subset].weight.unwrap_or_default();
    let of_all = |number: &dyn Fn(usize) -> f64| (0..subsets.len()).filter(|&s| weighs(s)).map(number).sum::<f64>();
    let visits = of_all(&|subset| subsets[subset].repeats * images[subset] as f64);
    let weights = of_all(&weight_of);
    let repeats = |subset: usize| match weighs(subset) {
        true => visits * weight_of(subset) / weights / images[subset] as f64,
        false => subsets[subset].repeats,
    };
    (0..subsets.len()).map(repeats).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subset(repeats: f64, is_regularization: bool) -> Subset {
        Subset { repeats, is_regularization, ..Subset::default() }
    }

    fn visits(subsets: &[Subset], subset_of: &[usize]) -> Vec<u64> {
        let repeats = repeats_of_images(subsets, &vec![0; subsets.len()], subset_of).unwrap();
        repeats.into_iter().map(Repeats::in_every_epoch).collect()
    }

    #[test]
    fn regularization_images_are_counted_out_as_kohya_does() {
        // 2 images × 5 against 3 × 2: all with their repeats, then one more of each, then one more of the first.
        let subsets = [subset(5.0, false), subset(2.0, true)];
        assert_eq!(visits(&subsets, &[0, 0, 1, 1, 1]), [5, 5, 4, 3, 3]);
        // 3 images against 4 × 2: the second brings it to 4, which is enough.
        let subsets = [subset(1.0, false), subset(2.0, true)];
        assert_eq!(visits(&subsets, &[0, 0, 0, 1, 1, 1, 1]), [1, 1, 1, 2, 2, 0, 0]);
        // Several subsets of either kind are counted together, whatever stands first.
        let subsets = [subset(1.0, true), subset(3.0, false), subset(4.0, true), subset(2.0, false)];
        assert_eq!(visits(&subsets, &[0, 0, 1, 2, 3]), [1, 1, 3, 4, 2]);
    }

    #[test]
    fn a_fraction_of_the_others_is_rounded_up() {
        let subsets = [subset(0.5, false), subset(1.0, true)];
        let repeats = repeats_of_images(&subsets, &[0, 0], &[0, 0, 0, 1, 1, 1]).unwrap();
        assert_eq!(repeats[3..], [1, 1, 0].map(Repeats::whole));
    }

    #[test]
    fn groups_are_balanced_each_for_itself() {
        let subsets = [subset(1.0, false), subset(1.0, true), subset(3.0, false), subset(1.0, true)];
        let repeats = repeats_of_images(&subsets, &[0, 0, 1, 1], &[0, 1, 2, 3]).unwrap();
        assert_eq!(repeats, [1, 1, 3, 3].map(Repeats::whole));
        let alone = repeats_of_images(&subsets[1..], &[0, 1, 1], &[0, 1, 2]).unwrap_err();
        assert!(alone.to_string().contains("regularization images"), "{alone}");
    }

    #[test]
    fn weights_divide_the_visits_and_keep_their_number() {
        let with = |weight: f64, repeats: f64| Subset { weight: Some(weight), ..subset(repeats, false) };
        // 4 images and 1 image × 6 are 10 visits.
        let subsets = [with(1.0, 1.0), with(3.0, 6.0)];
        assert_eq!(weighted(&subsets, &[0, 0, 0, 0, 1]), [10.0 / 4.0 / 4.0, 7.5]);
        // A subset without an image takes no share.
        let subsets = [with(1.0, 1.0), with(9.0, 6.0)];
        assert_eq!(weighted(&subsets, &[0, 0]), [1.0, 6.0]);
    }
}
