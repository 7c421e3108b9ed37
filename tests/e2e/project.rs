//! A throw-away project: a folder with images, a configuration on the tiny model of the fixtures, and the program.

use image::{Rgb, RgbImage};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// Six captioned images in `images/` and `run.toml`, which trains a LoRA on them for six steps.
    pub fn new() -> Project {
        let project = Project { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        fs::create_dir(project.path("images")).expect("the folder is new");
        for index in 0..6u8 {
            // Two shapes, so that there are two buckets.
            let size = if index % 3 == 0 { (64, 96) } else { (64, 64) };
            let picture = RgbImage::from_fn(size.0, size.1, |x, y| Rgb([x as u8 * 3, y as u8 * 2, index * 40]));
            picture.save(project.path(&format!("images/{index}.png"))).expect("a PNG can be written");
            fs::write(project.path(&format!("images/{index}.txt")), format!("picture {index}, small"))
                .expect("likewise");
        }
        let model = fixture("tiny_sd1");
        project.write(
            "run.toml",
            &format!(
                "name = \"run\"\nseed = 7\n[model]\npath = \"{}\"\n[data]\nresolution = 64\nbatch_size = 2\n\
                 [[data.subsets]]\npath = \"images\"\nshuffle_caption = true\n[lora]\nrank = 4\n[train]\nmax_steps = 6\n\
                 threads = 1\n[checkpoint]\nevery_steps = 2\n[samples]\nsteps = 2\nprompts = [\"picture 1\"]\n\
                 [validation]\npath = \"images\"\nnum_samples = 0\n",
                model.display()
            ),
        );
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the temporary folder can be written to");
    }

    /// `sdtrain ARGS` in the project's folder.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.folder.path());
        command
    }

    /// The same where no file may grow beyond so many blocks: of 512 bytes, or, in some shells, of 1024.
    pub fn command_with_small_files(&self, blocks: u32, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -f {blocks} && exec \"$0\" \"$@\"")]);
        command.arg(program()).args(args).current_dir(self.folder.path());
        command
    }

    /// Starts `sdtrain ARGS` with what it says going into a file.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(&[], args)
    }

    /// The same with variables of the environment.
    pub fn start_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Running {
        let said = self.path("said");
        let log = fs::File::create(&said).expect("the temporary folder can be written to");
        let mut command = self.command(args);
        command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(log);
        Running { child: command.spawn().expect("the program starts"), said }
    }

    /// The same with what it says going elsewhere: nothing is known of that.
    pub fn start_unheard(&self, stderr: impl Into<Stdio>, args: &[&str]) -> Running {
        let said = self.path("said");
        fs::write(&said, "").expect("the temporary folder can be written to");
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(stderr);
        Running { child: command.spawn().expect("the program starts"), said }
    }

    /// Runs, and shows what it said when it does not end with `code`.
    pub fn expect(&self, code: i32, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}\nstdout:\n{stdout}\nstderr:\n{stderr}");
        (stdout, stderr)
    }
}

/// The program at work.
pub struct Running {
    child: Child,
    said: PathBuf,
}

impl Running {
    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).expect("the file is there")
    }

    /// Waits until `condition` holds; after two minutes the test fails, and shows what the program said.
    pub fn wait_for(&self, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(120), "waited in vain; so far:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it has said `words`.
    pub fn wait_for_words(&self, words: &str) {
        self.wait_for(|| self.said().contains(words));
    }

    /// Kills it, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Asks it to stop, as a cluster does before its time is over.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, name: &str) {
        send(name, self.id());
    }

    /// Whether it has said how it answers SIGTERM, or lets it wait: from its first moments on it does.
    pub fn answers_signals(&self) -> bool {
        const SIGTERM: u64 = 15;
        self.has("SigCgt:", SIGTERM) || self.has("SigBlk:", SIGTERM)
    }

    /// Whether it waits for somebody to read why it failed: only then it answers SIGHUP.
    pub fn waits_for_its_reader(&self) -> bool {
        const SIGHUP: u64 = 1;
        // Not `SigBlk:` as well: libc holds every signal back for the moment in which it makes a thread.
        self.has("SigCgt:", SIGHUP)
    }

    /// Whether the set of signals that goes by this name in `/proc` has this one.
    fn has(&self, set: &str, signal: u64) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let digits = status.lines().find_map(|line| line.strip_prefix(set)).unwrap_or_default();
        u64::from_str_radix(digits.trim(), 16).unwrap_or_default() & (1 << (signal - 1)) != 0
    }

    /// Waits for its end: its exit code, and all that it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("it ends").code();
        (code, self.said())
    }
}

/// Sends a signal, by its name, to a process.
pub fn send(name: &str, process: u32) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(sent.expect("`kill` is there").success(), "SIG{name} to process {process}");
}

/// The front program beside the engine, which this test's package builds.
fn program() -> PathBuf {
    let engine = Path::new(env!("CARGO_BIN_EXE_sdtrain-engine"));
    let front = engine.with_file_name("sdtrain");
    assert!(front.is_file(), "{} is built by `scripts/test`, or `cargo build --release`", front.display());
    front
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}
