//! The words that a `scheduler_config.json` chooses from: kinds of betas, spacings, variances, solvers, and the classes.

use serde::{Deserialize, Serialize};

use crate::Error;

/// How the betas run from `beta_start` to `beta_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly: all Stable Diffusion models.
    ScaledLinear,
    /// From a squared cosine of the signal level, each at most 0.999 (`beta_start` and `beta_end` unused).
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredcosCapV2,
}

/// How the steps of a sampler are laid over the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Both ends included, evenly.
    Linspace,
    /// From the low end in whole strides, plus `steps_offset`.
    Leading,
    /// From the high end in strides.
    Trailing,
}

/// Variance of the noise that DDPM adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // diffusers' names; formulae 6 and 7 of arXiv:2006.11239 say which is which.
pub enum VarianceType {
    FixedSmall,
    FixedSmallLog,
    FixedLarge,
    FixedLargeLog,
    Learned,
    LearnedRange,
}

/// The noise level after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmasType {
    /// None.
    Zero,
    /// The smallest one of the training schedule.
    SigmaMin,
}

/// Form of the second-order term; each solver reads the names of the others as its own default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // diffusers' names
pub enum SolverType {
    Midpoint,
    Heun,
    Bh1,
    Bh2,
    Logrho,
}

/// Which integral DPM-Solver approximates, and whether it adds noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // diffusers' names
pub enum AlgorithmType {
    #[serde(rename = "dpmsolver")]
    DpmSolver,
    #[serde(rename = "dpmsolver++")]
    DpmSolverPlusPlus,
    #[serde(rename = "sde-dpmsolver")]
    SdeDpmSolver,
    #[serde(rename = "sde-dpmsolver++")]
    SdeDpmSolverPlusPlus,
    /// Read as `dpmsolver++`.
    #[serde(rename = "deis")]
    Deis,
}

/// The scheduler classes of diffusers that this program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // named after diffusers' classes
pub enum SchedulerClass {
    Ddim,
    Ddpm,
    Pndm,
    LmsDiscrete,
    EulerDiscrete,
    EulerAncestralDiscrete,
    HeunDiscrete,
    DpmSolverMultistep,
    UniPcMultistep,
}

impl SchedulerClass {
    /// All of them, in the order of the list of samplers.
    pub const ALL: [SchedulerClass; 9] = [
        SchedulerClass::Ddim,
        SchedulerClass::Ddpm,
        SchedulerClass::Pndm,
        SchedulerClass::LmsDiscrete,
        SchedulerClass::EulerDiscrete,
        SchedulerClass::EulerAncestralDiscrete,
        SchedulerClass::HeunDiscrete,
        SchedulerClass::DpmSolverMultistep,
        SchedulerClass::UniPcMultistep,
    ];

    /// diffusers' name, as `_class_name` has it.
    pub fn name(self) -> &'static str {
        match self {
            SchedulerClass::Ddim => "DDIMScheduler",
            SchedulerClass::Ddpm => "DDPMScheduler",
            SchedulerClass::Pndm => "PNDMScheduler",
            SchedulerClass::LmsDiscrete => "LMSDiscreteScheduler",
            SchedulerClass::EulerDiscrete => "EulerDiscreteScheduler",
            SchedulerClass::EulerAncestralDiscrete => "EulerAncestralDiscreteScheduler",
            SchedulerClass::HeunDiscrete => "HeunDiscreteScheduler",
            SchedulerClass::DpmSolverMultistep => "DPMSolverMultistepScheduler",
            SchedulerClass::UniPcMultistep => "UniPCMultistepScheduler",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|class| class.name() == name)
            .ok_or_else(|| Error::UnknownClass { class: name.to_owned() })
    }
}
