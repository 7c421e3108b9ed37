//! Several ranks of the whole program, one of which is killed, stopped, panics or hangs: the others end in time, name it, and the next
//! start comes to the same bits.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::draw::draw;
use crate::program::products;
use crate::scene::clear;
use crate::{Extent, Report};

/// `ranks.timeout_seconds` of these runs.
const TIMEOUT: u64 = 4;
/// `ranks.phase_timeout_seconds` where one hangs: less, since who hangs is asked for only then.
const PHASE_TIMEOUT: u64 = 3;
/// How much longer than `TIMEOUT` the others may take.
const BEYOND: Duration = Duration::from_secs(10);
/// A run that is not at its end by then hangs, whatever was done to it.
const HANGS: Duration = Duration::from_secs(120);
/// Exit code of a rank that ends since another failed.
const ANOTHER_FAILED: i32 = 8;

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Rendezvous,
    FirstStep,
    Steady,
    Save,
    Samples,
    End,
}

const PHASES: [Phase; 6] =
    [Phase::Rendezvous, Phase::FirstStep, Phase::Steady, Phase::Save, Phase::Samples, Phase::End];

impl Phase {
    /// Within so many milliseconds from its beginning somebody is killed or stopped in it.
    fn lasts(self) -> u64 {
        match self {
            Phase::Rendezvous | Phase::FirstStep => 200,
            Phase::Steady | Phase::Save | Phase::Samples => 60,
            Phase::End => 300,
        }
    }

    /// What the first rank says shortly before, where no engine with seeded bugs says more.
    fn line(self) -> &'static str {
        match self {
            Phase::Rendezvous => "",
            Phase::FirstStep => "images found",
            Phase::Steady => "step 2/",
            Phase::Save => "step 4/",
            Phase::Samples => "step-000004",
            Phase::End => ".safetensors",
        }
    }

    /// What `SDTRAIN_SEEDED_PANIC` and its like call it; within a step at one of two places.
    fn name(self, case: u64) -> &'static str {
        match self {
            Phase::Rendezvous => "rendezvous",
            Phase::FirstStep => "first step",
            Phase::Steady if draw("ranks", case, "place", 2) == 0 => "backward:3",
            Phase::Steady => "step:3",
            Phase::Save => "save:2",
            Phase::Samples => "samples",
            Phase::End => "end",
        }
    }
}

/// Some are killed or stopped before they come to the others: within so many milliseconds from their start.
const BEFORE_RENDEZVOUS: u64 = 400;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    Panic,
    /// Its main part hangs, and it gives signs of life all the while.
    Hang,
}

const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Stop, Fault::Panic, Fault::Hang];

/// What is trained, as settings: gradients are added up in one go, while the backward pass goes on, or each at the rank that updates it.
const METHODS: [&[&str]; 3] =
    [&[], &["method=full", "ranks.reducer=overlapped"], &["method=full", "ranks.shard_optimizer=true"]];

/// All cases: each phase with each fault, twenty times.
pub const CASES: u64 = 20 * (PHASES.len() * FAULTS.len()) as u64;

/// The program with the configuration of this repository that is called `tiny_cpu`.
#[derive(Clone, Copy)]
pub struct RankProgram<'a> {
    /// `sdtrain`, beside an engine.
    pub path: &'a Path,
    /// Whether that has the feature `seeded-bugs`, without which no rank panics, hangs, or says where it is.
    pub has_seeded_bugs: bool,
    /// Where its configuration is.
    pub repository: &'a Path,
}

/// How many there are, and which of [`METHODS`] they train with.
type Kind = (usize, usize);

/// A rank that runs, and what it has said.
struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    ended: Option<(i32, Instant)>,
}

