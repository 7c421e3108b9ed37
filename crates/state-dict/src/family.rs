//! Model families: how one is told from another, and what files call it.

use std::path::Path;

use crate::control_net::is_control_net_folder;
use crate::diffusers_folder::read_json;
use crate::error::{Error, Result};
use crate::maps::text_places::{self, FOLDERS, TextFolder, TextPlace};
use crate::reader::{Reader, read_integers};
use crate::recognise::{FileKind, UnetInput, recognise};

/// The key of a file's metadata for `epsilon` or `v` (ModelSpec 1.0.1).
pub(crate) const PREDICTION_TYPE: &str = "modelspec.prediction_type";
/// Whose names single files of whole models follow, and adapters of SDXL in kohya's form (`modelspec.implementation`).
pub(crate) const ORIGINAL_NAMES: &str = "https://github.com/Stability-AI/generative-models";

/// Networks of one shape: what a checkpoint of another family cannot be loaded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Stable Diffusion 1.x and every model of its shape.
    Sd1,
    /// Stable Diffusion 2.x: OpenCLIP-H, linear projections round the attention.
    Sd2,
    /// Stable Diffusion XL: two text encoders, sizes and crops as conditions.
    Sdxl,
    /// Its refiner.
    SdxlRefiner,
}

impl Family {
    /// As `model.family` is written.
    pub fn name(self) -> &'static str {
        match self {
            Family::Sd1 => "sd1",
            Family::Sd2 => "sd2",
            Family::Sdxl => "sdxl",
            Family::SdxlRefiner => "sdxl_refiner",
        }
    }

    /// As people say it.
    pub fn title(self) -> &'static str {
        match self {
            Family::Sd1 => "SD1",
            Family::Sd2 => "SD2",
            Family::Sdxl => "SDXL",
            Family::SdxlRefiner => "SDXL refiner",
        }
    }

    /// What the tokenizer of each of its text encoders fills a window with.
    pub fn pad_tokens(self) -> &'static [&'static str] {
        match self {
            Family::Sd1 => &["<|endoftext|>"],
            Family::Sd2 | Family::SdxlRefiner => &["!"],
            Family::Sdxl => &["<|endoftext|>", "!"],
        }
    }

    /// Where its text encoders lie in a single file.
    pub fn text_places(self) -> &'static [TextPlace] {
        match self {
            Family::Sd1 => text_places::SD1,
            Family::Sd2 => text_places::SD2,
            Family::Sdxl => text_places::SDXL,
            Family::SdxlRefiner => text_places::SDXL_REFINER,
        }
    }

    /// What of a text encoder its UNet attends to.
    pub fn text_layer(self) -> TextLayer {
        match self {
            Family::Sd1 | Family::Sd2 => TextLayer { from_end: 1, final_norm: true },
            // Podell et al. 2023 (arXiv:2307.01952), section 2.1: the penultimate outputs of both.
            Family::Sdxl | Family::SdxlRefiner => TextLayer { from_end: 2, final_norm: false },
        }
    }

    /// The folders of its text encoders and their tokenizers, in a diffusers folder.
    pub fn text_folders(self) -> &'static [TextFolder] {
        match self {
            // It keeps the second of the base's.
            Family::SdxlRefiner => &FOLDERS[1..],
            Family::Sd1 | Family::Sd2 | Family::Sdxl => &FOLDERS[..self.text_places().len()],
        }
    }

    /// Whether it makes pictures of noise alone: SDXL's refiner was trained for the last steps only.
    pub fn makes_pictures_of_noise(self) -> bool {
        match self {
            Family::Sd1 | Family::Sd2 | Family::Sdxl => true,
            Family::SdxlRefiner => false,
        }
    }

    /// Whether its UNet is told how beautiful a picture is, in place of the size that is seen (`requires_aesthetics_score`).
    pub fn requires_aesthetics_score(self) -> bool {
        match self {
            Family::Sd1 | Family::Sd2 | Family::Sdxl => false,
            Family::SdxlRefiner => true,
        }
    }

    /// Whether models of it that predict the velocity are told from others by what they say: SD1 was released to predict the noise.
    pub fn says_prediction(self) -> bool {
        match self {
            Family::Sd1 => false,
            Family::Sd2 | Family::Sdxl | Family::SdxlRefiner => true,
        }
    }

    /// diffusers' pipeline for a model of it whose UNet takes in `input`.
    pub fn pipeline_class(self, input: UnetInput) -> &'static str {
        match (self, input) {
            (Family::Sd1 | Family::Sd2, UnetInput::Inpaint) => "StableDiffusionInpaintPipeline",
            (Family::Sd1 | Family::Sd2, UnetInput::Edit) => "StableDiffusionInstructPix2PixPipeline",
            (Family::Sd1 | Family::Sd2, _) => "StableDiffusionPipeline",
            (Family::Sdxl | Family::SdxlRefiner, UnetInput::Inpaint) => "StableDiffusionXLInpaintPipeline",
            (Family::Sdxl | Family::SdxlRefiner, UnetInput::Edit) => "StableDiffusionXLInstructPix2PixPipeline",
            (Family::Sdxl, _) => "StableDiffusionXLPipeline",
            (Family::SdxlRefiner, _) => "StableDiffusionXLImg2ImgPipeline",
        }
    }

    /// The one whose UNet attends to text states of `width`, where its files say no more.
    pub fn of_text_width(width: usize) -> Option<Family> {
        match width {
            768 => Some(Family::Sd1),
            1024 => Some(Family::Sd2),
            1280 => Some(Family::SdxlRefiner),
            2048 => Some(Family::Sdxl),
            _ => None,
        }
    }

    /// Whose names and shapes its products follow, as kohya's scripts write it (`modelspec.implementation`).
    pub fn implementation(self) -> &'static str {
        match self {
            Family::Sd1 | Family::Sd2 => "diffusers",
            Family::Sdxl | Family::SdxlRefiner => ORIGINAL_NAMES,
        }
    }

    /// What kohya's scripts write as `ss_base_model_version`.
    pub fn kohya_version(self, v_prediction: bool) -> &'static str {
        match (self, v_prediction) {
            (Family::Sd1, false) => "sd_v1",
            (Family::Sd1, true) => "sd_v1_v",
            (Family::Sd2, false) => "sd_v2",
            (Family::Sd2, true) => "sd_v2_v",
            (Family::Sdxl | Family::SdxlRefiner, _) => "sdxl_base_v1-0",
        }
    }

    /// Whether kohya's scripts are told `--v2` for it, which they write as `ss_v2`.
    pub fn is_kohya_v2(self) -> bool {
        match self {
            Family::Sd2 => true,
            Family::Sd1 | Family::Sdxl | Family::SdxlRefiner => false,
        }
    }

    /// That models of this family with this input can be loaded; [`UnetInput::check_drawable`] says whether they are drawn with.
    ///
    /// # Errors
    /// For `path`, with what it is.
    pub fn check_supported(self, input: UnetInput, path: &Path) -> Result<()> {
        match input {
            UnetInput::Plain | UnetInput::Inpaint | UnetInput::Edit => Ok(()),
            UnetInput::Other(_) => {
                let reason = format!(
                    "is a model of the {} family{}; only those with 4, those for editing by instruction with 8, and those for \
                     inpainting with 9 are supported so far",
                    self.title(),
                    input.note()
                );
                Err(Error::WrongKind { path: path.to_path_buf(), reason })
            }
        }
    }

    /// The family of the model in a diffusers folder, and what its UNet takes in.
    ///
    /// # Errors
    /// Where `folder` is none, or of a pipeline or text encoder that is not known.
    pub fn of_folder(folder: &Path) -> Result<(Family, UnetInput)> {
        let wrong = |reason: String| Err(Error::WrongKind { path: folder.to_path_buf(), reason });
        let index = folder.join("model_index.json");
        if !index.is_file() && is_control_net_folder(folder) {
            return wrong(
                "is a ControlNet and no whole model; ControlNets are inspected and converted, but neither trained nor drawn with yet"
                    .to_string(),
            );
        }
        if !index.is_file() {
            return wrong("is no diffusers folder: it has no `model_index.json`".to_string());
        }
        let index = read_json(&index)?;
        let class = index["_class_name"].as_str().unwrap_or_default();
        let text_encoder = index["text_encoder"][1].as_str().unwrap_or("CLIPTextModel");
        // PAI-Diffusion and Japanese Stable Diffusion have CLIP's network with other vocabularies, Taiyi has BERT.
        let is_known = ["CLIPTextModel", "BertModel"].contains(&text_encoder);
        // The class of Japanese Stable Diffusion has its language in front.
        if !class.contains("StableDiffusion") || !is_known {
            return wrong(format!(
                "is a `{class}` with a `{text_encoder}`; only the SD1, SD2 and SDXL families, with text encoders of CLIP or BERT, \
                 are supported so far"
            ));
        }
        let unet = read_json(&folder.join("unet/config.json"))?;
        let family = match (class.contains("XL"), unet["use_linear_projection"].as_bool()) {
            (true, _) if index["text_encoder"][1].is_null() => Family::SdxlRefiner,
            (true, _) => Family::Sdxl,
            // Of the families with one CLIP encoder only SD2's UNet has them, whatever its sizes.
            (false, Some(true)) => Family::Sd2,
            (false, _) => Family::Sd1,
        };
        Ok((family, UnetInput::of_config(&unet)))
    }

    /// The family of a model in a diffusers folder that can be loaded.
    pub fn of_supported_folder(folder: &Path) -> Result<Family> {
        let (family, input) = Family::of_folder(folder)?;
        family.check_supported(input, folder)?;
        Ok(family)
    }
}

