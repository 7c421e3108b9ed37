//! Where the ranks of a start find each other: the store that rank 0 hosts, or a part of the launcher's that no earlier start has used.

use super::BETWEEN_LOOKS;
use super::watch::Host;
use crate::error::{Error, Result};
use sdtrain_ranks::Place;
use sdtrain_torch::{Store, StoreAddress};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What the keys of all runs begin with.
const PREFIX: &str = "sdtrain";

/// How much longer than it should take the way to the store may take: its own limits are looked at between its steps.
const BEYOND: Duration = Duration::from_secs(2);

/// Connections to what the ranks of this start, and nobody else, say to each other.
pub(super) struct Meeting {
    pub store: Store,
    /// The watch's own, which must not wait behind the other.
    pub own: Store,
    /// Of rank 0 where the store outlives a start.
    pub lobby: Option<Lobby>,
}

/// Where rank 0 tells those that come which start of the run this is.
///
/// The launcher's store remembers earlier starts, what was said in them and who came. Nothing that a launcher sets tells starts apart at
/// all ranks (torchrun's agents count the restarts of their own machine), and a rank may have died on its way here; so each process
/// that comes takes a ticket, and rank 0 answers the ticket.
pub(super) struct Lobby {
    store: Store,
    start: i64,
    /// The tickets that are answered, by rank.
    answered: BTreeMap<usize, Vec<u8>>,
}

impl Lobby {
    /// Answers those of the `missing` ranks that have come since the last time.
    pub fn admit(&mut self, missing: &[usize]) -> sdtrain_torch::Result<()> {
        for &rank in missing {
            let key = ticket_of(rank);
            if !self.store.has(&key)? {
                continue;
            }
            let ticket = self.store.get(&key)?;
            if self.answered.get(&rank) != Some(&ticket) {
                self.store.set(&admission(&String::from_utf8_lossy(&ticket)), self.start.to_string().as_bytes())?;
                self.answered.insert(rank, ticket);
            }
        }
        Ok(())
    }
}

fn ticket_of(rank: usize) -> String {
    format!("ticket/{rank}")
}

fn admission(ticket: &str) -> String {
    format!("admitted/{ticket}")
}

impl Meeting {
    /// The store of this start, hosted here where rank 0 does that.
    ///
    /// # Errors
    /// [`Error::Rank`] where it is not reached within `timeout`, or rank 0 does not come to the launcher's.
    pub fn at(place: &Place, host: Host, timeout: Duration) -> Result<Meeting> {
        // A host that stands still keeps its connections and says nothing: whoever asks it may never come back.
        let (answer, answered) = mpsc::channel();
        let own = place.clone();
        let asking = move || answer.send(Door { place: &own, host, timeout }.enter());
        let started = thread::Builder::new().name("ranks-meet".into()).spawn(asking);
        started.map_err(|error| Error::Rank(format!("rank {}: no thread can be started: {error}", place.rank)))?;
        answered.recv_timeout(timeout + BEYOND).unwrap_or_else(|_| {
            let silent = format!("it has not answered for {} s", (timeout + BEYOND).as_secs());
            Err(Door { place, host, timeout }.unreachable(&sdtrain_torch::Error::Torch(silent)))
        })
    }
}

struct Door<'a> {
    place: &'a Place,
    host: Host,
    timeout: Duration,
}

