//! Posters drawn from captions that no training set has, and whether they show what was asked: object, colour, style.

use crate::error::Result;
use crate::metric::{Column, Form, Metric, MetricEntry, Setting};
use image::RgbImage;
use sdtrain_data_loader::DataSet;
use sdtrain_model::StableDiffusion;
use sdtrain_pipeline::{Request, sampler_name, text_to_image};
use sdtrain_posters::{Style, asked, check, held_out};
use serde_json::{Map, Value, json};

/// The list's line.
pub const ENTRY: MetricEntry = MetricEntry {
    name: "drawing_check",
    summary: "share of drawn posters with the object, colour and style asked for; for the built-in base and its kin",
    prepare: |setting| Ok(DrawingCheck::new(setting).map(|check| Box::new(check) as Box<dyn Metric>)),
};

/// Seed of the first picture's noise: the same for all runs, so that their pictures can be compared.
const SEED: u64 = 0x5eed;

/// The part of the held-out captions that must read as a poster's for the check to make sense.
const LEAST_POSTERS: f64 = 0.8;

/// Captions to draw, and how.
pub struct DrawingCheck {
    sets: Vec<CaptionSet>,
    request: Request,
    /// Its name, for `evaluation.json`.
    sampler: String,
}

/// Captions of one style.
struct CaptionSet {
    style: Style,
    captions: Vec<String>,
}

/// How many pictures show what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    object: usize,
    colour: usize,
    both: usize,
    style: usize,
}

impl DrawingCheck {
    /// `None` where no pictures are wanted, or the held-out captions are not those of posters.
    ///
    /// The captions are the first of the withheld scenes, without the trigger word and, where the data has it, with it.
    pub fn new(setting: &Setting) -> Option<DrawingCheck> {
        let Setting { config, model, held_out: data } = setting;
        let count = config.validation.num_samples as usize;
        let (posters, triggered) = posters_among(data);
        if count == 0 || data.images() == 0 || (posters as f64) < LEAST_POSTERS * data.images() as f64 {
            return None;
        }
        let styles = [Style::Plain, Style::Zenpop];
        let sets = styles.into_iter().take(if triggered { 2 } else { 1 }).map(|style| {
            let captions = held_out(count).iter().map(|poster| poster.caption_in(style)).collect();
            CaptionSet { style, captions }
        });
        let sets = sets.collect();
        let samples = &config.samples;
        let (width, height) = (samples.width, samples.height);
        let step = model.downscale_factor() as u32;
        let fitting = |side: u32| side.next_multiple_of(step.max(1));
        let request = Request {
            prompts: Vec::new(),
            negative: samples.negative.clone(),
            steps: samples.steps as usize,
            guidance: samples.guidance,
            seed: SEED,
            width: fitting(width.unwrap_or(config.data.resolution.width())),
            height: fitting(height.unwrap_or(config.data.resolution.height())),
            sampler: samples.sampler,
            prompt_reading: setting.prompt_reading(),
            init_image: None,
        };
        let sampler = sampler_name(model, &request);
        Some(DrawingCheck { sets, request, sampler })
    }

    /// A picture for each of `captions`; picture k starts from the same noise whatever the caption.
    fn draw(&self, model: &StableDiffusion, captions: &[String]) -> sdtrain_pipeline::Result<Vec<RgbImage>> {
        text_to_image(model, &Request { prompts: captions.to_vec(), ..self.request.clone() })
    }
}

/// How many captions ask for an object in a colour on a poster, and whether any asks for the style.
fn posters_among(data: &DataSet) -> (usize, bool) {
    let captions = || (0..data.images()).map(|image| data.caption(image));
    let triggered = captions().any(|caption| asked(&caption).style == Style::Zenpop);
    (captions().filter(|caption| is_of_a_poster(caption)).count(), triggered)
}

fn is_of_a_poster(caption: &str) -> bool {
    let asked = asked(caption);
    // The tag keeps photographs of red houses out.
    asked.object.is_some() && asked.object_colour.is_some() && caption.split(',').any(|tag| tag.trim() == "poster")
}

impl Seen {
    fn count<'a>(pictures: impl Iterator<Item = (&'a str, &'a RgbImage)>) -> Seen {
        let mut seen = Seen::default();
        for (caption, picture) in pictures {
            let (asked, found) = (asked(caption), check(picture));
            let (object, colour) = (found.object == asked.object, found.object_colour == asked.object_colour);
            seen.object += usize::from(object);
            seen.colour += usize::from(colour);
            seen.both += usize::from(object && colour);
            seen.style += usize::from(found.style);
        }
        seen
    }

    /// As shares of `total`, in the order of the columns.
    fn shares(&self, total: usize) -> [f64; 4] {
        [self.object, self.colour, self.both, self.style].map(|count| count as f64 / total.max(1) as f64)
    }
}

