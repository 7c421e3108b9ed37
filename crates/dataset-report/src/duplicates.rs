//! Which images are copies of which: the same bytes, or nearly the same picture.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::survey::ImageFacts;

/// One picture that is there more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// The best of them: most pixels, then one with a caption, then most bytes, then the first.
    pub kept: usize,
    /// The others.
    pub copies: Vec<Copy>,
}

/// A copy of a better image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    pub image: usize,
    /// Whether its bytes are those of the better one.
    pub is_exact: bool,
    /// Bits in which the difference hashes differ.
    pub distance: u32,
}

/// Groups of copies among `candidates`; `near`: how many bits near copies may differ in, `None` for the same bytes only.
///
/// Every copy is compared with the image that would stay, never with another copy, so that no chain of small differences
/// joins pictures that are not alike.
pub(crate) fn groups(images: &[ImageFacts], candidates: &[usize], near: Option<u32>) -> Vec<Group> {
    let mut best_first = one_for_each_file(images, candidates);
    best_first.sort_by_key(|&index| {
        let image = &images[index];
        let has_caption = image.captions.iter().any(|caption| !caption.text.is_empty());
        (Reverse(image.pixels()), !has_caption, Reverse(image.bytes), index)
    });
    let mut groups: Vec<Group> = Vec::new();
    let mut by_content: HashMap<[u8; 32], usize> = HashMap::new();
    let mut by_look = near.map(LookIndex::new);
    for image in best_first {
        let Some(content) = images[image].content else { continue };
        let found = match by_content.get(&content) {
            Some(&group) => Some((group, 0)),
            None => by_look.as_ref().and_then(|index| index.nearest(images, &groups, image)),
        };
        match found {
            Some((group, distance)) => {
                let is_exact = images[groups[group].kept].content == Some(content);
                groups[group].copies.push(Copy { image, is_exact, distance });
                by_content.insert(content, group);
            }
            None => {
                by_content.insert(content, groups.len());
                if let Some(index) = &mut by_look {
                    index.add(images, image, groups.len());
                }
                groups.push(Group { kept: image, copies: Vec::new() });
            }
        }
    }
    groups.retain(|group| !group.copies.is_empty());
    groups.sort_by_key(|group| group.kept);
    groups
}

/// Each file once, under the name that is no link: a file is no copy of itself.
fn one_for_each_file(images: &[ImageFacts], candidates: &[usize]) -> Vec<usize> {
    let mut order = candidates.to_vec();
    order.sort_by_key(|&index| (images[index].is_link, index));
    let mut seen = HashSet::new();
    order.retain(|&index| seen.insert(&images[index].real));
    order
}

/// Finds hashes within some distance without comparing with all: of `limit + 1` bands at least one is then the same.
struct LookIndex {
    limit: u32,
    /// Groups by band and the bits in it.
    bands: HashMap<(u32, u64), Vec<usize>>,
}

impl LookIndex {
    fn new(limit: u32) -> LookIndex {
        LookIndex { limit: limit.min(63), bands: HashMap::new() }
    }

    fn keys(&self, hash: u64) -> impl Iterator<Item = (u32, u64)> + use<> {
        let bands = self.limit + 1;
        (0..bands).map(move |band| {
            let (start, end) = (band * 64 / bands, (band + 1) * 64 / bands);
            (band, hash << (64 - end) >> (64 - end + start))
        })
    }

    fn add(&mut self, images: &[ImageFacts], image: usize, group: usize) {
        let Some(look) = &images[image].look else { return };
        for key in self.keys(look.hash) {
            self.bands.entry(key).or_default().push(group);
        }
    }

    /// The nearest group, of equally near ones the first.
    fn nearest(&self, images: &[ImageFacts], groups: &[Group], image: usize) -> Option<(usize, u32)> {
        let look = images[image].look.as_ref()?;
        self.keys(look.hash)
            .filter_map(|key| self.bands.get(&key))
            .flatten()
            .filter_map(|&group| Some((group, images[groups[group].kept].look.as_ref()?.distance(look, self.limit)?)))
            .min_by_key(|&(group, distance)| (distance, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hashes_within_the_limit_share_a_band_and_bands_cover_all_bits() {
        for limit in [0, 1, 4, 7, 16, 63] {
            let index = LookIndex::new(limit);
            let rebuilt = index.keys(u64::MAX).map(|(_, bits)| bits.count_ones()).sum::<u32>();
            assert_eq!(rebuilt, 64, "{limit}");
            let hash = 0x0123_4567_89AB_CDEF_u64;
            // The hardest case: the differing bits are spread over as many bands as possible.
            let mut other = hash;
            for bit in 0..limit {
                other ^= 1 << (bit * 64 / (limit + 1));
            }
            assert!(index.keys(hash).zip(index.keys(other)).any(|(a, b)| a == b), "{limit}");
        }
    }
}
