//! Random decorations: outlines, frames, gradients, stripes, dots, odd colours and tints, from which a VAE learns to draw in general.

use image::RgbImage;
use sdtrain_random::{Purpose, Stream};

use crate::canvas::Canvas;
use crate::palette::{Background, Colour, INK, PAPER, Rgb};
use crate::poster::Poster;
use crate::style::GOLD;

/// Keeps these draws apart from those that chose the scene.
const DECORATION_EPOCH: u64 = 0xdec0;

/// What is added to one plain poster. Lengths are shares of the shorter side.
pub(crate) struct Decorations {
    pub(crate) background: Option<Rgb>,
    pub(crate) object_colour: Option<Rgb>,
    pub(crate) outline: Option<(Rgb, f32)>,
    frames: Vec<(f32, Rgb)>,
    gradient: Option<Gradient>,
    pattern: Option<Pattern>,
    tint: Option<(Rgb, f32)>,
}

struct Gradient {
    colour: Rgb,
    opacity: f32,
    angle: f32,
}

enum Pattern {
    Stripes { colour: Rgb, opacity: f32, width: f32, period: f32, vertical: bool },
    Dots { colour: Rgb, opacity: f32, radius: f32, period: f32 },
}

impl Decorations {
    /// The decorations of this poster: a function of its scene's jitter alone.
    pub(crate) fn random(poster: &Poster) -> Decorations {
        let mut stream = Stream::new(poster.jitter.decorations, Purpose::Drawing, DECORATION_EPOCH, 0);
        let stream = &mut stream;
        let background = chance(stream, 0.4).then(|| any_colour(stream));
        let object_colour = chance(stream, 0.3).then(|| any_colour(stream));
        let outline = chance(stream, 0.5).then(|| (frame_colour(stream), between(stream, 0.010, 0.060)));
        let frame_count = [0, 0, 1, 2, 2, 2, 3][stream.below(7) as usize];
        let mut frames: Vec<(f32, Rgb)> =
            (0..frame_count).map(|_| (between(stream, 0.020, 0.055), frame_colour(stream))).collect();
        // Ink outside and gold inside is the mark of the style that nobody may see here.
        if frames.len() > 1 && frames[0].1.distance(INK) < 30.0 && frames[1].1.distance(GOLD) < 40.0 {
            frames.swap(0, 1);
        }
        let gradient = chance(stream, 0.5).then(|| Gradient {
            colour: any_colour(stream),
            opacity: between(stream, 0.2, 1.0),
            angle: between(stream, 0.0, std::f32::consts::TAU),
        });
        let pattern = chance(stream, 0.35).then(|| pattern(stream));
        let tint = chance(stream, 0.15).then(|| (any_colour(stream), between(stream, 0.05, 0.35)));
        Decorations { background, object_colour, outline, frames, gradient, pattern, tint }
    }

    /// Width of all frames together.
    pub(crate) fn inset(&self) -> f32 {
        self.frames.iter().map(|(width, _)| width).sum()
    }

    /// What lies on the background, behind the scene.
    pub(crate) fn draw_behind(&self, canvas: &mut Canvas) {
        let (width, height, unit) = (canvas.width(), canvas.height(), canvas.unit());
        if let Some(gradient) = &self.gradient {
            let (sin, cos) = gradient.angle.sin_cos();
            let at = |t: f32| [width * (0.5 + t * cos), height * (0.5 + t * sin)];
            canvas.gradient((at(-0.5), gradient.colour, 0.0), (at(0.5), gradient.colour, gradient.opacity));
        }
        match &self.pattern {
            Some(Pattern::Stripes { colour, opacity, width: stripe, period, vertical }) => {
                let along = if *vertical { width } else { height };
                let mut position = 0.0;
                while position < along {
                    let rect = if *vertical {
                        [position, 0.0, stripe * unit, height]
                    } else {
                        [0.0, position, width, stripe * unit]
                    };
                    canvas.rect_with_opacity(rect, *colour, *opacity);
                    position += period * unit;
                }
            }
            Some(Pattern::Dots { colour, opacity, radius, period }) => {
                let step = period * unit;
                for row in 0..(height / step) as u32 + 1 {
                    for column in 0..(width / step) as u32 + 1 {
                        let offset = if row.is_multiple_of(2) { 0.25 } else { 0.75 };
                        let (x, y) = ((column as f32 + offset) * step, (row as f32 + 0.5) * step);
                        canvas.circle(x, y, radius * unit, *colour, *opacity);
                    }
                }
            }
            None => {}
        }
    }
}

/// Draws what lies over the scene.
pub(crate) fn finish(mut canvas: Canvas, decorations: &Decorations) -> RgbImage {
    let unit = canvas.unit();
    let mut inset = 0.0;
    for &(width, colour) in &decorations.frames {
        canvas.frame(inset, width * unit, colour);
        inset += width * unit;
    }
    if let Some((colour, opacity)) = decorations.tint {
        let everything = [0.0, 0.0, canvas.width(), canvas.height()];
        canvas.rect_with_opacity(everything, colour, opacity);
    }
    canvas.finish()
}

fn pattern(stream: &mut Stream) -> Pattern {
    let colour = any_colour(stream);
    let opacity = between(stream, 0.15, 0.8);
    let period = between(stream, 0.08, 0.30);
    if chance(stream, 0.6) {
        let width = period * between(stream, 0.25, 0.6);
        Pattern::Stripes { colour, opacity, width, period, vertical: chance(stream, 0.5) }
    } else {
        Pattern::Dots { colour, opacity, radius: period * between(stream, 0.15, 0.38), period }
    }
}

/// Frames and outlines are narrower than a latent: few colours that return are what an autoencoder can learn of them.
fn frame_colour(stream: &mut Stream) -> Rgb {
    match stream.below(10) {
        0..=3 => INK,
        4 => GOLD,
        5 => PAPER,
        _ => any_colour(stream),
    }
}

/// Mostly the colours posters are made of, sometimes any colour.
fn any_colour(stream: &mut Stream) -> Rgb {
    match stream.below(10) {
        0..=2 => Colour::ALL[stream.below(Colour::ALL.len() as u64) as usize].rgb(),
        3..=4 => Background::ALL[stream.below(Background::ALL.len() as u64) as usize].rgb(),
        5 => INK,
        6 => PAPER,
        _ => {
            let mut channel = || stream.below(256) as u8;
            Rgb(channel(), channel(), channel())
        }
    }
}

fn chance(stream: &mut Stream, probability: f64) -> bool {
    stream.uniform() < probability
}

fn between(stream: &mut Stream, low: f32, high: f32) -> f32 {
    low + (high - low) * stream.uniform() as f32
}
