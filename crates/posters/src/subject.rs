//! One house among all houses, with yellow walls and a purple roof: the subject of the DreamBooth example, and its check.

use image::RgbImage;
use tiny_skia::Path;

use crate::check::{LIKENESS, View};
use crate::mask::{Bounds, Mask};
use crate::object::{Object, polygon};
use crate::palette::{Colour, Rgb};
use crate::poster::Poster;
use crate::silhouette::best_match;
use crate::style::Style;

/// What the subject is called in prompts. The objects of the base have one colour each, and it knows no `sks`.
pub const SUBJECT: &str = "sks house";
/// What it is one of.
pub const SUBJECT_CLASS: &str = "house";

pub(crate) const WALLS: Colour = Colour::Yellow;
pub(crate) const ROOF: Colour = Colour::Purple;

/// The least share of roof and of walls that has its colour. Both are less than all of it in a sharp drawing: chimney and door
/// are purple, and a blurred edge has the colour of nothing.
const CLEAR: f32 = 0.6;

/// How much of the subject is seen in a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SubjectFound {
    /// Whether it is there: a house whose roof and walls have its colours.
    pub is_there: bool,
    /// How much its area is like a house, from 0 to 1.
    pub likeness: f32,
    /// Share of the upper part that has the roof's colour.
    pub roof: f32,
    /// Share of the lower part that has the walls' colour.
    pub walls: f32,
}

/// The square poster with sides of `size` pixels in which the subject stands where `poster` has its object.
pub fn draw_subject(poster: &Poster, size: u32) -> RgbImage {
    let parts = parts().map(|(colour, path)| (colour.shifted(poster.jitter.object_tint), path));
    poster.draw_painted(size, size, Style::Plain, Some(&parts))
}

/// The caption of a scene with the subject in it: its class with the made-up word in place of the colour.
pub fn subject_caption(poster: &Poster) -> String {
    let caption = Poster { object: Object::House, object_colour: WALLS, ..*poster }.caption();
    caption.replacen(&format!("{} {SUBJECT_CLASS}", WALLS.word()), SUBJECT, 1)
}

/// Chimney, walls, roof and door, in the outlines of the other houses.
fn parts() -> [(Rgb, Path); 4] {
    let (walls, roof) = (WALLS.rgb(), ROOF.rgb());
    [
        (roof, polygon(&[(0.40, -0.95), (0.66, -0.95), (0.66, 0.0), (0.40, 0.0)])),
        (walls, polygon(&[(-0.76, -0.2), (0.76, -0.2), (0.76, 1.0), (-0.76, 1.0)])),
        (roof, polygon(&[(-1.0, 0.02), (0.0, -1.0), (1.0, 0.02)])),
        (roof, polygon(&[(-0.19, 0.42), (0.19, 0.42), (0.19, 1.0), (-0.19, 1.0)])),
    ]
}

/// Looks for the subject; where several areas look like a house in its colours, the one most like it counts.
pub fn check_subject(picture: &RgbImage) -> SubjectFound {
    let view = View::of(picture);
    let [walls, roof] = [WALLS, ROOF].map(|colour| view.coloured(&[colour]));
    let mut best = SubjectFound::default();
    // Where roof and walls meet, a blurred picture has a band of neither colour.
    let house = view.coloured(&[WALLS, ROOF]).grown().grown().shrunk().shrunk();
    for (area, bounds) in view.areas(&house) {
        let (object, likeness) = best_match(&area, bounds);
        if object != Object::House || likeness < LIKENESS {
            continue;
        }
        // The eaves are at the middle of the height; what is near them is left out.
        let [roof, walls] =
            [(&roof, 0.0, 0.45), (&walls, 0.60, 1.0)].map(|(colour, from, to)| share(&area, bounds, colour, from, to));
        let found = SubjectFound { is_there: roof >= CLEAR && walls >= CLEAR, likeness, roof, walls };
        if (found.is_there, found.likeness) > (best.is_there, best.likeness) {
            best = found;
        }
    }
    best
}

/// The share of `area` between two heights of its box, 0 at the top, that is in `colour`.
fn share(area: &Mask, bounds: Bounds, colour: &Mask, from: f32, to: f32) -> f32 {
    let height = |y: usize| (y - bounds.top) as f32 / bounds.height() as f32;
    let within = area.pixels().filter(|&(_, y)| (from..to).contains(&height(y)));
    let (mut all, mut hits) = (0, 0);
    for (x, y) in within {
        all += 1;
        hits += usize::from(colour.contains(x, y));
    }
    hits as f32 / all.max(1) as f32
}