impl Metric for DrawingCheck {
    fn columns(&self) -> Vec<Column> {
        let mut columns = Vec::new();
        for CaptionSet { style, captions } in &self.sets {
            let with = if *style == Style::Zenpop { "with" } else { "without" };
            for title in ["object", "colour", "both", "style"] {
                columns.push(Column {
                    key: format!("{title}_{with}_trigger"),
                    group: format!("right in {} pictures {with} the trigger word", captions.len()),
                    title: title.to_string(),
                    form: Form::Share,
                });
            }
        }
        columns
    }

    fn measure(&mut self, model: &StableDiffusion) -> Result<Vec<f64>> {
        let mut figures = Vec::new();
        for set in &self.sets {
            let pictures = match self.draw(model, &set.captions) {
                Err(sdtrain_pipeline::Error::NotFinite { .. }) => {
                    figures.extend([f64::NAN; 4]);
                    continue;
                }
                pictures => pictures?,
            };
            let captions = set.captions.iter().map(String::as_str);
            figures.extend(Seen::count(captions.zip(&pictures)).shares(pictures.len()));
        }
        Ok(figures)
    }

    fn settings(&self) -> Map<String, Value> {
        let Request { steps, guidance, width, height, .. } = &self.request;
        let settings = [
            ("pictures", json!(self.sets.iter().map(|set| set.captions.len()).sum::<usize>())),
            ("picture_size", json!([width, height])),
            ("sampler", json!(self.sampler)),
            ("sampler_steps", json!(steps)),
            ("guidance", json!(guidance)),
        ];
        settings.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_posters_are_what_their_captions_ask_for() {
        for style in [Style::Plain, Style::Zenpop] {
            let posters = held_out(40);
            let captions: Vec<String> = posters.iter().map(|poster| poster.caption_in(style)).collect();
            let pictures: Vec<RgbImage> = posters.iter().map(|poster| poster.draw(96, style)).collect();
            let seen = Seen::count(captions.iter().map(String::as_str).zip(&pictures));
            assert!(seen.both >= 38, "{style:?}: {seen:?}");
            assert_eq!(seen.style, if style == Style::Zenpop { 40 } else { 0 }, "{style:?}");
        }
    }

    #[test]
    fn exchanged_captions_are_noticed() {
        let posters = held_out(40);
        let captions: Vec<String> = posters.iter().rev().map(|poster| poster.caption()).collect();
        let pictures: Vec<RgbImage> = posters.iter().map(|poster| poster.draw(96, Style::Plain)).collect();
        let seen = Seen::count(captions.iter().map(String::as_str).zip(&pictures));
        assert!(seen.both <= seen.object.min(seen.colour) && seen.both <= 8, "{seen:?}");
    }

    #[test]
    fn the_same_captions_are_drawn_the_same() {
        let folder = sdtrain_test_support::fixture_folder().join("tiny_sd1");
        let options = sdtrain_model::LoadOptions::new(tch::Device::Cpu, tch::Kind::Float);
        let model = sdtrain_model::load(&folder.display().to_string(), &options).unwrap();
        let request = Request {
            prompts: Vec::new(),
            negative: String::new(),
            steps: 2,
            guidance: 2.0,
            seed: SEED,
            width: 16,
            height: 16,
            sampler: None,
            prompt_reading: sdtrain_model::PromptReading::default(),
            init_image: None,
        };
        let check = DrawingCheck { sets: Vec::new(), request, sampler: String::new() };
        let captions = vec!["poster".to_string(); 2];
        let pictures = check.draw(&model, &captions).unwrap();
        assert_eq!(pictures, check.draw(&model, &captions).unwrap());
        assert_ne!(pictures[0], pictures[1]);
    }

    #[test]
    fn captions_of_photographs_are_not_those_of_posters() {
        assert!(is_of_a_poster("zenpop, poster, a red bottle, cream background"));
        assert!(is_of_a_poster("mystyle, poster, a red bottle"));
        assert!(!is_of_a_poster("a photo of a red house, sunset"));
        assert!(!is_of_a_poster("poster, sunset"));
        assert!(!is_of_a_poster(""));
    }
}
