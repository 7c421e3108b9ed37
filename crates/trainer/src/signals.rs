//! Signals that ask a run to stop: the step is finished, a checkpoint saved, and the program ends with 75.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Exit code of a run that was asked to stop.
const STOPPED: i32 = 75;
/// Exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Whether somebody has asked.
pub(crate) struct StopRequest {
    asked: Arc<AtomicBool>,
    /// There is something to save: whoever asks is heard at the end of the step.
    has_begun: Arc<AtomicBool>,
    listening: Option<Handle>,
}

impl StopRequest {
    /// Listens from now on: SIGINT, SIGTERM and SIGUSR1 (what SLURM sends before the time limit) ask for a stop; a
    /// second SIGINT ends the process at once. Until [`StopRequest::begin`] nothing would be lost, and the first one does.
    pub fn listen() -> Result<StopRequest> {
        let failed = |error: std::io::Error| Error::storage("signals", error);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).map_err(failed)?;
        let mut request = StopRequest::never();
        request.listening = Some(signals.handle());
        let (asked, has_begun) = (request.asked.clone(), request.has_begun.clone());
        let listen = move || {
            for signal in signals.forever() {
                if !has_begun.load(Ordering::SeqCst) {
                    eprintln!("stopped before the first step; what is cached stays, and the same command begins again");
                    low_level::exit(STOPPED);
                }
                if asked.swap(true, Ordering::SeqCst) && signal == SIGINT {
                    low_level::exit(INTERRUPTED);
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
        Ok(request)
    }

    /// Nobody ever asks.
    pub fn never() -> StopRequest {
        StopRequest { asked: Arc::default(), has_begun: Arc::default(), listening: None }
    }

    /// The steps begin: from here on a step is finished and saved before the end.
    pub fn begin(&self) {
        self.has_begun.store(true, Ordering::SeqCst);
    }

    /// True from the first signal on.
    pub fn is_set(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for StopRequest {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.close();
        }
    }
}
