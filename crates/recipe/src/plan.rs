//! The runs that a file describes: one, or with `[[stages]]` several, each of which begins with the product of the one before.

use std::path::{Path, PathBuf};

use sdtrain_config::{Fault, Layer, Layers, OwnKeys, Parsed, Problem, Problems};

use crate::{FusedAdapter, HandedOn, Loaded, LoraConfig, ModelConfig, TrainConfig};

/// The runs of a file, in their order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names the output folder.
    pub name: String,
    /// One, or the stages.
    pub runs: Vec<PlannedRun>,
}

/// A run of a plan.
#[derive(Debug, Clone)]
pub struct PlannedRun {
    /// Its name among the stages; none of the only run of a file.
    pub stage: Option<String>,
    /// Its configuration. That of a later stage names the base of the first one, which has the same networks; see [`PlannedRun::after`].
    pub loaded: Loaded,
    /// What the stage itself says.
    own: Option<OwnKeys>,
}

/// A plan of which something may be wrong.
#[derive(Debug)]
pub struct ParsedPlan {
    /// Names the output folder.
    pub name: String,
    /// The stage of each run, its configuration without its faulty values, and what is wrong.
    pub runs: Vec<(Option<String>, Parsed<PlannedRun>)>,
}

/// Where stages lie in a file.
const STAGES: &str = "stages";

/// Keys of the process, which runs all stages: it would keep what one of them sets.
const OF_THE_PROCESS: [&str; 4] =
    ["train.threads", "precision.tf32", "ranks.timeout_seconds", "ranks.start_timeout_seconds"];

/// Keys of the base model that a product stands for, behind `model.`, and how a stage takes over what the one before says of each.
type TakeOver = fn(&mut ModelConfig, &ModelConfig);
const OF_THE_BASE: [(&str, TakeOver); 10] = [
    ("path", |to, from| to.path.clone_from(&from.path)),
    ("family", |to, from| to.family = from.family),
    ("extract_ema", |to, from| to.extract_ema = from.extract_ema),
    ("vae", |to, from| to.vae.clone_from(&from.vae)),
    ("text_encoder", |to, from| to.text_encoder.clone_from(&from.text_encoder)),
    ("tokenizer", |to, from| to.tokenizer.clone_from(&from.tokenizer)),
    ("text_encoder_init", |to, from| to.text_encoder_init = from.text_encoder_init),
    ("variant", |to, from| to.variant.clone_from(&from.variant)),
    ("init", |to, from| to.init = from.init),
    ("fuse", |to, from| to.fuse.clone_from(&from.fuse)),
];

impl Plan {
    /// Reads and checks a file with the command line's overrides on top; every problem of every run is in the one error.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Plan, Problems> {
        let parsed = Plan::load_what_fits(path, overrides)?;
        let problems = parsed.problems();
        parsed.whole().ok_or(problems)
    }

    /// The same for a caller that wants to look at the rest although something is wrong. Only a file that is no TOML, or whose
    /// stages cannot be told apart, leads to an error.
    pub fn load_what_fits(path: &Path, overrides: &[String]) -> Result<ParsedPlan, Problems> {
        let Layers { base, layers } = Layers::load(path, STAGES, overrides)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if layers.is_empty() {
            let Parsed { value, faults } = TrainConfig::from_document(base, &stem);
            let name = value.as_ref().map_or(stem.to_string(), |loaded| loaded.config.name.clone());
            let run = value.map(|loaded| PlannedRun { stage: None, loaded, own: None });
            return Ok(ParsedPlan { name, runs: vec![(None, Parsed { value: run, faults })] });
        }
        let written = base.table().get("name").and_then(toml::Value::as_str).filter(|name| !name.is_empty());
        let name = written.map_or_else(|| stem.to_string(), str::to_owned);
        let mut runs: Vec<(Option<String>, Parsed<PlannedRun>)> = Vec::new();
        for Layer { name: stage, whole, own } in layers {
            let Parsed { value, mut faults } = TrainConfig::from_document(whole, &name);
            let run = value.map(|mut loaded| {
                let before = runs.last().and_then(|(_, parsed)| parsed.value.as_ref());
                faults.extend(of_the_process(&loaded, &own));
                let is_said = faults.iter().any(|fault| fault.key == "name");
                loaded.config.name = format!("{}-{stage}", loaded.config.name);
                // Checked above without the stage, which makes it longer.
                if let Some((message, hint)) = loaded.config.name_refused().filter(|_| !is_said) {
                    let problem = loaded.document.problem("name", message).hint(hint);
                    faults.push(Fault { key: "name".to_owned(), problem });
                }
                if let Some(before) = before {
                    take_over_base(&mut loaded.config.model, &before.loaded.config.model, |key| own.has(key));
                    faults.extend(does_not_follow(&before.loaded.config, &loaded, &own));
                }
                PlannedRun { stage: Some(stage.clone()), loaded, own: Some(own) }
            });
            runs.push((Some(stage), Parsed { value: run, faults }));
        }
        Ok(ParsedPlan { name, runs })
    }

    /// The folder of the run at `index`, where all lie in `output`.
    pub fn folder(&self, index: usize, output: &Path) -> PathBuf {
        match &self.runs[index].stage {
            Some(stage) => output.join(stage),
            None => output.to_owned(),
        }
    }
}

