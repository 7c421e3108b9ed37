//! Posters drawn with the word of the sample subject and without it, and whether they show that house and not just any.

use crate::error::Result;
use crate::metric::{Column, Form, Metric, MetricEntry, Setting};
use image::RgbImage;
use sdtrain_model::StableDiffusion;
use sdtrain_pipeline::{Request, text_to_image};
use sdtrain_posters::{Object, Poster, SUBJECT, check, check_subject, held_out, subject_caption};
use serde_json::{Map, Value, json};

/// The list's line.
pub const ENTRY: MetricEntry = MetricEntry {
    name: "subject_check",
    summary: "share of drawn posters with the sample subject, with its word and without; where that is what is learned",
    prepare: |setting| Ok(SubjectCheck::new(setting).map(|check| Box::new(check) as Box<dyn Metric>)),
};

/// Seed of the first picture's noise: the same for all runs, so that their pictures can be compared.
const SEED: u64 = 0x50b;

/// Captions to draw, and how.
struct SubjectCheck {
    with_word: Vec<String>,
    /// The same scenes with a house in a colour of its own.
    without: Vec<String>,
    request: Request,
}

impl SubjectCheck {
    /// `None` where no pictures are wanted, or the sample subject is neither what the images of the run are said to show nor what its
    /// samples are of.
    fn new(setting: &Setting) -> Option<SubjectCheck> {
        let Setting { config, model, .. } = setting;
        let count = config.validation.num_samples as usize;
        let said = config.data.subsets.iter().filter_map(|subset| subset.class_tokens.clone());
        let asked = config.samples.prompts.iter().map(|prompt| prompt.settings().prompt);
        if count == 0 || !said.chain(asked).any(|text| text.contains(SUBJECT)) {
            return None;
        }
        let scenes: Vec<Poster> =
            held_out(count).into_iter().map(|scene| Poster { object: Object::House, ..scene }).collect();
        let step = model.downscale_factor() as u32;
        let samples = &config.samples;
        let side = |own: Option<u32>, default: u32| own.unwrap_or(default).next_multiple_of(step.max(1));
        let request = Request {
            prompts: Vec::new(),
            negative: samples.negative.clone(),
            steps: samples.steps as usize,
            guidance: samples.guidance,
            seed: SEED,
            width: side(samples.width, config.data.resolution.width()),
            height: side(samples.height, config.data.resolution.height()),
            sampler: samples.sampler,
            prompt_reading: setting.prompt_reading(),
            init_image: None,
        };
        Some(SubjectCheck {
            with_word: scenes.iter().map(subject_caption).collect(),
            without: scenes.iter().map(Poster::caption).collect(),
            request,
        })
    }

    /// None where the model makes numbers that are no picture.
    fn draw(&self, model: &StableDiffusion, captions: &[String]) -> Result<Option<Vec<RgbImage>>> {
        match text_to_image(model, &Request { prompts: captions.to_vec(), ..self.request.clone() }) {
            Err(sdtrain_pipeline::Error::NotFinite { .. }) => Ok(None),
            pictures => Ok(Some(pictures?)),
        }
    }
}

fn share(pictures: &[RgbImage], shows: impl Fn(&RgbImage) -> bool) -> f64 {
    pictures.iter().filter(|picture| shows(picture)).count() as f64 / pictures.len().max(1) as f64
}

fn shows_subject(picture: &RgbImage) -> bool {
    check_subject(picture).is_there
}

impl Metric for SubjectCheck {
    fn columns(&self) -> Vec<Column> {
        let count = self.with_word.len();
        let column = |key: &str, group: String, title: &str| Column {
            key: key.to_string(),
            group,
            title: title.to_string(),
            form: Form::Share,
        };
        let with = format!("seen in {count} pictures with the subject's word");
        let without = format!("seen in {count} pictures of houses without it");
        vec![
            column("subject_with_word", with, "subject"),
            column("subject_without_word", without.clone(), "subject"),
            column("house_without_word", without, "a house"),
        ]
    }

    fn measure(&mut self, model: &StableDiffusion) -> Result<Vec<f64>> {
        let (Some(with_word), Some(without)) = (self.draw(model, &self.with_word)?, self.draw(model, &self.without)?)
        else {
            return Ok(vec![f64::NAN; 3]);
        };
        let shows_house = |picture: &RgbImage| check(picture).object == Some(Object::House);
        Ok(vec![share(&with_word, shows_subject), share(&without, shows_subject), share(&without, shows_house)])
    }

    fn settings(&self) -> Map<String, Value> {
        Map::from_iter([("subject_pictures".to_string(), json!(2 * self.with_word.len()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_posters::{Style, draw_subject, subject_class_poster, subject_poster};

    #[test]
    fn the_subject_is_told_from_other_houses() {
        let subjects: Vec<RgbImage> = (0..40).map(|index| draw_subject(&subject_poster(7, index), 96)).collect();
        let others: Vec<RgbImage> =
            (0..40).map(|index| subject_class_poster(7, index).0.draw(96, Style::Plain)).collect();
        assert_eq!((share(&subjects, shows_subject), share(&others, shows_subject)), (1.0, 0.0));
    }

    #[test]
    fn captions_differ_in_the_subject_alone() {
        let scene = Poster { object: Object::House, ..held_out(1)[0] };
        let (with, without) = (subject_caption(&scene), scene.caption());
        let tags = |caption: &str| caption.split(", ").skip(2).map(str::to_owned).collect::<Vec<_>>();
        assert!(with.starts_with("poster, a sks house, ") && tags(&with) == tags(&without), "{with} / {without}");
    }
}
