#![doc = include_str!("../README.md")]

mod denoising_loss;
mod drawing_check;
mod error;
mod evaluation;
mod metric;
mod reconstruction;
mod run;
mod subject_check;
mod table;
mod word_check;

pub use denoising_loss::DenoisingLoss;
pub use drawing_check::DrawingCheck;
pub use error::{Error, Result};
pub use evaluation::{BASE, Evaluation, Row};
pub use metric::{Column, Form, METRICS, Metric, MetricEntry, Prepared, Setting, prompt_reading};
pub use reconstruction::{Reconstruction, ReconstructionError};
pub use run::{detach_all, run};
