//! `[dreambooth]`: what the model is to keep of a class while it learns one subject of it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ObjectiveKind, Picture, SamplePrompt, SamplerName, SamplesConfig, SourceFormat, Subset, TrainConfig};

/// What keeps the class of the subject as the model knows it (Ruiz et al. 2022, arXiv:2208.12242); read when
/// `method = "dreambooth"`. The images of the subject are the subsets of `[data]`, their prompt is `class_tokens` there, and
/// `loss.prior_loss_weight` says how much the class counts beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DreamboothConfig {
    /// What the class is held to.
    #[schemars(extend("x-other-names" = ["with_prior_preservation", "prior_preservation"]))]
    pub prior: Prior,

    /// What the subject is one of, as a prompt without the subject's own word: "a photo of a dog". A list takes turns, image by
    /// image: other dogs, and dogs elsewhere. Needed unless `prior = "none"`.
    pub class_prompt: ClassPrompt,

    /// Class images that are wanted. Those that are not yet in `class_data_dir` are drawn before the first step, by the model as
    /// it is then. An epoch sees as many class images as images of the subject, repeats counted, taken from the front as all
    /// regularization images are; more of them are not seen. Typical: 100, with `repeats` of the subset to match.
    pub num_class_images: usize,

    /// Folder with the class images, made where it does not exist. Images of one's own in it count, and are captioned with the
    /// class prompt. Drawn ones are taken again only by a run that would draw the same: another model, prompt or sampler is
    /// refused. Relative to the file it is written in. Absent: `class_images` in the output folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_data_dir: Option<PathBuf>,

    /// What class images should not show.
    #[schemars(extend("x-other-names" = ["negative_prompt"]))]
    pub negative: String,

    /// Denoising steps of a class image.
    #[schemars(extend("x-other-names" = ["num_inference_steps"]))]
    pub steps: u32,

    /// Classifier-free guidance of class images; 1 is none.
    #[schemars(extend("x-other-names" = ["guidance_scale"]))]
    pub guidance: f64,

    /// Seed of the first class image's noise; image k has `seed + k`. Apart from the run's `seed`, so that runs of several seeds
    /// share their class images.
    pub seed: u64,

    /// The sampler of class images. Absent: the model's own scheduler.
    #[schemars(extend("x-refused-names" = {
        "sample_batch_size": "as many class images as fit are drawn at once"
    }))]
    pub sampler: Option<SamplerName>,
}

impl Default for DreamboothConfig {
    fn default() -> Self {
        DreamboothConfig {
            prior: Prior::ClassImages,
            class_prompt: ClassPrompt::One(String::new()),
            num_class_images: 100,
            class_data_dir: None,
            negative: String::new(),
            steps: 50,
            guidance: 7.5,
            seed: 0,
            sampler: None,
        }
    }
}

/// What the class is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prior {
    /// Images of the class, drawn by the model before the first step, are trained on beside those of the subject.
    ClassImages,
    /// No class images: with the class prompt, each noisy image of the subject is to be answered as the untrained model answers
    /// it, by the mean squared distance, whatever `loss.type` and masks say of the subject. A LoRA is switched off for that; beside `trainable = "full"` a frozen copy of the UNet stays in memory. Each step
    /// takes about two and a half times as long.
    BasePrediction,
    /// Nothing, or regularization images of one's own: subsets with `is_regularization = true`.
    None,
}

/// One prompt, or several that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ClassPrompt {
    /// For all class images.
    One(String),
    /// Image k has prompt `k modulo length`.
    Several(Vec<String>),
}

impl ClassPrompt {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            ClassPrompt::One(prompt) => std::slice::from_ref(prompt),
            ClassPrompt::Several(prompts) => prompts,
        }
    }

    /// The prompt of class image, or example, `index`; empty where there is none.
    pub fn of(&self, index: u64) -> &str {
        let prompts = self.all();
        prompts.get((index % prompts.len().max(1) as u64) as usize).map_or("", String::as_str)
    }
}

impl TrainConfig {
    /// Whether class images are trained on beside those of the subject.
    pub fn uses_class_images(&self) -> bool {
        self.objective_kind() == ObjectiveKind::Dreambooth && self.dreambooth.prior == Prior::ClassImages
    }

    /// The class images that `[dreambooth]` asks for, in order, as large as the images of the subject are made.
    pub fn class_pictures(&self) -> Vec<Picture> {
        let dreambooth = &self.dreambooth;
        let prompt = |index| SamplePrompt::from(dreambooth.class_prompt.of(index));
        let samples = SamplesConfig {
            prompts: (0..dreambooth.num_class_images as u64).map(prompt).collect(),
            negative: dreambooth.negative.clone(),
            steps: dreambooth.steps,
            guidance: dreambooth.guidance,
            seed: dreambooth.seed,
            sampler: dreambooth.sampler,
            ..SamplesConfig::default()
        };
        let resolution = self.subject().and_then(|subject| subject.resolution).unwrap_or(self.data.resolution);
        samples.pictures(resolution)
    }

    /// How class images in `folder` that `table` names are trained on: sized, batched, mirrored and their captions dropped as
    /// those of the first images of the subject.
    pub fn class_subset(&self, folder: PathBuf, table: PathBuf) -> Subset {
        let subject = self.subject().cloned().unwrap_or_default();
        Subset {
            path: folder,
            format: SourceFormat::Metadata,
            metadata_file: Some(table),
            is_regularization: true,
            resolution: subject.resolution,
            batch_size: subject.batch_size,
            bucketing: subject.bucketing,
            resize_kernel: subject.resize_kernel,
            flip: subject.flip,
            caption_dropout_rate: subject.caption_dropout_rate,
            caption_dropout_every_n_epochs: subject.caption_dropout_every_n_epochs,
            ..Subset::default()
        }
    }

    /// The first subset whose images are to be learned.
    fn subject(&self) -> Option<&Subset> {
        self.data.subsets.iter().find(|subset| !subset.is_regularization)
    }
}
