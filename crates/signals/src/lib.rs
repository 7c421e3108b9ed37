#![doc = include_str!("../README.md")]

use nix::sys::signal::{SigSet, Signal};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

/// Those that ask for a stop. SLURM sends the last before the time limit.
const STOPS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1];
/// The one that asks for a checkpoint, after which the run goes on.
const SAVES: Signal = Signal::SIGUSR2;
/// Exit code of a run that was asked to stop.
const STOPPED: i32 = 75;
/// Exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;
/// So long the end of the process waits for its last words to be taken.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// That a process ends with [`STOPPED`] as soon as it is asked.
static ENDS_AS_STOPPED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
/// That somebody has asked a [`StopRequest`] of this process to stop.
static HAS_BEEN_ASKED: AtomicBool = AtomicBool::new(false);

/// While there is nothing to lose yet: whoever asks for a stop ends the process at once, with the exit code of a run that can be started
/// again. There is nothing to save either, so that a signal which asks for that does nothing.
///
/// # Errors
/// Where the system does not let the signals be handled.
pub fn end_at_once() -> io::Result<()> {
    flag::register(SAVES as i32, Arc::default())?;
    STOPS.iter().try_for_each(|&signal| {
        flag::register_conditional_shutdown(signal as i32, STOPPED, Arc::clone(&ENDS_AS_STOPPED)).map(drop)
    })
}

/// While nothing is left to do but to wait until somebody takes the last words: whoever asks for a stop, or takes the terminal away, ends the
/// process at once, with the exit code that it would end with. This holds also where these signals were held back, or had another meaning before.
///
/// # Errors
/// Where the system does not let the signals be handled.
pub fn end_at_once_with(code: i32) -> io::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    let end_at =
        |signal: Signal| flag::register_conditional_shutdown(signal as i32, code, Arc::clone(&always)).map(drop);
    STOPS.into_iter().try_for_each(end_at)?;
    ENDS_AS_STOPPED.store(false, Ordering::SeqCst);
    // The last one: whoever sees that it is answered knows that all are.
    end_at(Signal::SIGHUP)?;
    Ok(SigSet::from_iter(STOPS).thread_unblock()?)
}

/// Whether anybody has asked this process to stop since it listens: who did so will not wait for long.
pub fn has_been_asked_to_stop() -> bool {
    HAS_BEEN_ASKED.load(Ordering::SeqCst)
}

/// Keeps the signals waiting, in this thread and in the program that it becomes, until [`StopRequest::listen`].
///
/// # Errors
/// Where the system does not let them be held back.
pub fn hold_back() -> io::Result<()> {
    Ok(SigSet::from_iter(all()).thread_block()?)
}

/// Lets a write beyond a limit on the size of files (`ulimit -f`) fail as one that the disk refuses: else the system ends the process
/// without a word, with the room that it keeps on the disk and all that it has learned. In this thread, in those that it starts from here on, and
/// in the programs that it becomes or starts.
pub fn refuse_large_files() {
    // Where the system does not let it, such a write ends the process as ever.
    let _ = SigSet::from_iter([Signal::SIGXFSZ]).thread_block();
}

/// Every signal that is listened to.
fn all() -> impl Iterator<Item = Signal> {
    STOPS.into_iter().chain([SAVES])
}

/// Ends the process with `code` at once, whatever its other threads are doing: nothing is cleaned up.
pub fn exit_now(code: i32) -> ! {
    low_level::exit(code)
}

/// Says why the process ends. It does so whether or not that can be said: stderr may fail, and a pipe that is full and not read holds a
/// write back for ever, and with it all that other threads say. So this is tried in a thread of its own, for a moment.
fn tell_of_the_end() {
    let (told, is_told) = mpsc::channel();
    let tell = move || {
        let words = "stopped before the first step; what is there stays, and the same command goes on\n";
        let _ = io::stderr().write_all(words.as_bytes());
        let _ = told.send(());
    };
    if thread::Builder::new().spawn(tell).is_ok() {
        let _ = is_told.recv_timeout(LAST_WORDS);
    }
}

/// Whether somebody has asked to stop, or for a checkpoint.
#[derive(Debug)]
pub struct StopRequest {
    asked: Arc<AtomicBool>,
    asked_to_save: Arc<AtomicBool>,
    /// There is something to save: whoever asks is heard at the end of the step.
    has_begun: Arc<AtomicBool>,
    listening: Option<Handle>,
}

impl StopRequest {
    /// Listens from now on, also to what was held back: the first signal asks for a stop; a second SIGINT ends the process at once.
    /// Until [`StopRequest::begin`] nothing would be lost, and the first one does.
    ///
    /// # Errors
    /// Where the system does not let the signals be handled.
    pub fn listen() -> io::Result<StopRequest> {
        let mut signals = Signals::new(all().map(|signal| signal as i32))?;
        let mut request = StopRequest::never();
        request.listening = Some(signals.handle());
        let (asked, has_begun) = (request.asked.clone(), request.has_begun.clone());
        let asked_to_save = request.asked_to_save.clone();
        let listen = move || {
            // Of their own: a cluster that has said SIGTERM does not make the first Ctrl-C a second one.
            let mut interrupted = false;
            for signal in signals.forever() {
                if signal == SAVES as i32 {
                    asked_to_save.store(true, Ordering::SeqCst);
                    continue;
                }
                if !has_begun.load(Ordering::SeqCst) {
                    tell_of_the_end();
                    low_level::exit(STOPPED);
                }
                HAS_BEEN_ASKED.store(true, Ordering::SeqCst);
                asked.store(true, Ordering::SeqCst);
                if signal == Signal::SIGINT as i32 && std::mem::replace(&mut interrupted, true) {
                    low_level::exit(INTERRUPTED);
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(listen)?;
        SigSet::from_iter(all()).thread_unblock()?;
        Ok(request)
    }

    /// Nobody ever asks.
    pub fn never() -> StopRequest {
        StopRequest { asked: Arc::default(), asked_to_save: Arc::default(), has_begun: Arc::default(), listening: None }
    }

    /// The steps begin: from here on a step is finished and saved before the end.
    pub fn begin(&self) {
        self.has_begun.store(true, Ordering::SeqCst);
    }

    /// Everything is saved: until the next steps begin nothing would be lost.
    pub fn end(&self) {
        self.has_begun.store(false, Ordering::SeqCst);
    }

    /// As if a signal had come: another process of the same run was asked.
    pub fn ask(&self) {
        HAS_BEEN_ASKED.store(true, Ordering::SeqCst);
        self.asked.store(true, Ordering::SeqCst);
    }

    /// True from the first signal on.
    pub fn is_set(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Whether a checkpoint has been asked for since this was asked last.
    pub fn take_save(&self) -> bool {
        self.asked_to_save.swap(false, Ordering::SeqCst)
    }
}

impl Drop for StopRequest {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.close();
        }
    }
}
