//! Who of the ranks is still alive, and whose fault it is when they cannot go on.
//!
//! Each rank says at the store, about once a second, that it is alive (`beat/R`), and looks whether the next one does; the last looks at
//! the first. Whoever finds out that a rank is gone writes it down once for all (`verdict`), and every rank ends with the same words. When an
//! operation that ranks do together fails, nobody waits for the whole timeout: all look at all, and who says nothing any more was it.
//!
//! Two threads: the `teller` asks the store, and may be held up by a host that stands still; the `judge` asks nobody, and ends the
//! process when that lasts too long, or when its main part cannot end by itself.

use crate::error::Error;
use sdtrain_files::say;
use sdtrain_torch::Store;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// How long a rank may say nothing, once an operation of all has failed.
const SUSPECT: Duration = Duration::from_secs(5);
/// How long the main part of a process has to end after a verdict: at the lead, saving what the last step left may be a part of it.
const TO_END: Duration = Duration::from_secs(3);
const TO_END_LEAD: Duration = Duration::from_secs(8);
/// How long the host of the store waits for the others to leave.
const TO_LEAVE: Duration = Duration::from_secs(10);
/// The judge looks at the clock so often; where it was itself kept from it, nobody else is to blame.
const TICK: Duration = Duration::from_millis(100);

/// Who holds the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// This rank.
    Own,
    /// Rank 0.
    Lead,
    /// The launcher.
    Launcher,
}

impl Host {
    /// What is said of a store that does not answer.
    fn silent(self, how: &str) -> Verdict {
        match self {
            Host::Own | Host::Lead => {
                Verdict { rank: Some(0), reason: format!("the store of the ranks, which it hosts, {how}") }
            }
            Host::Launcher => {
                Verdict { rank: None, reason: format!("the store of the ranks, which the launcher holds, {how}") }
            }
        }
    }
}

/// For how long a rank waits for another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Without a sign of life.
    pub silence: Duration,
    /// That gives signs of life: to save, to draw, to measure, to encode a data set.
    pub phase: Duration,
}

/// Says that this rank is alive, and watches the others, until it is dropped or left.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    rank: usize,
    size: usize,
    host: Host,
    patience: Patience,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What the main part does.
    phase: String,
    /// As in [`Beat`].
    reached: u64,
    doing: Doing,
    /// Since when it does that.
    since: Instant,
    /// Whether what has failed here is something that this rank had joined, and waited for as long as it waits for anybody.
    has_waited_in_vain: bool,
    /// When the teller was last through with the store.
    last_round: Instant,
    /// Since when it is known here that an operation of all ranks has failed.
    suspicious_since: Option<Instant>,
    /// Why this rank ends, to be told; the fault may be another's, whom nobody else knows of.
    failure: Option<Verdict>,
    verdict: Option<(Verdict, Instant)>,
    is_leaving: bool,
    /// The process goes without a word: somebody panicked.
    is_abandoned: bool,
    /// Nobody tells the store anything any more: it is gone.
    is_cut_off: bool,
    /// Everything is told and the threads may end.
    has_left: bool,
}

/// What the main part of a rank does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Doing {
    /// Its own work.
    Works,
    /// Nothing, until another rank has said something at the store.
    Waits,
    /// Something that all ranks do together: it may wait there, or be what the others wait for.
    Joins,
    /// Nothing any more: something that all ranks do together has failed.
    HasFailed,
}

/// Whose fault it is that the ranks cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    /// None where it was none of them.
    rank: Option<usize>,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Beat {
    count: u64,
    phase: String,
    /// How many things that ranks do together, or wait for, the main part has come to.
    reached: u64,
    doing: Doing,
}

impl Watch {
    /// Begins to say that `rank` of `size` is alive, by a connection to the store of its own.
    pub fn begin(store: Store, rank: usize, size: usize, host: Host, patience: Patience) -> Watch {
        let state = State {
            phase: "start".into(),
            reached: 0,
            doing: Doing::Works,
            since: Instant::now(),
            has_waited_in_vain: false,
            last_round: Instant::now(),
            suspicious_since: None,
            failure: None,
            verdict: None,
            is_leaving: false,
            is_abandoned: false,
            is_cut_off: false,
            has_left: false,
        };
        let shared = Arc::new(Shared { rank, size, host, patience, state: Mutex::new(state), changed: Condvar::new() });
        let [telling, judging] = [shared.clone(), shared.clone()];
        let named = |name: &str| thread::Builder::new().name(name.into());
        let threads = [
            named("ranks-teller").spawn(move || Teller::new(&telling, store).run()),
            named("ranks-judge").spawn(move || judging.judge()),
        ];
        Watch { shared, threads: threads.into_iter().flatten().collect() }
    }

