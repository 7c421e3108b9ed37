//! Lines on stderr for whoever watches. Nobody need be there, and nothing may depend on it.

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// So long a line waits to be taken. Who reads at all takes it within moments, and the time is the run's.
const LIMIT: Duration = Duration::from_secs(2);

/// What a pipe with any room takes whole, and without waiting (`PIPE_BUF` of Linux).
const PIECE: usize = 4096;

/// So many of the lines that were left out are kept for the end of the program.
const KEPT: usize = 20;

/// Between two attempts where there is said to be room, and is none: another process was quicker.
const MOMENT: Duration = Duration::from_millis(10);

static STDERR: LazyLock<Listener<Stderr>> = LazyLock::new(|| Listener::new(Stderr::open(), LIMIT));

/// Writes a line to stderr as `eprintln!` does, except that it goes on where that panics, behind a pipe whose reader is gone or on a disk
/// that is full, and where that waits, behind a pipe that is full or on a terminal that Ctrl-S holds. There a line is left out after a
/// moment, the next ones at once, and as soon as there is room again it is said how many they were.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say_line(::std::format_args!($($words)*))
    };
}

/// What [`say!`](macro@crate::say) does with its words.
pub fn say_line(words: Arguments<'_>) {
    // In one piece: the ranks of a run write to the same place.
    STDERR.line(&format!("{words}\n"));
}

/// Writes to stderr what is worth nothing later, as the picture of a bar: what is not taken without waiting is dropped, and not counted.
/// Whether all of it was taken.
pub fn say_at_once(words: &str) -> bool {
    STDERR.at_once(words)
}

/// Writes to stderr what a program ends with, whole lines or nothing, behind the last lines that were left out and how many there were before
/// them: nothing can be said later. Where a moment is not enough, `patience` is asked how much longer it may take. Whether all of it was
/// taken.
pub fn say_last(words: &str, patience: impl FnOnce() -> Duration) -> bool {
    STDERR.last(words, patience)
}

/// Where lines go, and whether they are taken there.
struct Listener<W> {
    limit: Duration,
    state: Mutex<State<W>>,
    writer_is_back: Condvar,
}

struct State<W> {
    /// Away while a thread writes, for that may take its time: nobody holds the lock so long.
    writer: Option<W>,
    /// The last line was not taken: the next ones do not wait.
    is_stuck: bool,
    /// A line was taken in part.
    is_cut: bool,
    /// Lines that were not taken, and of which nothing was said yet.
    left_out: u64,
    /// The last of them.
    kept: VecDeque<String>,
}

impl<W> State<W> {
    /// What is to be said first where so many lines are lost.
    fn notice(&self, lost: u64) -> String {
        let end = if self.is_cut { "\n" } else { "" };
        match lost {
            0 => end.to_owned(),
            1 => format!("{end}one line was left out: nobody read it\n"),
            many => format!("{end}{many} lines were left out: nobody read them\n"),
        }
    }

