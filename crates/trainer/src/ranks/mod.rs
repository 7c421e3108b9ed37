//! The ranks of a run as the trainer sees them: what they say to each other, compute together and wait for.
//!
//! All ranks do the same steps in the same order. What has to be equal at all of them (whether to stop, whether a step counts) is
//! agreed; what may take long at the first one alone (saving, pictures, measuring) is waited for at the store, where a rank that
//! is alive may take its time, and not in a collective operation, whose time is short.

mod agreement;
mod flat;
mod gradients;
mod meeting;
mod sharded;
mod shares;
mod watch;

pub(crate) use agreement::{Facts, short};
pub(crate) use flat::Flat;
pub(crate) use gradients::{Alone, GradientReducer, Overlapped, SharedOut};
pub(crate) use sharded::{Gathered, Sharded, gather_state};
pub(crate) use shares::Shares;

use crate::error::{Error, Result};
use crate::seeded_bugs::fail_in;
use meeting::{Lobby, Meeting};
use sdtrain_data_loader::Rank;
use sdtrain_files::say;
use sdtrain_ranks::Place;
use sdtrain_recipe::{RanksConfig, Reducer};
use sdtrain_signals::StopRequest;
use sdtrain_torch::{Nccl, ProcessGroup, Store};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};
use watch::{Doing, Host, Patience, Watch};

/// How often somebody looks whether what he waits for has come.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// All ranks of a run; one alone where there are no others.
#[derive(Debug)]
pub struct Ranks {
    rank: usize,
    size: usize,
    others: Option<Others>,
    /// Of the things that were waited for, all ranks the same ones: names of keys are never used twice.
    meetings: Cell<u64>,
    /// See [`Ranks::buffer_device`].
    buffers: Cell<Device>,
}

#[derive(Debug)]
struct Others {
    store: Store,
    watch: Watch,
    // None once an operation has failed: what is under way in it must not be waited for.
    group: RefCell<Option<ProcessGroup>>,
}

impl Ranks {
    /// One process without others.
    pub fn alone() -> Ranks {
        Ranks { rank: 0, size: 1, others: None, meetings: Cell::new(0), buffers: Cell::new(Device::Cpu) }
    }

    /// Takes the place of this process among the others, and waits for them.
    ///
    /// # Errors
    /// [`Error::Rank`] with those that have not come in time.
    pub fn join(place: &Place, config: &RanksConfig) -> Result<Ranks> {
        // A way to add up that was asked for is gone by one rank as well, so that what it costs can be measured.
        let has_meeting_point = place.master_port != 0;
        if place.world_size <= 1 && (config.reducer == Reducer::Auto || !has_meeting_point) {
            return Ok(Ranks::alone());
        }
        let (rank, size) = (place.rank, place.world_size);
        let start = Duration::from_secs_f64(config.start_timeout_seconds);
        let timeout = Duration::from_secs_f64(config.timeout_seconds);
        let host = match (place.has_agent_store, rank) {
            (true, _) => Host::Launcher,
            (false, 0) => Host::Own,
            (false, _) => Host::Lead,
        };
        let Meeting { store, own, lobby } = Meeting::at(place, host, start)?;
        let phase = Duration::from_secs_f64(config.phase_timeout_seconds);
        let watch = Watch::begin(own, rank, size, host, Patience { silence: timeout, phase });
        let others = Others { store, watch, group: RefCell::new(None) };
        let ranks = Ranks { rank, size, others: Some(others), meetings: Cell::new(0), buffers: Cell::new(Device::Cpu) };
        ranks.phase("rendezvous");
        let is_local = place.local_world_size == size;
        match ranks.form_group(start, timeout, is_local, lobby) {
            Ok(()) => Ok(ranks),
            Err(error) => {
                // Whoever hosts the store stays until the others have heard why.
                ranks.fail(&error.to_string());
                ranks.leave();
                Err(error)
            }
        }
    }

