//! Reads a poster back: which object, in which colour, in which style. Made for a model's samples, so it forgives blur and noise.

use image::{RgbImage, imageops};

use crate::mask::{Bounds, Mask};
use crate::object::{Object, Tone};
use crate::palette::{Background, Colour, INK, PAPER, Rgb, WOOD, lab_distance};
use crate::poster::{hill_colour, table_leg_colour, toned};
use crate::silhouette::best_match;
use crate::style::{FRAME, GOLD, OUTLINE, sunken};

/// What is seen in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The object, if an area has the shape of one.
    pub object: Option<Object>,
    /// The colour of that area.
    pub object_colour: Option<Colour>,
    /// How much that area is like the object's silhouette, from 0 to 1.
    pub likeness: f32,
    /// Whether the picture is in the style `Zenpop`: the frame, and the outline or the background with it.
    pub style: bool,
    /// The marks of the style, one by one.
    pub marks: StyleMarks,
}

/// How clearly each mark of `Zenpop` is seen, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StyleMarks {
    /// Share of the border that is ink outside and gold inside, on its least clear but one side.
    pub frame: f32,
    /// Share of the lower background that has sunk into plum.
    pub plum: f32,
    /// Share of the object's surroundings that is an outline.
    pub outline: f32,
}

/// A picture is looked at with its shorter side at this many pixels.
const SIDE: u32 = 96;
/// From this likeness on an area counts as an object.
pub(crate) const LIKENESS: f32 = 0.72;
/// Fewer pixels than this are no object.
const LEAST_AREA: usize = 60;
/// From this clearness on a mark of the style counts as there.
const CLEAR: f32 = 0.5;
/// The greatest distance in L*a*b* at which a pixel still counts as having a colour.
const NEAR: f32 = 34.0;
/// The same for the frame, whose narrow bands mix where a picture is blurred.
const FRAME_NEAR: f32 = 46.0;

/// Finds the object, its colour and the style of a poster; `None` for what is not there.
pub fn check(picture: &RgbImage) -> Found {
    let view = View::of(picture);
    let seen = view.find_object();
    let marks = StyleMarks {
        frame: view.frame(),
        plum: view.plum(),
        outline: seen.as_ref().map_or(0.0, |seen| view.outline(seen)),
    };
    Found {
        object: seen.as_ref().map(|seen| seen.object),
        object_colour: seen.as_ref().and_then(|seen| seen.colour),
        likeness: seen.as_ref().map_or(0.0, |seen| seen.likeness),
        style: marks.frame >= CLEAR && (marks.plum >= CLEAR || marks.outline >= CLEAR),
        marks,
    }
}

/// A picture in L*a*b*, smoothed, with the name of every pixel's colour.
pub(crate) struct View {
    width: usize,
    height: usize,
    lab: Vec<[f32; 3]>,
    named: Vec<Name>,
}

/// What a pixel's colour belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Name {
    Object(Colour),
    Other,
}

impl Name {
    fn is(self, colour: Option<Colour>) -> bool {
        colour.is_some_and(|colour| self == Name::Object(colour))
    }
}

struct Seen {
    object: Object,
    colour: Option<Colour>,
    likeness: f32,
    area: Mask,
}

impl View {
    pub(crate) fn of(picture: &RgbImage) -> View {
        let (width, height) = picture.dimensions();
        let scale = SIDE as f32 / width.min(height).max(1) as f32;
        let side = |length: u32| ((length as f32 * scale).round() as u32).clamp(1, 8 * SIDE);
        let (width, height) = (side(width), side(height));
        let sized = if picture.dimensions() == (width, height) || picture.is_empty() {
            picture.clone()
        } else {
            imageops::resize(picture, width, height, imageops::FilterType::Triangle)
        };
        // A little blur takes most of the noise away and leaves the shapes.
        let smooth = if sized.is_empty() { sized } else { imageops::blur(&sized, 0.8) };
        let lab: Vec<[f32; 3]> = smooth.pixels().map(|pixel| Rgb(pixel.0[0], pixel.0[1], pixel.0[2]).lab()).collect();
        let references = references();
        let named = lab.iter().map(|&lab| name(lab, &references)).collect();
        View { width: smooth.width() as usize, height: smooth.height() as usize, lab, named }
    }

