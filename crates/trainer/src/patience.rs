//! A disk that refuses is asked again: what a run has learned waits in memory until it can be saved.

use crate::error::{Error, Result};
use sdtrain_checkpoint::{causes, storage_error};
use sdtrain_signals::StopRequest;
use std::time::{Duration, Instant};

/// The first wait; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often a wait looks whether the run is to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// Does `work`, and where the disk refuses it, does it again until `limit` is over or a stop is asked for. `say` is told of each
/// refusal. Another error than the disk's is returned at once.
pub(crate) fn until_the_disk_takes_it<T>(
    limit: Duration,
    stop: &StopRequest,
    say: &mut dyn FnMut(&str),
    work: &mut dyn FnMut() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    loop {
        let error = match work() {
            Err(error) if is_of_the_disk(&error) => error,
            result => return result,
        };
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() || stop.is_set() {
            return Err(error);
        }
        let wait_now = wait.min(left);
        say(&format!(
            "warning: {}: trying again in {} s, for {} s more; nothing is lost yet",
            with_sources(&error),
            wait_now.as_secs_f64().ceil(),
            left.as_secs()
        ));
        sleep(wait_now, stop);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Whether the file system is the cause.
fn is_of_the_disk(error: &Error) -> bool {
    matches!(error, Error::Storage { .. }) || storage_error(error).is_some()
}

/// The message with those of its causes that it does not repeat itself.
fn with_sources(error: &Error) -> String {
    causes(error).skip(1).fold(error.to_string(), |text, source| {
        let more = source.to_string();
        if text.contains(&more) { text } else { format!("{text}: {more}") }
    })
}

fn sleep(time: Duration, stop: &StopRequest) {
    let until = Instant::now() + time;
    while Instant::now() < until && !stop.is_set() {
        std::thread::sleep(GLANCE.min(until.saturating_duration_since(Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn full() -> Error {
        Error::storage("checkpoints", io::Error::from(io::ErrorKind::StorageFull))
    }

    #[test]
    fn a_refusal_is_tried_again_until_it_succeeds() {
        let (mut tries, mut said) = (0, Vec::new());
        let mut say = |text: &str| said.push(text.to_string());
        let found = until_the_disk_takes_it(Duration::from_secs(60), &StopRequest::never(), &mut say, &mut || {
            tries += 1;
            if tries < 2 { Err(full()) } else { Ok(tries) }
        });
        assert_eq!(found.unwrap(), 2);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("checkpoints") && said[0].contains("no storage space"), "{said:?}");
    }

    #[test]
    fn neither_a_spent_limit_nor_another_error_is_waited_for() {
        for (limit, error) in [(Duration::ZERO, full()), (Duration::from_secs(60), Error::WeightsNotFinite { step: 3 })]
        {
            let (mut tries, mut error) = (0, Some(error));
            let found: Result<()> =
                until_the_disk_takes_it(limit, &StopRequest::never(), &mut |_| panic!("it waits"), &mut || {
                    tries += 1;
                    Err(error.take().expect("one try"))
                });
            assert!(found.is_err());
            assert_eq!(tries, 1);
        }
    }
}
