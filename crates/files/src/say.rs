//! Lines on stderr for whoever watches. Nobody need be there, and nothing may depend on it.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Writes a line to stderr as `eprintln!` does, except that it goes on where that panics: behind a pipe whose reader is gone, on a disk
/// that is full.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say_line(::std::format_args!($($words)*))
    };
}

/// What [`say!`](macro@crate::say) does with its words.
pub fn say_line(words: Arguments<'_>) {
    // In one piece: the ranks of a run write to the same place.
    let line = format!("{words}\n");
    // Nobody is left to tell, and a run is worth more than what it says.
    let _ = io::stderr().write_all(line.as_bytes());
}