    /// What this process does now.
    pub fn phase(&self, name: &str) {
        self.shared.lock().phase = name.to_string();
    }

    /// The main part comes to something that ranks do together or wait for, or has it behind it. All ranks come to the same things.
    pub fn does(&self, doing: Doing) {
        let mut state = self.shared.lock();
        state.reached += u64::from(doing != Doing::Works);
        (state.doing, state.since) = (doing, Instant::now());
    }

    /// The error that all ranks end with, where they do.
    pub fn verdict(&self) -> Option<Error> {
        let state = self.shared.lock();
        state.verdict.as_ref().map(|(verdict, _)| self.shared.error_of(verdict))
    }

    /// What is behind the failure of something that ranks do together; waits until that is known.
    pub fn explain(&self, error: &sdtrain_torch::Error) -> Error {
        let mut state = self.shared.lock();
        match state.doing {
            Doing::Works => state.reached += 1,
            // The clocks of an operation and of this one begin at different moments.
            Doing::Joins => {
                state.has_waited_in_vain = state.since.elapsed() >= self.shared.patience.silence.mul_f64(0.9)
            }
            Doing::Waits | Doing::HasFailed => {}
        }
        (state.doing, state.since) = (Doing::HasFailed, Instant::now());
        state.suspicious_since.get_or_insert_with(Instant::now);
        self.shared.changed.notify_all();
        let until = Instant::now() + SUSPECT + 3 * BEAT;
        while state.verdict.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // All are alive, and none is behind: it may be the network between two, and who notices first is not to blame.
                let rank = self.shared.rank;
                let reason = format!("rank {rank} cannot go on with the others, who are all alive: {error}");
                state.failure.get_or_insert(Verdict { rank: None, reason: reason.clone() });
                return Error::Rank(reason);
            }
            state = self.shared.wait(state, left);
        }
        state
            .verdict
            .as_ref()
            .map_or_else(|| Error::Rank(error.to_string()), |(verdict, _)| self.shared.error_of(verdict))
    }

    /// Tells the others that this rank ends with an error, unless they know whose fault it is.
    pub fn fail(&self, reason: &str) {
        self.blame(self.shared.rank, reason);
    }

    /// Tells the others that all end for the fault of `rank`, unless they know whose it is.
    pub fn blame(&self, rank: usize, reason: &str) {
        let mut state = self.shared.lock();
        if state.verdict.is_none() {
            state.failure.get_or_insert_with(|| Verdict { rank: Some(rank), reason: reason.to_string() });
            self.shared.changed.notify_all();
            let until = Instant::now() + 3 * BEAT;
            while state.verdict.is_none() && Instant::now() < until {
                state = self.shared.wait(state, BEAT / 10);
            }
        }
    }

    /// Says that this rank leaves, and waits for the others where they need its store.
    pub fn leave(&self) {
        let mut state = self.shared.lock();
        state.is_leaving = true;
        self.shared.changed.notify_all();
        let until = Instant::now() + TO_LEAVE + BEAT;
        while !state.has_left && !state.is_cut_off && Instant::now() < until {
            state = self.shared.wait(state, BEAT / 10);
        }
        state.has_left = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Who has not said that he leaves has not come to his end, and the others must notice. The threads may be held up by a store
        // that does not answer: they are not waited for.
        self.shared.lock().is_abandoned = true;
        self.shared.changed.notify_all();
        self.threads.drain(..).filter(JoinHandle::is_finished).for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn error_of(&self, verdict: &Verdict) -> Error {
        Error::Rank(match verdict.rank {
            Some(rank) if rank == self.rank => {
                format!("the other ranks gave this one, rank {rank}, up: {}", verdict.reason)
            }
            Some(rank) => format!("rank {rank} failed: {}", verdict.reason),
            None => verdict.reason.clone(),
        })
    }

    fn pass(&self, state: &mut State, verdict: Verdict) {
        state.verdict.get_or_insert((verdict, Instant::now()));
        self.changed.notify_all();
    }

    /// Ends a process that cannot end by itself.
    fn judge(&self) {
        let mut looked = Instant::now();
        loop {
            thread::sleep(TICK);
            let late = looked.elapsed().saturating_sub(TICK);
            looked = Instant::now();
            let mut state = self.lock();
            if state.has_left || state.is_abandoned {
                return;
            }
            if late > BEAT {
                // The whole process stood still: nobody else is late for that.
                state.last_round = Instant::now();
            }
            let patience =
                if state.suspicious_since.is_some() || state.is_leaving { SUSPECT } else { self.patience.silence };
            if state.verdict.is_none() && self.host != Host::Own && state.last_round.elapsed() > patience {
                self.pass(&mut state, self.host.silent(&format!("has not answered for {} s", patience.as_secs())));
            }
            let Some((verdict, since)) = &state.verdict else { continue };
            // What is being saved is worth more than a quick end; but a disk that never answers is not waited for.
            let is_saving = self.rank == 0 && state.phase == "save" && since.elapsed() < self.patience.phase;
            let time = if self.rank == 0 { TO_END_LEAD } else { TO_END };
            // One that has failed by itself is on its way out with a code of its own.
            let is_own = verdict.rank == Some(self.rank) && state.failure.is_some();
            if since.elapsed() > time && !is_saving && !is_own {
                say!("error: {}", self.error_of(verdict));
                sdtrain_signals::exit_now(EXIT_CODE);
            }
        }
    }
}

