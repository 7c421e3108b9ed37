//! What the types cannot say: ranges, keys that contradict each other, paths that must exist.

use std::path::Path;

use sdtrain_config::{Document, Fault, Parsed, Problem};

use crate::kohya::KohyaFile;
use crate::location::nearest_folder_hint;
use crate::ranges::{too_large_for_fp32, too_small_for_fp32};
use crate::{
    CONDITIONING_IMAGE, CleanConfig, DataConfig, HubName, Init, MASK_COLUMN, ModelLocation, PredictionType, ResizeMode,
    SOURCE_FILE_ENDINGS, Subset, TrainConfig, address_mistake, is_address, is_pattern,
};

/// More threads than this are a slip; each holds a decoded image.
const MOST_WORKERS: usize = 1024;

/// More threads of arithmetic than any machine has processors.
const MOST_THREADS: u32 = 1024;

/// More epochs, accumulated batches or ranks than this are a slip; where epochs differ each is counted before the run.
const MOST_OF_A_RUN: u64 = 1_000_000;

/// Everything that is wrong with a configuration whose single values have the right types.
///
/// `kohya` is the file that a part of it was taken from.
pub(crate) fn check(parsed: &Parsed<TrainConfig>, document: &Document, kohya: Option<&KohyaFile>) -> Vec<Fault> {
    let Some(config) = &parsed.value else {
        return Vec::new();
    };
    let mut checker = Checker { parsed, document, kohya, faults: Vec::new() };
    checker.check_name(config);
    checker.check_model(config);
    checker.check_data(config);
    checker.check_method(config);
    checker.check_parts(config);
    checker.check_optimizer(config);
    checker.check_ema(config);
    checker.check_objective(config);
    checker.check_train(config);
    checker.check_precision(config);
    checker.check_ranks(config);
    checker.check_outputs(config);
    checker.check_validation(config);
    checker.check_debug(config);
    checker.check_allowed_changes(config);
    checker.faults
}