impl RankProgram<'_> {
    /// Every phase with every fault, each at another rank of two to four.
    pub fn faults(self, scratch: &Path, extent: Extent) -> Report {
        let mut report = Report::default();
        let mut straight = BTreeMap::new();
        let (mut named, mut noticed, mut slowest) = (0u64, 0u64, Duration::ZERO);
        while extent.goes_on(&report) {
            let case = extent.from + report.tried;
            let phase = PHASES[case as usize % PHASES.len()];
            let fault = FAULTS[case as usize / PHASES.len() % FAULTS.len()];
            let turn = case as usize / (PHASES.len() * FAULTS.len());
            let size = 2 + turn % 3;
            let kind = (size, turn / 3 % METHODS.len());
            let victim = draw("ranks", case, "victim", size as u64) as usize;
            let result = self.undisturbed(scratch, kind, &mut straight).and_then(|expected| {
                let folder = scratch.join("disturbed");
                clear(&folder)?;
                let found = self.disturb(&folder, kind, victim, phase, fault, case)?;
                noticed += found.noticed;
                named += found.named;
                slowest = slowest.max(found.took);
                self.finish(&folder, kind, &expected)
            });
            let what = METHODS[kind.1].join(" ");
            report.tried(|| format!("case {case}: {fault:?} of rank {victim} of {size} in {phase:?} {what}"), result);
        }
        if named * 100 < noticed * 99 {
            report.failures.push(format!("the culprit is named by {named} of {noticed} ranks"));
        }
        report.note =
            format!("named by {named} of {noticed} ranks, the slowest ended after {:.1} s", slowest.as_secs_f64());
        report
    }

    fn start(
        self,
        folder: &Path,
        (size, method): Kind,
        seeded: Option<(usize, Fault, &str)>,
    ) -> Result<Vec<Running>, String> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.map_err(|error| format!("no free port: {error}"))?.port();
        (0..size)
            .map(|rank| {
                let mut command = Command::new(self.path);
                command.arg("train").arg("--config").arg(self.repository.join("configs/tiny_cpu.toml"));
                let timeout = format!("ranks.timeout_seconds={TIMEOUT}");
                for setting in [
                    "train.max_steps=8",
                    "checkpoint.every_steps=2",
                    "samples.every_steps=4",
                    "samples.steps=1",
                    "data.batch_size=1",
                    "log.every_steps=1",
                    "train.threads=1",
                    "ranks.start_timeout_seconds=6",
                    &timeout,
                ]
                .iter()
                .chain(METHODS[method])
                {
                    command.args(["--set", setting]);
                }
                command.arg("--output").arg(folder);
                for (name, value) in
                    [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", size)]
                {
                    command.env(name, value.to_string());
                }
                command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
                if let Some((_, Fault::Hang, _)) = seeded {
                    command.args(["--set", &format!("ranks.phase_timeout_seconds={PHASE_TIMEOUT}")]);
                }
                if let Some((_, fault, phase)) = seeded.filter(|(victim, ..)| *victim == rank) {
                    let variable = match fault {
                        Fault::Kill | Fault::Stop => "SDTRAIN_SEEDED_TELL",
                        Fault::Panic => "SDTRAIN_SEEDED_PANIC",
                        Fault::Hang => "SDTRAIN_SEEDED_HANG",
                    };
                    command.env(variable, phase);
                }
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
                let mut child = command.spawn().map_err(|error| format!("cannot start rank {rank}: {error}"))?;
                let said = Arc::new(Mutex::new(String::new()));
                if let Some(errors) = child.stderr.take() {
                    let said = Arc::clone(&said);
                    thread::spawn(move || {
                        for line in BufReader::new(errors).lines().map_while(Result::ok) {
                            let mut said = said.lock().expect("nobody panics with it");
                            said.push_str(&line);
                            said.push('\n');
                        }
                    });
                }
                Ok(Running { child, said, ended: None })
            })
            .collect()
    }

    /// The product that so many ranks make where nothing disturbs them.
    fn undisturbed(
        self,
        scratch: &Path,
        kind: Kind,
        known: &mut BTreeMap<Kind, Vec<(PathBuf, Vec<u8>)>>,
    ) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
        if let Some(known) = known.get(&kind) {
            return Ok(known.clone());
        }
        let folder = scratch.join(format!("straight-{}-{}", kind.0, kind.1));
        clear(&folder)?;
        self.run(&folder, kind)?;
        let made = products(&folder)?;
        known.insert(kind, made.clone());
        Ok(made)
    }

    /// Lets all ranks run to their end.
    fn run(self, folder: &Path, kind: Kind) -> Result<(), String> {
        let mut ranks = self.start(folder, kind, None)?;
        wait_for(&mut ranks, |ranks| ranks.iter().all(|rank| rank.ended.is_some()))?;
        match ranks.iter().position(|rank| rank.code() != Some(0)) {
            None => Ok(()),
            Some(rank) => Err(format!("rank {rank} cannot go on: {:?}\n{}", ranks[rank].code(), ranks[rank].said())),
        }
    }

    fn finish(self, folder: &Path, kind: Kind, expected: &[(PathBuf, Vec<u8>)]) -> Result<(), String> {
        self.run(folder, kind)?;
        match products(folder)? == expected {
            true => Ok(()),
            false => Err("the product has other bits".to_owned()),
        }
    }

    fn disturb(
        self,
        folder: &Path,
        kind: Kind,
        victim: usize,
        phase: Phase,
        fault: Fault,
        case: u64,
    ) -> Result<Noticed, String> {
        let mut ranks = self.start(folder, kind, Some((victim, fault, phase.name(case))))?;
        let comes_there = |ranks: &mut [Running]| {
            let (rank, line) = match self.has_seeded_bugs {
                true => (victim, "as wanted, it"),
                false => (0, phase.line()),
            };
            wait_for(ranks, |ranks| ranks[rank].said().contains(line) || ranks.iter().any(|rank| rank.ended.is_some()))
        };
        if matches!(fault, Fault::Kill | Fault::Stop) {
            let is_before = phase == Phase::Rendezvous && draw("ranks", case, "before", 2) == 0;
            if !is_before {
                comes_there(&mut ranks)?;
            }
            let longest = if is_before { BEFORE_RENDEZVOUS } else { phase.lasts() };
            thread::sleep(Duration::from_millis(draw("ranks", case, "delay", longest)));
        }
        let happened = match fault {
            Fault::Kill => ranks[victim].signal(Signal::SIGKILL)?,
            Fault::Stop => ranks[victim].signal(Signal::SIGSTOP)?,
            Fault::Panic => {
                wait_for(&mut ranks, |ranks| ranks[victim].ended.is_some())?;
                ranks[victim].ended.map_or_else(Instant::now, |(_, when)| when)
            }
            Fault::Hang => {
                comes_there(&mut ranks)?;
                Instant::now()
            }
        };
        let others_ended =
            |ranks: &[Running]| ranks.iter().enumerate().all(|(rank, other)| rank == victim || other.ended.is_some());
        let ended = wait_for(&mut ranks, others_ended);
        if fault == Fault::Stop {
            ranks[victim].signal(Signal::SIGKILL)?;
        }
        ended?;
        // Its own judge ends one that hangs; nobody else would, where each rank has a machine of its own.
        wait_for(&mut ranks, |ranks| ranks[victim].ended.is_some())?;
        if fault == Fault::Hang && !matches!(ranks[victim].code(), Some(0 | ANOTHER_FAILED)) {
            return Err(format!("rank {victim} ended with {:?}:\n{}", ranks[victim].code(), ranks[victim].said()));
        }
        let mut found = Noticed::default();
        for (rank, other) in ranks.iter().enumerate().filter(|(rank, _)| *rank != victim) {
            let (code, when) = other.ended.unwrap_or((0, happened));
            let took = when.saturating_duration_since(happened);
            found.took = found.took.max(took);
            // Of a rank that never came the others know by the end of their patience.
            if took > Duration::from_secs(TIMEOUT) + BEYOND {
                return Err(format!("rank {rank} ended {:.1} s after it:\n{}", took.as_secs_f64(), other.said()));
            }
            match code {
                // It had come to its end before.
                0 => continue,
                ANOTHER_FAILED => found.noticed += 1,
                other_code => return Err(format!("rank {rank} ended with {other_code}:\n{}", other.said())),
            }
            found.named += u64::from(names(&other.said(), victim));
        }
        // Behind its last step a rank has nothing more to do with the others, who may never hear of it.
        match found.noticed {
            0 if self.has_seeded_bugs && phase != Phase::End => Err("nobody noticed".to_owned()),
            _ => Ok(found),
        }
    }
}

