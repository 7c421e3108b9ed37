//! A run that saves: what the other tests interrupt.

use std::io::Read;
use std::path::{Path, PathBuf};

use sdtrain_checkpoint::vfs::Vfs;
use sdtrain_checkpoint::{LATEST_NAME, ManifestInfo, Result, latest_valid_with, prune_with, publish_with, survey};

/// Content of the state at a step, of a length that tells steps apart.
pub fn state(step: u64) -> Vec<u8> {
    (0..step * 3 + 1).map(|i| (i * 7 + step) as u8).collect()
}

pub fn name(step: u64) -> String {
    format!("step-{step:06}")
}

pub fn info(step: u64) -> ManifestInfo {
    ManifestInfo { step, run_id: "run".to_owned(), ..ManifestInfo::default() }
}

/// One save as a trainer does it: publish, then prune.
pub fn save(vfs: &dyn Vfs, parent: &Path, step: u64) -> Result<PathBuf> {
    save_as(vfs, parent, step, &info(step))
}

pub fn save_as(vfs: &dyn Vfs, parent: &Path, step: u64, info: &ManifestInfo) -> Result<PathBuf> {
    let published = publish_with(vfs, parent, &name(step), info.clone(), &mut |publication| {
        publication.write("state.safetensors", &state(step))?;
        publication.write("empty", b"")?;
        // Written in two pieces, as a large file is.
        let mut file = publication.create("optimizer.safetensors")?;
        std::io::Write::write_all(&mut file, &state(step))?;
        std::io::Write::write_all(&mut file, b"and more")?;
        publication.finish(file)?;
        Ok(())
    })?;
    prune_with(vfs, parent, step, 2)?;
    Ok(published)
}

fn read(vfs: &dyn Vfs, path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    vfs.open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The newest step that can be read, after making sure that its content is right, that nothing half-written has the name of a
/// checkpoint, and that the run can go on.
pub fn newest(vfs: &dyn Vfs, parent: &Path, what: &str) -> Option<u64> {
    if vfs.exists(parent).unwrap() {
        let survey = survey(vfs, parent).unwrap();
        assert!(survey.rejected.is_empty(), "{what}: {:?}", survey.rejected);
    }
    let found = latest_valid_with(vfs, parent).unwrap();
    let step = found.map(|(folder, manifest)| {
        let step = manifest.info.step;
        assert_eq!(folder, parent.join(name(step)), "{what}");
        assert_eq!(read(vfs, &parent.join(LATEST_NAME)), format!("{}\n", name(step)).as_bytes(), "{what}");
        assert_eq!(read(vfs, &folder.join("state.safetensors")), state(step), "{what}");
        assert_eq!(read(vfs, &folder.join("empty")), b"", "{what}");
        assert_eq!(
            read(vfs, &folder.join("optimizer.safetensors")),
            [&state(step)[..], b"and more"].concat(),
            "{what}"
        );
        step
    });
    if vfs.exists(parent).unwrap() {
        let left: Vec<_> = vfs.list(parent).unwrap().into_iter().filter(|e| e.name.starts_with('.')).collect();
        assert!(left.is_empty(), "{what}: left over {left:?}");
    }
    save(vfs, parent, 999).unwrap_or_else(|e| panic!("{what}: the run cannot go on: {e}"));
    assert_eq!(read(vfs, &parent.join(LATEST_NAME)), b"step-000999\n", "{what}");
    step
}
