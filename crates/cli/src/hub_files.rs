//! What a command names on the Hugging Face hub: fetched before it is read, and no sooner than everything else is right.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sdtrain_files::{in_words, say};
use sdtrain_hub::{Error, Prepared, Progress, Settings, Wanted, fetch, is_complete, prepare, prepare_beside};
use sdtrain_recipe::{HubName, Init, ModelConfig, ModelLocation, Plan, TrainConfig, local_path};

use crate::{ExitCode, Failure};

/// What is fetched to be looked at, without anybody having asked for a run: adapters are smaller, models are not.
const LARGEST_LOOKED_AT: u64 = 512 << 20;
/// How often it is said how far a fetch is, without a terminal.
const REPORTS: Duration = Duration::from_secs(30);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match &error {
            error if error.is_storage() => ExitCode::Storage,
            error if error.is_request() => ExitCode::Configuration,
            _ => ExitCode::Model,
        };
        Failure::new(code, error.to_string()).maybe_hint(error.hint())
    }
}

/// Names of the hub that a command needs, looked up.
pub(crate) struct HubFiles {
    settings: Settings,
    all: Vec<(HubName, Prepared)>,
}

impl HubFiles {
    /// Looks up those of the names that are on the hub, and fetches what describes them. What is in the cache is not asked for.
    pub(crate) fn prepare<'n>(names: impl IntoIterator<Item = (&'n str, Wanted)>) -> Result<HubFiles, Failure> {
        let settings = Settings::from_environment();
        let mut all: Vec<(HubName, Wanted, Prepared)> = Vec::new();
        for (text, wanted) in names.into_iter().filter(|(text, _)| HubName::is_one(text)) {
            let name = parse(text)?;
            if wanted == Wanted::File && name.path.is_none() {
                let message = format!("`{name}` names a whole repository, where one file is meant");
                return Err(Failure::new(ExitCode::Configuration, message).hint(format!("name it as `{name}/FILE`")));
            }
            let prepared = prepare(&name, &wanted, &settings)?;
            all.push((name, wanted, prepared));
        }
        // What is of one revision is of one commit: where one name has moved to another, the others follow.
        let is_moved = |(_, _, prepared): &&(HubName, Wanted, Prepared)| prepared.moves();
        let moved: Vec<(HubName, Wanted, Prepared)> = all.iter().filter(is_moved).cloned().collect();
        for (name, wanted, prepared) in &mut all {
            let is_same = |other: &HubName| (&other.repository, &other.revision) == (&name.repository, &name.revision);
            let moved = moved.iter().map(|(other, _, moved)| (other, moved)).find(|(other, _)| is_same(other));
            if let Some((_, moved)) = moved.filter(|(_, moved)| moved.commit() != prepared.commit()) {
                *prepared = prepare_beside(name, wanted, moved, &settings)?;
            }
        }
        for note in all.iter().filter_map(|(_, _, prepared)| prepared.note.as_ref()) {
            say!("note: {note}");
        }
        Ok(HubFiles { settings, all: all.into_iter().map(|(name, _, prepared)| (name, prepared)).collect() })
    }

    /// Those of a configuration.
    pub(crate) fn of_config(config: &TrainConfig) -> Result<HubFiles, Failure> {
        HubFiles::prepare(names_in(config))
    }

    /// Those of all stages, each once.
    pub(crate) fn of_plan(plan: &Plan) -> Result<HubFiles, Failure> {
        let mut names: Vec<(&str, Wanted)> = Vec::new();
        for (name, wanted) in plan.runs.iter().flat_map(|run| names_in(&run.loaded.config)) {
            if !names.iter().any(|(other, other_wanted)| (*other, other_wanted) == (name, &wanted)) {
                names.push((name, wanted));
            }
        }
        HubFiles::prepare(names)
    }

    /// Fetches everything that is missing.
    pub(crate) fn fetch(&self) -> Result<(), Failure> {
        self.fetch_those(|_| true)
    }

    /// Fetches what only the files themselves say something about, to be looked at before the rest.
    pub(crate) fn fetch_undescribed(&self) -> Result<(), Failure> {
        self.fetch_those(is_undescribed)
    }

    /// The same for a command that only looks: a whole model is not fetched for that.
    pub(crate) fn fetch_small_undescribed(&self) -> Result<(), Failure> {
        let is_large = |prepared: &Prepared| is_undescribed(prepared) && prepared.missing_bytes() > LARGEST_LOOKED_AT;
        match self.all.iter().find(|(_, prepared)| is_large(prepared)) {
            None => self.fetch_undescribed(),
            Some((name, prepared)) => {
                let size = in_words(prepared.missing_bytes());
                let message = format!(
                    "`{name}` is not in the Hugging Face cache: nothing can be said of it before its {size} are fetched"
                );
                let hint = format!("a run fetches it; so does `hf download {}`", name.repository);
                Err(Failure::new(ExitCode::Model, message).hint(hint))
            }
        }
    }

    fn fetch_those(&self, is_meant: impl Fn(&Prepared) -> bool) -> Result<(), Failure> {
        for (name, prepared) in self.all.iter().filter(|(_, prepared)| is_meant(prepared)) {
            let shown = Shown::new(name, &self.settings.cache);
            let fetched = fetch(name, prepared, &self.settings, &shown);
            shown.end();
            fetched?;
        }
        Ok(())
    }

    /// What is still to be fetched, one name a line.
    pub(crate) fn missing(&self) -> Vec<String> {
        let is_missing =
            |(_, prepared): &&(HubName, Prepared)| !prepared.missing.is_empty() && !prepared.path.is_file();
        let said = |(name, prepared): &(HubName, Prepared)| {
            let files: Vec<String> =
                prepared.missing.iter().map(|file| format!("{} ({})", file.name, in_words(file.size))).collect();
            format!("`{name}`: {} in {}", in_words(prepared.missing_bytes()), files.join(", "))
        };
        self.all.iter().filter(is_missing).map(said).collect()
    }
}