impl Door<'_> {
    fn enter(&self) -> Result<Meeting> {
        match self.host {
            Host::Launcher => self.by_lobby(),
            Host::Own | Host::Lead => self.by_lead(),
        }
    }

    fn connect(&self, prefix: &str, is_host: bool) -> sdtrain_torch::Result<Store> {
        self.connect_within(self.timeout, prefix, is_host)
    }

    fn connect_within(&self, timeout: Duration, prefix: &str, is_host: bool) -> sdtrain_torch::Result<Store> {
        let Place { master_addr, master_port, .. } = self.place;
        let address =
            StoreAddress { host: master_addr.clone(), port: *master_port, prefix: prefix.to_owned(), timeout };
        Store::connect(&address, is_host)
    }

    fn unreachable(&self, error: &sdtrain_torch::Error) -> Error {
        let Place { rank, master_addr, master_port, .. } = self.place;
        let at = format!("at {master_addr}:{master_port}: {error}");
        Error::Rank(match self.host {
            Host::Own => format!("rank 0 cannot host the store of the ranks {at}"),
            Host::Lead => format!("rank {rank} does not reach the store of the ranks, which rank 0 hosts, {at}"),
            Host::Launcher => {
                format!("rank {rank} does not reach the store of the ranks, which the launcher holds, {at}")
            }
        })
    }

    fn by_lobby(&self) -> Result<Meeting> {
        let (start, lobby) = self.admitted()?;
        let prefix = format!("{PREFIX}/{start}");
        let connect = || self.connect(&prefix, false).map_err(|error| self.unreachable(&error));
        Ok(Meeting { store: connect()?, own: connect()?, lobby })
    }

    /// The number of this start; at rank 0 with where it admits the others.
    fn admitted(&self) -> Result<(i64, Option<Lobby>)> {
        let unreachable = |error: sdtrain_torch::Error| self.unreachable(&error);
        let store = self.connect(PREFIX, false).map_err(unreachable)?;
        let rank = self.place.rank;
        if rank == 0 {
            let start = store.add("starts", 1).map_err(unreachable)?;
            return Ok((start, Some(Lobby { store, start, answered: BTreeMap::new() })));
        }
        let ticket = store.add("tickets", 1).map_err(unreachable)?.to_string();
        store.set(&ticket_of(rank), ticket.as_bytes()).map_err(unreachable)?;
        let (answer, began) = (admission(&ticket), Instant::now());
        while !store.has(&answer).map_err(unreachable)? {
            if began.elapsed() > self.timeout {
                let seconds = self.timeout.as_secs();
                return Err(Error::Rank(format!(
                    "rank {rank}: rank 0 did not come within {seconds} s (`ranks.start_timeout_seconds`)"
                )));
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        let start = store.get(&answer).map_err(unreachable)?;
        let start = String::from_utf8_lossy(&start).parse().map_err(|_| {
            Error::Rank(format!(
                "rank {rank}: the launcher's store does not say which start this is; is its port another program's?"
            ))
        })?;
        Ok((start, None))
    }

    fn by_lead(&self) -> Result<Meeting> {
        let rank = self.place.rank;
        let began = Instant::now();
        loop {
            let start_of = |store: &Store| store.add(&format!("starts/{rank}"), 1);
            // c10d tries twice for so long.
            let left = (self.timeout.saturating_sub(began.elapsed()) / 2).max(Duration::from_secs(1));
            let store = self.connect_within(left, PREFIX, self.host == Host::Own);
            let store = store.and_then(|store| Ok((start_of(&store)?, store)));
            match store {
                Ok((1, store)) => {
                    let own = self.connect(PREFIX, false).map_err(|error| self.unreachable(&error))?;
                    return Ok(Meeting { store, own, lobby: None });
                }
                // That of a rank 0 which has yet to notice that this rank was lost: it ends soon, and the next one comes.
                _ if self.host == Host::Lead && began.elapsed() < self.timeout => {
                    thread::sleep(BETWEEN_LOOKS * 50);
                }
                Err(error) => return Err(self.unreachable(&error)),
                Ok(_) => {
                    let reason = "is still that of a run which has lost this rank";
                    return Err(Error::Rank(format!(
                        "rank {rank}: the store of the ranks, which rank 0 hosts, {reason}"
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_ranks::Launcher;
    use std::net::TcpListener;

    /// A process that was stopped: the system takes connections to it, and it never answers.
    #[test]
    fn a_host_that_stands_still_is_not_waited_for() {
        let stopped = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let place = Place {
            rank: 1,
            local_rank: 1,
            world_size: 2,
            local_world_size: 2,
            master_addr: "127.0.0.1".into(),
            master_port: stopped.local_addr().expect("it listens").port(),
            has_agent_store: false,
            restart_count: 0,
            launcher: Launcher::Variables,
        };
        for (host, who) in [(Host::Lead, "which rank 0 hosts"), (Host::Launcher, "which the launcher holds")] {
            let Err(error) = Meeting::at(&place, host, Duration::from_secs(1)) else { panic!("nobody answered") };
            assert!(error.to_string().contains(who), "{error}");
        }
    }
}