/// Who of the others hangs, by their last signs of life, and how, where this rank has come to `reached`.
fn who_hangs(reached: u64, has_waited_in_vain: bool, others: &[(usize, Beat)]) -> Option<(usize, String)> {
    if let Some((rank, beat)) = others.iter().find(|(_, beat)| beat.doing == Doing::Works && beat.reached < reached) {
        let reason = format!("its main part hangs in the phase `{}` while the others wait for it", beat.phase);
        return Some((*rank, reason));
    }
    let is_there = |beat: &Beat| beat.doing == Doing::Joins && beat.reached == reached;
    let mut still_there = others.iter().filter(|(_, beat)| has_waited_in_vain && is_there(beat));
    // Of several, all but one wait as this one did.
    let (Some((rank, beat)), None) = (still_there.next(), still_there.next()) else { return None };
    let reason =
        format!("its main part hangs in the phase `{}`, in what ranks do together and all others gave up", beat.phase);
    Some((*rank, reason))
}

/// Of a rank that ends since another has failed.
const EXIT_CODE: i32 = 8;

/// Asks and tells the store.
struct Teller<'a> {
    shared: &'a Shared,
    store: Store,
    count: u64,
    /// When the round before began.
    looked: Instant,
    /// The last sign of life of the ranks that are looked at, and when it came.
    seen: BTreeMap<usize, (Vec<u8>, Instant)>,
}

