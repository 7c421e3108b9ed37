//! What processes say, line by line, with their ranks in front.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use sdtrain_files::say_line;

/// Where lines go; each is written as a whole.
pub(super) type Sink = Arc<Mutex<dyn Write + Send>>;

/// A line that is longer is broken here: whoever never ends one must not fill the memory.
const LONGEST: usize = 1 << 20;

/// Where the launcher writes to.
#[derive(Clone)]
pub(super) struct Output {
    pub stdout: Sink,
    pub stderr: Sink,
}

impl Output {
    pub fn of_this_process() -> Output {
        Output { stdout: Arc::new(Mutex::new(io::stdout())), stderr: Arc::new(Mutex::new(Said)) }
    }

    /// Says something of the launcher's own.
    pub fn say(&self, text: &str) {
        write_line(&self.stderr, "[launch] ", text.as_bytes());
    }
}

/// stderr by [`say_line`]: where nobody takes what is said, the launcher goes on, hears signals, and ends with its processes.
struct Said;

impl Write for Said {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        say_line(format_args!("{}", text.strip_suffix('\n').unwrap_or(&text)));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes every line of `from` to `sink` with `prefix` in front, until there is no more. What a program draws over and over with carriage
/// returns becomes lines as well.
///
/// Goes on reading when nobody listens any more: a process that cannot get rid of its lines would wait for ever.
pub(super) fn relay(mut from: impl Read, prefix: &str, sink: &Sink) {
    let mut line = Vec::new();
    let mut block = [0; 8192];
    loop {
        let read = match from.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &block[..read] {
            let is_end = byte == b'\n' || byte == b'\r';
            if !is_end {
                line.push(byte);
            }
            // An empty line is left out: it says nothing, and behind a carriage return there would be one for each line.
            if (is_end && !line.is_empty()) || line.len() == LONGEST {
                write_line(sink, prefix, &line);
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        write_line(sink, prefix, &line);
    }
}

fn write_line(sink: &Sink, prefix: &str, line: &[u8]) {
    let whole = [prefix.as_bytes(), line, b"\n"].concat();
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody is left to tell when it is closed.
    let _ = sink.write_all(&whole).and_then(|()| sink.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its text in small pieces, as pipes do.
    struct InPieces<'a>(&'a [u8]);

    impl Read for InPieces<'_> {
        fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
            let (piece, rest) = self.0.split_at(self.0.len().min(3));
            block[..piece.len()].copy_from_slice(piece);
            self.0 = rest;
            Ok(piece.len())
        }
    }

    fn relayed(text: &[u8]) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink: Sink = written.clone();
        relay(InPieces(text), "[rank 3] ", &sink);
        let written = written.lock().expect("nobody panicked").clone();
        String::from_utf8_lossy(&written).into_owned()
    }

    #[test]
    fn every_line_gets_its_rank() {
        assert_eq!(relayed(b"step 1\nstep 2\n"), "[rank 3] step 1\n[rank 3] step 2\n");
        assert_eq!(relayed(b""), "");
    }

    #[test]
    fn the_last_line_is_ended_where_the_process_did_not() {
        assert_eq!(relayed(b"one\ntwo"), "[rank 3] one\n[rank 3] two\n");
    }

    #[test]
    fn bars_that_are_drawn_over_become_lines() {
        assert_eq!(relayed(b"10%\r20%\r\nend\n"), "[rank 3] 10%\n[rank 3] 20%\n[rank 3] end\n");
    }

    #[test]
    fn a_line_without_an_end_is_broken() {
        let text = vec![b'x'; LONGEST + 5];
        let lines: Vec<usize> = relayed(&text).lines().map(str::len).collect();
        assert_eq!(lines, [9 + LONGEST, 9 + 5]);
    }
}
