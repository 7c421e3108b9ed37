//! Which images are copies of which: the same bytes, or nearly the same picture.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::perceptual::{self, ColourCell};
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

/// Finds looks within some distance without comparing with all of them.
struct LookIndex {
    limit: u32,
    /// Hashes of kept images with their groups, by what they have in common with every copy of theirs.
    entries: HashMap<Key, Vec<(u64, usize)>>,
}

/// What an image and a copy of it have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// A band of the hash, and the bits in it: of `limit + 1` bands at least one is the same.
    Band(u32, u64),
    /// A cell of colours: that of a copy is the same or a neighbour.
    Colours(ColourCell),
}

impl LookIndex {
    /// Up to here bands are long enough to tell images apart: 7 bands of 9 bits leave 1 in 70. The colours leave about as many
    /// at any limit; where all pictures have nearly the same colours, as scanned pages do, they leave more.
    const MOST_BANDS: u32 = 7;

    fn new(limit: u32) -> LookIndex {
        LookIndex { limit: limit.min(63), entries: HashMap::new() }
    }

    fn has_bands(&self) -> bool {
        self.limit < Self::MOST_BANDS
    }

    fn bands(&self, hash: u64) -> impl Iterator<Item = Key> + use<> {
        let bands = self.limit + 1;
        (0..bands).map(move |band| {
            let (start, end) = (band * 64 / bands, (band + 1) * 64 / bands);
            Key::Band(band, hash << (64 - end) >> (64 - end + start))
        })
    }

    fn add(&mut self, images: &[ImageFacts], image: usize, group: usize) {
        let Some(look) = images[image].look.as_ref().filter(|look| look.is_hashed()) else { return };
        let keys = match self.has_bands() {
            true => self.bands(look.hash).collect(),
            false => vec![Key::Colours(look.colour_cell())],
        };
        for key in keys {
            self.entries.entry(key).or_default().push((look.hash, group));
        }
    }

    /// The nearest group, of equally near ones the first.
    fn nearest(&self, images: &[ImageFacts], groups: &[Group], image: usize) -> Option<(usize, u32)> {
        let look = images[image].look.as_ref().filter(|look| look.is_hashed())?;
        let keys: Vec<Key> = match self.has_bands() {
            true => self.bands(look.hash).collect(),
            false => perceptual::neighbours(look.colour_cell()).map(Key::Colours).collect(),
        };
        keys.iter()
            .filter_map(|key| self.entries.get(key))
            .flatten()
            // The hashes lie side by side, the rest of the looks all over the memory.
            .filter(|(hash, _)| (hash ^ look.hash).count_ones() <= self.limit)
            .filter_map(|&(_, group)| {
                Some((group, images[groups[group].kept].look.as_ref()?.distance(look, self.limit)?))
            })
            .min_by_key(|&(group, distance)| (distance, group))
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use sdtrain_data_loader::ImageLocation;

    use super::*;
    use crate::perceptual::Look;

    #[test]
    fn two_hashes_within_the_limit_share_a_band_and_bands_cover_all_bits() {
        for limit in [0, 1, 4, 7, 16, 63] {
            let index = LookIndex::new(limit);
            let bits = |key| if let Key::Band(_, bits) = key { bits.count_ones() } else { 0 };
            assert_eq!(index.bands(u64::MAX).map(bits).sum::<u32>(), 64, "{limit}");
            let hash = 0x0123_4567_89AB_CDEF_u64;
            // The hardest case: the differing bits are spread over as many bands as possible.
            let mut other = hash;
            for bit in 0..limit {
                other ^= 1 << (bit * 64 / (limit + 1));
            }
            assert!(index.bands(hash).zip(index.bands(other)).any(|(a, b)| a == b), "{limit}");
        }
    }
    /// Pictures of broad waves; every third is one of the earlier ones with a little noise.
    fn pictures(count: usize) -> Vec<ImageFacts> {
        let mut state = 1_u32;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut images: Vec<RgbImage> = Vec::new();
        for number in 0..count {
            let image = match number % 3 == 2 {
                true => {
                    let mut copy = images[next(number as u32) as usize].clone();
                    copy.pixels_mut().for_each(|pixel| pixel.0[1] = pixel.0[1].saturating_add(next(9) as u8));
                    copy
                }
                false => {
                    let waves: Vec<f32> = (0..9).map(|_| next(1000) as f32 / 1000.0).collect();
                    RgbImage::from_fn(32, 32, |x, y| {
                        let (u, v) = (x as f32 / 32.0, y as f32 / 32.0);
                        let wave = |a: f32, b: f32, c: f32| {
                            (128.0 + 120.0 * (a * 9.0 * u + b * 7.0 * v + c * 6.0).sin()) as u8
                        };
                        Rgb([0, 3, 6].map(|at| wave(waves[at], waves[at + 1], waves[at + 2])))
                    })
                }
            };
            images.push(image);
        }
        let facts = |(number, image): (usize, RgbImage)| {
            let path = format!("{number}.png");
            ImageFacts {
                location: ImageLocation::file(path.clone().into()),
                subset: 0,
                relative: path.clone().into(),
                real: path.into(),
                is_link: false,
                format: String::new(),
                bytes: 1,
                size: Some((32, 32)),
                dpi: None,
                content: Some(*blake3::hash(image.as_raw()).as_bytes()),
                look: Some(Look::at(image).unwrap()),
                problem: None,
                captions: Vec::new(),
                extra_columns: Vec::new(),
                extra_images: Vec::new(),
            }
        };
        images.into_iter().enumerate().map(facts).collect()
    }

    #[test]
    fn the_index_finds_what_comparing_with_all_finds() {
        let images = pictures(600);
        for limit in [0, 4, 6, 7, 8, 16, 40] {
            let mut index = LookIndex::new(limit);
            let groups: Vec<Group> = (0..images.len()).map(|kept| Group { kept, copies: Vec::new() }).collect();
            let mut found = 0;
            for image in 0..images.len() {
                let of = |other: usize| images[other].look.as_ref().unwrap();
                let all = (0..image).filter_map(|other| Some((other, of(other).distance(of(image), limit)?)));
                let nearest = all.min_by_key(|&(other, distance)| (distance, other));
                assert_eq!(index.nearest(&images, &groups, image), nearest, "{limit} {image}");
                found += usize::from(nearest.is_some());
                index.add(&images, image, image);
            }
            assert!(found > 50, "{limit}: {found}");
        }
    }

    #[test]
    fn the_colours_leave_few_to_compare_with() {
        let images = pictures(3000);
        let cells: Vec<ColourCell> = images.iter().map(|image| image.look.as_ref().unwrap().colour_cell()).collect();
        let mut held: HashMap<ColourCell, usize> = HashMap::new();
        cells.iter().for_each(|cell| *held.entry(*cell).or_default() += 1);
        let compared: usize =
            cells.iter().flat_map(|cell| perceptual::neighbours(*cell)).filter_map(|cell| held.get(&cell)).sum();
        assert!(compared < images.len() * images.len() / 20, "{compared} comparisons");
    }
}
