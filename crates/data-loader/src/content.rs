//! What tells one picture from another whatever it is called: a digest of the bytes of its file.

use std::collections::BTreeMap;
use std::thread;

use crate::scan::Image;

/// Digest of an image's bytes as they are stored.
pub(crate) type Digest = [u8; 32];

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// For each image the number of the first one with the same bytes, its own where there is none before it.
pub(crate) fn first_copies(images: &[Image]) -> Vec<usize> {
    let all: Vec<&Image> = images.iter().collect();
    let digests = digests_where_lengths_agree(&all);
    let mut first = BTreeMap::new();
    digests
        .iter()
        .enumerate()
        .map(|(index, digest)| digest.map_or(index, |d| *first.entry(d).or_insert(index)))
        .collect()
}

/// Pairs of an image of `some` and the first one of `others` with the same bytes.
pub(crate) fn shared<'a>(some: &'a [Image], others: &'a [Image]) -> Vec<(&'a Image, &'a Image)> {
    let all: Vec<&Image> = others.iter().chain(some).collect();
    let digests = digests_where_lengths_agree(&all);
    let mut first = BTreeMap::new();
    for (image, digest) in others.iter().zip(&digests) {
        if let Some(digest) = digest {
            first.entry(*digest).or_insert(image);
        }
    }
    let of_some = some.iter().zip(&digests[others.len()..]);
    of_some.filter_map(|(image, digest)| Some((image, *first.get(&(*digest)?)?))).collect()
}

/// Digests of the images that have the length of another one: only these can be copies, so only these are read. None as well
/// for an image that can no longer be read.
fn digests_where_lengths_agree(images: &[&Image]) -> Vec<Option<Digest>> {
    let mut by_length: BTreeMap<u64, usize> = BTreeMap::new();
    for image in images {
        *by_length.entry(image.file_length).or_default() += 1;
    }
    let wanted: Vec<usize> = (0..images.len()).filter(|index| by_length[&images[*index].file_length] > 1).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(wanted.len()).max(1);
    let read = |index: &usize| Some((*index, digest(&images[*index].location.read().ok()?)));
    let mut digests = vec![None; images.len()];
    thread::scope(|scope| {
        let shares = wanted.chunks(wanted.len().div_ceil(threads).max(1));
        let workers: Vec<_> =
            shares.map(|share| scope.spawn(move || share.iter().filter_map(read).collect())).collect();
        for worker in workers {
            // A thread that dies says nothing about its images, and they count as pictures of their own.
            let found: Vec<(usize, Digest)> = worker.join().unwrap_or_default();
            found.into_iter().for_each(|(index, digest)| digests[index] = Some(digest));
        }
    });
    digests
}
