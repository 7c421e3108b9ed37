//! Tells an image that is broken from a disk that did not give it: of the first another takes the place, the second ends the run.

use std::thread;
use std::time::Duration;

use crate::DataError;
use crate::source::ImageLocation;

/// How long a network disk gets to find a file again whose handle went stale.
const BETWEEN: Duration = Duration::from_millis(200);

/// What `read` makes of the files at `locations`, or in the second place why they cannot be used; it is tried once more.
///
/// # Errors
/// [`DataError::Disk`] where a file cannot be read now for a reason that does not lie in it: whoever reads it later may well get
/// something else, and what a run learns must not depend on that.
pub(crate) fn read_twice<'l, T>(
    locations: impl Iterator<Item = &'l ImageLocation> + Clone,
    read: impl Fn() -> Result<T, String>,
) -> Result<Result<T, String>, DataError> {
    if let Ok(content) = read() {
        return Ok(Ok(content));
    }
    if refused(locations.clone()).is_some() {
        thread::sleep(BETWEEN);
    }
    match read() {
        Ok(content) => Ok(Ok(content)),
        Err(reason) => refused(locations).map_or(Ok(Err(reason)), Err),
    }
}

/// The first of the files that the disk does not give.
fn refused<'l>(mut locations: impl Iterator<Item = &'l ImageLocation>) -> Option<DataError> {
    locations.find_map(|location| {
        let refusal = location.refusal()?;
        Some(DataError::Disk { path: location.path().to_owned(), reason: refusal.to_string() })
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::source::Container;

    /// Gives what it holds after so many reads that fail.
    #[derive(Debug)]
    struct Flaky {
        failures: AtomicUsize,
        error: fn() -> io::Error,
    }

    impl Container for Flaky {
        fn file(&self) -> &Path {
            Path::new("shard.tar")
        }

        fn read(&self, _: u64) -> io::Result<Vec<u8>> {
            let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            left.map_or_else(|_| Ok(b"content".to_vec()), |_| Err((self.error)()))
        }

        fn length(&self, _: u64) -> io::Result<u64> {
            Ok(7)
        }
    }

    fn read_after(failures: usize, error: fn() -> io::Error) -> Result<Result<Vec<u8>, String>, DataError> {
        let container = Arc::new(Flaky { failures: AtomicUsize::new(failures), error });
        let location = ImageLocation::part(PathBuf::from("shard.tar/a.png"), container, 0);
        read_twice([&location].into_iter(), || location.read().map_err(|error| error.to_string()))
    }

    fn stale() -> io::Error {
        io::Error::from_raw_os_error(116)
    }

    #[test]
    fn a_read_that_fails_is_tried_once_more() {
        for failures in [0, 1, 2] {
            assert_eq!(read_after(failures, stale).unwrap().unwrap(), b"content", "{failures}");
        }
    }

    #[test]
    fn a_disk_that_goes_on_refusing_is_not_a_broken_image() {
        let error = read_after(100, stale).unwrap_err();
        assert!(matches!(&error, DataError::Disk { path, .. } if path == Path::new("shard.tar/a.png")), "{error}");
    }

    #[test]
    fn what_is_wrong_with_the_file_itself_is_no_fault_of_the_disk() {
        // Absent, forbidden, a name too long, a circle of links.
        let broken: [fn() -> io::Error; 5] = [
            || io::Error::other("is too long"),
            || io::Error::from_raw_os_error(2),
            || io::Error::from_raw_os_error(13),
            || io::Error::from_raw_os_error(36),
            || io::Error::from_raw_os_error(40),
        ];
        for error in broken {
            assert!(read_after(100, error).unwrap().is_err(), "{}", error());
        }
    }
}
