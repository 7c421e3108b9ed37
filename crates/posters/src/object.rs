//! The eight objects as paths, in a box from -1 to 1 in both directions, y pointing down, standing on y = 1.

use tiny_skia::{Path, PathBuilder};

/// What a poster shows. The silhouettes stay distinct at a few dozen pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants are their names
pub enum Object {
    Bottle,
    House,
    Star,
    Tree,
    Fish,
    Cup,
    Boat,
    Heart,
}

/// How a part of the object is coloured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tone {
    /// The object's colour.
    Main,
    /// Somewhat darker (lighter, if the object is black).
    Shade,
    /// Somewhat lighter (darker, if the object is white).
    Light,
}

impl Object {
    /// All of them, in a fixed order.
    pub const ALL: &[Object] = &[
        Object::Bottle,
        Object::House,
        Object::Star,
        Object::Tree,
        Object::Fish,
        Object::Cup,
        Object::Boat,
        Object::Heart,
    ];

    /// The word used in captions.
    pub fn word(self) -> &'static str {
        match self {
            Object::Bottle => "bottle",
            Object::House => "house",
            Object::Star => "star",
            Object::Tree => "tree",
            Object::Fish => "fish",
            Object::Cup => "cup",
            Object::Boat => "boat",
            Object::Heart => "heart",
        }
    }

    /// The parts that make up the silhouette, back to front.
    pub(crate) fn body(self) -> Vec<(Tone, Path)> {
        match self {
            Object::Bottle => vec![
                (Tone::Main, bottle()),
                (Tone::Shade, polygon(&[(-0.24, -1.0), (0.24, -1.0), (0.24, -0.76), (-0.24, -0.76)])),
            ],
            Object::House => vec![
                (Tone::Main, polygon(&[(0.40, -0.95), (0.66, -0.95), (0.66, 0.0), (0.40, 0.0)])),
                (Tone::Main, polygon(&[(-0.76, -0.2), (0.76, -0.2), (0.76, 1.0), (-0.76, 1.0)])),
                (Tone::Shade, polygon(&[(-1.0, 0.02), (0.0, -1.0), (1.0, 0.02)])),
            ],
            Object::Star => vec![(Tone::Main, star())],
            Object::Tree => vec![
                (Tone::Shade, polygon(&[(-0.16, 0.6), (0.16, 0.6), (0.16, 1.0), (-0.16, 1.0)])),
                (Tone::Main, polygon(&[(-0.82, 0.72), (0.0, -0.20), (0.82, 0.72)])),
                (Tone::Main, polygon(&[(-0.66, 0.20), (0.0, -0.62), (0.66, 0.20)])),
                (Tone::Main, polygon(&[(-0.48, -0.32), (0.0, -1.0), (0.48, -0.32)])),
            ],
            Object::Fish => vec![(Tone::Shade, fish_tail()), (Tone::Main, fish_body())],
            Object::Cup => vec![(Tone::Main, cup_handle()), (Tone::Main, cup_body())],
            Object::Boat => vec![
                (Tone::Main, polygon(&[(-0.06, -1.0), (0.06, -1.0), (0.06, 0.5), (-0.06, 0.5)])),
                (Tone::Main, polygon(&[(0.0, -0.98), (0.0, 0.30), (-0.86, 0.30)])),
                (Tone::Light, polygon(&[(0.06, -0.70), (0.06, 0.30), (0.72, 0.30)])),
                (Tone::Main, boat_hull()),
            ],
            Object::Heart => vec![(Tone::Main, heart())],
        }
    }

    /// Small marks inside the silhouette.
    pub(crate) fn details(self) -> Vec<(Tone, Path)> {
        match self {
            Object::Bottle => {
                vec![(Tone::Light, polygon(&[(-0.50, 0.26), (0.50, 0.26), (0.50, 0.68), (-0.50, 0.68)]))]
            }
            Object::House => vec![
                (Tone::Shade, polygon(&[(0.08, 0.42), (0.46, 0.42), (0.46, 1.0), (0.08, 1.0)])),
                (Tone::Light, polygon(&[(-0.52, 0.34), (-0.16, 0.34), (-0.16, 0.68), (-0.52, 0.68)])),
            ],
            Object::Star => vec![],
            Object::Tree => vec![],
            Object::Fish => vec![(Tone::Shade, circle(-0.62, -0.10, 0.10))],
            Object::Cup => {
                vec![(Tone::Light, polygon(&[(-0.98, -0.42), (0.42, -0.42), (0.42, -0.18), (-0.98, -0.18)]))]
            }
            Object::Boat => vec![(Tone::Shade, polygon(&[(-0.92, 0.52), (0.92, 0.52), (0.86, 0.66), (-0.86, 0.66)]))],
            Object::Heart => vec![(Tone::Light, highlight())],
        }
    }
}

