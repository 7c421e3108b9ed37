//! (f) Every bit of a checkpoint flipped, every file of it cut short at every length: all of it noticed.
//! open_lm#154, draw-things#88: half a file is left, and the exit code is 0.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sdtrain_checkpoint::vfs::{CrashVfs, Vfs};
use sdtrain_checkpoint::{Error, ManifestInfo, latest_valid_with, publish_with, verify_with};

use crate::{Extent, Report};

fn parent() -> &'static Path {
    Path::new("checkpoints")
}

/// A disk with checkpoints of two steps; the files of each have so many bytes. Names get longer on the way.
fn disk(steps: &[u64], length: usize) -> Result<CrashVfs, Error> {
    let vfs = CrashVfs::new();
    for &step in steps {
        let info = ManifestInfo { step, ..ManifestInfo::default() };
        publish_with(&vfs, parent(), &crate::run::name(step), info, &mut |publication| {
            let mut content = vec![0; length];
            blake3::Hasher::new().update(&step.to_le_bytes()).finalize_xof().fill(&mut content);
            publication.write("tensors.bin", &content)?;
            publication.write("state.json", b"{\"step\": 3, \"scaler\": null}\n")?;
            Ok(())
        })?;
    }
    Ok(vfs)
}

const STEPS: [u64; 2] = [999_999, 1_000_000];

fn newest() -> PathBuf {
    parent().join(crate::run::name(STEPS[1]))
}

fn length(vfs: &CrashVfs, file: &str) -> u64 {
    vfs.length(&newest().join(file)).unwrap_or_default()
}

/// Flips every bit of a small checkpoint, and cuts each of its files at every length.
pub fn small_checkpoint(extent: Extent) -> Report {
    let mut report = Report::default();
    let (two, one) = match (disk(&STEPS, 1500), disk(&STEPS[1..], 1500)) {
        (Ok(two), Ok(one)) => (two, one),
        (Err(error), _) | (_, Err(error)) => {
            report.failures.push(error.to_string());
            return report;
        }
    };
    for file in ["tensors.bin", "state.json", "MANIFEST.json"] {
        for at in 0..length(&two, file) as usize {
            for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                if !extent.goes_on(&report) {
                    return report;
                }
                let damage = |vfs: &CrashVfs| vfs.damage(&newest().join(file), at, mask);
                let result = is_noticed(&two, &one, &damage);
                report.tried(|| format!("byte {at} of {file} XOR {mask}"), result);
            }
        }
        for cut in 0..length(&two, file) {
            let path = newest().join(file);
            let damage = |vfs: &CrashVfs| {
                let mut bytes = Vec::new();
                vfs.open(&path)?.take(cut).read_to_end(&mut bytes)?;
                vfs.remove_file(&path)?;
                vfs.create_file(&path)?.write_all(&bytes)
            };
            let result = is_noticed(&two, &one, &damage);
            report.tried(|| format!("{file} cut to {cut} bytes"), result);
        }
    }
    report
}

fn is_noticed(two: &CrashVfs, one: &CrashVfs, damage: &dyn Fn(&CrashVfs) -> std::io::Result<()>) -> Result<(), String> {
    let (two, one) = (two.copy(), one.copy());
    damage(&two).and_then(|()| damage(&one)).map_err(|error| error.to_string())?;
    if verify_with(&two, &newest()).is_ok() {
        return Err("it passed for whole".to_owned());
    }
    match latest_valid_with(&two, parent()) {
        Ok(Some((_, manifest))) if manifest.info.step == STEPS[0] => (),
        other => return Err(format!("the older one was not used: {other:?}")),
    }
    match latest_valid_with(&one, parent()) {
        Err(Error::NoneWhole { .. }) => Ok(()),
        other => Err(format!("with no other there is nothing to continue from, and it said {other:?}")),
    }
}

/// Flips a bit of every byte of a checkpoint of one mebibyte.
pub fn large_checkpoint(extent: Extent) -> Report {
    let mut report = Report::default();
    let vfs = match disk(&STEPS[1..], 1 << 20) {
        Ok(vfs) => vfs,
        Err(error) => {
            report.failures.push(error.to_string());
            return report;
        }
    };
    let path = newest().join("tensors.bin");
    for at in extent.from..length(&vfs, "tensors.bin") {
        if !extent.goes_on(&report) {
            break;
        }
        let mask = 1 << (at % 8);
        let flip = || vfs.damage(&path, at as usize, mask).map_err(|error| error.to_string());
        let result = flip().and_then(|()| match verify_with(&vfs, &newest()) {
            Ok(_) => Err("it passed for whole".to_owned()),
            Err(_) => flip(),
        });
        report.tried(|| format!("byte {at} XOR {mask}"), result);
    }
    if let Err(error) = verify_with(&vfs, &newest()) {
        report.failures.push(format!("with every bit turned back it is not whole: {error}"));
    }
    report
}
