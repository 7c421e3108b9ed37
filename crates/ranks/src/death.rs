//! A process that `sdtrain launch` has started does not outlive it.

use std::io;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

/// The variable in which `sdtrain launch` tells its processes who it is.
pub const LAUNCHER_PID: &str = "SDTRAIN_LAUNCHER_PID";

/// Asks the system to kill this process as soon as `sdtrain launch`, which has started it, is gone; without one nothing happens.
///
/// The system keeps the request over `exec`, so that the front program may ask for the engine that it becomes. SIGKILL rather than a
/// request to save: a launcher that was killed has to be gone with all it started before somebody starts it again, and files are
/// whole whenever a process ends.
///
/// # Errors
/// Where the launcher is gone already, or the system refuses.
pub fn die_with_launcher() -> io::Result<()> {
    let Some(launcher) = std::env::var(LAUNCHER_PID).ok().and_then(|pid| pid.trim().parse().ok()).map(Pid::from_raw)
    else {
        return Ok(());
    };
    if getppid() != launcher && is_there(launcher) {
        // The child of a child: it answers to whoever started it.
        return Ok(());
    }
    set_pdeathsig(Signal::SIGKILL)?;
    // Asked after the request: a launcher that went just before it sends no signal.
    match getppid() == launcher {
        true => Ok(()),
        false => Err(io::Error::other(format!("`sdtrain launch` (process {launcher}), which started this, is gone"))),
    }
}

fn is_there(process: Pid) -> bool {
    kill(process, None) != Err(nix::errno::Errno::ESRCH)
}
