//! Holding images out of the training: so many, chosen by the seed, and never one side of two copies.
//!
//! Copies are files with the same bytes. The same picture saved anew, in another format or with other metadata, is none: to find
//! those, all images would have to be decoded, and even then decoders differ in the last bit of what they make of a JPEG.
//! `sdtrain dataset inspect` finds them by their looks.

use std::collections::BTreeMap;

use sdtrain_random::{Purpose, permutation};
use sdtrain_recipe::{DataConfig, Leftovers, Subset};

use super::{DataSet, look_through};
use crate::DataError;
use crate::content;
use crate::groups::check_batch_sizes;
use crate::scan::{Image, Scan};

impl DataSet {
    /// Opens a data set and holds a part of it out, chosen by the seed: `(training, held out)`. At least one image goes each way,
    /// and images with the same bytes go the same way, whatever they are called.
    /// The held-out part has no repeats, nothing random, and no left-overs.
    pub fn open_split(
        config: &DataConfig,
        seed: u64,
        bucket_step: usize,
        held_out: f64,
    ) -> Result<(DataSet, DataSet), DataError> {
        let (config, mut whole) = look_through(config, bucket_step)?.or_errors()?;
        // Regularization images are no sample of what is to be learned.
        let is_sample = |image: &Image| !config.subsets[image.subset].is_regularization;
        let Split { is_held_out, warnings } = choose(&whole.images, &config.subsets, seed, held_out, is_sample)?;
        whole.warnings.extend(warnings);
        let mut held = is_held_out.into_iter();
        // A million images are not copied.
        let (held_out, training): (Vec<Image>, Vec<Image>) =
            std::mem::take(&mut whole.images).into_iter().partition(|_| held.next().unwrap_or_default());
        let count = held_out.len();
        let held_out = Scan {
            images: held_out,
            found: whole.found,
            dropped: whole.dropped.clone(),
            unreadable: whole.unreadable,
            captions: whole.captions.clone(),
            ..Scan::default()
        };
        let training =
            DataSet::new(&config, config.subsets.clone(), seed, Scan { images: training, unused: 0, ..whole })?;
        check_batch_sizes(&training.order, training.leftovers, 1).map_err(|error| match error {
            DataError::BatchTooLarge { batch_size, what, hint } => DataError::BatchTooLarge {
                batch_size,
                what: format!("{what}: `validation.split` takes {count} away"),
                hint: format!("{hint}, or lower `validation.split`"),
            },
            other => other,
        })?;
        let quiet = config.subsets.iter().map(without_chance).collect();
        let config =
            DataConfig { batch_size: config.batch_size.min(count), leftovers: Leftovers::ShortBatch, ..config.clone() };
        let held_out = DataSet::new(&config, quiet, seed, held_out)?;
        Ok((training, DataSet { steps: None, ..held_out }))
    }

    /// Adds a warning that names the images which are among the held-out ones as well, under any name.
    pub fn compared_with(mut self, held_out: &DataSet) -> DataSet {
        const NAMED: usize = 8;
        let shared = content::shared((&held_out.images, &held_out.subsets), (&self.images, &self.subsets));
        if !shared.is_empty() {
            let name = |image: &Image| image.location.path().display().to_string();
            let named = shared.iter().take(NAMED).map(|(own, other)| format!("`{}` is `{}`", name(own), name(other)));
            let more = if shared.len() > NAMED { ", …" } else { "" };
            self.report.warnings.push(format!(
                "{} of the {} held-out images are trained on as well, so what is measured on them says little: {}{more}",
                shared.len(),
                held_out.images.len(),
                named.collect::<Vec<_>>().join(", ")
            ));
        }
        self
    }
}

/// A subset's settings with everything random about its images taken out.
fn without_chance(subset: &Subset) -> Subset {
    Subset {
        repeats: 1.0,
        weight: None,
        batch_size: None,
        flip: false,
        random_crop: false,
        color_augmentation: None,
        ..subset.clone()
    }
}

/// What is held out.
struct Split {
    /// Of each image whether it is held out; at least one is, and at least one is not.
    is_held_out: Vec<bool>,
    /// What to say about it.
    warnings: Vec<String>,
}

/// Chooses `part` of the images that are samples of what is to be learned. Images with the same bytes stay together, whatever
/// they are called; those that are no samples, and what is the same as one of them, are not held out.
fn choose(
    images: &[Image],
    subsets: &[Subset],
    seed: u64,
    part: f64,
    is_sample: impl Fn(&Image) -> bool,
) -> Result<Split, DataError> {
    let samples: Vec<usize> = (0..images.len()).filter(|&index| is_sample(&images[index])).collect();
    let total = samples.len();
    if total < 2 {
        return Err(DataError::NoSplit { what: "there is only one image, so none can be held out".to_owned() });
    }
    let first_copies = content::first_copies(images, subsets);
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
