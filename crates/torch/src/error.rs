//! What can go wrong inside libtorch, and how a panic of `tch` becomes such an error.

use crate::callback_error;
use crate::gradient_tracking::{set_gradient_tracking, tracks_gradients};
use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// An error of libtorch or of the shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device (or the host) has no memory left for an allocation.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// Any other refusal of libtorch, in its words without the C++ backtrace.
    #[error("{0}")]
    Torch(String),
    /// A panic that did not come from libtorch: a defect of this program.
    #[error("internal error: {0}")]
    Panic(String),
    /// The CUDA backend could not be loaded.
    #[error("{0}")]
    Cuda(String),
}

/// Result of an operation on libtorch.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn from_message(message: &str) -> Error {
        // libtorch appends the C++ stack after this line; it helps nobody who did not build it.
        let text = ["Exception raised from", "\nframe #", "\nC++ CapturedTraceback"]
            .into_iter()
            .fold(message, |text, trace| text.split(trace).next().unwrap_or(text));
        let text = text.trim().to_string();
        if let Some(error) = callback_error::take(&text) {
            return error;
        }
        let lower = text.to_lowercase();
        let says = |phrases: &[&str]| phrases.iter().any(|words| lower.contains(words));
        if says(&["out of memory", "can't allocate memory", "bad_alloc"]) || says(&OF_ONEDNN) && memory_is_limited() {
            Error::OutOfMemory(text)
        } else {
            Error::Torch(text)
        }
    }
}

/// What oneDNN says where it finds no memory, and where it lacks an operation: one like it has run before, so that in a process which
/// may not have all the memory there is, it is the first.
const OF_ONEDNN: [&str; 3] =
    ["could not create a primitive", "could not create a memory object", "could not execute a primitive"];

/// Whether somebody has set a limit to the memory of this process (`ulimit -d`, `ulimit -v`).
fn memory_is_limited() -> bool {
    std::fs::read_to_string("/proc/self/limits").is_ok_and(|limits| sets_a_limit(&limits))
}

/// Whether the limits of a process, as Linux lists them, are some for its memory.
fn sets_a_limit(limits: &str) -> bool {
    ["Max data size", "Max address space"].into_iter().any(|name| {
        let soft = limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        soft.is_some_and(|soft| soft != "unlimited")
    })
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        Error::from_message(&error.to_string())
    }
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`; a panic in it (the way `tch`'s unprefixed operators report an error) comes back as an [`Error`].
///
/// Network code uses those operators, because a forward pass in which every line ends in `?` hides the formula;
/// this is the one place where their panics are turned round, so that none reaches a user.
pub fn catch<T>(body: impl FnOnce() -> T) -> Result<T> {
    install_quiet_hook();
    let before = CATCHING.with(|c| c.replace(true));
    let tracks = tracks_gradients();
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    CATCHING.with(|c| c.set(before));
    if result.is_err() {
        // A panic out of `tch::no_grad` leaves them off: nothing would learn from here on.
        set_gradient_tracking(tracks);
    }
    result.map_err(from_panic)
}

/// What is in `result`, or a panic with its error, which [`catch`] gives back as it is: a forward pass asks the shim as it asks `tch`.
pub fn or_panic<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic::panic_any(error))
}

/// The error that a panic amounts to.
pub(crate) fn from_panic(payload: Box<dyn Any + Send>) -> Error {
    const UNWRAPPED: &str = "called `Result::unwrap()` on an `Err` value: ";
    let payload = match payload.downcast::<Error>() {
        Ok(error) => return *error,
        Err(payload) => payload,
    };
    let text = panic_text(payload.as_ref());
    match text.strip_prefix(UNWRAPPED) {
        Some(inner) => {
            let inner = inner.strip_prefix("Torch(\"").and_then(|s| s.strip_suffix("\")")).unwrap_or(inner);
            Error::from_message(&inner.replace("\\n", "\n").replace("\\\"", "\""))
        }
        None => Error::Panic(text),
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string()))
        .unwrap_or_else(|| "a panic without a message".into())
}

/// A caught panic is reported by whoever caught it, so the default hook's print of it is left out.
fn install_quiet_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CATCHING.with(Cell::get) {
                default(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn a_wrong_shape_is_an_error_with_libtorchs_reason() {
        let zeros = |n| Tensor::zeros([n], (Kind::Float, tch::Device::Cpu));
        let error = catch(|| zeros(2) + zeros(3)).unwrap_err().to_string();
        assert!(error.contains("must match the size"), "{error}");
        assert!(!error.contains("frame #"), "{error}");
    }

    #[test]
    fn what_has_no_memory_is_told_from_what_has_another_reason() {
        for (text, is_memory) in [
            ("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory", true),
            ("CUDA out of memory. Tried to allocate 20.00 MiB", true),
            ("std::bad_alloc", true),
            ("The size of tensor a (2) must match the size of tensor b (3)", false),
            // Without a limit it may as well be something that oneDNN lacks.
            ("could not create a primitive", memory_is_limited()),
        ] {
            let error = Error::from_message(text);
            assert_eq!(matches!(error, Error::OutOfMemory(_)), is_memory, "{error:?}");
        }
        let limits = |data: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max data size             {data}            unlimited            bytes     \n\
                 Max address space         unlimited            unlimited            bytes     \n"
            )
        };
        assert!(sets_a_limit(&limits("1024000000")) && !sets_a_limit(&limits("unlimited")) && !sets_a_limit(""));
    }

    #[test]
    fn an_error_of_the_shim_keeps_its_kind_through_a_forward_pass() {
        let failed = || or_panic(Err::<(), _>(Error::OutOfMemory("20 MiB".into())));
        assert!(matches!(catch(failed), Err(Error::OutOfMemory(_))));
        // Once more from within a block that is run again.
        let x = Tensor::ones([1], (Kind::Float, tch::Device::Cpu));
        let block = move |_: &[Tensor]| {
            failed();
            unreachable!("it has failed")
        };
        let failed = catch(|| or_panic(crate::gradient_checkpoint(&[&x], block)));
        assert!(matches!(failed, Err(Error::OutOfMemory(_))), "{failed:?}");
    }

    #[test]
    fn after_an_error_gradients_are_tracked_as_before() {
        let fails = || tch::no_grad(|| panic!("no memory"));
        assert!(catch(fails).map(|_: ()| ()).is_err());
        assert!(tracks_gradients());
        let _untracked = tch::no_grad_guard();
        assert!(catch(fails).map(|_: ()| ()).is_err());
        assert!(!tracks_gradients());
    }

    #[test]
    fn a_defect_of_our_own_is_named_as_one() {
        let error = catch(|| panic!("the bucket is empty")).map(|_: ()| ()).unwrap_err();
        assert!(matches!(error, Error::Panic(_)));
    }
}
