//! How often an image is seen in an epoch: a whole number of times, and once more when it is its turn.

/// Parts of a repeat that are told apart; fractions are rounded to them, so that counting is exact.
const PARTS: u64 = 1_000_000;

/// A number of visits an epoch, whole or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repeats {
    /// Visits in every epoch.
    whole: u64,
    /// Millionths of an epoch's visit more.
    parts: u64,
}

/// The place of an image among the images of its subset, which decides in which epochs it is seen once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    pub rank: u64,
    /// Images of the subset; not looked at where repeats are whole.
    pub of: u64,
}

impl Repeats {
    /// Rounded to millionths, but at least one of them.
    pub fn of(repeats: f64) -> Self {
        let all = ((repeats * PARTS as f64).round() as u64).max(1);
        Self { whole: all / PARTS, parts: all % PARTS }
    }

    /// This many visits in every epoch.
    pub fn whole(visits: u64) -> Self {
        Self { whole: visits, parts: 0 }
    }

    pub fn is_whole(self) -> bool {
        self.parts == 0
    }

    pub fn is_never(self) -> bool {
        self == Self::default()
    }

    /// The visits of every epoch, without those that are not of all epochs.
    pub fn in_every_epoch(self) -> u64 {
        self.whole
    }

    /// Bytes that tell different repeats apart; those of a whole number are its own four.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = (self.whole as u32).to_le_bytes().to_vec();
        if !self.is_whole() {
            bytes.extend(self.parts.to_le_bytes());
        }
        bytes
    }

    /// Visits in all epochs before this one.
    ///
    /// The image of rank k of n is seen ⌈e·f − k/n⌉ times more than always before epoch e, where f is the fraction. For all of
    /// the subset together that is ⌈n·e·f⌉ (Hermite's identity), so that an epoch has their share but for rounding; and over
    /// any span of epochs in which e·f grows by a whole number each image is seen exactly so often.
    pub fn visits_before(self, turn: Turn, epoch: u64) -> u64 {
        let always = epoch.saturating_mul(self.whole);
        if self.is_whole() {
            return always;
        }
        let of = u128::from(turn.of.max(1));
        let grown = u128::from(epoch) * u128::from(self.parts) * of;
        let more = grown.saturating_sub(u128::from(turn.rank) * u128::from(PARTS)).div_ceil(u128::from(PARTS) * of);
        always.saturating_add(more as u64)
    }

    /// Visits in one epoch.
    pub fn visits_in(self, turn: Turn, epoch: u64) -> u64 {
        self.visits_before(turn, epoch + 1) - self.visits_before(turn, epoch)
    }
}

/// The sum, rounded up to whole visits: what an epoch has of them at most.
pub(crate) fn most_visits(repeats: impl Iterator<Item = Repeats>) -> u64 {
    let (whole, parts) = repeats.fold((0u64, 0u64), |(whole, parts), repeats| {
        (whole.saturating_add(repeats.whole), parts.saturating_add(repeats.parts))
    });
    whole.saturating_add(parts.div_ceil(PARTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(repeats: f64, of: u64, epochs: std::ops::Range<u64>) -> Vec<Vec<u64>> {
        let of_epoch = |epoch| (0..of).map(|rank| Repeats::of(repeats).visits_in(Turn { rank, of }, epoch)).collect();
        epochs.map(of_epoch).collect()
    }

    #[test]
    fn whole_repeats_are_the_same_in_every_epoch() {
        assert_eq!(visits(3.0, 2, 0..3), vec![vec![3, 3]; 3]);
        assert_eq!(visits(1.0, 5, 7..8), vec![vec![1; 5]]);
    }

    #[test]
    fn three_tenths_of_ten_images_are_three_and_each_has_its_turn() {
        let epochs = visits(0.3, 10, 0..10);
        assert!(epochs.iter().all(|epoch| epoch.iter().sum::<u64>() == 3), "{epochs:?}");
        for image in 0..10 {
            assert_eq!(epochs.iter().map(|epoch| epoch[image]).sum::<u64>(), 3);
        }
        assert_eq!(epochs[0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(epochs[1], [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(epochs[3], [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_small_share_begins_with_the_first_epoch() {
        assert_eq!(visits(0.25, 1, 0..5), [[1], [0], [0], [0], [1]]);
        assert_eq!(Repeats::of(1e-9), Repeats { whole: 0, parts: 1 });
    }

    #[test]
    fn bytes_of_whole_repeats_are_those_of_their_number() {
        assert_eq!(Repeats::of(7.0).to_bytes(), 7u32.to_le_bytes());
        assert_ne!(Repeats::of(7.5).to_bytes()[..4], 8u32.to_le_bytes());
        assert_ne!(Repeats::of(7.5).to_bytes(), Repeats::of(7.25).to_bytes());
    }
}
