//! The terminal that a bar is drawn on, which holds nobody: what it does not take at once is not drawn, and the next drawing is.

use console::Term;
use indicatif::TermLike;
use sdtrain_files::say_at_once;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// stderr, as indicatif has it, but for its writing: `Term` waits where Ctrl-S holds the terminal, or nobody reads what is on it.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Is asked for its size alone.
    screen: Term,
    drawing: Mutex<String>,
}

impl Terminal {
    pub(crate) fn stderr() -> Terminal {
        Terminal { screen: Term::stderr(), drawing: Mutex::default() }
    }

    fn drawing(&self) -> MutexGuard<'_, String> {
        self.drawing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The escape sequence that moves the cursor by `n`; to the terminal a zero is a one.
    fn move_cursor(&self, n: usize, direction: char) -> io::Result<()> {
        if n > 0 {
            self.drawing().push_str(&format!("\x1b[{n}{direction}"));
        }
        Ok(())
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        self.screen.size().1
    }

    fn height(&self) -> u16 {
        self.screen.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        let mut drawing = self.drawing();
        drawing.push_str(line);
        drawing.push('\n');
        Ok(())
    }

    fn write_str(&self, words: &str) -> io::Result<()> {
        self.drawing().push_str(words);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write_str("\r\x1b[2K")
    }

    /// # Errors
    /// Where the drawing was not taken. Then indicatif goes on counting the lines of the one before, which is what stands there.
    fn flush(&self) -> io::Result<()> {
        let drawing = std::mem::take(&mut *self.drawing());
        match drawing.is_empty() || say_at_once(&drawing) {
            true => Ok(()),
            false => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    fn draw(on: &dyn TermLike) {
        for n in [0, 1, 12] {
            on.move_cursor_up(n).unwrap();
            on.move_cursor_down(n).unwrap();
            on.move_cursor_right(n).unwrap();
            on.move_cursor_left(n).unwrap();
        }
        on.clear_line().unwrap();
        on.write_str("epoch 1  ━━╸──").unwrap();
        on.write_line("").unwrap();
        on.write_line("saved").unwrap();
    }

    #[test]
    fn a_drawing_has_the_bytes_that_console_writes() {
        let mut written = tempfile::tempfile().unwrap();
        let console = Term::read_write_pair(written.try_clone().unwrap(), written.try_clone().unwrap());
        draw(&console);
        let terminal = Terminal::stderr();
        draw(&terminal);
        let mut expected = String::new();
        written.rewind().unwrap();
        written.read_to_string(&mut expected).unwrap();
        assert_eq!(*terminal.drawing(), expected);
    }
}
