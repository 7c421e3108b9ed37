//! How long a durable save takes beside a plain write of the same bytes: `… --example save_speed FOLDER [MEGABYTES]`.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use sdtrain_checkpoint::{ManifestInfo, publish};

/// Turns; the middle one of each kind counts.
const TURNS: usize = 7;
const FILE: &str = "tensors.safetensors";

/// What a program does that is content with the system's promise, and one that waits for the disk.
fn plain(path: &Path, content: &[u8], durable: bool) -> Result<(), Box<dyn Error>> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    if durable {
        file.sync_all()?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(args.next().ok_or("name a folder on the disk to measure")?);
    let megabytes: usize = args.next().map_or(Ok(256), |text| text.parse())?;
    fs::create_dir_all(&folder)?;
    // No two megabytes are alike, so that no disk can be clever.
    let content: Vec<u8> =
        (0..megabytes << 17).flat_map(|number: usize| (number as u64 * 0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        let path = folder.join(FILE);
        for (kind, durable) in [(0, false), (1, true)] {
            let start = Instant::now();
            plain(&path, &content, durable)?;
            seconds[kind].push(start.elapsed().as_secs_f64());
            // What this one left to the system must not slow the next one down.
            File::open(&path)?.sync_all()?;
            fs::remove_file(&path)?;
        }
        let start = Instant::now();
        let published =
            publish(&folder.join("checkpoints"), &format!("step-{turn:06}"), ManifestInfo::default(), &mut |inside| {
                Ok(fs::write(inside.join(FILE), &content)?)
            })?;
        seconds[2].push(start.elapsed().as_secs_f64());
        fs::remove_dir_all(published)?;
    }
    for times in &mut seconds {
        times.sort_by(f64::total_cmp);
    }
    let [write, synced, published] = seconds.map(|times| times[TURNS / 2]);
    println!(
        "{{\"megabytes\": {megabytes}, \"write\": {write:.4}, \"write_and_sync\": {synced:.4}, \"publish\": {published:.4}}}"
    );
    Ok(())
}