/// Whether a rank that has `said` this gave `victim` the blame.
fn names(said: &str, victim: usize) -> bool {
    let is_number = |text: &str| text.parse() == Ok(victim);
    said.lines().any(|line| {
        let missing = line.split_once("did not come within").and_then(|(_, rest)| rest.split_once("): rank "));
        line.contains(&format!("rank {victim} failed"))
            || line.contains(&format!("rank {victim} did not come"))
            || missing.is_some_and(|(_, ranks)| ranks.split(|c: char| !c.is_ascii_digit()).any(is_number))
            || (victim == 0 && line.contains("which rank 0 hosts"))
    })
}

/// How the others took it.
#[derive(Debug, Default)]
struct Noticed {
    noticed: u64,
    named: u64,
    took: Duration,
}

impl Running {
    fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    fn code(&self) -> Option<i32> {
        self.ended.map(|(code, _)| code)
    }

    /// Sends it; when.
    fn signal(&self, signal: Signal) -> Result<Instant, String> {
        if self.ended.is_none() {
            let process = Pid::from_raw(self.child.id() as i32);
            kill(process, signal).map_err(|error| format!("{signal}: {error}"))?;
        }
        Ok(Instant::now())
    }

    fn look(&mut self) -> Result<(), String> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait().map_err(|error| error.to_string())?
        {
            self.ended = Some((status.code().unwrap_or(-1), Instant::now()));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `is_so`.
fn wait_for(ranks: &mut [Running], is_so: impl Fn(&[Running]) -> bool) -> Result<(), String> {
    let began = Instant::now();
    loop {
        for rank in ranks.iter_mut() {
            rank.look()?;
        }
        if is_so(ranks) {
            return Ok(());
        }
        if began.elapsed() > HANGS {
            let said: Vec<String> = ranks.iter().map(Running::said).collect();
            return Err(format!("they hang:\n{}", said.join("\n---\n")));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_is_only_mentioned_is_not_named() {
        let one = "error: rank 1 failed: it has given no sign of life for 4 s";
        assert!(names(one, 1) && !names(one, 0) && !names("error: rank 11 failed: it is gone", 1));
        assert!(!names("rank 0 failed: rank 1 of 2 was waited for", 1));
        let missing = "2 of 4 ranks did not come within 6 s (`ranks.start_timeout_seconds`): rank 1 and 3";
        assert!(names(missing, 1) && names(missing, 3) && !names(missing, 2));
        assert!(names("rank 2 does not reach the store of the ranks, which rank 0 hosts, at", 0));
    }
}
