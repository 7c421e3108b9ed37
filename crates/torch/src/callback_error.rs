//! Errors of closures that C++ calls: what crosses C++ is a number, and the error waits here for whoever reads it.
//!
//! The number travels in the exception's text, so that it reaches the caller of `backward` from libtorch's device thread as well, and
//! that of one thread is never taken for another's.

use crate::error::Error;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Errors that nobody has read, and the last number given.
struct Unread {
    errors: BTreeMap<c_int, Error>,
    last: c_int,
}

fn unread() -> MutexGuard<'static, Unread> {
    static UNREAD: Mutex<Unread> = Mutex::new(Unread { errors: BTreeMap::new(), last: 0 });
    UNREAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps `error` until it is read: what the callback has to return, never 0.
pub(crate) fn leave(error: Error) -> c_int {
    let mut unread = unread();
    unread.last = unread.last.checked_add(1).unwrap_or(1);
    let number = unread.last;
    unread.errors.insert(number, error);
    number
}

/// The error that the text of an exception of the shim (`sd_check_callback`) stands for, once.
pub(crate) fn take(text: &str) -> Option<Error> {
    let (_, after) = text.split_once("a callback failed: error ")?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    unread().errors.remove(&after[..digits].parse().ok()?)
}
