//! Gradients far beyond their usual size: counted and said, as they come before a run is spoilt.

use serde::{Deserialize, Serialize};

/// Steps whose mean is what is usual.
const USUAL: u64 = 100;
/// How many times that a gradient is a spike.
const FACTOR: f64 = 10.0;

/// The usual gradient norm, and how many went far beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spikes {
    /// Running mean of the norms, as the bits of an f64: text would round it, and a continued run would count otherwise.
    mean: u64,
    /// Norms seen, up to [`USUAL`].
    seen: u64,
    /// Spikes so far.
    pub count: u64,
}

impl Spikes {
    /// Takes in the norm of a step that was not skipped; how many times the usual it is, where it is a spike.
    pub fn see(&mut self, norm: f64) -> Option<f64> {
        let mean = f64::from_bits(self.mean);
        let is_spike = self.seen == USUAL && norm > FACTOR * mean;
        self.seen = USUAL.min(self.seen + 1);
        // A spike counts for what it might still be, or one of them would hide the next.
        let counted = if is_spike { FACTOR * mean } else { norm };
        self.mean = (mean + (counted - mean) / self.seen as f64).to_bits();
        self.count += u64::from(is_spike);
        is_spike.then_some(norm / mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_times_the_usual_is_a_spike_once_it_is_known_what_is_usual() {
        let mut spikes = Spikes::default();
        assert_eq!(spikes.see(50.0), None, "nothing is usual yet");
        (0..1000).for_each(|_| assert_eq!(spikes.see(1.0), None));
        assert_eq!(spikes.see(9.0), None);
        let times = spikes.see(30.0).expect("a spike");
        assert!((25.0..31.0).contains(&times), "{times}");
        assert!(spikes.see(30.0).is_some(), "one does not hide the next");
        assert_eq!(spikes.count, 2);
    }

    #[test]
    fn the_state_comes_back_to_the_bit() {
        let mut spikes = Spikes::default();
        for step in 1..200 {
            let _ = spikes.see(1.0 / f64::from(step));
        }
        let text = serde_json::to_string(&spikes).expect("numbers");
        assert_eq!(serde_json::from_str::<Spikes>(&text).expect("just written"), spikes);
    }
}
