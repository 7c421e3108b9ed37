//! How often a file that does not come is asked for, and how long between.

use std::time::Duration;

/// Attempts after which the wait does not double any more.
const MOST_DOUBLED: u32 = 6;

/// Counts attempts; one that brought more of a file begins the count anew.
#[derive(Debug, Clone)]
pub struct Backoff {
    attempts: u32,
    pause: Duration,
    failed: u32,
    furthest: u64,
}

impl Backoff {
    /// For `attempts` without any more of the file coming; `pause` is the wait in front of the second, and doubles.
    pub fn new(attempts: u32, pause: Duration) -> Backoff {
        Backoff { attempts, pause, failed: 0, furthest: 0 }
    }

    /// How long to wait after an attempt that failed; none where it was the last. `here`: bytes of the file that are here.
    pub fn failed(&mut self, here: u64) -> Option<Duration> {
        if here > self.furthest {
            (self.furthest, self.failed) = (here, 0);
        }
        self.failed += 1;
        (self.failed < self.attempts).then(|| self.pause * (1 << (self.failed - 1).min(MOST_DOUBLED)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_and_begins_anew_where_more_has_come() {
        let mut backoff = Backoff::new(4, Duration::from_secs(1));
        let waits = [0, 0, 10, 10, 9, 10].map(|here| Some(backoff.failed(here)?.as_secs()));
        assert_eq!(waits, [Some(1), Some(2), Some(1), Some(2), Some(4), None]);
    }

    #[test]
    fn the_wait_does_not_double_for_ever() {
        let mut backoff = Backoff::new(100, Duration::from_millis(500));
        let waits: Vec<u64> = (0..99).filter_map(|_| Some(backoff.failed(0)?.as_secs())).collect();
        assert_eq!((waits.len(), waits[6], waits[98]), (99, 32, 32));
        assert_eq!(backoff.failed(0), None);
    }
}
