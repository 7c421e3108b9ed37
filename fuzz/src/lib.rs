//! What is fed with damaged input, and what must hold for any input: shared by the fuzz targets here and by the tests of the crates that
//! mutate the same seeds for a moment (`mutations.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[cfg(feature = "data-sets")]
pub mod data_sets;
#[cfg(feature = "model-files")]
pub mod model_files;
pub mod target;
#[cfg(feature = "tokenizer-files")]
pub mod tokenizer_files;

use target::Target;

/// Everything that is fed.
fn targets() -> impl Iterator<Item = &'static Target> {
    let areas: &[&'static [Target]] = &[
        #[cfg(feature = "data-sets")]
        data_sets::TARGETS,
        #[cfg(feature = "model-files")]
        model_files::TARGETS,
        #[cfg(feature = "tokenizer-files")]
        tokenizer_files::TARGETS,
    ];
    areas.iter().flat_map(|area| area.iter())
}

/// Feeds one target in a folder that this process keeps to itself.
pub fn fuzz(name: &str, data: &[u8]) {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    static TARGET: OnceLock<&Target> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // Memory where there is a disk of memory: files are written thousands of times a second.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("sdtrain-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files can be made");
        folder
    });
    let named = || targets().find(|target| target.name == name).expect("every fuzz target is in the table");
    (TARGET.get_or_init(named).run)(folder, data);
}

/// Puts the seeds of a target into its corpus, so that fuzzing does not begin with nothing.
pub fn write_seeds(name: &str) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let seeds = targets().filter(|target| target.name == name).flat_map(|target| (target.seeds)());
    for (number, seed) in seeds.enumerate() {
        // Without a corpus folder, as when one finding is run again, there is nothing to fill.
        let _ = fs::write(corpus.join(format!("seed-{number}")), seed);
    }
}