    fn leave_out(&mut self, line: &str) {
        self.left_out += 1;
        self.kept.push_back(line.to_owned());
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// So many of those that were left out were told of. Other threads may have left out more meanwhile.
    fn forget(&mut self, told: u64) {
        self.left_out -= told;
        while self.kept.len() as u64 > self.left_out {
            self.kept.pop_front();
        }
    }

    /// The end of what was taken is the end of a line, or is not.
    fn see_end(&mut self, taken: &[u8]) {
        if let Some(&last) = taken.last() {
            self.is_cut = last != b'\n';
        }
    }
}

impl<W: AsFd + Write> Listener<W> {
    fn new(writer: W, limit: Duration) -> Listener<W> {
        let state = State { writer: Some(writer), is_stuck: false, is_cut: false, left_out: 0, kept: VecDeque::new() };
        Listener { limit, state: Mutex::new(state), writer_is_back: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, and the writer where no other thread has it by then.
    fn take_writer(&self, deadline: Instant) -> (MutexGuard<'_, State<W>>, Option<W>) {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_away = |state: &mut State<W>| state.writer.is_none();
        let waited = self.writer_is_back.wait_timeout_while(self.lock(), left, is_away);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let writer = state.writer.take();
        (state, writer)
    }

    /// Writes a line, or leaves it out. Waiting for other threads counts as waiting.
    fn line(&self, line: &str) {
        let deadline = Instant::now() + self.limit;
        let (mut state, writer) = self.take_writer(deadline);
        let Some(mut writer) = writer else {
            state.leave_out(line);
            return;
        };
        let told = state.left_out;
        let notice = state.notice(told);
        let text = format!("{notice}{line}");
        let deadline = if state.is_stuck { Instant::now() } else { deadline };
        drop(state);
        let taken = offer(&mut writer, text.as_bytes(), deadline);
        let mut state = self.lock();
        state.writer = Some(writer);
        state.is_stuck = taken < text.len();
        state.see_end(&text.as_bytes()[..taken]);
        if taken >= notice.len() {
            state.forget(told);
        }
        if state.is_stuck {
            state.leave_out(line);
        }
        drop(state);
        self.writer_is_back.notify_one();
    }

    /// Writes the last words behind the lines that are kept. Whether all was taken.
    fn last(&self, words: &str, patience: impl FnOnce() -> Duration) -> bool {
        let moment = Instant::now() + self.limit;
        // Asked once, and where a moment is enough not at all.
        let deadline = LazyCell::new(|| Instant::now() + patience());
        let (mut state, mut writer) = self.take_writer(moment);
        if writer.is_none() {
            drop(state);
            (state, writer) = self.take_writer(*deadline);
        }
        let Some(mut writer) = writer else {
            return false;
        };
        let told = state.left_out;
        let lost = told - state.kept.len() as u64;
        let kept: String = state.kept.iter().map(String::as_str).collect();
        let text = format!("{}{kept}{words}", state.notice(lost));
        let moment = if state.is_stuck { Instant::now() } else { moment };
        drop(state);
        let mut taken = offer(&mut writer, text.as_bytes(), moment);
        if taken < text.len() {
            taken += offer(&mut writer, &text.as_bytes()[taken..], *deadline);
        }
        let mut state = self.lock();
        state.writer = Some(writer);
        state.is_stuck = taken < text.len();
        state.see_end(&text.as_bytes()[..taken]);
        if !state.is_stuck {
            state.forget(told);
        }
        drop(state);
        self.writer_is_back.notify_one();
        taken == text.len()
    }

    /// Whether words were taken without waiting for anybody.
    fn at_once(&self, words: &str) -> bool {
        let writer = self.lock().writer.take();
        let Some(mut writer) = writer else {
            return false;
        };
        let taken = offer(&mut writer, words.as_bytes(), Instant::now());
        self.lock().writer = Some(writer);
        self.writer_is_back.notify_one();
        taken == words.len()
    }
}

/// How many bytes were taken before the deadline. All of them, where writing fails: nobody is left to tell, and a run is worth more than
/// what it says.
fn offer<W: AsFd + Write>(writer: &mut W, text: &[u8], deadline: Instant) -> usize {
    let mut taken = 0;
    while taken < text.len() {
        if !has_room(writer, deadline) {
            return taken;
        }
        let end = text.len().min(taken + PIECE);
        match writer.write(&text[taken..end]) {
            Ok(0) => return text.len(),
            Ok(written) => taken += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    return taken;
                }
                thread::sleep(MOMENT);
            }
            Err(_) => return text.len(),
        }
    }
    taken
}

/// Whether there is room before the deadline, or an error to be had by writing: also a reader that is gone ends the waiting.
#[cfg(target_os = "linux")]
fn has_room<W: AsFd>(writer: &W, deadline: Instant) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else {
            return true;
        };
        match poll(&mut [PollFd::new(writer, PollFlags::OUT)], Some(&left)) {
            Ok(0) => return false,
            // A signal, which is no answer.
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn has_room<W: AsFd>(_: &W, _: Instant) -> bool {
    true
}

/// stderr, where it can be had by a descriptor of our own.
enum Stderr {
    /// Refuses what does not fit in place of waiting.
    Own(File),
    /// Refuses nothing: a terminal that has some room may hold whoever writes more, and a pipe, where another process is quicker.
    Shared(io::Stderr),
}

impl Stderr {
    fn open() -> Stderr {
        open_once_more().map_or_else(|| Stderr::Shared(io::stderr()), Stderr::Own)
    }
}

/// The pipe or terminal behind stderr. `O_NONBLOCK` of stderr itself would be that of all who share it, such as the shell. A file is not
/// opened: its end is known to the descriptor that is there. Who runs as another user than made the pipe may not.
#[cfg(target_os = "linux")]
fn open_once_more() -> Option<File> {
    use rustix::fs::OFlags;
    use std::fs;
    use std::io::IsTerminal;
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let path = "/proc/self/fd/2";
    let is_pipe = fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    if !is_pipe && !io::stderr().is_terminal() {
        return None;
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    File::options().write(true).custom_flags(flags.bits() as i32).open(path).ok()
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn open_once_more() -> Option<File> {
    None
}

impl AsFd for Stderr {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stderr::Own(own) => own.as_fd(),
            Stderr::Shared(shared) => shared.as_fd(),
        }
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stderr::Own(own) => own.write(bytes),
            Stderr::Shared(shared) => shared.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{PipeReader, PipeWriter, Read, pipe};

    fn with_limit(limit: Duration) -> (PipeReader, Listener<PipeWriter>) {
        let (reader, writer) = pipe().unwrap();
        (reader, Listener::new(writer, limit))
    }

    /// Says lines of a piece each until one is left out: how many were taken.
    fn fill(listener: &Listener<PipeWriter>) -> usize {
        let line = "-".repeat(PIECE - 1) + "\n";
        let mut taken = 0;
        loop {
            listener.line(&line);
            if listener.lock().left_out > 0 {
                return taken;
            }
            taken += 1;
        }
    }

    fn read_all(reader: &mut PipeReader, bytes: usize) {
        reader.read_exact(&mut vec![0; bytes]).unwrap();
    }

    /// All that is left to read.
    fn rest(mut reader: PipeReader, listener: Listener<PipeWriter>) -> String {
        drop(listener);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn lines_that_nobody_reads_are_left_out_and_counted() {
        let limit = Duration::from_millis(300);
        let (mut reader, listener) = with_limit(limit);
        let taken = fill(&listener);
        let began = Instant::now();
        (0..100).for_each(|_| listener.line("lost\n"));
        assert!(began.elapsed() < limit * 50, "each waits anew: {:?}", began.elapsed());
        read_all(&mut reader, taken * PIECE);
        listener.line("there is room again\n");
        listener.line("and still\n");
        let said = rest(reader, listener);
        assert_eq!(said, "101 lines were left out: nobody read them\nthere is room again\nand still\n");
    }

    #[test]
    fn a_line_that_was_cut_off_gets_its_end() {
        let (mut reader, listener) = with_limit(Duration::from_millis(100));
        let taken = fill(&listener);
        read_all(&mut reader, taken * PIECE);
        listener.line(&"-".repeat((taken + 1) * PIECE));
        let mut part = vec![0; taken * PIECE];
        reader.read_exact(&mut part).unwrap();
        assert!(part.starts_with(b"one line was left out: nobody read it\n---"));
        listener.line("there is room again\n");
        let said = rest(reader, listener);
        // Of the one before it was told already.
        assert_eq!(said, "\none line was left out: nobody read it\nthere is room again\n");
    }

    #[test]
    fn last_words_wait_for_who_reads_them_and_bring_the_last_lines_before_them() {
        let (mut reader, listener) = with_limit(Duration::from_millis(100));
        let taken = fill(&listener);
        (0..30).for_each(|number| listener.line(&format!("line {number}\n")));
        let reading = thread::spawn(move || {
            // Longer than a line waits.
            thread::sleep(Duration::from_millis(500));
            read_all(&mut reader, taken * PIECE);
            let mut said = String::new();
            reader.read_to_string(&mut said).map(|_| said)
        });
        assert!(listener.last("error: why\n", || Duration::from_secs(60)));
        drop(listener);
        let kept: String = (10..30).map(|number| format!("line {number}\n")).collect();
        let expected = format!("11 lines were left out: nobody read them\n{kept}error: why\n");
        assert_eq!(reading.join().unwrap().unwrap(), expected);
    }

    #[test]
    fn last_words_wait_no_longer_than_they_may() {
        let (mut reader, listener) = with_limit(Duration::from_millis(100));
        assert!(listener.last("", || panic!("there is nothing to say")));
        assert!(listener.last("bye\n", || panic!("there is room")));
        read_all(&mut reader, "bye\n".len());
        let taken = fill(&listener);
        let began = Instant::now();
        assert!(!listener.last("lost\n", || Duration::from_millis(100)));
        assert!(began.elapsed() < Duration::from_secs(30));
        // A line that was kept is said once.
        read_all(&mut reader, taken * PIECE);
        assert!(listener.last("read\n", || panic!("there is room")));
        assert!(listener.last("bye\n", || panic!("there is room")));
        let kept = "-".repeat(PIECE - 1) + "\n";
        assert_eq!(rest(reader, listener), format!("{kept}read\nbye\n"));
    }

    #[test]
    fn a_reader_that_is_gone_is_not_waited_for() {
        let (reader, listener) = with_limit(Duration::from_secs(60));
        drop(reader);
        let began = Instant::now();
        (0..100).for_each(|_| listener.line("lost\n"));
        assert!(listener.last("lost\n", || panic!("nobody will read it")));
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(listener.lock().left_out, 0);
    }

    #[test]
    fn of_threads_that_speak_at_once_none_waits_for_all_the_others() {
        let limit = Duration::from_millis(500);
        let (_reader, listener) = with_limit(limit);
        fill(&listener);
        listener.lock().is_stuck = false;
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| listener.line("lost\n"));
            }
        });
        assert!(began.elapsed() < limit * 10, "one after the other: {:?}", began.elapsed());
        assert_eq!(listener.lock().left_out, 21);
    }

    #[test]
    fn what_is_for_now_is_dropped_and_not_counted() {
        let (mut reader, listener) = with_limit(Duration::from_millis(100));
        assert!(listener.at_once("drawn, "));
        read_all(&mut reader, "drawn, ".len());
        let taken = fill(&listener);
        assert!(!listener.at_once("lost"));
        read_all(&mut reader, taken * PIECE);
        assert!(listener.at_once("drawn again, "));
        listener.line("and said\n");
        assert_eq!(rest(reader, listener), "drawn again, one line was left out: nobody read it\nand said\n");
    }

    #[test]
    fn a_line_that_is_longer_than_a_pipe_reaches_who_reads_it() {
        let (mut reader, listener) = with_limit(Duration::from_secs(60));
        let line = "0123456789".repeat(100_000) + "\n";
        let reading = thread::spawn(move || {
            let mut said = String::new();
            reader.read_to_string(&mut said).map(|_| said)
        });
        listener.line(&line);
        drop(listener);
        assert!(reading.join().unwrap().unwrap() == line);
    }
}