    fn at(&self, x: usize, y: usize) -> [f32; 3] {
        self.lab[y * self.width + x]
    }

    fn unit(&self) -> f32 {
        self.width.min(self.height) as f32
    }

    /// Where the picture has one of these colours.
    pub(crate) fn coloured(&self, colours: &[Colour]) -> Mask {
        let is_one = |name: Name| colours.iter().any(|&colour| name == Name::Object(colour));
        Mask::from_fn(self.width, self.height, |x, y| is_one(self.named[y * self.width + x]))
    }

    /// The connected areas of `mask` that are as large as an object may be, their gaps filled. Twice: with gaps of a pixel
    /// closed, and with bridges of a pixel cut.
    pub(crate) fn areas(&self, mask: &Mask) -> Vec<(Mask, Bounds)> {
        let parts = [mask.grown().shrunk(), mask.shrunk().grown()].map(|mask| mask.parts(LEAST_AREA));
        let with_bounds = |part: Mask| {
            let bounds = part.bounds().filter(|&bounds| self.could_be_object(bounds))?;
            Some((part.filled(), bounds))
        };
        parts.into_iter().flatten().filter_map(with_bounds).collect()
    }

    /// The area most like one of the objects.
    fn find_object(&self) -> Option<Seen> {
        let mut best: Option<Seen> = None;
        for &colour in Colour::ALL {
            let mask = self.coloured(&[colour]);
            if mask.area() < LEAST_AREA {
                continue;
            }
            for (area, bounds) in self.areas(&mask) {
                let (object, likeness) = best_match(&area, bounds);
                if likeness >= LIKENESS && best.as_ref().is_none_or(|best| likeness > best.likeness) {
                    best = Some(Seen { object, colour: self.main_colour(&area), likeness, area });
                }
            }
        }
        best
    }

    /// Posters show their objects about this large.
    fn could_be_object(&self, bounds: Bounds) -> bool {
        let (width, height) = (bounds.width() as f32 / self.unit(), bounds.height() as f32 / self.unit());
        (0.30..0.75).contains(&width.max(height)) && width.min(height) >= 0.13
    }

