//! `scheduler_config.json` as diffusers writes it, and what each scheduler class makes of it.
//!
//! A file holds the keys of the class that wrote it. Another class reading it takes the keys it knows and its own
//! defaults for the rest, which is what [`SchedulerConfig::settings`] does (diffusers: `from_config`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::scheduler_choices::{
    AlgorithmType, BetaSchedule, FinalSigmasType, SchedulerClass, SolverType, TimestepSpacing, VarianceType,
};
use crate::{Error, PredictionType};

/// The keys of a `scheduler_config.json`, as far as they were written; everything else is kept and ignored.
///
/// An absent key and `null` are the same: the class that reads the file decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The keys are diffusers' own; `SchedulerSettings` says what each of them does.
pub struct SchedulerConfig {
    #[serde(rename = "_class_name", skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_train_timesteps: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_start: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_end: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_schedule: Option<BetaSchedule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_betas: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<PredictionType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_betas_zero_snr: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<TimestepSpacing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_alpha_to_one: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_prk_steps: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample_range: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thresholding: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variance_type: Option<VarianceType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_karras_sigmas: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_sigmas_type: Option<FinalSigmasType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver_order: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver_type: Option<SolverType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm_type: Option<AlgorithmType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_order_final: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub euler_at_final: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", with = "python_float")]
    pub lambda_min_clipped: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict_x0: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_corrector: Option<Vec<usize>>,
    /// Every key that is not named above.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A configuration as one class understands it: every key that it uses, with its own defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerSettings {
    /// The class whose defaults these are.
    pub class: SchedulerClass,
    /// Length of the training schedule.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// The way between them.
    pub beta_schedule: BetaSchedule,
    /// Betas given one by one, in place of the three above.
    pub trained_betas: Option<Vec<f64>>,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Whether the schedule is rescaled so that nothing of the image is left at its end.
    pub rescale_betas_zero_snr: bool,
    /// How steps are laid over the schedule.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every timestep of the `leading` spacing.
    pub steps_offset: i64,
    /// Whether the signal level after the last step is 1 instead of that of timestep 0.
    pub set_alpha_to_one: bool,
    /// PNDM: whether the Runge-Kutta steps at the beginning are left out.
    pub skip_prk_steps: bool,
    /// Largest magnitude of a predicted image, where it is clipped at all.
    pub clip_sample_range: Option<f64>,
    /// DDPM: variance of the added noise.
    pub variance_type: VarianceType,
    /// Whether noise levels follow Karras et al. 2022, arXiv:2206.00364.
    pub use_karras_sigmas: bool,
    /// Lowest noise level of that sequence in place of the schedule's.
    pub sigma_min: Option<f64>,
    /// Highest noise level of that sequence in place of the schedule's.
    pub sigma_max: Option<f64>,
    /// The noise level after the last step.
    pub final_sigmas_type: FinalSigmasType,
    /// Order of a multistep solver.
    pub solver_order: usize,
    /// Form of its higher-order terms.
    pub solver_type: SolverType,
    /// DPM-Solver: what it integrates.
    pub algorithm_type: AlgorithmType,
    /// Whether the last steps fall back to lower orders.
    pub lower_order_final: bool,
    /// DPM-Solver: whether the last step is always of first order.
    pub euler_at_final: bool,
    /// DPM-Solver: lowest log-SNR/2 that is sampled from.
    pub lambda_min_clipped: f64,
    /// UniPC: whether it works on predicted images instead of predicted noise.
    pub predict_x0: bool,
    /// UniPC: steps after which no correction is made.
    pub disable_corrector: Vec<usize>,
}

impl SchedulerConfig {
    /// Stable Diffusion's own schedule, for models that come without a file.
    // https://huggingface.co/CompVis/stable-diffusion-v1-4/blob/main/scheduler/scheduler_config.json
    pub fn stable_diffusion() -> Self {
        SchedulerConfig {
            class_name: Some(SchedulerClass::Pndm.name().to_owned()),
            num_train_timesteps: Some(1000),
            beta_start: Some(0.00085),
            beta_end: Some(0.012),
            beta_schedule: Some(BetaSchedule::ScaledLinear),
            clip_sample: Some(false),
            prediction_type: Some(PredictionType::Epsilon),
            set_alpha_to_one: Some(false),
            skip_prk_steps: Some(true),
            steps_offset: Some(1),
            ..SchedulerConfig::default()
        }
    }

