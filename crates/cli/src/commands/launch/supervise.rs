//! Looks after the processes of one start until the last has ended.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::children::Children;
use super::lines::Output;
use super::outcome::{End, How, Outcome};

/// How often processes are looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// The signals that ask a process to save and stop; the other one asks for a checkpoint alone.
const STOPS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1];

/// How long the others get once one has failed.
pub(super) struct Patience {
    /// To notice, to say who failed, and to end by themselves.
    pub to_notice: Duration,
    /// To end when they are told to.
    pub to_end: Duration,
    /// The same for rank 0, which may be saving what was learned.
    pub to_save: Duration,
}

impl Patience {
    /// Of a launcher whose rank 0 may save for `grace`.
    pub fn with_grace(grace: Duration) -> Patience {
        let to_end = Duration::from_secs(10);
        Patience { to_notice: Duration::from_secs(15), to_end: to_end.min(grace), to_save: grace }
    }
}

/// How far the processes have been stopped for the failure of one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    Not,
    Awaited {
        since: Instant,
    },
    Told {
        since: Instant,
    },
    /// Rank 0 alone is left to its saving.
    Saving {
        since: Instant,
    },
    Killed,
}

/// Hands signals on, and stops all when one has failed. Comes back when all have ended.
pub(super) fn supervise(
    children: &mut Children,
    patience: &Patience,
    signals: &Receiver<Signal>,
    output: &Output,
) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut stopping = Stopping::Not;
    let mut asked = Vec::new();
    while !children.have_all_ended() {
        match signals.recv_timeout(GLANCE) {
            Ok(signal) => {
                children.signal(signal);
                asked.push(signal);
                outcome.stop_was_asked |= STOPS.contains(&signal);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(GLANCE),
        }
        for end in children.newly_ended()? {
            match verdict(&end, stopping, &asked) {
                Verdict::Done => {}
                Verdict::Stopped => outcome.was_stopped = true,
                Verdict::StoppedByUs => output.say(&end.to_string()),
                Verdict::Failed => {
                    let others = children.running().len();
                    match (stopping, others) {
                        (Stopping::Not, 1..) => {
                            let seconds = patience.to_notice.as_secs();
                            output.say(&format!("{end}; the {others} other(s) have {seconds} s to end by themselves"));
                        }
                        _ => output.say(&end.to_string()),
                    }
                    outcome.failures.push(end);
                    if stopping == Stopping::Not {
                        stopping = Stopping::Awaited { since: Instant::now() };
                    }
                }
            }
        }
        stopping = stop_further(children, stopping, patience, output);
    }
    Ok(outcome)
}

/// What a process's end means for all.
enum Verdict {
    Done,
    /// It was asked to stop, and did.
    Stopped,
    /// It ended because another one failed and the launcher told it to.
    StoppedByUs,
    Failed,
}

fn verdict(end: &End, stopping: Stopping, asked: &[Signal]) -> Verdict {
    let was_told = matches!(stopping, Stopping::Told { .. } | Stopping::Saving { .. } | Stopping::Killed);
    match end.how {
        How::Code(0) => Verdict::Done,
        How::Code(75) => Verdict::Stopped,
        _ if was_told => Verdict::StoppedByUs,
        // In the first moments, before a process can answer, a signal simply ends it; nothing has begun then.
        How::Signal(number) if asked.iter().any(|&signal| signal as i32 == number && STOPS.contains(&signal)) => {
            Verdict::Stopped
        }
        _ => Verdict::Failed,
    }
}

/// Stops those that still run by stronger means, when the time for the weaker ones is over.
fn stop_further(children: &Children, stopping: Stopping, patience: &Patience, output: &Output) -> Stopping {
    let list = |ranks: Vec<usize>| ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let ranks = || list(children.running());
    match stopping {
        Stopping::Awaited { since } if since.elapsed() >= patience.to_notice && !children.have_all_ended() => {
            output.say(&format!("still running: rank {}; told to end (SIGTERM)", ranks()));
            children.signal(Signal::SIGTERM);
            Stopping::Told { since: Instant::now() }
        }
        Stopping::Told { since } if since.elapsed() >= patience.to_end && !children.have_all_ended() => {
            let others: Vec<usize> = children.running().into_iter().filter(|&rank| rank != 0).collect();
            if !others.is_empty() {
                output.say(&format!("still running: rank {}; ended (SIGKILL)", list(others)));
                children.signal_where(Signal::SIGKILL, |rank| rank != 0);
            }
            Stopping::Saving { since }
        }
        Stopping::Saving { since } if since.elapsed() >= patience.to_save && !children.have_all_ended() => {
            if children.running().contains(&0) {
                let seconds = patience.to_save.as_secs();
                output.say(&format!(
                    "still running: rank 0, {seconds} s after it was told to end (`--grace`); ended (SIGKILL)"
                ));
                children.signal(Signal::SIGKILL);
            }
            Stopping::Killed
        }
        stopping => stopping,
    }
}