    /// The object colour that most of the area has, not counting its rim, which may be an outline.
    fn main_colour(&self, area: &Mask) -> Option<Colour> {
        let core = self.core(area);
        let mut counts = vec![0; Colour::ALL.len()];
        for (x, y) in core.pixels() {
            if let Name::Object(colour) = self.named[y * self.width + x] {
                counts[colour as usize] += 1;
            }
        }
        let (index, &count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
        (2 * count > core.area()).then(|| Colour::ALL[index])
    }

    /// The area without its rim, where that leaves something.
    fn core(&self, area: &Mask) -> Mask {
        let rim = (OUTLINE * self.unit()).round() as usize;
        let core = (0..rim).fold(area.clone(), |area, _| area.shrunk());
        if core.area() > 0 { core } else { area.clone() }
    }

    /// On each side, the share of the two bands that has their colour; the second smallest of the four.
    fn frame(&self) -> f32 {
        let band = FRAME * self.unit();
        if self.width < 16 || self.height < 16 {
            return 0.0;
        }
        let share = |colour: Rgb, distance: f32, turn: usize| {
            let colour = colour.lab();
            let depth = distance.round() as usize;
            let length = if turn.is_multiple_of(2) { self.width } else { self.height };
            let margin = (2.0 * band).ceil() as usize;
            let hits = (margin..length - margin)
                .map(|along| match turn {
                    0 => self.at(along, depth),
                    1 => self.at(self.width - 1 - depth, along),
                    2 => self.at(along, self.height - 1 - depth),
                    _ => self.at(depth, along),
                })
                .filter(|&lab| lab_distance(lab, colour) < FRAME_NEAR)
                .count();
            hits as f32 / (length - 2 * margin) as f32
        };
        let mut sides = [0, 1, 2, 3].map(|turn| {
            let ink = share(INK, 0.0, turn);
            let gold = share(GOLD, 1.5 * band - 0.5, turn);
            ink.min(gold)
        });
        sides.sort_by(f32::total_cmp);
        sides[1]
    }

    /// How much of the lower background has sunk into plum, for the background that explains most of the picture.
    fn plum(&self) -> f32 {
        let inset = (2.0 * FRAME * self.unit()).ceil() as usize + 1;
        let explain = |background: Rgb| {
            let (plain, hill) = (background.lab(), hill_colour(background).lab());
            let (mut explained, mut lower_plain, mut lower_sunken) = (0, 0, 0);
            for y in inset..self.height.saturating_sub(inset) {
                let height = y as f32 / self.height as f32;
                let sunken = sunken(background, height).lab();
                for x in inset..self.width.saturating_sub(inset) {
                    let (to_plain, to_sunken) =
                        (lab_distance(self.at(x, y), plain), lab_distance(self.at(x, y), sunken));
                    let to_hill = lab_distance(self.at(x, y), hill);
                    if to_plain.min(to_sunken) < to_hill.min(14.0) {
                        explained += 1;
                        if height > 0.5 {
                            lower_plain += usize::from(to_plain < to_sunken);
                            lower_sunken += usize::from(to_sunken < to_plain);
                        }
                    }
                }
            }
            (explained, lower_sunken as f32 / (lower_plain + lower_sunken).max(1) as f32)
        };
        let most = Background::ALL.iter().map(|background| explain(background.rgb())).max_by_key(|e| e.0);
        most.filter(|&(explained, _)| explained > self.lab.len() / 10).map_or(0.0, |(_, share)| share)
    }

    /// The share of a ring round the object that is ink, paper or gold while what lies beyond is not.
    fn outline(&self, seen: &Seen) -> f32 {
        let inside = |x, y| seen.area.contains(x, y) && self.named[y * self.width + x].is(seen.colour);
        let coloured = Mask::from_fn(self.width, self.height, inside).grown().shrunk().parts(40);
        let Some(area) = coloured.into_iter().max_by_key(Mask::area).map(|area| area.filled()) else { return 0.0 };
        let width = (OUTLINE * self.unit()).round().max(2.0) as usize;
        let mut rings = vec![area];
        for _ in 0..2 * width + 2 {
            let next = rings.last().expect("it starts with one").grown();
            rings.push(next);
        }
        let ring = |from: usize, to: usize| -> Vec<(usize, usize)> {
            rings[to].pixels().filter(|&(x, y)| !rings[from].contains(x, y)).collect()
        };
        let near = ring(1, width);
        let beyond = ring(width + 3, 2 * width + 2);
        let share = |pixels: &[(usize, usize)], colour: [f32; 3]| {
            // Nearer than elsewhere: plum at the lower edge is almost as dark as ink.
            let hits = pixels.iter().filter(|&&(x, y)| lab_distance(self.at(x, y), colour) < 0.75 * NEAR).count();
            hits as f32 / pixels.len().max(1) as f32
        };
        [INK, PAPER, GOLD]
            .map(|colour| colour.lab())
            .map(|colour| share(&near, colour) - share(&beyond, colour))
            .into_iter()
            .fold(0.0, f32::max)
    }
}

/// The colours that posters are made of, and what each belongs to.
fn references() -> Vec<([f32; 3], Name)> {
    let mut references = Vec::new();
    for &colour in Colour::ALL {
        for tone in [Tone::Main, Tone::Shade, Tone::Light] {
            references.push((toned(colour.rgb(), tone).lab(), Name::Object(colour)));
        }
    }
    for background in Background::ALL.iter().map(|background| background.rgb()) {
        for colour in [0.0, 0.4, 0.7, 1.0].map(|height| sunken(background, height)) {
            references.push((colour.lab(), Name::Other));
        }
        references.push((hill_colour(background).lab(), Name::Other));
    }
    references.extend([WOOD, table_leg_colour()].map(|wood| (wood.lab(), Name::Other)));
    references
}

fn name(lab: [f32; 3], references: &[([f32; 3], Name)]) -> Name {
    let squared = |a: [f32; 3]| (0..3).map(|channel| (a[channel] - lab[channel]).powi(2)).sum::<f32>();
    let mut nearest = (NEAR * NEAR, Name::Other);
    for &(reference, name) in references {
        let distance = squared(reference);
        if distance < nearest.0 {
            nearest = (distance, name);
        }
    }
    nearest.1
}