pub(crate) fn polygon(points: &[(f32, f32)]) -> Path {
    let mut path = PathBuilder::new();
    path.move_to(points[0].0, points[0].1);
    points[1..].iter().for_each(|&(x, y)| path.line_to(x, y));
    path.close();
    path.finish().expect("a polygon has area")
}

fn circle(x: f32, y: f32, radius: f32) -> Path {
    PathBuilder::from_circle(x, y, radius).expect("the radius is positive")
}

fn bottle() -> Path {
    let mut path = PathBuilder::new();
    path.move_to(-0.18, -0.80);
    path.line_to(-0.18, -0.44);
    path.cubic_to(-0.18, -0.20, -0.50, -0.18, -0.50, 0.12);
    path.line_to(-0.50, 0.86);
    path.quad_to(-0.50, 1.0, -0.36, 1.0);
    path.line_to(0.36, 1.0);
    path.quad_to(0.50, 1.0, 0.50, 0.86);
    path.line_to(0.50, 0.12);
    path.cubic_to(0.50, -0.18, 0.18, -0.20, 0.18, -0.44);
    path.line_to(0.18, -0.80);
    path.close();
    path.finish().expect("a bottle has area")
}

fn star() -> Path {
    let point = |i: u32| {
        let radius = if i.is_multiple_of(2) { 1.06 } else { 0.45 };
        let angle = std::f32::consts::PI * (i as f32 / 5.0 - 0.5);
        (radius * angle.cos(), 0.10 + radius * angle.sin())
    };
    polygon(&(0..10).map(point).collect::<Vec<_>>())
}

fn fish_body() -> Path {
    let mut path = PathBuilder::new();
    path.move_to(-1.0, 0.08);
    path.cubic_to(-0.70, -0.62, 0.20, -0.66, 0.62, 0.0);
    path.line_to(0.62, 0.16);
    path.cubic_to(0.20, 0.82, -0.70, 0.78, -1.0, 0.08);
    path.close();
    path.finish().expect("a fish has area")
}

fn fish_tail() -> Path {
    let mut path = PathBuilder::new();
    path.move_to(0.40, 0.08);
    path.line_to(1.0, -0.46);
    path.quad_to(0.80, 0.08, 1.0, 0.62);
    path.close();
    path.finish().expect("a tail has area")
}

fn cup_body() -> Path {
    let mut path = PathBuilder::new();
    path.move_to(-0.98, -0.72);
    path.line_to(0.42, -0.72);
    path.line_to(0.42, 0.55);
    path.quad_to(0.42, 1.0, -0.03, 1.0);
    path.line_to(-0.53, 1.0);
    path.quad_to(-0.98, 1.0, -0.98, 0.55);
    path.close();
    path.finish().expect("a cup has area")
}

/// A thick open ring; its inside shows what is behind.
fn cup_handle() -> Path {
    let mut path = PathBuilder::new();
    path.move_to(0.36, -0.48);
    path.cubic_to(1.20, -0.56, 1.20, 0.64, 0.36, 0.60);
    path.line_to(0.36, 0.34);
    path.cubic_to(0.84, 0.36, 0.84, -0.26, 0.36, -0.22);
    path.close();
    path.finish().expect("a handle has area")
}

fn boat_hull() -> Path {
    polygon(&[(-1.0, 0.36), (1.0, 0.36), (0.66, 1.0), (-0.66, 1.0)])
}

fn heart() -> Path {
    let mut path = PathBuilder::new();
    path.move_to(0.0, 1.0);
    path.cubic_to(-0.62, 0.52, -1.04, 0.20, -1.0, -0.36);
    path.cubic_to(-0.96, -0.94, -0.22, -1.04, 0.0, -0.48);
    path.cubic_to(0.22, -1.04, 0.96, -0.94, 1.0, -0.36);
    path.cubic_to(1.04, 0.20, 0.62, 0.52, 0.0, 1.0);
    path.close();
    path.finish().expect("a heart has area")
}

fn highlight() -> Path {
    circle(-0.50, -0.42, 0.17)
}
