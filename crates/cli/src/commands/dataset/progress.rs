//! How far a look at many images has come, on stderr.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Says how many images have been looked at: on a terminal in place, elsewhere in a line now and then.
pub(super) struct Progress {
    is_terminal: bool,
    last: Mutex<Instant>,
}

impl Progress {
    pub(super) fn start() -> Progress {
        Progress { is_terminal: stderr().is_terminal(), last: Mutex::new(Instant::now()) }
    }

    pub(super) fn report(&self, done: usize, all: usize) {
        let interval = if self.is_terminal { Duration::from_millis(200) } else { Duration::from_secs(30) };
        // Whoever finds it taken need not wait: another thread is about to say the same.
        let Ok(mut last) = self.last.try_lock() else { return };
        if last.elapsed() < interval {
            return;
        }
        *last = Instant::now();
        let (start, end) = if self.is_terminal { ("\r", "") } else { ("", "\n") };
        // Nobody is left to tell when stderr is closed.
        let _ = write!(stderr(), "{start}{done} of {all} images looked at{end}");
        let _ = stderr().flush();
    }

    /// Takes the line away, so that the answer begins at the edge.
    pub(super) fn end(&self) {
        if self.is_terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