    /// Waits for the others, and connects to each.
    fn form_group(&self, start: Duration, timeout: Duration, is_local: bool, lobby: Option<Lobby>) -> Result<()> {
        self.meet_at_start(start, lobby)?;
        let Some(others) = &self.others else { return Ok(()) };
        let group = ProcessGroup::gloo(&others.store, self.rank, self.size, timeout, is_local.then_some("127.0.0.1"));
        let with_hint = |error: sdtrain_torch::Error| match is_local {
            true => error,
            false => sdtrain_torch::Error::Torch(format!(
                "{error}; where a machine has several networks, or its name stands for 127.0.1.1, set GLOO_SOCKET_IFNAME to the \
                 interface by which the machines reach each other"
            )),
        };
        let group = group.map_err(|error| others.watch.explain(&with_hint(error)))?;
        others.group.replace(Some(group));
        Ok(())
    }

    /// Tells the ranks what this one computes on. Where all have a GPU and NCCL, their gradients travel by that from then on, in the
    /// stages that follow as well.
    ///
    /// # Errors
    /// [`Error::Rank`] where one is gone, or NCCL finds no way between the GPUs.
    pub fn use_device(&self, device: Device) -> Result<()> {
        let Some(others) = &self.others else { return Ok(()) };
        if self.buffers.get().is_cuda() {
            return Ok(());
        }
        let nccl = match device {
            Device::Cuda(index) => Nccl::open().map(|nccl| (nccl, index)).map_err(|error| error.to_string()),
            _ => Err(format!("rank {} computes on the processor", self.rank)),
        };
        // One that cannot is enough for none.
        let own = nccl.as_ref().err().cloned().unwrap_or_default();
        let obstacle = self.gather("nccl", own)?.into_iter().find(|reason| !reason.is_empty());
        let way = match (nccl, obstacle) {
            (Ok((nccl, index)), None) => {
                self.together(|group| group.add_nccl(&nccl, &others.store, index))?;
                self.buffers.set(device);
                "NCCL".to_string()
            }
            (_, reason) => format!("Gloo through the host's memory, since {}", reason.unwrap_or_default()),
        };
        if device.is_cuda() && self.is_lead() {
            say!("gradients travel by {way}");
        }
        Ok(())
    }

    /// Where tensors lie that are to travel fast: the GPU, or the processor where NCCL is not there.
    pub(crate) fn buffer_device(&self) -> Device {
        self.buffers.get()
    }

    fn meet_at_start(&self, timeout: Duration, mut lobby: Option<Lobby>) -> Result<()> {
        let Some(others) = &self.others else { return Ok(()) };
        let here = |rank: usize| format!("here/{rank}");
        others.set(&here(self.rank), std::process::id().to_string().as_bytes())?;
        let began = Instant::now();
        loop {
            let missing: Vec<usize> = (0..self.size)
                .filter_map(|rank| match others.has(&here(rank)) {
                    Ok(true) => None,
                    Ok(false) => Some(Ok(rank)),
                    Err(error) => Some(Err(error)),
                })
                .collect::<Result<_>>()?;
            if missing.is_empty() {
                return Ok(());
            }
            if let Some(lobby) = &mut lobby {
                lobby.admit(&missing).map_err(|error| others.watch.explain(&error))?;
            }
            if began.elapsed() > timeout {
                let reason = format!(
                    "{} of {} ranks did not come within {} s (`ranks.start_timeout_seconds`): rank {}",
                    missing.len(),
                    self.size,
                    timeout.as_secs(),
                    list(&missing)
                );
                // Those that began to wait a little later need not find out.
                others.watch.blame(missing[0], &reason);
                return Err(Error::Rank(reason));
            }
            std::thread::sleep(BETWEEN_LOOKS * 5);
        }
    }

    /// Whether nothing is done together: one process that formed no group.
    pub(crate) fn is_alone(&self) -> bool {
        self.others.is_none()
    }

    /// This one's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the rank that saves, draws, measures and talks: the first.
    pub fn is_lead(&self) -> bool {
        self.rank == 0
    }

    /// Where this one writes what each has for itself: at the lead `path`, at rank 2 `trace.rank-2.safetensors` beside
    /// `trace.safetensors`.
    pub(crate) fn own_path(&self, path: &Path) -> PathBuf {
        if self.is_lead() {
            return path.to_owned();
        }
        let mut extension = OsString::from(format!("rank-{}", self.rank));
        if let Some(own) = path.extension() {
            extension.push(".");
            extension.push(own);
        }
        path.with_extension(extension)
    }

