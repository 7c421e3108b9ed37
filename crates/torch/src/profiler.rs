//! What operators run and how long, by libtorch's own profiler.

use crate::error::{Error, Result};
use crate::ffi;
use crate::gradient_checkpoint::check;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;

/// Whether there is one: libtorch would mix up two.
static RECORDS: AtomicBool = AtomicBool::new(false);

/// Records everything that its thread has computed, backward passes and kernels on a GPU included, until it ends; dropped before,
/// what it recorded is gone. There is one at a time.
#[derive(Debug)]
pub struct Profiler {
    /// It ends on the thread that it began on.
    not_send: PhantomData<*const ()>,
}

/// One run of an operator, of a kernel, or a [`span`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfiledEvent {
    /// `aten::mm`, a kernel's name, or what the span was named.
    pub name: String,
    /// A kernel or a copy on a GPU; else what the processor did meanwhile.
    pub on_device: bool,
    /// Made by [`span`].
    pub is_span: bool,
    /// Which of the process's threads; of what is on a device, nothing.
    pub thread: u64,
    /// Nanoseconds of one clock.
    pub start_ns: u64,
    /// Likewise; what runs within another event ends before it.
    pub end_ns: u64,
}

impl Profiler {
    /// Begins to record what is computed on `device`.
    ///
    /// # Errors
    /// Where another one is recording, and what libtorch says.
    pub fn begin(device: Device) -> Result<Profiler> {
        if RECORDS.swap(true, Ordering::Relaxed) {
            return Err(Error::Torch("another profile is being recorded".to_string()));
        }
        #[expect(unsafe_code, reason = "FFI: takes a number")]
        let begun = check(unsafe { ffi::sd_profiler_begin(device.is_cuda().into()) });
        if begun.is_err() {
            RECORDS.store(false, Ordering::Relaxed);
        }
        begun.map(|()| Profiler { not_send: PhantomData })
    }

    /// Ends it: all events, in no order. They are written to `trace` as well, as Chrome's trace events in JSON
    /// (`chrome://tracing`, <https://ui.perfetto.dev>).
    ///
    /// # Errors
    /// What libtorch says, and a file that cannot be written.
    pub fn end(self, trace: &Path) -> Result<Vec<ProfiledEvent>> {
        std::mem::forget(self);
        let path = CString::new(trace.as_os_str().as_bytes()).unwrap_or_default();
        let mut events: Vec<ProfiledEvent> = Vec::new();
        #[expect(unsafe_code, reason = "FFI: path and list live through the call, which alone calls `take_event`")]
        let ended = check(unsafe { ffi::sd_profiler_end(path.as_ptr(), (&raw mut events).cast(), Some(take_event)) });
        RECORDS.store(false, Ordering::Relaxed);
        ended?;
        let renamed = rename(trace);
        renamed.map_err(|error| Error::Torch(format!("cannot write `{}`: {error}", trace.display())))?;
        Ok(events)
    }
}

/// Gives a trace another name than its path: libtorch ends it with that as it is, and one with a quote in it would be no JSON.
fn rename(trace: &Path) -> io::Result<()> {
    const KEY: &[u8] = b"\"traceName\":";
    let mut file = File::options().read(true).write(true).open(trace)?;
    // A path has 4096 bytes at most.
    let tail = file.metadata()?.len().saturating_sub(8192);
    file.seek(SeekFrom::Start(tail))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let Some(at) = end.windows(KEY.len()).position(|window| window == KEY) else {
        // libtorch says nothing of a disk that is full.
        return Err(io::Error::other("its end is missing"));
    };
    let at = tail + (at + KEY.len()) as u64;
    file.set_len(at)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(b" \"sdtrain\"\n}\n")
}

impl Drop for Profiler {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "FFI: without a path nothing is handed over")]
        let _ = unsafe { ffi::sd_profiler_end(std::ptr::null(), null_mut(), None) };
        RECORDS.store(false, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "callback from C++: `target` is the list of `end`, the name lives through the call")]
unsafe extern "C" fn take_event(
    target: *mut c_void,
    name: *const c_char,
    on_device: c_int,
    is_span: c_int,
    thread: u64,
    start_ns: u64,
    end_ns: u64,
) {
    let (events, name) = unsafe { (&mut *target.cast::<Vec<ProfiledEvent>>(), CStr::from_ptr(name)) };
    let name = name.to_string_lossy().into_owned();
    events.push(ProfiledEvent { name, on_device: on_device != 0, is_span: is_span != 0, thread, start_ns, end_ns });
}

/// A part of the work that has a name in what a [`Profiler`] records, until it is dropped; without one it costs nothing.
#[derive(Debug)]
#[must_use]
pub struct Span(*mut c_void);

/// Begins one; those that begin within it have to end within it.
pub fn span(name: &CStr) -> Span {
    let mut span = null_mut();
    #[expect(unsafe_code, reason = "FFI: the name lives through the call, which copies it")]
    let status = unsafe { ffi::sd_span_begin(name.as_ptr(), &mut span) };
    // Work is not given up because it has no name.
    Span(if status == 0 { span } else { null_mut() })
}

impl Drop for Span {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the shim made it and gave it away; deleting null does nothing")]
        unsafe {
            ffi::sd_span_end(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn what_ran_is_there_with_its_span_in_the_list_and_in_the_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("steps \"1\".json");
        let factor = Tensor::rand([64, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let work = || {
            let _span = span(c"forward");
            factor.mm(&factor).sum(Kind::Float)
        };
        drop(work());
        let profiler = Profiler::begin(Device::Cpu).expect("begins");
        work().backward();
        let events = profiler.end(&path).expect("ends");
        let named = |name: &str| events.iter().filter(|event| event.name == name).collect::<Vec<_>>();
        assert_eq!((named("aten::mm").len(), named("forward").len()), (3, 1), "one forward, two backward");
        let (product, span) = (named("aten::mm")[0], named("forward")[0]);
        assert!(span.is_span && !product.is_span && !product.on_device);
        assert!(span.start_ns <= product.start_ns && product.end_ns <= span.end_ns, "{span:?} {product:?}");
        let text = std::fs::read_to_string(&path).expect("written");
        let trace: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let names: Vec<&str> =
            trace["traceEvents"].as_array().expect("a list").iter().filter_map(|e| e["name"].as_str()).collect();
        assert!(names.contains(&"aten::mm") && names.contains(&"forward"), "{names:?}");
        // Once more, and one that is given up.
        drop(Profiler::begin(Device::Cpu).expect("begins again"));
        let profiler = Profiler::begin(Device::Cpu).expect("begins");
        assert!(Profiler::begin(Device::Cpu).is_err(), "two at a time");
        drop(profiler);
    }
}
