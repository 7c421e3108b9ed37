//! Subsets that are sized and batched alike are one group: their images share batches, and no batch mixes groups.

use sdtrain_recipe::{Batching, DataConfig, Leftovers, Subset};

use crate::DataError;
use crate::order::{Bucket, Order, OrderedImage, repeats_of_images};
use crate::scan::Scan;

/// The order of what a scan found. Regularization images that are not needed are taken out of it, with a warning.
pub(crate) fn order_of(
    config: &DataConfig,
    subsets: &[Subset],
    seed: u64,
    scan: &mut Scan,
) -> Result<Order, DataError> {
    let mut batchings: Vec<Batching> = Vec::new();
    let mut groups = Vec::with_capacity(subsets.len());
    for subset in subsets {
        let batching = config.batching(subset);
        let group = batchings.iter().position(|other| *other == batching).unwrap_or(batchings.len());
        if group == batchings.len() {
            batchings.push(batching);
        }
        groups.push(group);
    }
    let subset_of: Vec<usize> = scan.images.iter().map(|image| image.subset).collect();
    let mut repeats = repeats_of_images(subsets, &groups, &subset_of)?;
    take_out_unused(scan, |image| repeats[image].is_never());
    repeats.retain(|repeats| !repeats.is_never());

    let bucket_of = |image: &crate::scan::Image| (groups[image.subset], image.placement.bucket);
    let mut keys: Vec<_> = scan.images.iter().map(bucket_of).collect();
    keys.sort_unstable();
    keys.dedup();
    let images = scan.images.iter().zip(repeats).map(|(image, repeats)| OrderedImage {
        bucket: keys.binary_search(&bucket_of(image)).expect("the list was made of these very buckets"),
        subset: image.subset,
        repeats,
    });
    let images = images.collect();
    let buckets =
        keys.iter().map(|&(group, size)| Bucket { group, size, batch_size: batchings[group].batch_size.max(1) });
    Ok(Order::new(seed, config.leftovers, buckets.collect(), images))
}

fn take_out_unused(scan: &mut Scan, is_unused: impl Fn(usize) -> bool) {
    let unused = (0..scan.images.len()).filter(|&image| is_unused(image)).count();
    let Some(first) = (0..scan.images.len()).find(|&image| is_unused(image)) else { return };
    scan.warnings.push(format!(
        "{unused} regularization images are not used, since there are fewer visits of others; the first is `{}`",
        scan.images[first].location.path().display()
    ));
    scan.unused += unused;
    let mut image = 0..;
    scan.images.retain(|_| !image.next().is_some_and(&is_unused));
}

/// Whether an epoch fills its batches: all of them where they must be full, one of each group otherwise. `ranks` processes
/// share each batch.
pub(crate) fn check_batch_sizes(order: &Order, leftovers: Leftovers, ranks: usize) -> Result<(), DataError> {
    let visits = order.visits_by_bucket(0);
    let of_ranks = if ranks > 1 { format!(" on each of {ranks} ranks") } else { String::new() };
    let groups = order.buckets().iter().map(|bucket| bucket.group + 1).max().unwrap_or(0);
    for group in 0..groups {
        let own = || order.buckets().iter().zip(&visits).filter(move |(bucket, _)| bucket.group == group);
        let Some((bucket, _)) = own().next() else { continue };
        let all: usize = own().map(|(_, visits)| visits).sum();
        let (batch_size, largest) = (bucket.batch_size / ranks, all / ranks);
        if bucket.batch_size > all {
            let these = if groups > 1 {
                format!(" of {} × {} and the like", bucket.size.0, bucket.size.1)
            } else {
                String::new()
            };
            return Err(DataError::BatchTooLarge {
                batch_size,
                what: format!("an epoch has only {all} images{these}, repeats counted{of_ranks}"),
                hint: match largest {
                    0 => "train on fewer ranks, or raise `repeats` of a subset".to_owned(),
                    _ => format!("set `data.batch_size` to at most {largest}, or raise `repeats` of a subset"),
                },
            });
        }
    }
    if order.batches(0) > 0 {
        return Ok(());
    }
    let (bucket, largest) = (order.buckets().iter().zip(&visits))
        .max_by_key(|(_, visits)| **visits)
        .expect("a data set without an image is refused before");
    let why = match leftovers {
        Leftovers::Carry => "keeps them for the next epoch, so that the first would be without a batch",
        _ => "drops batches that are not full",
    };
    Err(DataError::BatchTooLarge {
        batch_size: bucket.batch_size / ranks,
        what: format!("the largest bucket has {largest} images{of_ranks}, and `data.leftovers` {why}"),
        hint: format!(
            "set `data.leftovers = \"short_batch\"`, or `data.batch_size` to at most {}",
            (largest / ranks).max(1)
        ),
    })
}
