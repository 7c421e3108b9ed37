//! The whole configuration of a run: one field a section, and the keys that stand above all sections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BlocksConfig, CheckpointConfig, DataConfig, DebugConfig, DreamboothConfig, EmaConfig, FullConfig, InpaintingConfig,
    LogConfig, LoraConfig, LossConfig, LrScheduleConfig, Method, ModelConfig, NoiseConfig, OptimizerConfig,
    PrecisionConfig, RanksConfig, SamplesConfig, SaveConfig, StageConfig, TextualInversionConfig, TimestepsConfig,
    TrainSection, TrainableKind, VaeConfig, ValidationConfig,
};

/// A training run: what is trained, on what, how, and what it leaves behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model", "data"]))]
pub struct TrainConfig {
    /// File, or list of files, that this one continues: tables are merged, this file wins, later files of a list win
    /// over earlier ones. Relative to this file. Absent: this file stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<Extends>,

    /// Names the output folder and the products in it. Absent: the configuration file's name without `.toml`.
    #[schemars(extend("x-other-names" = ["output_name"]))]
    pub name: String,

    /// What is trained, and on what terms: a LoRA beside the frozen model, the model itself, a subject, painting into pictures, the
    /// autoencoder, or words that the model does not know.
    pub method: Method,

    /// What carries the gradients, where it is to be other than what `method` means. Absent: what it means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable: Option<TrainableKind>,

    /// Decides every random choice of the run: order, crops, noise, timesteps, first weights.
    /// The same seed gives the same run.
    pub seed: u64,

    /// The model that training starts from.
    pub model: ModelConfig,

    /// The images and captions to learn.
    pub data: DataConfig,

    /// The LoRA; read when a LoRA is trained.
    pub lora: LoraConfig,

    /// Which parts are trained; read when the model itself is trained.
    pub full: FullConfig,

    /// What is kept of the class while a subject is learned; read when `method = "dreambooth"`.
    pub dreambooth: DreamboothConfig,

    /// What is covered of the images; read when `method = "inpainting"`.
    pub inpainting: InpaintingConfig,

    /// Words to learn; read when words or a LoRA are trained.
    pub textual_inversion: TextualInversionConfig,

    /// How fast the single blocks of the UNet learn.
    pub blocks: BlocksConfig,

    /// What the autoencoder is asked for; read when `method = "vae"`.
    pub vae_objective: VaeConfig,

    /// How weights follow their gradients.
    pub optimizer: OptimizerConfig,

    /// How the learning rate changes over the run.
    pub lr_schedule: LrScheduleConfig,

    /// A running mean of the trained weights.
    pub ema: EmaConfig,

    /// The noise that training adds.
    pub noise: NoiseConfig,

    /// At which timesteps it is added.
    pub timesteps: TimestepsConfig,

    /// What is minimised.
    pub loss: LossConfig,

    /// Number formats.
    pub precision: PrecisionConfig,

    /// How long to train, and what an optimizer step consists of.
    pub train: TrainSection,

    /// How several processes train together.
    pub ranks: RanksConfig,

    /// Saved states that an interrupted run continues from.
    pub checkpoint: CheckpointConfig,

    /// Usable products on the way.
    pub save: SaveConfig,

    /// Pictures drawn during training.
    pub samples: SamplesConfig,

    /// Measuring on images that are not trained on.
    pub validation: ValidationConfig,

    /// What is written down about the run.
    pub log: LogConfig,

    /// Recording and replaying steps, to compare them with another program's.
    pub debug: DebugConfig,

    /// Runs one after the other that one command makes of this file, each from the product of the one before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageConfig>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            extends: None,
            name: String::new(),
            method: Method::Lora,
            trainable: None,
            seed: 42,
            model: ModelConfig::default(),
            data: DataConfig::default(),
            lora: LoraConfig::default(),
            full: FullConfig::default(),
            dreambooth: DreamboothConfig::default(),
            inpainting: InpaintingConfig::default(),
            textual_inversion: TextualInversionConfig::default(),
            blocks: BlocksConfig::default(),
            vae_objective: VaeConfig::default(),
            optimizer: OptimizerConfig::default(),
            lr_schedule: LrScheduleConfig::default(),
            ema: EmaConfig::default(),
            noise: NoiseConfig::default(),
            timesteps: TimestepsConfig::default(),
            loss: LossConfig::default(),
            precision: PrecisionConfig::default(),
            train: TrainSection::default(),
            checkpoint: CheckpointConfig::default(),
            save: SaveConfig::default(),
            samples: SamplesConfig::default(),
            validation: ValidationConfig::default(),
            log: LogConfig::default(),
            ranks: RanksConfig::default(),
            debug: DebugConfig::default(),
            stages: Vec::new(),
        }
    }
}

impl TrainConfig {
    /// What `train.learning_rate_scale` multiplies every learning rate by.
    pub fn learning_rate_scale(&self) -> f64 {
        self.train.learning_rate_scale.factor(self.data.batch_size, &self.train)
    }
}

/// One file to continue, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Extends {
    /// One file.
    One(String),
    /// Several files; later ones win.
    Many(Vec<String>),
}