impl ParsedPlan {
    /// Everything that is wrong, what all stages share once, the rest with the stage's name.
    pub fn problems(&self) -> Problems {
        let of_run = |parsed: &Parsed<PlannedRun>| -> Vec<Problem> {
            parsed.faults.iter().map(|fault| fault.problem.clone()).collect()
        };
        let all: Vec<Vec<Problem>> = self.runs.iter().map(|(_, parsed)| of_run(parsed)).collect();
        let is_shared = |problem: &Problem| all.iter().all(|problems| problems.contains(problem));
        let mut problems: Vec<Problem> = Vec::new();
        for ((stage, _), of_run) in self.runs.iter().zip(&all) {
            for problem in of_run {
                let mut problem = problem.clone();
                if let (Some(stage), false) = (stage, is_shared(&problem)) {
                    problem.message = format!("stage `{stage}`: {}", problem.message);
                }
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        Problems(problems).sorted()
    }

    /// The plan, if nothing is wrong.
    pub fn whole(self) -> Option<Plan> {
        let run = |(_, parsed): (_, Parsed<PlannedRun>)| parsed.value.filter(|_| parsed.faults.is_empty());
        Some(Plan { name: self.name, runs: self.runs.into_iter().map(run).collect::<Option<_>>()? })
    }
}

impl PlannedRun {
    /// The configuration of this run once the stage before it, whose run was `before`, has left its product in `folder`, an absolute
    /// path.
    pub fn after(&self, before: &TrainConfig, folder: &Path) -> TrainConfig {
        let mut config = self.loaded.config.clone();
        let product = before.product_in(folder);
        let says = |key: &str| self.own.as_ref().is_some_and(|own| own.has(key));
        take_over_base(&mut config.model, &before.model, says);
        match before.trainable_facts().hands_on {
            HandedOn::Model if says("model.path") => {}
            HandedOn::Model => {
                let product = product.to_string_lossy().into_owned();
                take_over_base(&mut config.model, &ModelConfig { path: product, ..ModelConfig::default() }, says);
            }
            HandedOn::Vae if says("model.vae") => {}
            HandedOn::Vae => config.model.vae = Some(product.clone()),
            HandedOn::Adapters if config.trainable_facts().trains_adapters() => {
                // One that all stages have is where the first begins.
                if !says("lora.initial") {
                    config.lora.initial = Some(product);
                }
            }
            HandedOn::Adapters => config.model.fuse.push(FusedAdapter { path: product, weight: 1.0 }),
            HandedOn::Words => {}
        }
        let words = before.learned_tokens();
        for (index, token) in config.textual_inversion.tokens.iter_mut().enumerate() {
            let learned = words.iter().find(|learned| learned.word == token.word);
            let own = format!("textual_inversion.tokens.{index}.initial");
            if let Some(learned) = learned.filter(|_| !says(&own)) {
                token.initial = Some(before.words_in(folder, learned));
                // What the vectors started as in the first stage; the two exclude each other.
                token.initial_words = None;
            }
        }
        config
    }
}

impl TrainConfig {
    /// Whether something that this run begins with, of its base or of what it trains on, lies in `folder`, an absolute path.
    pub fn begins_with_something_in(&self, folder: &Path) -> bool {
        let model = &self.model;
        let files = [&model.vae, &model.text_encoder, &model.tokenizer, &self.lora.initial, &self.vae_objective.lpips];
        let fused = model.fuse.iter().map(|fused| &fused.path);
        let words = self.learned_tokens().iter().filter_map(|token| token.initial.as_ref());
        let mut others = files.into_iter().flatten().chain(fused).chain(words);
        Path::new(&model.path).starts_with(folder) || others.any(|path| path.starts_with(folder))
    }

    /// The file with the vectors of a word that this run learned.
    fn words_in(&self, folder: &Path, token: &crate::LearnedTokenConfig) -> PathBuf {
        match self.trainable_facts().hands_on {
            HandedOn::Words => self.product_in(folder),
            _ => folder.join(token.file_beside(&self.name)),
        }
    }
}

/// Lets a stage begin with the base of `before`, but for those keys that it has itself.
fn take_over_base(model: &mut ModelConfig, before: &ModelConfig, says: impl Fn(&str) -> bool) {
    for (_, take_over) in OF_THE_BASE.iter().filter(|(key, _)| !says(&format!("model.{key}"))) {
        take_over(model, before);
    }
}

/// Keys that no stage may have for itself.
fn of_the_process(stage: &Loaded, own: &OwnKeys) -> Vec<Fault> {
    let there = OF_THE_PROCESS.iter().filter(|key| own.has(key));
    let fault = |key: &&str| {
        let problem = stage.document.problem(key, format!("`{key}` is the same in all stages"));
        Fault { key: (*key).to_owned(), problem: problem.hint(format!("set it above `[[{STAGES}]]`")) }
    };
    there.map(fault).collect()
}

/// Why a stage cannot begin with what the one before it makes.
fn does_not_follow(before: &TrainConfig, stage: &Loaded, own: &OwnKeys) -> Vec<Fault> {
    let config = &stage.config;
    let mut faults = Vec::new();
    let mut report = |key: &str, message: String, hint: String| {
        let problem = stage.document.problem(key, message).hint(hint);
        faults.push(Fault { key: key.to_owned(), problem });
    };
    let hands_on = before.trainable_facts().hands_on;
    let continues_adapters = hands_on == HandedOn::Adapters && config.trainable_facts().trains_adapters();
    if continues_adapters && !own.has("lora.initial") {
        // Without keys of their own convolutions have rank and alpha of the rest, of which enough is said.
        let says_convolutions = |lora: &LoraConfig| lora.conv_rank.is_some() || lora.conv_alpha.is_some();
        let both = [&config.lora, &before.lora];
        let compares_convolutions =
            both.iter().all(|lora| lora.convolutions) && both.into_iter().any(says_convolutions);
        let sizes = |config: &TrainConfig| {
            let lora = &config.lora;
            let mut sizes = vec![
                ("kind", lora.kind.name().to_owned()),
                ("rank", lora.rank.to_string()),
                ("alpha", lora.effective_alpha().to_string()),
                ("rank_stabilized", lora.rank_stabilized.to_string()),
            ];
            if compares_convolutions {
                let rank = lora.conv_rank.unwrap_or(lora.rank);
                let alpha = lora.conv_alpha.or(lora.alpha.filter(|_| lora.conv_rank.is_none()));
                sizes.push(("conv_rank", rank.to_string()));
                sizes.push(("conv_alpha", alpha.unwrap_or(f64::from(rank)).to_string()));
            }
            sizes
        };
        for ((key, mine), (_, theirs)) in sizes(config).into_iter().zip(sizes(before)) {
            if mine != theirs {
                let message = format!("`lora.{key}` is {mine}, but the adapters of the stage before have {theirs}");
                report(&format!("lora.{key}"), message, "leave it as it is there: they are trained on".to_owned());
            }
        }
        let trained = |config: &TrainConfig| {
            [("lora.train_unet", config.lora.train_unet), ("lora.train_text_encoder", config.lora.train_text_encoder)]
        };
        for ((key, now), (_, then)) in trained(config).into_iter().zip(trained(before)) {
            if then && !now {
                let message =
                    format!("`{key}` is false, but the stage before trains adapters there, which are trained on");
                report(key, message, format!("set `{key} = true`"));
            }
        }
    }
    if hands_on == HandedOn::Words {
        let goes_on = |word: &str| config.learned_tokens().iter().any(|token| token.word == word);
        if !before.learned_tokens().iter().any(|token| goes_on(&token.word)) {
            let message =
                "this stage learns none of the words of the stage before on, so that nothing would be left of them";
            let hint = "name them in `[[textual_inversion.tokens]]` of both, or train them alone";
            report("textual_inversion", message.to_owned(), hint.to_owned());
        }
    }
    faults
}