pub(crate) struct Checker<'a> {
    parsed: &'a Parsed<TrainConfig>,
    document: &'a Document,
    kohya: Option<&'a KohyaFile>,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    fn check_model(&mut self, config: &TrainConfig) {
        let model = &config.model;
        if !self.parsed.is_faulty("model.path") && !self.parsed.is_faulty("model") {
            self.check_model_path(config);
        }
        self.existing_or_on_hub("model.vae", model.vae.as_deref());
        for (key, folder) in [("model.text_encoder", &model.text_encoder), ("model.tokenizer", &model.tokenizer)] {
            match folder.as_deref() {
                Some(name) if HubName::is_at(name) => self.hub_name(key, &name.to_string_lossy()),
                Some(folder) => self.existing_folder(key, folder),
                None => {}
            }
        }
        if model.text_encoder_init == Init::Random && model.text_encoder.is_none() {
            self.report(
                "model.text_encoder_init",
                "`model.text_encoder_init` is set, but `model.text_encoder` is not",
            )
            .hint = Some("name the folder of the new text encoder's `config.json`".to_owned());
        }
        self.at_least_one("model.clip_skip", model.clip_skip.map(u64::from));
        self.at_least_one("model.max_token_length", model.max_token_length.map(u64::from));
        if model.zero_terminal_snr == Some(true) && model.prediction_type == Some(PredictionType::Epsilon) {
            self.report(
                "model.zero_terminal_snr",
                "`model.zero_terminal_snr` cannot be used with `prediction_type = \"epsilon\"`: \
                 there is no image left at the last timestep to tell from the noise",
            )
            .hint = Some("set `prediction_type = \"v_prediction\"`".to_owned());
        }
    }

    fn check_model_path(&mut self, config: &TrainConfig) {
        let path = &config.model.path;
        if path.is_empty() {
            self.report("model.path", "`model.path` is empty").hint =
                Some("`builtin:poster-tiny` comes with the program".to_owned());
            return;
        }
        if HubName::is_one(path) {
            self.hub_name("model.path", path);
            return;
        }
        match ModelLocation::find(path) {
            Err((message, hint)) => {
                self.report("model.path", format!("`model.path`: {message}")).hint = hint;
            }
            Ok(ModelLocation::Path(path)) if config.model.init == Init::Random && !path.is_dir() => {
                self.report(
                    "model.path",
                    "`model.path` must be a folder with `config.json` files when `model.init = \"random\"`",
                );
            }
            Ok(_) => {}
        }
    }

    fn check_data(&mut self, config: &TrainConfig) {
        let data = &config.data;
        self.check_order(config);
        if data.workers > MOST_WORKERS {
            self.report("data.workers", format!("`data.workers` is at most {MOST_WORKERS}, not {}", data.workers))
                .hint = Some("more than there are processor cores do not read faster".to_owned());
        }
        self.check_cache_dir(data);
        self.check_text_cache(config);
        self.check_clean(&data.clean);
        if data.subsets.is_empty() && !self.parsed.is_faulty("data") {
            self.report("data.subsets", "there is no image folder to train on").hint =
                Some("add a section `[[data.subsets]]` with `path = \"…\"`".to_owned());
        }
        for (index, subset) in data.subsets.iter().enumerate() {
            let key = |name: &str| format!("data.subsets.{index}.{name}");
            if !self.parsed.is_faulty(&key("path")) {
                self.check_subset_path(&key("path"), &subset.path);
            }
            self.existing(&key("metadata_file"), subset.metadata_file.as_deref());
            self.check_captions(index, subset);
            if subset.random_crop && data.cache_latents && config.objective_kind().denoises() {
                self.report(&key("random_crop"), "random crops cannot be taken from cached latents").hint =
                    Some("set `data.cache_latents = false`".to_owned());
            }
            if subset.random_crop && data.resize == ResizeMode::Squeeze {
                let message = format!("`{}`: squeezed images (`data.resize`) are not cut", key("random_crop"));
                self.report(&key("random_crop"), message).hint = Some("remove one of them".to_owned());
            }
            if subset.crop_unscaled && (!subset.random_crop || data.batching(subset).bucketing.enabled) {
                let message =
                    format!("`{}` needs `random_crop = true`, and buckets that are off", key("crop_unscaled"));
                self.report(&key("crop_unscaled"), message).hint =
                    Some("remove it: images are scaled to their buckets".to_owned());
            }
            self.check_images(index, subset, data.cache_latents && config.objective_kind().denoises());
        }
    }

    fn check_cache_dir(&mut self, data: &DataConfig) {
        let Some(folder) = &data.cache_dir else { return };
        if !data.cache_latents && !data.cache_text_encoder_outputs {
            self.report("data.cache_dir", "`data.cache_dir` is set, but `data.cache_latents` is false").hint =
                Some("remove one of them".to_owned());
        }
        if folder.as_os_str().is_empty() {
            self.report("data.cache_dir", "`data.cache_dir` is empty");
        } else if folder.exists() && !folder.is_dir() {
            let message = format!("`data.cache_dir`: `{}` is a file, not a folder", folder.display());
            self.report("data.cache_dir", message);
        }
    }

    fn check_images(&mut self, index: usize, subset: &Subset, cached: bool) {
        let key = |name: &str| format!("data.subsets.{index}.{name}");
        if let Some(color) = &subset.color_augmentation {
            self.between_zero_and_one(&key("color_augmentation.probability"), color.probability);
            for (name, strength, largest) in [
                ("hue", color.hue, 180.0),
                ("gamma", color.gamma, 0.9),
                ("saturation", color.saturation, 1.0),
                ("brightness", color.brightness, 1.0),
                ("contrast", color.contrast, 1.0),
            ] {
                if !(0.0..=largest).contains(&strength) {
                    let key = key(&format!("color_augmentation.{name}"));
                    self.report(&key, format!("`{key}` must be between 0 and {largest}, not {strength}"));
                }
            }
            if cached && color.probability > 0.0 {
                let key = key("color_augmentation");
                self.report(&key, "cached latents cannot change their colours").hint =
                    Some("set `data.cache_latents = false`".to_owned());
            }
        }
        for (extra_index, extra) in subset.extra_images.iter().enumerate() {
            let key = |name: &str| key(&format!("extra_images.{extra_index}.{name}"));
            if let Some(path) = &extra.path {
                self.existing_folder(&key("path"), path);
            } else if extra.suffix.is_empty() && extra.source_column.is_none() {
                self.report(&key("suffix"), format!("`{}` is not set, and neither is `path`", key("suffix"))).hint = Some(
                    "without a folder of their own, extra images need a suffix to be told apart; those of a table, of Parquet \
                     files or of shards have a `source_column`"
                        .to_owned(),
                );
            }
            self.not_empty(&key("source_column"), extra.source_column.as_deref());
            if extra.source_column.is_some() && (extra.path.is_some() || !extra.suffix.is_empty()) {
                let message = format!("`{}` is set beside `path` or `suffix`", key("source_column"));
                self.report(&key("source_column"), message).hint =
                    Some("images lie in a column or in files of their own: keep the one that is meant".to_owned());
            }
            if extra.suffix.contains(['/', '\\', '.']) {
                let message = format!(
                    "`{}` must be a part of a file name without ending, not \"{}\"",
                    key("suffix"),
                    extra.suffix
                );
                self.report(&key("suffix"), message);
            }
            if extra.column.is_empty() {
                self.report(&key("column"), format!("`{}` is empty", key("column"))).hint =
                    Some("`mask` is the loss mask; other names are those that the method asks for".to_owned());
            } else if subset.extra_images[..extra_index].iter().any(|other| other.column == extra.column)
                || (extra.column == CONDITIONING_IMAGE && subset.conditioning_image_column.is_some())
            {
                self.report(&key("column"), format!("there are two columns `{}`", extra.column));
            }
            if extra.column == MASK_COLUMN && subset.alpha_mask {
                self.report(&key("column"), "the loss mask is set twice: by `alpha_mask` and by this column").hint =
                    Some("keep the one that is meant".to_owned());
            }
        }
    }

    fn check_subset_path(&mut self, key: &str, path: &Path) {
        if is_address(path) {
            if let Some((message, hint)) = address_mistake(path) {
                let message = format!("`{key}`: `{}` {message}", path.display());
                self.report(key, message).hint = Some(hint.to_owned());
            }
            return;
        }
        let is_source = path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| SOURCE_FILE_ENDINGS.contains(&ending.to_ascii_lowercase().as_str()));
        if path.is_file() && !is_source {
            let message = format!("`{key}`: `{}` is a file, not a folder", path.display());
            let endings = SOURCE_FILE_ENDINGS.map(|ending| format!("`.{ending}`")).join(", ");
            self.report(key, message).hint = Some(format!("files that hold or name images end in {endings}"));
        } else if !is_pattern(path) && !path.is_file() {
            self.existing_folder(key, path);
        }
    }

    fn check_clean(&mut self, clean: &CleanConfig) {
        for mistake in clean.mistakes() {
            let key = format!("data.clean.{}", mistake.key);
            self.report(&key, format!("`{key}` {}", mistake.message)).hint = mistake.hint.map(str::to_owned);
        }
    }

    fn check_method(&mut self, config: &TrainConfig) {
        self.check_lora(&config.lora);
        self.rate("full.text_encoder_learning_rate", config.full.text_encoder_learning_rate);
        self.rate("full.text_encoder_2_learning_rate", config.full.text_encoder_2_learning_rate);
        if let Some((message, hint)) = config.pair_refused() {
            self.report("trainable", message).hint = Some(hint);
        }
        if let Some((key, message)) = config.trainable_facts().nothing {
            self.report(key, message);
        }
        self.check_vae_objective(config);
        self.check_dreambooth(config);
        self.check_inpainting(config);
        self.check_textual_inversion(config);
    }

    fn check_vae_objective(&mut self, config: &TrainConfig) {
        let objective = &config.vae_objective;
        let weights = [
            ("l1_weight", objective.l1_weight),
            ("l2_weight", objective.l2_weight),
            ("kl_weight", objective.kl_weight),
            ("gradient_weight", objective.gradient_weight),
            ("lpips_weight", objective.lpips_weight),
        ];
        for (name, weight) in weights {
            self.not_negative(&format!("vae_objective.{name}"), Some(weight));
        }
        self.existing("vae_objective.lpips", objective.lpips.as_deref());
        if objective.lpips_weight > 0.0 && objective.lpips.is_none() {
            let message = "`vae_objective.lpips_weight` needs a network, and `vae_objective.lpips` names none";
            self.report("vae_objective.lpips_weight", message).hint = Some(
                "save `lpips.LPIPS(net=\"vgg\").state_dict()` of the Python package lpips as a safetensors file and name it there"
                    .to_owned(),
            );
        }
        if !config.objective_kind().denoises() && objective.l1_weight + objective.l2_weight == 0.0 {
            self.report(
                "vae_objective",
                "nothing asks for a likeness: `vae_objective.l1_weight` and `vae_objective.l2_weight` are both 0",
            );
        }
    }

    fn check_train(&mut self, config: &TrainConfig) {
        let train = &config.train;
        if !config.objective_kind().denoises() && train.gradient_checkpointing.is_on() {
            self.report("train.gradient_checkpointing", "is not made for `method = \"vae\"`");
        }
        self.at_least_one("train.max_steps", train.max_steps);
        self.at_least_one("train.max_epochs", train.max_epochs);
        match (train.max_steps, train.max_epochs) {
            (Some(_), Some(_)) => {
                self.report("train.max_epochs", "`train.max_steps` and `train.max_epochs` are both set").hint =
                    Some("keep the one that is meant".to_owned());
            }
            (None, None) if !self.parsed.is_faulty("train") => {
                self.report("train", "the length of the run is not set").hint =
                    Some("set `train.max_steps` or `train.max_epochs`".to_owned());
            }
            _ => {}
        }
        self.at_least_one("train.gradient_accumulation_steps", Some(train.gradient_accumulation_steps));
        for (key, number, way_out) in [
            ("train.max_epochs", train.max_epochs, "set `train.max_steps` for a run that is ended by hand"),
            (
                "train.gradient_accumulation_steps",
                Some(train.gradient_accumulation_steps),
                "a step ends with its epoch, however many batches are accumulated",
            ),
            ("train.world_size", train.world_size, "leave it out for as many ranks as there are"),
        ] {
            if let Some(number) = number.filter(|&number| number > MOST_OF_A_RUN) {
                self.report(key, format!("`{key}` is at most {MOST_OF_A_RUN}, not {number}")).hint =
                    Some(way_out.to_owned());
            }
        }
        self.not_negative("train.max_grad_norm", Some(train.max_grad_norm));
        self.at_least_one("train.threads", train.threads.map(u64::from));
        if let Some(threads) = train.threads.filter(|&threads| threads > MOST_THREADS) {
            self.report("train.threads", format!("`train.threads` is at most {MOST_THREADS}, not {threads}")).hint =
                Some("leave it out for one thread on each processor core".to_owned());
        }
    }

    fn check_outputs(&mut self, config: &TrainConfig) {
        self.not_negative("checkpoint.grace_seconds", config.checkpoint.grace_seconds);
        self.at_least_one("checkpoint.keep_last", Some(config.checkpoint.keep_last as u64));
        self.at_least_one("save.keep_last", config.save.keep_last.map(|count| count as u64));
        self.at_least_one("log.every_steps", Some(config.log.every_steps));
        self.check_samples(config);
    }

    fn check_validation(&mut self, config: &TrainConfig) {
        let validation = &config.validation;
        if let Some(path) = &validation.path {
            self.check_subset_path("validation.path", path);
        }
        if let Some(split) = validation.split {
            if !(split > 0.0 && split < 1.0) {
                let message = format!("`validation.split` must be between 0 and 1, not {split}");
                self.report("validation.split", message);
            }
            if validation.path.is_some() {
                self.report("validation.split", "`validation.path` and `validation.split` are both set").hint =
                    Some("keep the one that is meant".to_owned());
            }
        }
        if !validation.every().is_never()
            && validation.path.is_none()
            && validation.split.is_none()
            && !self.parsed.is_faulty("validation")
        {
            self.report("validation", "there are no images to validate on").hint =
                Some("set `validation.path` or `validation.split`".to_owned());
        }
        self.at_least_one("validation.timestep_bands", Some(u64::from(validation.timestep_bands)));
        self.at_least_one("validation.repeats", Some(u64::from(validation.repeats)));
    }

    fn check_debug(&mut self, config: &TrainConfig) {
        self.existing("debug.trace_inputs", config.debug.trace_inputs.as_deref());
        self.at_least_one("debug.trace_steps", Some(config.debug.trace_steps));
        let train = &config.train;
        // Of a run on as many ranks as there are, the passes are not known here.
        let passes = train.world_size.map(|ranks| train.gradient_accumulation_steps.saturating_mul(ranks));
        for (index, fault) in config.debug.faults.iter().enumerate() {
            for (name, number, most, of) in
                [("step", Some(fault.step), train.max_steps, "the run has"), ("pass", fault.pass, passes, "a step has")]
            {
                let key = format!("debug.faults.{index}.{name}");
                self.at_least_one(&key, number);
                if let (Some(number), Some(most)) = (number, most.filter(|&most| most > 0))
                    && number > most
                {
                    self.report(&key, format!("`{key}` is {number}, but {of} {most}: nothing would happen")).hint =
                        Some(format!("it is counted from 1 to {most}"));
                }
            }
        }
    }

    pub(crate) fn report(&mut self, key: &str, message: impl Into<String>) -> &mut Problem {
        let message = message.into();
        let in_kohya = self.kohya.and_then(|file| file.problem(key, &message));
        let problem = in_kohya.unwrap_or_else(|| self.document.problem(key, message));
        self.faults.push(Fault { key: key.to_owned(), problem });
        &mut self.faults.last_mut().expect("a fault was just added").problem
    }

    pub(crate) fn at_least_one(&mut self, key: &str, value: Option<u64>) {
        if value == Some(0) {
            self.report(key, format!("`{key}` must be at least 1, not 0"));
        }
    }

    pub(crate) fn positive(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
            self.report(key, format!("`{key}` must be greater than 0, not {value}"));
        }
    }

    pub(crate) fn not_negative(&mut self, key: &str, value: Option<f64>) {
        // kohya's dataset files may hold `nan` and `inf`, which are no numbers to compare with.
        match value {
            Some(value) if !value.is_finite() => {
                self.report(key, format!("`{key}` must be a number, not {value}"));
            }
            Some(value) if value < 0.0 => {
                self.report(key, format!("`{key}` must not be negative, and is {value}"));
            }
            _ => {}
        }
    }

    /// 0 or more, and a number in fp32, in which steps are taken; 0 there for 0 alone.
    pub(crate) fn rate(&mut self, key: &str, value: Option<f64>) {
        self.not_negative(key, value);
        let unfit = |value| too_large_for_fp32(value).or_else(|| too_small_for_fp32(value));
        if let Some(message) = value.filter(|&value| value >= 0.0).and_then(unfit) {
            self.report(key, format!("`{key}` {message}"));
        }
    }

    pub(crate) fn between_zero_and_one(&mut self, key: &str, value: f64) {
        if !(0.0..=1.0).contains(&value) {
            self.report(key, format!("`{key}` must be between 0 and 1, not {value}"));
        }
    }

    pub(crate) fn existing(&mut self, key: &str, path: Option<&Path>) {
        if let Some(path) = path.filter(|path| !path.exists()) {
            let message = format!("`{key}`: `{}` does not exist", path.display());
            self.report(key, message).hint = nearest_folder_hint(path);
        }
    }

    /// The same where a name of the hub may stand for a path.
    pub(crate) fn existing_or_on_hub(&mut self, key: &str, path: Option<&Path>) {
        match path.filter(|path| HubName::is_at(path)) {
            Some(name) => self.hub_name(key, &name.to_string_lossy()),
            None => self.existing(key, path),
        }
    }

    /// Whether it is there is not asked here: it is fetched once everything else is right.
    fn hub_name(&mut self, key: &str, name: &str) {
        if let Err((message, hint)) = HubName::parse(name) {
            self.report(key, format!("`{key}`: {message}")).hint = hint;
        }
    }

    fn existing_folder(&mut self, key: &str, path: &Path) {
        if path.as_os_str().is_empty() {
            self.report(key, format!("`{key}` is empty"));
        } else if path.exists() && !path.is_dir() {
            let message = format!("`{key}`: `{}` is a file, not a folder", path.display());
            self.report(key, message);
        } else {
            self.existing(key, Some(path));
        }
    }
}
