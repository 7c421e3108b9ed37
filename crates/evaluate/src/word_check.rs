//! Posters drawn from held-out captions that call their subject by a word of its own, and whether they show that subject.
//!
//! Where the captions do not name the object, the held-out pictures say what the word stands for: object and colour are read
//! from them.

use crate::error::Result;
use crate::metric::{Column, Form, Metric, MetricEntry, Setting};
use image::RgbImage;
use sdtrain_model::StableDiffusion;
use sdtrain_pipeline::{Request, text_to_image};
use sdtrain_posters::{Colour, Object, asked, check};
use serde_json::{Map, Value, json};

/// The list's line.
pub const ENTRY: MetricEntry = MetricEntry {
    name: "word_check",
    summary: "share of drawn posters with the object and colour that the held-out pictures show, where a word stands for them",
    prepare: |setting| Ok(WordCheck::new(setting)?.map(|check| Box::new(check) as Box<dyn Metric>)),
};

/// Seed of the first picture's noise: the same for all runs, so that their pictures can be compared.
const SEED: u64 = 0x5eed;

/// The part of the held-out images that must be posters whose captions name no object for the check to make sense.
const LEAST_POSTERS: f64 = 0.8;

/// Captions to draw, and what the pictures should show.
struct WordCheck {
    wanted: Vec<(Object, Option<Colour>)>,
    request: Request,
}

impl WordCheck {
    /// `None` where no pictures are wanted, or the held-out images are no posters of something that has a word of its own.
    fn new(setting: &Setting) -> Result<Option<WordCheck>> {
        let Setting { config, held_out: data, .. } = setting;
        let count = config.validation.num_samples as usize;
        let without_object = |image: &usize| {
            let caption = data.caption(*image);
            asked(&caption).object.is_none() && caption.split(',').any(|tag| tag.trim() == "poster")
        };
        let candidates: Vec<usize> = (0..data.images()).filter(without_object).collect();
        if count == 0 || candidates.is_empty() || (candidates.len() as f64) < LEAST_POSTERS * data.images() as f64 {
            return Ok(None);
        }
        let mut shown = Vec::with_capacity(candidates.len());
        for image in candidates {
            let loaded = data.load_image(image, false)?;
            let found = check(&picture(&loaded.pixels, loaded.size));
            shown.extend(found.object.map(|object| (data.caption(image), (object, found.object_colour))));
        }
        if (shown.len() as f64) < LEAST_POSTERS * data.images() as f64 {
            return Ok(None);
        }
        // Captions take turns where more pictures are wanted.
        let drawn = (0..count).map(|index| shown[index % shown.len()].clone());
        let (prompts, wanted) = drawn.unzip();
        let samples = &config.samples;
        let step = setting.model.downscale_factor() as u32;
        let fitting = |side: u32| side.next_multiple_of(step.max(1));
        let request = Request {
            prompts,
            negative: samples.negative.clone(),
            steps: samples.steps as usize,
            guidance: samples.guidance,
            seed: SEED,
            width: fitting(samples.width.unwrap_or(config.data.resolution.width())),
            height: fitting(samples.height.unwrap_or(config.data.resolution.height())),
            sampler: samples.sampler,
            prompt_reading: setting.prompt_reading(),
            init_image: None,
        };
        Ok(Some(WordCheck { wanted, request }))
    }
}

/// Pixels `[3, height, width]` in -1…1 as a picture.
fn picture(pixels: &[f32], (width, height): (usize, usize)) -> RgbImage {
    let byte = |value: f32| ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = |channel: usize| pixels[(channel * height + y as usize) * width + x as usize];
        image::Rgb([0, 1, 2].map(|channel| byte(at(channel))))
    })
}

/// The shares of pictures with the wanted object, the wanted colour, and both.
fn shares(wanted: &[(Object, Option<Colour>)], pictures: &[RgbImage]) -> [f64; 3] {
    let mut seen = [0usize; 3];
    for ((object, colour), picture) in wanted.iter().zip(pictures) {
        let found = check(picture);
        let (object, colour) =
            (found.object == Some(*object), found.object.is_some() && found.object_colour == *colour);
        for (seen, hit) in seen.iter_mut().zip([object, colour, object && colour]) {
            *seen += usize::from(hit);
        }
    }
    seen.map(|count| count as f64 / wanted.len().max(1) as f64)
}

impl Metric for WordCheck {
    fn columns(&self) -> Vec<Column> {
        let group = format!("the word's own subject in {} pictures", self.wanted.len());
        let titles = ["object", "colour", "both"].into_iter();
        titles
            .map(|title| Column {
                key: format!("word_{title}"),
                group: group.clone(),
                title: title.to_string(),
                form: Form::Share,
            })
            .collect()
    }

    fn measure(&mut self, model: &StableDiffusion) -> Result<Vec<f64>> {
        match text_to_image(model, &self.request) {
            Err(sdtrain_pipeline::Error::NotFinite { .. }) => Ok(vec![f64::NAN; 3]),
            pictures => Ok(shares(&self.wanted, &pictures?).to_vec()),
        }
    }

    fn settings(&self) -> Map<String, Value> {
        Map::from_iter([("word_pictures".to_string(), json!(self.wanted.len()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_posters::{Style, held_out};

    #[test]
    fn drawn_posters_show_their_own_subjects_and_not_those_of_others() {
        let posters = held_out(40);
        let pictures: Vec<RgbImage> = posters.iter().map(|poster| poster.draw(96, Style::Plain)).collect();
        let mut wanted: Vec<_> = posters.iter().map(|poster| (poster.object, Some(poster.object_colour))).collect();
        let own = shares(&wanted, &pictures);
        assert!(own.iter().all(|share| *share >= 0.95), "{own:?}");
        wanted.reverse();
        let others = shares(&wanted, &pictures);
        assert!(others[2] <= others[0].min(others[1]) && others[2] <= 0.2, "{others:?}");
    }

    #[test]
    fn pixels_become_the_picture_that_they_were_read_from() {
        let drawn = held_out(1)[0].draw(96, Style::Plain);
        let planes = (0..3).flat_map(|channel| drawn.pixels().map(move |pixel| pixel.0[channel]));
        let pixels: Vec<f32> = planes.map(|value| f32::from(value) / 127.5 - 1.0).collect();
        assert_eq!(picture(&pixels, (96, 96)), drawn);
    }
}
