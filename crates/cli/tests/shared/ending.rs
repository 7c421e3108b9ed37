//! A program that must come to an end.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The program's exit code and all it said; none where it takes longer than a minute.
pub fn end_of(command: &mut Command) -> Option<(Option<i32>, String)> {
    let said = tempfile::NamedTempFile::new().unwrap();
    let output = || Stdio::from(File::options().append(true).open(said.path()).unwrap());
    let mut child = command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().unwrap();
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some((status.code(), String::from_utf8_lossy(&fs::read(said.path()).unwrap()).into_owned()));
        }
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