    /// Reads a `scheduler_config.json`.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        parse(&text).map_err(|source| Error::Parse { path: Some(path.to_owned()), source })
    }

    /// Reads the text of a `scheduler_config.json`.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|source| Error::Parse { path: None, source })
    }

    /// The text of a `scheduler_config.json`, sorted and indented as diffusers does it.
    pub fn to_json(&self) -> String {
        let keys = serde_json::to_value(self).expect("the keys are strings and the values plain JSON");
        let keys: BTreeMap<&String, &Value> = keys.as_object().into_iter().flatten().collect();
        let text = serde_json::to_string_pretty(&keys).expect("the keys are strings and the values plain JSON");
        python_float::to_python(&text) + "\n"
    }

    /// The class named by `_class_name`.
    pub fn class(&self) -> Result<SchedulerClass, Error> {
        SchedulerClass::from_name(self.class_name.as_deref().ok_or(Error::NoClass)?)
    }

    /// The configuration as diffusers' Stable Diffusion pipelines read it: they insist on `steps_offset = 1` and on
    /// `clip_sample = false`, whatever the file says, because early files had neither.
    // https://github.com/huggingface/diffusers/blob/main/src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py
    pub fn for_stable_diffusion(&self) -> Self {
        SchedulerConfig { steps_offset: Some(1), clip_sample: Some(false), ..self.clone() }
    }

    /// The configuration with the defaults of `class` for every key that is absent, or an error if it asks the class
    /// for something that is not implemented.
    pub fn settings(&self, class: SchedulerClass) -> Result<SchedulerSettings, Error> {
        self.refuse_unsupported(class)?;
        Ok(self.filled_in(class))
    }

    /// The configuration with the defaults of `class`; for its noise schedule alone, nothing else is looked at.
    pub(crate) fn filled_in(&self, class: SchedulerClass) -> SchedulerSettings {
        use SchedulerClass as Class;
        let has_sigmas = !matches!(class, Class::Ddim | Class::Ddpm | Class::Pndm);
        let is_solver = matches!(class, Class::DpmSolverMultistep | Class::UniPcMultistep);
        let (beta_start, beta_end) = match class {
            Class::HeunDiscrete => (0.00085, 0.012),
            _ => (0.0001, 0.02),
        };
        // Which of the classes know the key at all; the others ignore it, as in diffusers.
        let clips = matches!(class, Class::Ddim | Class::Ddpm | Class::HeunDiscrete);
        let clips_by_default = matches!(class, Class::Ddim | Class::Ddpm);
        let rescales = !matches!(class, Class::Pndm | Class::LmsDiscrete | Class::HeunDiscrete);
        let has_karras = has_sigmas && class != Class::EulerAncestralDiscrete;
        let has_sigma_range = has_karras && class != Class::LmsDiscrete;
        let has_final_sigma = is_solver || class == Class::EulerDiscrete;
        SchedulerSettings {
            class,
            num_train_timesteps: self.num_train_timesteps.unwrap_or(1000),
            beta_start: self.beta_start.unwrap_or(beta_start),
            beta_end: self.beta_end.unwrap_or(beta_end),
            beta_schedule: self.beta_schedule.unwrap_or(BetaSchedule::Linear),
            trained_betas: self.trained_betas.clone(),
            prediction_type: self.prediction_type.unwrap_or(PredictionType::Epsilon),
            rescale_betas_zero_snr: rescales && self.rescale_betas_zero_snr.unwrap_or(false),
            timestep_spacing: self.timestep_spacing.unwrap_or(match has_sigmas {
                true => TimestepSpacing::Linspace,
                false => TimestepSpacing::Leading,
            }),
            steps_offset: self.steps_offset.unwrap_or(0),
            set_alpha_to_one: self.set_alpha_to_one.unwrap_or(class == Class::Ddim),
            skip_prk_steps: self.skip_prk_steps.unwrap_or(false),
            clip_sample_range: (clips && self.clip_sample.unwrap_or(clips_by_default))
                .then(|| self.clip_sample_range.unwrap_or(1.0)),
            variance_type: self.variance_type.unwrap_or(VarianceType::FixedSmall),
            use_karras_sigmas: has_karras && self.use_karras_sigmas.unwrap_or(false),
            sigma_min: self.sigma_min.filter(|_| has_sigma_range),
            sigma_max: self.sigma_max.filter(|_| has_sigma_range),
            final_sigmas_type: self.final_sigmas_type.filter(|_| has_final_sigma).unwrap_or(FinalSigmasType::Zero),
            solver_order: self.solver_order.unwrap_or(2),
            solver_type: match (class, self.solver_type) {
                (Class::UniPcMultistep, Some(SolverType::Bh1)) => SolverType::Bh1,
                (Class::UniPcMultistep, _) => SolverType::Bh2,
                (_, Some(SolverType::Heun)) => SolverType::Heun,
                _ => SolverType::Midpoint,
            },
            algorithm_type: match self.algorithm_type {
                None | Some(AlgorithmType::Deis) => AlgorithmType::DpmSolverPlusPlus,
                Some(algorithm_type) => algorithm_type,
            },
            lower_order_final: self.lower_order_final.unwrap_or(true),
            euler_at_final: self.euler_at_final.unwrap_or(false),
            lambda_min_clipped: self.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY),
            predict_x0: self.predict_x0.unwrap_or(true),
            disable_corrector: self.disable_corrector.clone().unwrap_or_default(),
        }
    }

    /// Refuses what the class would do in diffusers and does not do here, instead of drawing another picture.
    fn refuse_unsupported(&self, class: SchedulerClass) -> Result<(), Error> {
        use SchedulerClass as Class;
        let unsupported = |key, value: &dyn std::fmt::Display, supported| {
            Err(Error::Unsupported { class: class.name(), key, value: value.to_string(), supported })
        };
        let thresholds = matches!(class, Class::Ddim | Class::Ddpm | Class::DpmSolverMultistep | Class::UniPcMultistep);
        if thresholds && self.thresholding == Some(true) {
            return unsupported("thresholding", &true, "it is not meant for latents: remove the key");
        }
        // Keys of other ways to place noise levels, and of flow matching.
        let has_sigmas = !matches!(class, Class::Ddim | Class::Ddpm | Class::Pndm | Class::EulerAncestralDiscrete);
        let is_solver = matches!(class, Class::DpmSolverMultistep | Class::UniPcMultistep);
        for (key, known) in [
            ("use_exponential_sigmas", has_sigmas),
            ("use_beta_sigmas", has_sigmas),
            ("use_lu_lambdas", class == Class::DpmSolverMultistep),
            ("use_flow_sigmas", is_solver),
        ] {
            if known && self.other.get(key).and_then(Value::as_bool) == Some(true) {
                return unsupported(key, &true, "noise levels come from the schedule or from `use_karras_sigmas`");
            }
        }
        if class == Class::EulerDiscrete {
            for (key, only) in [("interpolation_type", "linear"), ("timestep_type", "discrete")] {
                if let Some(value) = self.other.get(key).and_then(Value::as_str).filter(|value| *value != only) {
                    return unsupported(key, &value, "only `linear` and `discrete` are");
                }
            }
        }
        if class == Class::UniPcMultistep && self.other.get("solver_p").is_some_and(|value| !value.is_null()) {
            return unsupported("solver_p", &"…", "UniPC predicts by itself here: remove the key");
        }
        if class == Class::Ddpm
            && let Some(value @ (VarianceType::Learned | VarianceType::LearnedRange | VarianceType::FixedLargeLog)) =
                self.variance_type
        {
            let value = serde_json::to_string(&value).expect("a unit variant is a string");
            return unsupported("variance_type", &value, "use `fixed_small`, `fixed_small_log` or `fixed_large`");
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<SchedulerConfig, serde_json::Error> {
    serde_json::from_str(&python_float::from_python(text))
}

/// Python writes infinities as bare words, which JSON does not have: `"lambda_min_clipped": -Infinity`.
mod python_float {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const WORDS: [(&str, f64); 3] = [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrWord {
        Number(f64),
        Word(String),
    }

    /// Puts quotes around the bare words, so that the text is JSON.
    pub fn from_python(text: &str) -> String {
        let mut json = String::with_capacity(text.len());
        let (mut rest, mut in_string) = (text, false);
        while let Some(character) = rest.chars().next() {
            let word = WORDS.iter().find(|(word, _)| !in_string && rest.starts_with(word));
            let length = match (word, character) {
                (Some((word, _)), _) => word.len(),
                (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
                _ => character.len_utf8(),
            };
            if word.is_none() && character == '"' {
                in_string = !in_string;
            }
            match word {
                Some((word, _)) => json.extend(["\"", word, "\""]),
                None => json.push_str(&rest[..length]),
            }
            rest = &rest[length..];
        }
        json
    }

    /// Takes those quotes away again where a value stands alone.
    pub fn to_python(json: &str) -> String {
        let mut text = json.to_owned();
        for (word, _) in WORDS {
            text = text.replace(&format!(": \"{word}\""), &format!(": {word}"));
        }
        text
    }

    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        let value = value.expect("absent keys are skipped");
        match WORDS.iter().find(|(_, number)| number.to_bits() == value.to_bits()) {
            Some((word, _)) => serializer.serialize_str(word),
            None => serializer.serialize_f64(value),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(match Option::<NumberOrWord>::deserialize(deserializer)? {
            None => None,
            Some(NumberOrWord::Number(number)) => Some(number),
            Some(NumberOrWord::Word(found)) => {
                let known = WORDS.iter().find(|(word, _)| *word == found);
                Some(known.ok_or_else(|| D::Error::custom(format!("`{found}` is not a number")))?.1)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_get_the_defaults_of_the_class_that_reads() {
        let config = SchedulerConfig::default();
        let ddim = config.settings(SchedulerClass::Ddim).unwrap();
        assert_eq!((ddim.clip_sample_range, ddim.set_alpha_to_one), (Some(1.0), true));
        assert_eq!(ddim.timestep_spacing, TimestepSpacing::Leading);
        let heun = config.settings(SchedulerClass::HeunDiscrete).unwrap();
        assert_eq!((heun.beta_start, heun.beta_end, heun.clip_sample_range), (0.00085, 0.012, None));
        assert_eq!(heun.timestep_spacing, TimestepSpacing::Linspace);
        assert!(!config.settings(SchedulerClass::Pndm).unwrap().set_alpha_to_one);
    }

    #[test]
    fn keys_of_another_class_are_kept_and_ignored() {
        let text = r#"{"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": true, "colour": [1, "NaN"]}"#;
        let config = SchedulerConfig::from_json(text).unwrap();
        assert!(!config.settings(SchedulerClass::Pndm).unwrap().rescale_betas_zero_snr);
        assert!(config.settings(SchedulerClass::Ddim).unwrap().rescale_betas_zero_snr);
        let again = SchedulerConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.other["colour"], serde_json::json!([1, "NaN"]));
    }

    #[test]
    fn reads_and_writes_the_infinities_of_python() {
        let text = "{\"lambda_min_clipped\": -Infinity, \"note\": \"to \\\"Infinity\\\"\"}";
        let config = SchedulerConfig::from_json(text).unwrap();
        assert_eq!(config.lambda_min_clipped, Some(f64::NEG_INFINITY));
        assert_eq!(config.other["note"], "to \"Infinity\"");
        assert!(config.to_json().contains("\"lambda_min_clipped\": -Infinity"));
    }

    #[test]
    fn refuses_what_would_silently_draw_another_picture() {
        let refused = |text: &str, class| {
            let error = SchedulerConfig::from_json(text).unwrap().settings(class).unwrap_err();
            assert!(error.hint().is_some());
            error.to_string()
        };
        assert_eq!(
            refused(r#"{"thresholding": true}"#, SchedulerClass::Ddim),
            "DDIMScheduler: `thresholding = true` is not supported"
        );
        refused(r#"{"use_exponential_sigmas": true}"#, SchedulerClass::EulerDiscrete);
        refused(r#"{"variance_type": "learned_range"}"#, SchedulerClass::Ddpm);
        refused(r#"{"timestep_type": "continuous"}"#, SchedulerClass::EulerDiscrete);
    }

    #[test]
    fn stable_diffusion_insists_on_an_offset_and_on_no_clipping() {
        let config = SchedulerConfig::from_json(r#"{"clip_sample": true, "steps_offset": 0}"#).unwrap();
        let settings = config.for_stable_diffusion().settings(SchedulerClass::Ddim).unwrap();
        assert_eq!((settings.steps_offset, settings.clip_sample_range), (1, None));
    }

    #[test]
    fn an_unknown_class_is_answered_with_the_known_ones() {
        let config = SchedulerConfig { class_name: Some("FlowMatch".to_owned()), ..SchedulerConfig::default() };
        let error = config.class().unwrap_err();
        assert_eq!(error.to_string(), "scheduler class `FlowMatch` is not supported");
        assert!(error.hint().unwrap().contains("EulerAncestralDiscreteScheduler"));
    }
}
