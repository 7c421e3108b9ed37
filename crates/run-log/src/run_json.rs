//! `run.json`: what ran where on which inputs, how long it took and how much memory it needed.

use crate::Error;
use sdtrain_checkpoint::replace_file;
use sdtrain_checkpoint::vfs::RealVfs;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The record of one run. Written at the start, so that a killed run has one too, and again at the end.
#[derive(Debug, Clone, Serialize)]
pub struct RunRecord {
    /// What ran.
    pub program: Program,
    /// Which run this is: when it began, and 64 random bits, so that no two have the same.
    pub run_id: String,
    /// What is otherwise than when the run began, in words, with the step after which it was changed.
    pub changes: Vec<String>,
    /// The command line.
    pub command: Vec<String>,
    /// Where it ran.
    pub device: Device,
    /// Files that the result depends on.
    pub inputs: Vec<InputFile>,
    /// The step after which this process continued, if it did.
    pub resumed_step: Option<u64>,
    /// When this process began (RFC 3339, UTC).
    pub started: String,
    /// When it ended.
    pub ended: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Optimizer steps done, those before a resume included.
    pub steps: u64,
    /// Seconds spent in each part of the run (`load_model`, `cache_latents`, `train`, `samples` …).
    pub timings: BTreeMap<String, f64>,
    /// Largest memory of the process (`VmHWM`).
    pub peak_memory_bytes: Option<u64>,
    /// Largest memory of the accelerator. Nothing measures it yet.
    pub peak_device_memory_bytes: Option<u64>,
    #[serde(skip)]
    phase: Option<(String, Instant)>,
}

/// The program and the versions under it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Program {
    /// `sdtrain`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The commit that the folder it was built in has checked out when the run begins (see `git_commit`).
    pub git_commit: Option<String>,
    /// Versions of what it stands on: `libtorch`, `cuda` …
    pub versions: BTreeMap<String, String>,
}

/// What the arithmetic ran on. With the same values here, the same run gives the same bits.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Device {
    /// `cpu` or `cuda:N`.
    pub kind: String,
    /// Model name of the processor or the GPU.
    pub name: Option<String>,
    /// Threads that libtorch computes with.
    pub threads: usize,
    /// Widest instruction set used (see `instruction_set`).
    pub instruction_set: Option<String>,
}

/// A file that went into the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputFile {
    /// Where it was.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its content, in hexadecimal.
    pub blake3: String,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It has not: it goes on, or was killed.
    Running,
    /// All steps were done.
    Finished,
    /// A signal stopped it after it had saved.
    Stopped,
    /// An error ended it.
    Failed,
}

impl RunRecord {
    /// A record that begins now.
    pub fn begin(program: Program, device: Device) -> RunRecord {
        RunRecord {
            program,
            run_id: run_id(),
            changes: Vec::new(),
            command: std::env::args().collect(),
            device,
            inputs: Vec::new(),
            resumed_step: None,
            started: now(),
            ended: None,
            outcome: Outcome::Running,
            steps: 0,
            timings: BTreeMap::new(),
            peak_memory_bytes: None,
            peak_device_memory_bytes: None,
            phase: None,
        }
    }

    /// From now on, time counts for the part `name`; a part may come again, its times are added.
    pub fn phase(&mut self, name: &str) {
        self.end_phase();
        self.phase = Some((name.to_owned(), Instant::now()));
    }

    fn end_phase(&mut self) {
        if let Some((name, began)) = self.phase.take() {
            *self.timings.entry(name).or_default() += began.elapsed().as_secs_f64();
        }
    }

    /// The run is over.
    pub fn end(&mut self, outcome: Outcome, steps: u64) {
        self.end_phase();
        self.outcome = outcome;
        self.steps = steps;
        self.ended = Some(now());
    }

    /// Writes `folder/run.json`, whole or not at all, with the peak memory up to now.
    pub fn write(&mut self, folder: &Path) -> Result<(), Error> {
        self.peak_memory_bytes = peak_memory_bytes();
        let path = folder.join("run.json");
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| Error::new("write", &path, error.into()))?;
        json.push(b'\n');
        replace_file(&RealVfs, &path, &json).map_err(|error| {
            let kind = error.storage_error().map_or(io::ErrorKind::Other, io::Error::kind);
            Error::new("write", &path, io::Error::new(kind, error))
        })
    }
}

impl InputFile {
    /// Reads a file through and notes its hash (1-3 GB/s from the page cache: hash large models beside other work).
    pub fn of(path: &Path) -> Result<InputFile, Error> {
        let failed = |error| Error::new("read", path, error);
        let mut hasher = blake3::Hasher::new();
        // Read, not mapped: the pages of a mapped model would count as this program's memory.
        hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
        Ok(InputFile { path: path.to_owned(), bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
    }

    /// The same for something that is part of the program (`builtin:poster-tiny`).
    pub fn embedded(name: &str, content: &[u8]) -> InputFile {
        InputFile { path: name.into(), bytes: content.len() as u64, blake3: blake3::hash(content).to_hex().to_string() }
    }
}

/// The time in seconds, and 64 random bits.
fn run_id() -> String {
    // Every `RandomState` has keys of its own, made from what the system gives as random.
    let random = RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now()));
    format!("{}-{random:016x}", jiff::Timestamp::now().as_second())
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    format!("{now:.0}")
}

