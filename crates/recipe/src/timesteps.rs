//! `[timesteps]`: which timesteps are trained, and how often each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which timesteps are trained, and how often each. At timestep 0 an image has hardly any noise, at the last one hardly
/// anything else.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimestepsConfig {
    /// Smallest timestep that is trained.
    #[schemars(extend("x-other-names" = ["min_timestep"], "x-refused-names" = {
        "min_noising_strength": "write `timesteps.min`, the strength times the model's timesteps: 0.2 is 200 of 1000"
    }))]
    pub min: u32,

    /// Timesteps below this are trained. Absent: all of the model's, usually 1000.
    #[schemars(extend("x-other-names" = ["max_timestep"], "x-refused-names" = {
        "max_noising_strength": "write `timesteps.max`, the strength times the model's timesteps: 0.8 is 800 of 1000"
    }))]
    pub max: Option<u32>,

    /// Spread the timesteps of a batch: of its n images each gets another nth part of the distribution, so that no batch is all
    /// noise or all detail. The loss varies less from step to step; how often each timestep comes is the same. Has no effect
    /// where a batch is one image.
    pub stratified: bool,

    /// How often each timestep between `min` and `max` is drawn.
    pub distribution: TimestepDistribution,
}

/// How often each timestep is drawn; `type` chooses. x is the place of a timestep between `min` (0) and `max` (1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TimestepDistribution {
    /// Every timestep as often as any other.
    Uniform(UniformTimesteps),
    /// x = σ(z), where z is normally distributed (arXiv:2403.03206, §3.1): the middle comes most often. With `mean = 0` it is what
    /// other programs call sigmoid sampling, with `std` for their scale.
    LogitNormal(LogitNormalTimesteps),
    /// In proportion to σ(`slope` · (x − `center`)): rises smoothly from one end to the other, as in OneTrainer.
    Sigmoid(SigmoidTimesteps),
    /// x = 1 − u³ or x = u³ with an even u: much of the time near one end (arXiv:2302.08453, §3.4).
    Cubic(CubicTimesteps),
    /// Every timestep as often as any other, but some of them `multiplier` times as often: diffusers' timestep bias.
    Biased(BiasedTimesteps),
}

impl Default for TimestepDistribution {
    fn default() -> Self {
        TimestepDistribution::Uniform(UniformTimesteps {})
    }
}

/// Every timestep as often as any other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UniformTimesteps {}

/// x = σ(z), z normally distributed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogitNormalTimesteps {
    /// Mean of z. Above 0: more noise, below: less.
    pub mean: f64,

    /// Standard deviation of z. Smaller than 1: more of the middle.
    #[schemars(extend("x-other-names" = ["sigmoid_scale"]))]
    pub std: f64,
}

impl Default for LogitNormalTimesteps {
    fn default() -> Self {
        LogitNormalTimesteps { mean: 0.0, std: 1.0 }
    }
}

/// In proportion to σ(slope · (x − center)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SigmoidTimesteps {
    /// How steep it rises. Above 0: more noise, below: less; 0 is `uniform`. Typical: 4 to 10.
    pub slope: f64,

    /// Where it is half as high as at its top, 0 to 1.
    pub center: f64,
}

impl Default for SigmoidTimesteps {
    fn default() -> Self {
        SigmoidTimesteps { slope: 8.0, center: 0.5 }
    }
}

/// x = 1 − u³ or x = u³.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CubicTimesteps {
    /// Which end comes most often.
    pub toward: CubicEnd,
}

impl Default for CubicTimesteps {
    fn default() -> Self {
        CubicTimesteps { toward: CubicEnd::Noise }
    }
}

/// An end of the timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CubicEnd {
    /// x = 1 − u³: much noise, which decides what is where.
    Noise,
    /// x = u³: little noise, which decides textures and details.
    Detail,
}

/// Some timesteps more often than the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BiasedTimesteps {
    /// Which timesteps.
    #[schemars(extend("x-other-names" = ["timestep_bias_strategy"]))]
    pub strategy: BiasStrategy,

    /// How many times as often as the others they are drawn. Below 1: less often.
    #[schemars(extend("x-other-names" = ["timestep_bias_multiplier"]))]
    pub multiplier: f64,

    /// How large a part of the timesteps `earlier` and `later` mean, 0 to 1. Absent: 0.25.
    #[schemars(extend("x-other-names" = ["timestep_bias_portion"]))]
    pub portion: Option<f64>,

    /// First timestep that `range` means. Absent: `timesteps.min`.
    #[schemars(extend("x-other-names" = ["timestep_bias_begin"]))]
    pub begin: Option<u32>,

    /// Timesteps below this are meant by `range`. Absent: `timesteps.max`.
    #[schemars(extend("x-other-names" = ["timestep_bias_end"]))]
    pub end: Option<u32>,
}

impl Default for BiasedTimesteps {
    fn default() -> Self {
        BiasedTimesteps { strategy: BiasStrategy::Later, multiplier: 1.0, portion: None, begin: None, end: None }
    }
}

impl BiasedTimesteps {
    /// How large a part of the timesteps `earlier` and `later` mean.
    pub fn effective_portion(&self) -> f64 {
        self.portion.unwrap_or(0.25)
    }
}

/// Which timesteps come more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BiasStrategy {
    /// The first `portion` of them: little noise.
    Earlier,
    /// The last `portion` of them: much noise.
    Later,
    /// From `begin` to `end`.
    Range,
}
