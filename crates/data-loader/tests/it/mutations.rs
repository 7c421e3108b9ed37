//! What fuzzing does for hours, done for a moment: seeded damage to small valid input, fed to the same functions.

#[path = "../../../../fuzz/src/lib.rs"]
#[allow(dead_code)]
mod targets;

use sdtrain_random::{Purpose, Stream};
use targets::TARGETS;

/// What damage is made of besides the input itself.
const TOKENS: [&[u8]; 14] = [
    b"\0",
    b"\xff",
    b"\n",
    b"\"",
    b"{",
    b"}",
    b"|",
    b",",
    b"../",
    b"[[",
    b"= nan",
    b"99999999999999999999",
    b"ustar\x0000",
    "瓶".as_bytes(),
];

fn feed(name: &str, rounds: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let seeds = (target.seeds)();
    for seed in &seeds {
        (target.run)(folder.path(), seed);
    }
    for round in 0..rounds {
        let mut random = Stream::new(42, Purpose::Order, 0, round);
        let mut input = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=random.below(4) {
            damage(&mut input, &seeds, &mut random);
        }
        (target.run)(folder.path(), &input);
    }
}

fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Stream) {
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
            let token = TOKENS[place(TOKENS.len() - 1)];
            input.splice(from..from, token.iter().copied());
        }
    }
}

#[test]
fn damaged_captions_are_read_or_named() {
    feed("captions", 3000);
}

#[test]
fn damaged_tar_files_are_read_or_named() {
    feed("tar", 3000);
}

#[test]
fn damaged_tables_are_read_or_named() {
    feed("tables", 3000);
}

#[test]
fn damaged_dataset_files_are_read_or_named() {
    feed("kohya_toml", 1000);
}