/// Largest resident memory of this process so far.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = field(&status, "VmHWM")?.strip_suffix(" kB")?.trim().parse::<u64>().ok()?;
    Some(kilobytes * 1024)
}

/// The processor's model name.
pub fn processor_name() -> Option<String> {
    field(&std::fs::read_to_string("/proc/cpuinfo").ok()?, "model name").map(str::to_owned)
}

/// The models of the graphics processors, as NVIDIA's driver lists them; none where it does not.
pub fn graphics_processor_names() -> Option<String> {
    graphics_processors_in(Path::new("/proc/driver/nvidia/gpus"))
}

fn graphics_processors_in(folder: &Path) -> Option<String> {
    let texts = std::fs::read_dir(folder).ok()?.flatten();
    let texts = texts.filter_map(|gpu| std::fs::read_to_string(gpu.path().join("information")).ok());
    let names: BTreeSet<String> = texts.filter_map(|text| field(&text, "Model").map(str::to_owned)).collect();
    (!names.is_empty()).then(|| Vec::from_iter(names).join(", "))
}

/// The widest instruction set of the processor that changes results in libtorch: `avx512+amx_bf16`, `avx512`, `avx2` …, with what the
/// environment limits it to: `avx512, ATEN_CPU_CAPABILITY=avx2`.
pub fn instruction_set() -> Option<String> {
    let widest = widest(field(&std::fs::read_to_string("/proc/cpuinfo").ok()?, "flags")?)?;
    Some(limited(widest, |name| std::env::var(name).ok()))
}

/// What libtorch, oneDNN and MKL choose their kernels by, besides the processor.
const LIMITS: [&str; 5] =
    ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"];

fn limited(widest: String, variable: impl Fn(&str) -> Option<String>) -> String {
    let set = LIMITS.iter().filter_map(|name| Some(format!(", {name}={}", variable(name)?)));
    widest + &set.collect::<String>()
}

fn widest(flags: &str) -> Option<String> {
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let vectors = [("avx512f", "avx512"), ("avx2", "avx2"), ("avx", "avx")];
    let vectors = vectors.into_iter().find_map(|(flag, name)| has(flag).then_some(name))?;
    let matrices = ["amx_bf16", "avx512_bf16"].into_iter().find(|name| has(name));
    Some(matrices.map_or(vectors.to_owned(), |name| format!("{vectors}+{name}")))
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The first digits of the BLAKE3 digest of the running executable; none where it cannot be read.
pub fn program_digest() -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(std::env::current_exe().ok()?).ok()?).ok()?;
    Some(hasher.finalize().to_hex()[..12].to_owned())
}

