//! A disk that refuses is asked again: what a run has learned waits in memory until it can be saved.

use crate::error::{Error, Result};
use sdtrain_checkpoint::{causes, storage_error};
use sdtrain_signals::StopRequest;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// The first wait; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often a wait looks whether the run is to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// Does `work`, and where the disk refuses it, does it again until `limit` is over or a stop is asked for. `say` is told of each
/// refusal. Another error than the disk's is returned at once, and so is one that stays however long it is waited for.
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
            Err(error) if is_of_the_disk(&error) && !is_for_good(&error) => error,
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

/// Whether it is what is asked for that the file system cannot do: a name that is too long or not allowed, a file larger than it takes, the
/// place of something that is not ours. All else may pass, as a full disk, one that is gone, or a folder that was moved.
fn is_for_good(error: &Error) -> bool {
    let Some(refusal) = storage_error(error) else { return false };
    match refusal.kind() {
        ErrorKind::InvalidFilename | ErrorKind::InvalidInput | ErrorKind::FileTooLarge => true,
        // The system's own may be that of a request that a network file system sent twice, and the next try clears it away. With a
        // message of ours somebody else's files are in the place.
        ErrorKind::AlreadyExists => refusal.get_ref().is_some(),
        _ => false,
    }
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

    #[test]
    fn what_no_waiting_mends_is_told_from_what_may_pass() {
        let refused = |source| {
            let path = "run.safetensors".into();
            is_for_good(&Error::StateDict(sdtrain_state_dict::Error::Save { path, source }))
        };
        for kind in [ErrorKind::InvalidFilename, ErrorKind::InvalidInput, ErrorKind::FileTooLarge] {
            assert!(refused(kind.into()), "{kind:?}");
        }
        assert!(refused(io::Error::new(ErrorKind::AlreadyExists, "it holds `latest`, which would be lost")));
        for kind in [
            ErrorKind::AlreadyExists,
            ErrorKind::NotFound,
            ErrorKind::PermissionDenied,
            ErrorKind::QuotaExceeded,
            ErrorKind::ReadOnlyFilesystem,
            ErrorKind::StaleNetworkFileHandle,
            ErrorKind::StorageFull,
            ErrorKind::TimedOut,
        ] {
            assert!(!refused(kind.into()), "{kind:?}");
        }
        assert!(!is_for_good(&full()), "the reason alone is known");
    }

    /// The numbers of Linux: which kind each is taken for is the standard library's to say.
    #[cfg(target_os = "linux")]
    #[test]
    fn numbers_of_the_system_are_told_apart() {
        let refused = |number| {
            let (path, source) = ("run.safetensors".into(), io::Error::from_raw_os_error(number));
            is_for_good(&Error::StateDict(sdtrain_state_dict::Error::Save { path, source }))
        };
        const ENAMETOOLONG: i32 = 36;
        assert!(refused(ENAMETOOLONG));
        for (number, name) in [
            (2, "ENOENT"),
            (5, "EIO"),
            (13, "EACCES"),
            (17, "EEXIST"),
            (24, "EMFILE"),
            (28, "ENOSPC"),
            (30, "EROFS"),
            (110, "ETIMEDOUT"),
            (116, "ESTALE"),
            (122, "EDQUOT"),
        ] {
            assert!(!refused(number), "{name}");
        }
    }
}
