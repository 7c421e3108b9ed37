//! What a target is, and seeded damage: fuzzing for a moment.

use std::fs;
use std::path::{Path, PathBuf};

use sdtrain_random::{Purpose, Stream};

/// One reader of files of others.
pub struct Target {
    /// Its name, that of its fuzz target.
    pub name: &'static str,
    /// Feeds it, in a folder of its own. A panic is a fault of the program.
    pub run: fn(&Path, &[u8]),
    /// Small inputs that it accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Feeds it its seeds, and so many inputs (or `SDTRAIN_MUTATIONS`) with seeded damage to them, made of `tokens` besides themselves.
    #[allow(dead_code, reason = "the fuzz targets leave the damage to libFuzzer")]
    pub fn feed(&self, folder: &Path, rounds: u64, tokens: &[&[u8]]) {
        let rounds =
            std::env::var("SDTRAIN_MUTATIONS").map_or(rounds, |more| more.parse().expect("a number of inputs"));
        let seeds = (self.seeds)();
        for seed in &seeds {
            (self.run)(folder, seed);
        }
        for round in 0..rounds {
            let mut random = Stream::new(42, Purpose::Order, 0, round);
            let mut input = seeds[random.below(seeds.len() as u64) as usize].clone();
            for _ in 0..=random.below(4) {
                damage(&mut input, &seeds, tokens, &mut random);
            }
            (self.run)(folder, &input);
        }
    }
}

fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], tokens: &[&[u8]], random: &mut Stream) {
    let mut place = |length: usize| random.below(length as u64 + 1) as usize;
    let (from, to) = (place(input.len()), place(input.len()));
    let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 64));
    match place(6) {
        0 if from < input.len() => input[from] ^= 1 << place(7),
        1 if from < input.len() => input[from] = [0, 0x7F, 0x80, 0xFF, b'0', b' '][place(5)],
        2 => drop(input.drain(from..to)),
        3 => {
            let again = input[from..to].to_vec();
            input.splice(to..to, again);
        }
        4 => input.truncate(from),
        5 => {
            let other = &seeds[place(seeds.len() - 1)];
            let rest = other[place(other.len())..].to_vec();
            input.splice(from.., rest);
        }
        _ => {
            let token = tokens[place(tokens.len() - 1)];
            input.splice(from..from, token.iter().copied());
        }
    }
}

/// A seed: the byte that chooses settings in front of a file.
pub fn with_choice(choice: u8, file: &[u8]) -> Vec<u8> {
    [&[choice], file].concat()
}

/// Writes a file into the folder of a target.
pub fn write(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file can be written");
    path
}
