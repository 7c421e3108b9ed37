//! `sdtrain launch`: starts a run's processes on this machine, shows what they say with their ranks, and stops all when one fails.

mod children;
mod lines;
mod outcome;
mod settings;
mod supervise;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::signal::Signal;
use sdtrain_config::Problems;
use sdtrain_ranks::recognise_environment;
use signal_hook::iterator::Signals;

use crate::args::{Address, LaunchArgs};
use crate::machine::Machine;
use crate::{ExitCode, Failure};
use children::Children;
use lines::Output;
use outcome::Outcome;
use settings::Settings;
use supervise::{Patience, supervise};

/// What whoever called the launcher means for the processes.
const FORWARDED: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// Ends with the exit code of the processes.
pub(crate) fn run(args: &LaunchArgs) -> Result<(), Failure> {
    let settings = Settings::of(args, &recognise_environment()?, &Machine::this())?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot tell where this program lies: {error}")))?;
    let no_signals = |error| Failure::new(ExitCode::Internal, format!("cannot handle signals: {error}"));
    let signals = listen().map_err(no_signals)?;
    launch(&program, &settings, &Patience::with_grace(settings.grace), &signals, &Output::of_this_process())
}

/// The signals that this process gets from now on.
fn listen() -> std::io::Result<Receiver<Signal>> {
    let mut signals = Signals::new(FORWARDED.map(|signal| signal as i32))?;
    let (sender, receiver) = channel();
    let listen = move || {
        for signal in signals.forever().filter_map(|signal| Signal::try_from(signal).ok()) {
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listen)?;
    Ok(receiver)
}

/// Starts `program` as `settings` say, again as long as that may help, and ends as its processes do.
fn launch(
    program: &Path,
    settings: &Settings,
    patience: &Patience,
    signals: &Receiver<Signal>,
    output: &Output,
) -> Result<(), Failure> {
    if let Some(threads) = settings.threads {
        output.say(&format!("OMP_NUM_THREADS={threads} for each of {} processes, since it is not set", settings.nproc));
    }
    let mut restart_count = 0;
    loop {
        let master = meeting_point(settings)?;
        let mut children = Children::start(program, settings, restart_count, &master, output)?;
        let lost = |error| Failure::new(ExitCode::Internal, format!("the processes cannot be waited for: {error}"));
        let outcome = supervise(&mut children, patience, signals, output).map_err(lost)?;
        children.finish();
        if restart_count < settings.restarts && outcome.is_worth_a_restart() {
            restart_count += 1;
            output.say(&format!("all are started again: restart {restart_count} of {}", settings.restarts));
            continue;
        }
        return end(&outcome, settings, output);
    }
}

/// Where the processes meet: told, or a port of this machine that is free now. Another one for each start, as the last one may still be
/// taken by a connection that has not come to its end.
fn meeting_point(settings: &Settings) -> Result<Address, Failure> {
    if let Some(master) = &settings.master {
        return Ok(master.clone());
    }
    let host = Ipv4Addr::LOCALHOST;
    let port =
        TcpListener::bind((host, 0)).and_then(|listener| Ok(listener.local_addr()?.port())).map_err(|error| {
            Failure::new(ExitCode::Rank, format!("no free port on {host}, where the processes could meet: {error}"))
                .hint("`--master 127.0.0.1:PORT` names one")
        })?;
    Ok(Address { host: host.to_string(), port })
}

/// The processes have said what happened; the launcher says whose word counts.
fn end(outcome: &Outcome, settings: &Settings, output: &Output) -> Result<(), Failure> {
    let code = outcome.exit_code();
    if let Some(cause) = outcome.cause().filter(|_| settings.nproc > 1) {
        output.say(&format!("the run failed: {cause}"));
    }
    match code {
        ExitCode::Done => Ok(()),
        code => Err(Failure { problems: Problems::default(), code }),
    }
}

#[cfg(test)]
mod tests;