/// What a configuration names, on the hub or elsewhere, and what it needs of it.
fn names_in(config: &TrainConfig) -> Vec<(&str, Wanted)> {
    let model = &config.model;
    let adapters = config.lora.initial.iter().chain(model.fuse.iter().map(|fused| &fused.path));
    let adapters = adapters.filter_map(|path| Some((path.to_str()?, Wanted::File)));
    let vae = model.vae.as_ref().and_then(|vae| Some((vae.to_str()?, Wanted::Vae)));
    let text_encoder = model.text_encoder.as_ref().and_then(|folder| {
        let weights = model.text_encoder_init == Init::Pretrained;
        Some((folder.to_str()?, Wanted::TextEncoder { weights, tokenizer: model.tokenizer.is_none() }))
    });
    let tokenizer = model.tokenizer.as_ref().and_then(|folder| Some((folder.to_str()?, Wanted::Tokenizer)));
    let parts = vae.into_iter().chain(text_encoder).chain(tokenizer);
    [(model.path.as_str(), wanted_of(model))].into_iter().chain(parts).chain(adapters).collect()
}

/// Whether it is one file, which is not here.
fn is_undescribed(prepared: &Prepared) -> bool {
    !prepared.missing.is_empty() && !prepared.path.is_dir()
}

/// What a run needs of its model.
fn wanted_of(model: &ModelConfig) -> Wanted {
    Wanted::Model { variant: model.variant.clone(), weights: model.init == Init::Pretrained }
}

/// Any model, with all that makes pictures.
pub(crate) fn whole_model() -> Wanted {
    Wanted::Model { variant: None, weights: true }
}

/// Whether a run's model is on the hub, and of what is here only its configurations say what it is.
pub(crate) fn lacks_weights(model: &ModelConfig) -> bool {
    let name = HubName::parse(&model.path).ok();
    name.is_some_and(|name| !is_complete(&name, &wanted_of(model), &Settings::from_environment().cache))
}