/// The commit that the repository around `folder` has checked out, read without the help of git.
pub fn git_commit(folder: &Path) -> Option<String> {
    let dot_git = folder.ancestors().map(|folder| folder.join(".git")).find(|path| path.exists())?;
    // In a worktree or a submodule `.git` is a file that names the folder, and branches may lie in a common one.
    let git = match std::fs::read_to_string(&dot_git) {
        Ok(text) => dot_git.parent()?.join(text.strip_prefix("gitdir:")?.trim()),
        Err(_) => dot_git,
    };
    let common = match std::fs::read_to_string(git.join("commondir")) {
        Ok(text) => git.join(text.trim()),
        Err(_) => git.clone(),
    };
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let commit = match head.trim().strip_prefix("ref: ") {
        None => head.trim().to_owned(),
        Some(branch) => std::fs::read_to_string(common.join(branch)).ok().or_else(|| {
            let packed = std::fs::read_to_string(common.join("packed-refs")).ok()?;
            packed.lines().find_map(|line| Some(line.strip_suffix(branch)?.strip_suffix(' ')?.to_owned()))
        })?,
    };
    let commit = commit.trim();
    (commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| commit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_have_the_same_id() {
        let ids: std::collections::BTreeSet<String> = (0..1000).map(|_| run_id()).collect();
        assert_eq!(ids.len(), 1000);
    }

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn record() -> RunRecord {
        RunRecord::begin(
            Program { name: "sdtrain".to_owned(), version: "0.1.0".to_owned(), ..Program::default() },
            Device { kind: "cpu".to_owned(), threads: 2, ..Device::default() },
        )
    }

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below the folder")).expect("makes a folder");
            std::fs::write(path, content).expect("writes");
        }
        folder
    }

    #[test]
    fn an_instruction_set_is_told_with_what_limits_it() {
        let limited = |name: &str| (name == "MKL_CBWR").then(|| "AVX2".to_owned());
        assert_eq!(super::limited("avx512".to_owned(), limited), "avx512, MKL_CBWR=AVX2");
        assert_eq!(super::limited("avx2".to_owned(), |_| None), "avx2");
    }

    #[test]
    fn names_each_model_of_graphics_processor_once() {
        let of = |model: &str| format!("Model: \t\t {model}\nIRQ:   \t\t 84\nBus Type: \t PCIe\n");
        let (of_one, of_other) = (of("NVIDIA H200"), of("NVIDIA L4"));
        let folder = folder_with(&[
            ("0000:19:00.0/information", &of_one),
            ("0000:3b:00.0/information", &of_one),
            ("0000:4c:00.0/information", &of_other),
            ("0000:5d:00.0/registry", "Binary: \"\"\n"),
        ]);
        let names = graphics_processors_in(folder.path());
        assert_eq!(names.as_deref(), Some("NVIDIA H200, NVIDIA L4"));
        assert_eq!(graphics_processors_in(&folder.path().join("0000:5d:00.0")), None);
        assert_eq!(graphics_processors_in(&folder.path().join("absent")), None);
    }

    #[test]
    fn is_valid_json_at_the_start_and_at_the_end() {
        let folder = folder_with(&[("model.bin", "weights")]);
        let read = || -> serde_json::Value {
            let text = std::fs::read_to_string(folder.path().join("run.json")).expect("written");
            serde_json::from_str(&text).expect("valid JSON")
        };
        let mut record = record();
        record.inputs.push(InputFile::of(&folder.path().join("model.bin")).expect("readable"));
        record.write(folder.path()).expect("writes");
        assert_eq!((read()["outcome"].clone(), read()["ended"].clone()), ("running".into(), serde_json::Value::Null));
        record.phase("train");
        record.phase("samples");
        record.phase("train");
        record.end(Outcome::Finished, 1000);
        record.write(folder.path()).expect("writes");
        let json = read();
        assert_eq!((json["outcome"].clone(), json["steps"].clone()), ("finished".into(), 1000.into()));
        assert_eq!(json["inputs"][0]["bytes"], 7);
        assert_eq!(json["inputs"][0]["blake3"], blake3::hash(b"weights").to_hex().to_string());
        assert!(json["peak_memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000));
        assert_eq!(json["timings"].as_object().expect("a table").len(), 2);
        assert!(json["ended"].as_str().is_some_and(|time| time.len() == "2026-11-20T12:00:00Z".len()), "{json}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
        assert_eq!(left.len(), 2, "nothing but run.json and the model");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = record().write(Path::new("/nowhere/at/all")).expect_err("there is no such folder");
        assert!(error.to_string().contains("/nowhere/at/all/run.json"), "{error}");
    }

    #[test]
    fn finds_the_commit_of_a_branch_a_packed_branch_and_a_detached_head() {
        let loose = folder_with(&[(".git/HEAD", "ref: refs/heads/main\n"), (".git/refs/heads/main", COMMIT)]);
        let packed = format!("# pack-refs\n{} refs/heads/other-main\n{COMMIT} refs/heads/main\n", "f".repeat(40));
        let packed = folder_with(&[(".git/HEAD", "ref: refs/heads/main\n"), (".git/packed-refs", &packed)]);
        let detached = folder_with(&[(".git/HEAD", COMMIT), ("deep/inside/file", "")]);
        assert_eq!(git_commit(loose.path()).as_deref(), Some(COMMIT));
        assert_eq!(git_commit(packed.path()).as_deref(), Some(COMMIT));
        assert_eq!(git_commit(&detached.path().join("deep/inside")).as_deref(), Some(COMMIT));
    }

    #[test]
    fn finds_the_commit_of_a_worktree() {
        let folder = folder_with(&[
            ("tree/.git", "gitdir: ../main/.git/worktrees/tree\n"),
            ("main/.git/worktrees/tree/HEAD", "ref: refs/heads/topic\n"),
            ("main/.git/worktrees/tree/commondir", "../..\n"),
            ("main/.git/refs/heads/topic", COMMIT),
        ]);
        assert_eq!(git_commit(&folder.path().join("tree")).as_deref(), Some(COMMIT));
    }

    #[test]
    fn a_folder_outside_any_repository_or_before_the_first_commit_has_none() {
        assert_eq!(git_commit(folder_with(&[(".git/HEAD", "ref: refs/heads/main\n")]).path()), None);
    }

    #[test]
    fn names_the_widest_instruction_set() {
        let all = ["fpu avx avx2 avx512f amx_bf16", "avx avx2 avx512f", "avx avx2", "fpu"].map(widest);
        assert_eq!(all.map(|set| set.unwrap_or_default()), ["avx512+amx_bf16", "avx512", "avx2", ""]);
    }
}
