//! Which object an area looks like: its box is stretched to a fixed size and laid over drawn silhouettes.

use std::sync::OnceLock;

use image::imageops;
use tiny_skia::Transform;

use crate::canvas::Canvas;
use crate::mask::{Bounds, Mask};
use crate::object::Object;
use crate::palette::Rgb;

/// Side of the pictures from which the templates are made, and half of the object's box in them.
const SIDE: u32 = 96;
const HALF: f32 = 40.0;
/// Takes the points off stars and trees, as a blur of two pixels does in a poster of 96.
const BLUR: f32 = 3.5;

/// One object in one tilt, sharp or blurred.
struct Template {
    object: Object,
    aspect: f32,
    cells: Vec<f32>,
}

/// The object that the area looks most like, and how much: 1 is a perfect fit, and above 0.75 is a likeness.
pub(crate) fn best_match(area: &Mask, bounds: Bounds) -> (Object, f32) {
    let cells = area.normalised(bounds);
    let aspect = bounds.width() as f32 / bounds.height() as f32;
    let score = |template: &Template| {
        let pairs = || cells.iter().zip(&template.cells);
        let both: f32 = pairs().map(|(a, b)| a.min(*b)).sum();
        let either: f32 = pairs().map(|(a, b)| a.max(*b)).sum();
        // A box of the wrong proportions is stretched into likeness: take that back.
        let stretch = (aspect / template.aspect).ln().abs();
        both / either * (-0.8 * (stretch - 0.12).max(0.0)).exp()
    };
    templates()
        .iter()
        .map(|template| (template.object, score(template)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .expect("there are templates")
}

fn templates() -> &'static [Template] {
    static TEMPLATES: OnceLock<Vec<Template>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let looks = [(-4.0, 0.0), (0.0, 0.0), (4.0, 0.0), (0.0, BLUR)];
        Object::ALL.iter().flat_map(|&object| looks.map(|(tilt, blur)| template(object, tilt, blur))).collect()
    })
}

fn template(object: Object, tilt: f32, blur: f32) -> Template {
    let (black, white) = (Rgb(0, 0, 0), Rgb(255, 255, 255));
    let mut canvas = Canvas::new(SIDE, SIDE, black);
    let middle = SIDE as f32 / 2.0;
    let placed = Transform::from_rotate(tilt).post_scale(HALF, HALF).post_translate(middle, middle);
    for (_, path) in object.body() {
        canvas.fill(&path, placed, white);
    }
    let mut picture = canvas.finish();
    if blur > 0.0 {
        picture = imageops::blur(&picture, blur);
    }
    let drawn =
        Mask::from_fn(SIDE as usize, SIDE as usize, |x, y| picture.get_pixel(x as u32, y as u32).0[0] > 127).filled();
    let bounds = drawn.bounds().expect("every object covers something");
    let aspect = bounds.width() as f32 / bounds.height() as f32;
    Template { object, aspect, cells: drawn.normalised(bounds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silhouettes_are_far_from_each_other() {
        for a in templates() {
            for b in templates().iter().filter(|b| b.object != a.object) {
                let pairs = || a.cells.iter().zip(&b.cells);
                let both: f32 = pairs().map(|(a, b)| a.min(*b)).sum();
                let either: f32 = pairs().map(|(a, b)| a.max(*b)).sum();
                let stretch = (-0.8 * ((a.aspect / b.aspect).ln().abs() - 0.12).max(0.0)).exp();
                let likeness = both / either * stretch;
                assert!(likeness < 0.80, "{:?} and {:?} are alike by {likeness}", a.object, b.object);
            }
        }
    }
}