    /// The ranks of a batch for `world_size` ranks that this process plays.
    ///
    /// # Errors
    /// Where there are fewer of them than processes.
    pub fn parts(&self, world_size: u64) -> Result<Vec<Rank>> {
        let world = usize::try_from(world_size).unwrap_or(usize::MAX);
        if world < self.size {
            return Err(Error::Config {
                message: format!(
                    "`train.world_size` is {world_size}, and {} processes were started: some would have nothing to do",
                    self.size
                ),
                hint: Some(format!("start {world_size} of them, or leave the key out where the run begins anew")),
            });
        }
        Ok(Rank::played_by(self.rank, self.size, world)?)
    }

    /// What this process does now, for those that wait for it.
    pub fn phase(&self, name: &str) {
        if let Some(others) = &self.others {
            others.watch.phase(name);
        }
        fail_in(name);
    }

    /// What the lead says, heard by all; `say` is called there alone.
    ///
    /// # Errors
    /// Those of `say` at the lead; elsewhere [`Error::Rank`] where the lead did not come so far.
    pub fn hear(&self, about: &str, say: impl FnOnce() -> Result<String>) -> Result<String> {
        let Some(others) = &self.others else { return say() };
        let key = self.next_key(about);
        if self.is_lead() {
            let said = say()?;
            others.set(&key, said.as_bytes())?;
            // The others have come to this, too.
            others.watch.does(Doing::Waits);
            others.watch.does(Doing::Works);
            return Ok(said);
        }
        others.wait_for(&key)
    }

    /// Goes on when the lead has come so far, too.
    ///
    /// # Errors
    /// [`Error::Rank`] where it does not.
    pub fn follow_lead(&self, about: &str) -> Result<()> {
        self.hear(about, || Ok(String::new())).map(drop)
    }

    /// What each rank says of something, in their order.
    ///
    /// # Errors
    /// [`Error::Rank`] where one does not come so far.
    pub fn gather(&self, about: &str, own: String) -> Result<Vec<String>> {
        let Some(others) = &self.others else { return Ok(vec![own]) };
        let key = self.next_key(about);
        others.set(&format!("{key}/{}", self.rank), own.as_bytes())?;
        (0..self.size).map(|rank| others.wait_for(&format!("{key}/{rank}"))).collect()
    }

    fn next_key(&self, about: &str) -> String {
        self.meetings.set(self.meetings.get() + 1);
        format!("{:08}/{about}", self.meetings.get())
    }

    /// Refuses ranks that would not compute the same: each says what it would compute with.
    ///
    /// # Errors
    /// [`Error::RanksDiffer`] with what differs, and at which ranks.
    pub(crate) fn compare(&self, facts: &Facts) -> Result<()> {
        let all = self.gather("facts", facts.to_json())?;
        agreement::compare(&all)
    }

    /// Whether any rank was asked to stop, or to save: the same answer at all of them, at the same step.
    ///
    /// # Errors
    /// [`Error::Rank`] where one is gone.
    pub fn agree(&self, stop: &StopRequest) -> Result<Asked> {
        let own = Asked { stop: stop.is_set(), save: stop.take_save() };
        if self.others.is_none() {
            return Ok(own);
        }
        let flags = Tensor::from_slice(&[i32::from(own.stop), i32::from(own.save)]);
        self.together(|group| group.all_reduce_largest(&flags))?;
        let asked = Asked { stop: flags.int64_value(&[0]) > 0, save: flags.int64_value(&[1]) > 0 };
        if asked.stop {
            stop.ask();
        }
        Ok(asked)
    }

    /// Every number of `values` becomes the sum over all ranks, the same bits at each.
    ///
    /// # Errors
    /// [`Error::Rank`] where one is gone.
    pub fn add_up(&self, values: &Tensor) -> Result<()> {
        self.together(|group| group.all_reduce(values))
    }

    /// Losses of parts of a batch, by their places among those of all ranks, as all ranks know them.
    ///
    /// # Errors
    /// [`Error::Rank`] where one is gone.
    pub(crate) fn exchange(&self, own: &BTreeMap<usize, f64>, places: usize) -> Result<Vec<f64>> {
        let values = Tensor::zeros([places as i64], (Kind::Double, Device::Cpu));
        for (&place, &loss) in own {
            let _ = values.f_narrow(0, place as i64, 1)?.f_fill_(loss)?;
        }
        self.add_up(&values)?;
        Ok(Vec::try_from(&values)?)
    }