/// Takes a name apart.
pub(crate) fn parse(text: &str) -> Result<HubName, Failure> {
    HubName::parse(text).map_err(|(message, hint)| Failure::new(ExitCode::Configuration, message).maybe_hint(hint))
}

/// What is wrong with a command's `--model`. Whether one on the hub is there is seen when it is fetched.
pub(crate) fn wrong_model(model: &str) -> Option<Failure> {
    let found = match HubName::is_one(model) {
        true => HubName::parse(model).map(drop),
        false => ModelLocation::find(model).map(drop),
    };
    let (message, hint) = found.err()?;
    Some(Failure::new(ExitCode::Configuration, format!("`--model`: {message}")).maybe_hint(hint))
}

/// The same for a flag that names a file.
pub(crate) fn wrong_file(flag: &str, path: &Path) -> Option<Failure> {
    let refused = |message: String| Failure::new(ExitCode::Configuration, message);
    match path.to_str().filter(|text| HubName::is_one(text)) {
        Some(name) => {
            let (message, hint) = HubName::parse(name).err()?;
            Some(refused(format!("`{flag}`: {message}")).maybe_hint(hint))
        }
        None => (!path.exists()).then(|| refused(format!("`{flag} {}` does not exist", path.display()))),
    }
}

/// The file or folder that a path or a name of the hub stands for; a name's files are here.
///
/// # Errors
/// Where they are not.
pub fn local_file(path: &Path) -> Result<PathBuf, Failure> {
    local_path(path).map_err(|(message, hint)| Failure::new(ExitCode::Configuration, message).maybe_hint(hint))
}

/// Where the model is that a command or a configuration names; one on the hub is here.
///
/// # Errors
/// Where there is none.
pub fn model_location(model: &str) -> Result<ModelLocation, Failure> {
    ModelLocation::find(model)
        .map_err(|(message, hint)| Failure::new(ExitCode::Configuration, message).maybe_hint(hint))
}

/// How far a fetch is, on stderr: a bar on a terminal, a line now and then elsewhere.
struct Shown<'a> {
    name: &'a HubName,
    cache: &'a Path,
    state: RefCell<State>,
}

struct State {
    bar: Option<ProgressBar>,
    all: u64,
    last: Instant,
}

impl<'a> Shown<'a> {
    fn new(name: &'a HubName, cache: &'a Path) -> Shown<'a> {
        Shown { name, cache, state: RefCell::new(State { bar: None, all: 0, last: Instant::now() }) }
    }

    fn end(&self) {
        if let Some(bar) = self.state.borrow_mut().bar.take() {
            bar.abandon();
        }
    }
}

impl Progress for Shown<'_> {
    fn begin(&self, files: usize, bytes: u64) {
        let what = if files == 1 { "one file".to_owned() } else { format!("{files} files") };
        say!("fetching {what} of `{}`: {} to `{}`", self.name, in_words(bytes), self.cache.display());
        let mut state = self.state.borrow_mut();
        (state.all, state.last) = (bytes, Instant::now());
        if std::io::stderr().is_terminal() {
            state.bar = Some(bar(bytes));
        }
    }

    fn at(&self, bytes: u64) {
        let mut state = self.state.borrow_mut();
        match &state.bar {
            Some(bar) => bar.set_position(bytes),
            None if state.all > 0 && state.last.elapsed() >= REPORTS => {
                state.last = Instant::now();
                say!("fetched {} of {}", in_words(bytes), in_words(state.all));
            }
            None => {}
        }
    }

    fn note(&self, text: &str) {
        match &self.state.borrow().bar {
            Some(bar) => bar.println(text),
            None => say!("{text}"),
        }
    }
}

fn bar(bytes: u64) -> ProgressBar {
    let template =
        "{binary_bytes}/{binary_total_bytes} {wide_bar} {percent:>3}%  {binary_bytes_per_sec}  eta {eta}  [{elapsed}]";
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(8))
        .with_style(style.progress_chars("━╸─"))
        .with_finish(ProgressFinish::Abandon);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
