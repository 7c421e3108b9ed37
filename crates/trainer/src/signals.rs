//! Signals that ask a run to stop: the step is finished, a checkpoint saved, and the program ends with 75.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Whether somebody has asked.
pub(crate) struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Listens from now on: SIGINT, SIGTERM and SIGUSR1 (what SLURM sends before the time limit) ask for a stop; a
    /// second SIGINT ends the process at once.
    pub fn listen() -> Result<StopRequest> {
        let asked = Arc::new(AtomicBool::new(false));
        let failed = |error: std::io::Error| Error::storage("signals", error);
        // Registered first, so that it sees the flag as it was before this very signal.
        flag::register_conditional_shutdown(SIGINT, INTERRUPTED, asked.clone()).map_err(failed)?;
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            flag::register(signal, asked.clone()).map_err(failed)?;
        }
        Ok(StopRequest(asked))
    }

    /// Nobody ever asks.
    #[cfg(test)]
    pub fn never() -> StopRequest {
        StopRequest(Arc::default())
    }

    /// True from the first signal on.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
