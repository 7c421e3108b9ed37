//! The processes of this machine: started with their variables, signalled, and looked after until they end.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::lines::{Output, Sink, relay};
use super::outcome::{End, How};
use super::settings::Settings;
use crate::args::Address;
use crate::{ExitCode, Failure};

/// Variables of a launcher around this one, which do not hold for the processes of this one.
const NOT_THEIRS: [&str; 2] = ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"];
/// How long a process that was started by one that has ended may go on to speak through its pipe.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The processes of one start.
pub(super) struct Children {
    processes: Vec<Process>,
    readers: Vec<JoinHandle<()>>,
}

struct Process {
    rank: usize,
    child: Child,
    has_ended: bool,
}

impl Children {
    /// Starts all of them, `restart_count` times after the first start.
    ///
    /// Must be called by the thread that lives as long as the launcher: the system tells a process of its parent's death when the thread
    /// that started it ends.
    pub fn start(
        program: &Path,
        settings: &Settings,
        restart_count: u32,
        master: &Address,
        output: &Output,
    ) -> Result<Children, Failure> {
        let mut children = Children { processes: Vec::new(), readers: Vec::new() };
        for local_rank in 0..settings.nproc {
            let rank = settings.node_rank * settings.nproc + local_rank;
            let mut command = Command::new(program);
            command.args(&settings.command_line).envs(variables(settings, local_rank, restart_count, master));
            for name in NOT_THEIRS {
                command.env_remove(name);
            }
            // A group of its own: Ctrl-C at a terminal reaches the launcher alone, which hands it on once.
            command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            // Those that run already are ended by `drop`.
            let mut child = command.spawn().map_err(|error| cannot_start(program, rank, &error))?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            children.processes.push(Process { rank, child, has_ended: false });
            for reader in [read(stdout, rank, &output.stdout), read(stderr, rank, &output.stderr)] {
                children.readers.extend(reader.map_err(|error| cannot_start(program, rank, &error))?);
            }
        }
        Ok(children)
    }

    /// Those that have ended since this was asked last.
    pub fn newly_ended(&mut self) -> io::Result<Vec<End>> {
        let mut ends = Vec::new();
        for process in self.processes.iter_mut().filter(|process| !process.has_ended) {
            if let Some(status) = process.child.try_wait()? {
                process.has_ended = true;
                ends.push(End { rank: process.rank, pid: process.child.id(), how: how(status) });
            }
        }
        Ok(ends)
    }

    pub fn have_all_ended(&self) -> bool {
        self.processes.iter().all(|process| process.has_ended)
    }

    /// Ranks of those that run.
    pub fn running(&self) -> Vec<usize> {
        self.processes.iter().filter(|process| !process.has_ended).map(|process| process.rank).collect()
    }

    /// Sends a signal to all that run, and to what they have started.
    pub fn signal(&self, signal: Signal) {
        self.signal_where(signal, |_| true);
    }

    /// Sends it to those whose ranks are meant.
    pub fn signal_where(&self, signal: Signal, is_meant: fn(usize) -> bool) {
        for process in self.processes.iter().filter(|process| !process.has_ended && is_meant(process.rank)) {
            // One that has ended is still there until it is waited for, so that its number is nobody else's.
            if let Ok(group) = i32::try_from(process.child.id()) {
                let _ = killpg(Pid::from_raw(group), signal);
            }
        }
    }

    /// Waits until everything that they have said is written.
    pub fn finish(mut self) {
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until && !self.readers.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(2));
        }
        self.readers.clear();
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        for process in self.processes.iter_mut().filter(|process| !process.has_ended) {
            let _ = process.child.wait();
        }
    }
}

/// What torchrun would tell a process, but for its store, and who has started it.
fn variables(
    settings: &Settings,
    local_rank: usize,
    restart_count: u32,
    master: &Address,
) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("RANK", (settings.node_rank * settings.nproc + local_rank).to_string()),
        ("LOCAL_RANK", local_rank.to_string()),
        ("WORLD_SIZE", (settings.nnodes * settings.nproc).to_string()),
        ("LOCAL_WORLD_SIZE", settings.nproc.to_string()),
        ("MASTER_ADDR", master.host.clone()),
        ("MASTER_PORT", master.port.to_string()),
        ("TORCHELASTIC_RESTART_COUNT", restart_count.to_string()),
        (sdtrain_ranks::LAUNCHER_PID, std::process::id().to_string()),
    ];
    variables.extend(settings.threads.map(|threads| ("OMP_NUM_THREADS", threads.to_string())));
    variables
}

/// Starts to read one of a process's pipes.
fn read<R: Read + Send + 'static>(from: Option<R>, rank: usize, sink: &Sink) -> io::Result<Option<JoinHandle<()>>> {
    let Some(from) = from else { return Ok(None) };
    let sink = sink.clone();
    let relay = move || relay(from, &format!("[rank {rank}] "), &sink);
    thread::Builder::new().name(format!("rank {rank}")).spawn(relay).map(Some)
}

fn how(status: ExitStatus) -> How {
    match (status.code(), status.signal()) {
        (Some(code), _) => How::Code(code),
        (None, signal) => How::Signal(signal.unwrap_or_default()),
    }
}

fn cannot_start(program: &Path, rank: usize, error: &io::Error) -> Failure {
    let message = format!("rank {rank} cannot be started: `{}`: {error}", program.display());
    let hint = match error.kind() {
        io::ErrorKind::WouldBlock => "the limit of processes is reached (`ulimit -u`): start fewer with `--nproc`",
        _ => "nothing was trained; the processes before it were stopped",
    };
    Failure::new(ExitCode::Rank, message).hint(hint)
}