    /// Does what all ranks do together; nothing where there are no others.
    pub(crate) fn together<T: Default>(
        &self,
        work: impl FnOnce(&ProcessGroup) -> sdtrain_torch::Result<T>,
    ) -> Result<T> {
        let Some(others) = &self.others else { return Ok(T::default()) };
        others.watch.does(Doing::Joins);
        let result = match others.group.borrow().as_ref() {
            Some(group) => work(group),
            None => Err(sdtrain_torch::Error::Torch("an earlier operation of the ranks has failed".into())),
        };
        let result = result.map_err(|error| others.broken(&error))?;
        others.watch.does(Doing::Works);
        Ok(result)
    }

    /// This rank comes to something that the ranks do together elsewhere than in [`Ranks::together`].
    pub(crate) fn joins(&self) {
        if let Some(others) = &self.others {
            others.watch.does(Doing::Joins);
        }
    }

    /// It has that behind it.
    pub(crate) fn works(&self) {
        if let Some(others) = &self.others {
            others.watch.does(Doing::Works);
        }
    }

    /// Does what all ranks do together elsewhere than in [`Ranks::together`].
    pub(crate) fn joining<T>(&self, work: impl FnOnce() -> sdtrain_torch::Result<T>) -> Result<T> {
        self.joins();
        let done = work().map_err(|error| self.explain(error))?;
        self.works();
        Ok(done)
    }

    /// What an error of the backward pass means: that of a reducer comes out of it.
    pub(crate) fn explain(&self, error: sdtrain_torch::Error) -> Error {
        let Some(others) = self.others.as_ref().filter(|_| is_of_ranks(&error)) else { return error.into() };
        others.broken(&error)
    }

    /// Tells the others that this rank ends with an error, so that they need not find out.
    pub fn fail(&self, reason: &str) {
        if let Some(others) = &self.others {
            others.watch.fail(reason);
            others.forget_group();
        }
    }

    /// The end of everything that the ranks do together. The host of the store waits a while for the others, who may still ask it.
    pub fn leave(&self) {
        if let Some(others) = &self.others {
            others.watch.leave();
        }
    }
}

/// What a rank was asked for by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// To stop.
    pub stop: bool,
    /// To save.
    pub save: bool,
}

impl Others {
    /// Nothing is done together any more. The group is left as it is, since its end would wait for what is under way in it.
    fn forget_group(&self) {
        std::mem::forget(self.group.take());
    }

    /// What is behind the failure of something that ranks do together.
    fn broken(&self, error: &sdtrain_torch::Error) -> Error {
        self.forget_group();
        self.watch.explain(error)
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.store.set(key, value).map_err(|error| self.watch.explain(&error))
    }

    fn has(&self, key: &str) -> Result<bool> {
        if let Some(error) = self.watch.verdict() {
            return Err(error);
        }
        self.store.has(key).map_err(|error| self.watch.explain(&error))
    }

    fn wait_for(&self, key: &str) -> Result<String> {
        self.watch.does(Doing::Waits);
        while !self.has(key)? {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        self.watch.does(Doing::Works);
        let value = self.store.get(key).map_err(|error| self.watch.explain(&error))?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }
}

/// Whether Gloo, NCCL or the store says it, in whatever operation.
fn is_of_ranks(error: &sdtrain_torch::Error) -> bool {
    // The last is all that Gloo says to the other operations that are under way, once one has waited for too long.
    const WORDS: [&str; 6] = [
        "gloo",
        "NCCL",
        "c10d",
        "Connection closed by peer",
        "Connection reset",
        "Application timeout caused pair closure",
    ];
    let text = error.to_string();
    WORDS.iter().any(|words| text.contains(words))
}

/// `0, 3 and 5`.
fn list(numbers: &[usize]) -> String {
    let texts: Vec<String> = numbers.iter().map(usize::to_string).collect();
    match texts.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => texts.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_what_ranks_do_together_is_told_from_one_of_this_rank() {
        let is_of_ranks = |text: &str| is_of_ranks(&sdtrain_torch::Error::Torch(text.into()));
        assert!(is_of_ranks(
            "[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation to complete"
        ));
        assert!(is_of_ranks("Application timeout caused pair closure"));
        assert!(!is_of_ranks("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory"));
    }
}