/// What of a text encoder a UNet attends to, where nothing else is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLayer {
    /// Counted from the end, 1 is the last.
    pub from_end: usize,
    /// Whether its states go through the encoder's final norm.
    pub final_norm: bool,
}

/// Whether a single file of `family` predicts the velocity, as far as it can be known: SD2's mostly do and SD1's never; SDXL's say so in
/// their metadata or by an empty tensor `v_pred`, as the programs that sample from them ask for.
///
/// # Errors
/// Where what it says of it cannot be read.
pub fn predicts_velocity(file: &dyn Reader, family: Family) -> Result<bool> {
    let says_v = || file.metadata().get(PREDICTION_TYPE).is_some_and(|kind| kind.starts_with('v'));
    Ok(match family {
        Family::Sd1 => false,
        Family::Sd2 => !sd2_predicts_noise(file)?,
        Family::Sdxl | Family::SdxlRefiner => says_v() || file.info("v_pred").is_some(),
    })
}

/// Whether a single-file SD2 checkpoint predicts the noise: by what its metadata say, or, as diffusers tells it, by the number of steps
/// that it was trained for and by its input, since the released one for inpainting does. Most others predict the velocity;
/// `model.prediction_type` decides against either.
pub fn sd2_predicts_noise(file: &dyn Reader) -> Result<bool> {
    const STEPS_OF_BASE: i64 = 875_000;
    let says = |key: &str| file.metadata().get(key).map(String::as_str);
    match (says(PREDICTION_TYPE), says("modelspec.architecture")) {
        (Some(kind), _) => return Ok(kind.starts_with("eps")),
        (None, Some(architecture)) if architecture.contains("-v2-") => return Ok(architecture.ends_with("-512")),
        _ => {}
    }
    if matches!(recognise(file), FileKind::Ldm { input: UnetInput::Inpaint, .. }) {
        return Ok(true);
    }
    // A tensor of a safetensors file, a number beside the tensors of PyTorch's.
    let steps = file.info("global_step").map(|_| read_integers(file, "global_step")).transpose()?;
    let said = says("global_step").and_then(|steps| steps.parse().ok());
    Ok(steps.or(said.map(|steps| vec![steps])).is_some_and(|steps| steps == [STEPS_OF_BASE]))
}
