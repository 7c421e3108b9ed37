//! Shows that a run survives, and that these tests would notice if it did not.
#![doc = include_str!("../README.md")]

pub mod bugs;
pub mod calls;
pub mod draw;
pub mod flips;
pub mod kills;
pub mod ledger;
pub mod oracle;
pub mod power;
pub mod program;
pub mod ranks;
pub mod run;
pub mod scene;
pub mod soak;
pub mod states;

/// What a method found.
#[derive(Debug, Default)]
pub struct Report {
    /// Kills, calls, cuts, states or bytes that were tried.
    pub tried: u64,
    /// What went wrong, in words that say how to try it again.
    pub failures: Vec<String>,
    /// Anything else worth a place in the ledger.
    pub note: String,
    /// Why nothing could be tried on this machine.
    pub skipped: Option<String>,
}

impl Report {
    /// Nothing could be tried.
    pub fn skipped(reason: impl Into<String>) -> Report {
        Report { skipped: Some(reason.into()), ..Report::default() }
    }

    pub(crate) fn tried(&mut self, what: impl FnOnce() -> String, result: Result<(), String>) {
        self.tried += 1;
        if let Err(reason) = result {
            self.failures.push(format!("{}: {reason}", what()));
        }
    }
}

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The first to try; those before it were tried on another day.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// No new one is begun after this.
    pub until: std::time::Instant,
    /// Stop at the first failure, as it is enough to convict a seeded bug.
    pub stop_at_failure: bool,
}

impl Extent {
    /// So many from the first on, without a limit of time.
    pub fn short(count: u64) -> Extent {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(3600);
        Extent { from: 0, count, until, stop_at_failure: true }
    }

    pub(crate) fn goes_on(&self, report: &Report) -> bool {
        report.tried < self.count
            && std::time::Instant::now() < self.until
            // More of the same would not help whoever reads it.
            && report.failures.len() < if self.stop_at_failure { 1 } else { 20 }
    }
}
