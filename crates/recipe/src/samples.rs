//! `[samples]`: pictures drawn during training.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Every, SamplePrompt};

/// Pictures drawn during training, with the weights as they are then; also before the first step and after the last. A model for inpainting
/// draws them with the whole picture covered, whatever `[inpainting]` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplesConfig {
    /// Optimizer steps between two sets of pictures. Absent or 0: none by steps.
    #[schemars(extend("x-other-names" = ["sample_every_n_steps"]))]
    pub every_steps: Option<u64>,

    /// Epochs between two sets of pictures. Absent or 0: none by epochs.
    #[schemars(extend("x-other-names" = ["sample_every_n_epochs"]))]
    pub every_epochs: Option<u64>,

    /// One picture is drawn for each prompt: text, or a table of settings, `[[samples.prompts]]`. Empty: no pictures at all.
    pub prompts: Vec<SamplePrompt>,

    /// Text file with more prompts, one a line, options behind them as in `prompts`; blank lines and those that begin with `#`
    /// are skipped. Relative to the file it is written in. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-other-names" = ["sample_prompts"]))]
    pub prompts_file: Option<PathBuf>,

    /// What the pictures should not show.
    #[schemars(extend("x-other-names" = ["negative_prompt"]))]
    pub negative: String,

    /// Denoising steps of a picture.
    #[schemars(extend("x-other-names" = ["num_inference_steps", "sample_steps"]))]
    pub steps: u32,

    /// How strongly the prompt is followed (classifier-free guidance); 1 is none.
    #[schemars(extend("x-other-names" = ["guidance_scale"]))]
    pub guidance: f64,

    /// Seed of the first picture's noise; picture k has `seed + k`. The same at every step, so that pictures can be compared.
    pub seed: u64,

    /// Width in pixels. Absent: that of `data.resolution`.
    pub width: Option<u32>,

    /// Height in pixels. Absent: that of `data.resolution`.
    pub height: Option<u32>,

    /// The sampler. Absent: the model's own scheduler.
    #[schemars(extend("x-other-names" = ["sample_sampler"]))]
    pub sampler: Option<SamplerName>,
}

impl Default for SamplesConfig {
    fn default() -> Self {
        SamplesConfig {
            every_steps: None,
            every_epochs: None,
            prompts: Vec::new(),
            prompts_file: None,
            negative: String::new(),
            steps: 30,
            guidance: 7.5,
            seed: 0,
            width: None,
            height: None,
            sampler: None,
        }
    }
}

impl SamplesConfig {
    /// When pictures are due, besides the start and the end.
    pub fn every(&self) -> Every {
        Every::new(self.every_steps, self.every_epochs)
    }
}

/// How many of `steps` are walked from a picture with `strength`, 0 to 1: the last `int(steps · strength)`, as diffusers counts.
pub fn steps_of_strength(steps: usize, strength: f64) -> usize {
    ((steps as f64 * strength) as usize).min(steps)
}

/// A way to walk from noise to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplerName {
    /// Deterministic implicit steps (arXiv:2010.02502).
    Ddim,
    /// The ancestral steps of the original formulation (arXiv:2006.11239).
    Ddpm,
    /// Pseudo linear multistep (arXiv:2202.09778).
    Pndm,
    /// Linear multistep over sigmas.
    Lms,
    /// Euler's method over sigmas (arXiv:2206.00364).
    Euler,
    /// Euler's method with fresh noise in each step.
    EulerA,
    /// Heun's method: two evaluations a step.
    Heun,
    /// DPM-Solver++, second order, multistep (arXiv:2211.01095).
    #[serde(rename = "dpmpp_2m")]
    Dpmpp2m,
    /// The same over Karras' sigmas.
    #[serde(rename = "dpmpp_2m_karras")]
    Dpmpp2mKarras,
    /// Predictor and corrector in one (arXiv:2302.04867).
    #[serde(rename = "unipc")]
    UniPc,
}

impl SamplerName {
    /// Every sampler, in the order of the manual.
    pub const ALL: [SamplerName; 10] = [
        SamplerName::Ddim,
        SamplerName::Ddpm,
        SamplerName::Pndm,
        SamplerName::Lms,
        SamplerName::Euler,
        SamplerName::EulerA,
        SamplerName::Heun,
        SamplerName::Dpmpp2m,
        SamplerName::Dpmpp2mKarras,
        SamplerName::UniPc,
    ];

    /// The name as it is written in a configuration and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            SamplerName::Ddim => "ddim",
            SamplerName::Ddpm => "ddpm",
            SamplerName::Pndm => "pndm",
            SamplerName::Lms => "lms",
            SamplerName::Euler => "euler",
            SamplerName::EulerA => "euler_a",
            SamplerName::Heun => "heun",
            SamplerName::Dpmpp2m => "dpmpp_2m",
            SamplerName::Dpmpp2mKarras => "dpmpp_2m_karras",
            SamplerName::UniPc => "unipc",
        }
    }
}

impl fmt::Display for SamplerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for SamplerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        SamplerName::ALL
            .into_iter()
            .find(|sampler| sampler.name() == text)
            .ok_or_else(|| format!("unknown sampler `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::SamplerName;

    #[test]
    fn a_sampler_has_one_name_in_files_and_on_the_command_line() {
        for sampler in SamplerName::ALL {
            let written = toml::Value::try_from(sampler).expect("a unit variant is a string");
            assert_eq!(written.as_str(), Some(sampler.name()));
            assert_eq!(sampler.name().parse(), Ok(sampler));
        }
    }
}