impl<'a> Teller<'a> {
    fn new(shared: &'a Shared, store: Store) -> Teller<'a> {
        Teller { shared, store, count: 0, looked: Instant::now(), seen: BTreeMap::new() }
    }

    fn run(mut self) {
        loop {
            let round = self.round();
            let mut state = self.shared.lock();
            if state.is_abandoned {
                return;
            }
            match round {
                Ok(()) => state.last_round = Instant::now(),
                Err(_) if state.is_leaving => {}
                Err(error) => {
                    let verdict = self.shared.host.silent(&format!("is gone: {error}"));
                    self.shared.pass(&mut state, verdict);
                }
            }
            if state.is_leaving {
                drop(state);
                self.leave();
                return;
            }
            if state.verdict.is_some() && state.last_round.elapsed() > BEAT {
                // Whether the main part ends is the judge's matter still.
                state.is_cut_off = true;
                self.shared.changed.notify_all();
                return;
            }
            let is_urgent = |state: &State| state.is_leaving || (state.failure.is_some() && state.verdict.is_none());
            if !is_urgent(&state) {
                drop(self.shared.wait(state, BEAT / if self.count < 5 { 4 } else { 1 }));
            }
        }
    }

    fn round(&mut self) -> sdtrain_torch::Result<()> {
        self.count += 1;
        // Where this process stood still, or the store did, the others are not silent for that.
        if self.looked.elapsed() > 3 * BEAT {
            self.seen.values_mut().for_each(|(_, since)| *since = Instant::now());
        }
        self.looked = Instant::now();
        let Shared { rank, size, patience, .. } = *self.shared;
        let (beat, failure, suspicious, is_known, waits) = {
            let state = self.shared.lock();
            let State { reached, doing, .. } = *state;
            let beat = Beat { count: self.count, phase: state.phase.clone(), reached, doing };
            let waits = (doing != Doing::Works).then(|| (reached, state.since.elapsed()));
            let suspicious = state.suspicious_since.map(|since| since.elapsed());
            (beat, state.failure.clone(), suspicious, state.verdict.is_some(), waits)
        };
        let beat = serde_json::json!(beat).to_string();
        self.store.set(&format!("beat/{rank}"), beat.as_bytes())?;
        if is_known {
            return Ok(());
        }
        if self.store.has("verdict")? {
            return self.hear_verdict();
        }
        if let Some(verdict) = failure {
            return self.decide(verdict);
        }
        let (watched, silence) = match suspicious.is_some() {
            true => ((0..size).filter(|&other| other != rank).collect(), SUSPECT),
            false => (vec![(rank + 1) % size], patience.silence),
        };
        for other in watched {
            if let Some(reason) = self.is_gone(other, silence)? {
                return self.decide(Verdict { rank: Some(other), reason });
            }
        }
        // An operation of all has failed and all are alive, or something is waited for longer than anything may take.
        match waits {
            Some((reached, time)) if time > patience.phase || suspicious.is_some_and(|time| time > SUSPECT + BEAT) => {
                self.find_hanging(reached)
            }
            _ => Ok(()),
        }
    }

    /// Of ranks that give signs of life, the one whose main part works on while this one waits for it; else the only one that has not
    /// come back from what has failed at all others.
    fn find_hanging(&self, reached: u64) -> sdtrain_torch::Result<()> {
        let mut beats = Vec::new();
        for other in (0..self.shared.size).filter(|&other| other != self.shared.rank) {
            let key = format!("beat/{other}");
            if self.store.has(&key)?
                && let Ok(beat) = serde_json::from_slice::<Beat>(&self.store.get(&key)?)
            {
                beats.push((other, beat));
            }
        }
        let has_waited_in_vain = self.shared.lock().has_waited_in_vain;
        match who_hangs(reached, has_waited_in_vain, &beats) {
            Some((other, reason)) => self.decide(Verdict { rank: Some(other), reason }),
            None => Ok(()),
        }
    }

    /// Why a rank counts as gone, where it does.
    fn is_gone(&mut self, rank: usize, patience: Duration) -> sdtrain_torch::Result<Option<String>> {
        let beat = format!("beat/{rank}");
        // One that has not come yet is waited for elsewhere.
        if !self.store.has(&beat)? || self.store.has(&format!("left/{rank}"))? {
            return Ok(None);
        }
        let now = self.store.get(&beat)?;
        match self.seen.get(&rank) {
            Some((before, since)) if *before == now => {
                if since.elapsed() <= patience {
                    return Ok(None);
                }
                let phase = serde_json::from_slice::<Beat>(&now).map(|beat| beat.phase).unwrap_or_default();
                Ok(Some(format!(
                    "it has given no sign of life for {} s (phase `{phase}`): it was killed or stopped, or its machine or network is gone",
                    since.elapsed().as_secs()
                )))
            }
            _ => {
                self.seen.insert(rank, (now, Instant::now()));
                Ok(None)
            }
        }
    }

    /// Writes a verdict down, unless another rank was first.
    fn decide(&self, verdict: Verdict) -> sdtrain_torch::Result<()> {
        let is_first = self.store.add("verdicts", 1)? == 1;
        let until = Instant::now() + 3 * BEAT;
        while !is_first && !self.store.has("verdict")? && Instant::now() < until {
            thread::sleep(BEAT / 20);
        }
        // Also where whoever was first did not come to say so.
        if is_first || !self.store.has("verdict")? {
            self.store.set("verdict", serde_json::json!(verdict).to_string().as_bytes())?;
        }
        self.hear_verdict()
    }

    fn hear_verdict(&self) -> sdtrain_torch::Result<()> {
        let text = self.store.get("verdict")?;
        let verdict = serde_json::from_slice(&text)
            .unwrap_or_else(|_| Verdict { rank: None, reason: String::from_utf8_lossy(&text).into_owned() });
        self.shared.pass(&mut self.shared.lock(), verdict);
        Ok(())
    }

    /// Says that this rank leaves; the host stays until the others have.
    fn leave(&self) {
        let left = |rank: usize| format!("left/{rank}");
        // A store that is gone needs no farewell.
        let told = self.store.set(&left(self.shared.rank), b"");
        let gone = self.shared.lock().verdict.as_ref().and_then(|(verdict, _)| verdict.rank);
        // After a verdict the others end within that time, in one way or the other.
        let until = Instant::now() + if gone.is_some() { TO_END + 2 * BEAT } else { TO_LEAVE };
        let is_here = |rank: usize| Some(rank) != gone && matches!(self.store.has(&left(rank)), Ok(false));
        let others_are_here = || (0..self.shared.size).any(is_here);
        while self.shared.host == Host::Own && told.is_ok() && others_are_here() && Instant::now() < until {
            thread::sleep(BEAT / 20);
        }
        let mut state = self.shared.lock();
        state.is_leaving = true;
        state.has_left = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(own: u64, has_waited_in_vain: bool, others: &[(u64, Doing)]) -> Option<usize> {
        let beats = others
            .iter()
            .enumerate()
            .map(|(index, &(reached, doing))| (index + 1, Beat { count: 1, phase: "step".into(), reached, doing }));
        who_hangs(own, has_waited_in_vain, &beats.collect::<Vec<_>>()).map(|(rank, _)| rank)
    }

    #[test]
    fn who_works_on_while_the_others_wait_hangs() {
        use Doing::{Joins, Waits, Works};
        assert_eq!(named(7, false, &[(7, Waits), (6, Works)]), Some(2));
        assert_eq!(named(7, true, &[(7, Joins), (6, Works)]), Some(2), "one that joined waits, too");
        assert_eq!(named(7, false, &[(7, Works), (8, Works)]), None, "they are not behind");
    }

    #[test]
    fn the_only_one_that_does_not_come_back_from_what_failed_hangs_and_of_two_nobody() {
        use Doing::{HasFailed, Joins, Waits};
        assert_eq!(named(7, true, &[(7, HasFailed), (7, Joins)]), Some(2));
        assert_eq!(named(7, true, &[(7, Joins), (7, Joins)]), None);
        assert_eq!(named(7, true, &[(7, HasFailed), (7, Waits)]), None, "that one waits at the store");
        assert_eq!(named(7, true, &[(7, HasFailed), (8, Joins)]), None, "that one has it behind it");
        assert_eq!(named(7, false, &[(7, Joins)]), None, "what failed at once has failed here");
    }

    /// The teller that finds out tells itself, too.
    #[test]
    fn a_rank_that_hangs_is_named_to_all() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let address = sdtrain_torch::StoreAddress {
            host: "127.0.0.1".into(),
            port,
            prefix: "watch".into(),
            timeout: Duration::from_secs(20),
        };
        let store = |is_host| Store::connect(&address, is_host).expect("a store");
        let patience = Patience { silence: Duration::from_secs(60), phase: Duration::from_millis(500) };
        // Before a verdict gives the process three seconds to end, the watches are gone.
        let waiting = Watch::begin(store(true), 0, 2, Host::Launcher, patience);
        let hanging = Watch::begin(store(false), 1, 2, Host::Launcher, patience);
        hanging.phase("step");
        waiting.does(Doing::Waits);
        let until = Instant::now() + Duration::from_secs(20);
        let said = loop {
            match waiting.verdict() {
                Some(error) => break error.to_string(),
                None if Instant::now() > until => panic!("nobody is named"),
                None => thread::sleep(TICK / 10),
            }
        };
        assert!(said.contains("rank 1 failed: its main part hangs in the phase `step`"), "{said}");
        drop((waiting, hanging));
    }
}
