//! What can be measured: the trait of a metric and the list of all.

use crate::error::Result;
use crate::{denoising_loss, drawing_check, reconstruction, subject_check, word_check};
use sdtrain_data_loader::DataSet;
use sdtrain_model::{PromptReading, StableDiffusion};
use sdtrain_recipe::{ModelConfig, TrainConfig};
use serde_json::{Map, Value};

/// Every metric, in the order of the table.
pub const METRICS: &[MetricEntry] =
    &[denoising_loss::ENTRY, reconstruction::ENTRY, drawing_check::ENTRY, subject_check::ENTRY, word_check::ENTRY];

/// One named metric.
#[derive(Debug, Clone, Copy)]
pub struct MetricEntry {
    /// Its name.
    pub name: &'static str,
    /// What it tells, in one sentence.
    pub summary: &'static str,
    /// Makes it ready, once for all models that are measured; `None` where it does not suit the model or the data.
    pub prepare: for<'a> fn(&Setting<'a>) -> Prepared<'a>,
}

/// A metric that is ready, where it suits.
pub type Prepared<'a> = Result<Option<Box<dyn Metric + 'a>>>;

/// What is there before anything is measured.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The run's configuration.
    pub config: &'a TrainConfig,
    /// The base model, nothing attached.
    pub model: &'a StableDiffusion,
    /// Images that were not trained on.
    pub held_out: &'a DataSet,
}

impl Setting<'_> {
    /// How prompts are read.
    pub fn prompt_reading(&self) -> PromptReading {
        prompt_reading(&self.config.model)
    }
}

/// How `[model]` has prompts read.
pub fn prompt_reading(model: &ModelConfig) -> PromptReading {
    PromptReading {
        clip_skip: model.clip_skip.map(|layers| layers as usize),
        max_token_length: model.max_token_length.map(|length| length as usize),
        weights: model.prompt_weights,
    }
}

/// A metric that is ready to measure one model after another, each in the same way.
pub trait Metric {
    /// What its figures are called.
    fn columns(&self) -> Vec<Column>;

    /// The figures of `model` as it is now, one for each column; NaN where it makes numbers that are not finite.
    fn measure(&mut self, model: &StableDiffusion) -> Result<Vec<f64>>;

    /// What the figures depend on besides the model, for `evaluation.json`.
    fn settings(&self) -> Map<String, Value>;
}

/// One figure's name and look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name in files.
    pub key: String,
    /// Heading that it shares with its neighbours.
    pub group: String,
    /// Its own heading.
    pub title: String,
    /// How it is printed.
    pub form: Form,
}

/// How a figure is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A small positive number; less is better.
    Loss,
    /// A part of a whole, 0 to 1, printed in percent.
    Share,
    /// A number of any size; less is better.
    Number,
    /// A ratio on a logarithmic scale; more is better.
    Decibels,
}

impl Form {
    /// The figure as text.
    pub fn print(self, figure: f64) -> String {
        match self {
            _ if !figure.is_finite() => "not finite".to_string(),
            Form::Loss => format!("{figure:.5}"),
            Form::Share => format!("{:.0} %", figure * 100.0),
            Form::Number => format!("{figure:.1}"),
            Form::Decibels => format!("{figure:.2} dB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_has_its_own_name_and_says_what_it_tells() {
        let names: BTreeSet<&str> = METRICS.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), METRICS.len());
        assert!(METRICS.iter().all(|entry| !entry.summary.is_empty()));
    }

    #[test]
    fn a_figure_that_is_not_finite_says_so() {
        assert_eq!(Form::Loss.print(0.123456), "0.12346");
        assert_eq!(Form::Share.print(0.8125), "81 %");
        assert_eq!((Form::Number.print(1234.56), Form::Decibels.print(31.456)), ("1234.6".into(), "31.46 dB".into()));
        assert_eq!(Form::Share.print(f64::NAN), "not finite");
    }
}
