//! A scene: one object in one colour, where it is, what it stands on, the background and the title bar; and its drawing.

use image::RgbImage;
use sdtrain_random::Stream;
use tiny_skia::{Path, PathBuilder, Transform};

use crate::canvas::Canvas;
use crate::object::{Object, Tone};
use crate::palette::{Background, Colour, INK, PAPER, Rgb, WOOD};
use crate::style::{self, Style};
use crate::varied::{self, Decorations};

/// Where the object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants are their names
pub enum Place {
    Left,
    Centre,
    Right,
}

/// Where the bar with the (unreadable) title is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants are their names
pub enum TitleBar {
    None,
    Top,
    Bottom,
}

/// What the object stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants are their names
pub enum Ground {
    None,
    Table,
    Hill,
}

impl Place {
    /// All of them, in a fixed order.
    pub const ALL: &[Place] = &[Place::Left, Place::Centre, Place::Right];
}

impl TitleBar {
    /// All of them, in a fixed order.
    pub const ALL: &[TitleBar] = &[TitleBar::None, TitleBar::Top, TitleBar::Bottom];
}

impl Ground {
    /// All of them, in a fixed order.
    pub const ALL: &[Ground] = &[Ground::None, Ground::Table, Ground::Hill];
}

/// Small differences between posters with the same caption.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter {
    /// Factor on the object's size.
    pub scale: f32,
    /// Shift of the object, as shares of the width and the height.
    pub shift: [f32; 2],
    /// Rotation of an object that floats, in degrees.
    pub tilt: f32,
    /// Added to the object's colour.
    pub object_tint: [i16; 3],
    /// Added to the background's colour.
    pub background_tint: [i16; 3],
    /// Lengths of the two lines of the title, as shares of the bar.
    pub title: [f32; 2],
    /// Chooses the decorations of `Style::Varied`.
    pub decorations: u64,
}

impl Jitter {
    /// No difference at all: the typical poster.
    pub const NONE: Jitter = Jitter {
        scale: 1.0,
        shift: [0.0, 0.0],
        tilt: 0.0,
        object_tint: [0; 3],
        background_tint: [0; 3],
        title: [0.5, 0.3],
        decorations: 0,
    };

    /// A random difference.
    pub fn random(stream: &mut Stream) -> Jitter {
        let mut between = |low: f32, high: f32| low + (high - low) * stream.uniform() as f32;
        let scale = between(0.92, 1.10);
        let shift = [between(-0.022, 0.022), between(-0.020, 0.020)];
        let tilt = between(-5.0, 5.0);
        let mut tint = || {
            let light = between(-5.0, 5.0);
            [(); 3].map(|()| (light + between(-4.0, 4.0)).round() as i16)
        };
        let (object_tint, background_tint) = (tint(), tint());
        let title = [between(0.34, 0.60), between(0.12, 0.26)];
        let decorations = stream.below(1 << 32);
        Jitter { scale, shift, tilt, object_tint, background_tint, title, decorations }
    }
}

/// A scene that can be drawn in any style and size.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the fields are their names
pub struct Poster {
    pub object: Object,
    pub object_colour: Colour,
    pub place: Place,
    pub ground: Ground,
    pub background: Background,
    pub title_bar: TitleBar,
    pub jitter: Jitter,
}

impl Poster {
    /// A random scene whose object can be seen against its background.
    pub fn random(stream: &mut Stream) -> Poster {
        let object = pick(stream, Object::ALL);
        let object_colour = pick(stream, Colour::ALL);
        let place = pick(stream, Place::ALL);
        let ground = pick(stream, Ground::ALL);
        let backgrounds: Vec<Background> =
            Background::ALL.iter().copied().filter(|background| background.shows(object_colour)).collect();
        let background = pick(stream, &backgrounds);
        let title_bar = pick(stream, TitleBar::ALL);
        let jitter = Jitter::random(stream);
        Poster { object, object_colour, place, ground, background, title_bar, jitter }
    }

    /// Every scene there is (without jitter), in a fixed order.
    pub fn all() -> Vec<Poster> {
        let mut posters = Vec::new();
        for &object in Object::ALL {
            for &object_colour in Colour::ALL {
                for &background in Background::ALL.iter().filter(|background| background.shows(object_colour)) {
                    for &place in Place::ALL {
                        for &ground in Ground::ALL {
                            for &title_bar in TitleBar::ALL {
                                let jitter = Jitter::NONE;
                                posters.push(Poster {
                                    object,
                                    object_colour,
                                    place,
                                    ground,
                                    background,
                                    title_bar,
                                    jitter,
                                });
                            }
                        }
                    }
                }
            }
        }
        posters
    }

    /// The square poster with sides of `size` pixels.
    pub fn draw(&self, size: u32, style: Style) -> RgbImage {
        self.draw_sized(size, size, style)
    }

    /// The poster in any shape; made for sides of 64 to 256 pixels.
    pub fn draw_sized(&self, width: u32, height: u32, style: Style) -> RgbImage {
        self.draw_painted(width, height, style, None)
    }

    /// The same; with `parts`, the object is made of these instead, back to front, each in its own colour.
    pub(crate) fn draw_painted(
        &self,
        width: u32,
        height: u32,
        style: Style,
        parts: Option<&[(Rgb, Path)]>,
    ) -> RgbImage {
        let decorations = (style == Style::Varied).then(|| Decorations::random(self));
        let mut background = self.background.rgb().shifted(self.jitter.background_tint);
        let mut object_colour = self.object_colour.rgb().shifted(self.jitter.object_tint);
        if let Some(decorations) = &decorations {
            background = decorations.background.unwrap_or(background);
            object_colour = decorations.object_colour.unwrap_or(object_colour);
        }

        let mut canvas = Canvas::new(width, height, background);
        let mut frame = 0.0;
        if style == Style::Zenpop {
            style::zenpop_background(&mut canvas, background);
            frame = 2.0 * style::FRAME * canvas.unit();
        }
        if let Some(decorations) = &decorations {
            decorations.draw_behind(&mut canvas);
            frame = decorations.inset() * canvas.unit();
        }

        let layout = Layout::of(self, &canvas, frame);
        self.draw_ground(&mut canvas, &layout, background);
        self.draw_title_bar(&mut canvas, &layout, background);
        let outline = match (&decorations, style) {
            (Some(decorations), _) => decorations.outline,
            (None, Style::Zenpop) => Some((style::outline_colour(self), style::OUTLINE)),
            _ => None,
        };
        match parts {
            Some(parts) => {
                let placed = layout.place_object(self);
                parts.iter().for_each(|(colour, path)| canvas.fill(path, placed, *colour));
            }
            None => self.draw_object(&mut canvas, &layout, object_colour, outline),
        }

        if style == Style::Zenpop {
            style::zenpop_frame(&mut canvas);
        }
        match decorations {
            Some(decorations) => varied::finish(canvas, &decorations),
            None => canvas.finish(),
        }
    }

    fn draw_ground(&self, canvas: &mut Canvas, layout: &Layout, background: Rgb) {
        let [left, _, width, _] = layout.inner;
        let (unit, top, bottom) = (layout.unit, layout.ground, layout.bottom);
        match self.ground {
            Ground::None => {}
            Ground::Table => {
                let thickness = 0.055 * unit;
                let leg = 0.055 * unit;
                let dark = table_leg_colour();
                canvas.rect(left + 0.15 * width, top, leg, bottom - top, dark);
                canvas.rect(left + 0.85 * width - leg, top, leg, bottom - top, dark);
                canvas.rect(left + 0.06 * width, top, 0.88 * width, thickness, WOOD);
            }
            Ground::Hill => {
                let colour = hill_colour(background);
                let (crest, foot, right) = (layout.centre[0], top + 0.11 * unit, left + width);
                let mut hill = PathBuilder::new();
                hill.move_to(left, bottom);
                hill.line_to(left, foot);
                hill.quad_to(0.5 * (left + crest), top, crest, top);
                hill.quad_to(0.5 * (crest + right), top, right, foot);
                hill.line_to(right, bottom);
                hill.close();
                if let Some(hill) = hill.finish() {
                    canvas.fill(&hill, Transform::identity(), colour);
                }
            }
        }
    }

    fn draw_title_bar(&self, canvas: &mut Canvas, layout: &Layout, background: Rgb) {
        let Some(top) = layout.bar else { return };
        let [left, _, width, _] = layout.inner;
        let height = BAR * layout.unit;
        let (bar, letters) = if background.is_dark() { (PAPER, INK) } else { (INK, PAPER) };
        canvas.rect(left, top, width, height, bar);
        // Two words, as blocks: at this size no letter could be read.
        let [first, second] = self.jitter.title.map(|share| share * width);
        let gap = 0.05 * width;
        let start = left + 0.5 * (width - first - gap - second);
        let (y, letter_height) = (top + 0.35 * height, 0.30 * height);
        canvas.rect(start, y, first, letter_height, letters);
        canvas.rect(start + first + gap, y, second, letter_height, letters);
    }

    fn draw_object(&self, canvas: &mut Canvas, layout: &Layout, colour: Rgb, outline: Option<(Rgb, f32)>) {
        let placed = layout.place_object(self);
        let body = self.object.body();
        if let Some((outline, width)) = outline {
            for (_, path) in &body {
                canvas.stroke(path, placed, outline, 2.0 * width * canvas.unit());
            }
        }
        for (tone, path) in body.iter().chain(&self.object.details()) {
            canvas.fill(path, placed, toned(colour, *tone));
        }
    }
}

/// Height of a title bar, as a share of the shorter side.
const BAR: f32 = 0.15;
/// Half of the object's box, as a share of the shorter side.
const HALF_OBJECT: f32 = 0.24;
/// How far left and right are from the centre, as a share of the width.
const ASIDE: f32 = 0.185;

/// Positions in pixels that follow from the scene and the size.
struct Layout {
    /// Left, top, width and height of what the frame leaves free.
    inner: [f32; 4],
    /// The shorter side of that.
    unit: f32,
    centre: [f32; 2],
    half: f32,
    ground: f32,
    bottom: f32,
    bar: Option<f32>,
}

impl Layout {
    fn of(poster: &Poster, canvas: &Canvas, frame: f32) -> Layout {
        let inner = [frame, frame, canvas.width() - 2.0 * frame, canvas.height() - 2.0 * frame];
        let [left, inner_top, width, height] = inner;
        let unit = width.min(height);
        let half = HALF_OBJECT * unit * poster.jitter.scale;
        let (mut top, mut bottom) = (inner_top, inner_top + height);
        let bar = match poster.title_bar {
            TitleBar::None => None,
            TitleBar::Top => {
                top += BAR * unit;
                Some(inner_top)
            }
            TitleBar::Bottom => {
                bottom -= BAR * unit;
                Some(bottom)
            }
        };
        let aside = match poster.place {
            Place::Left => -ASIDE,
            Place::Centre => 0.0,
            Place::Right => ASIDE,
        };
        let x = left + (0.5 + aside + poster.jitter.shift[0]) * width;
        let ground = bottom - 0.17 * unit;
        let y = match poster.ground {
            Ground::None => 0.5 * (top + bottom) + poster.jitter.shift[1] * height,
            Ground::Table => ground - half,
            Ground::Hill => ground + 0.03 * unit - half,
        };
        Layout { inner, unit, centre: [x, y], half, ground, bottom, bar }
    }

    fn place_object(&self, poster: &Poster) -> Transform {
        let tilt = if poster.ground == Ground::None { poster.jitter.tilt } else { 0.0 };
        // A fish is flat: it lies on the ground with its own lower edge.
        let lift = if poster.object == Object::Fish && poster.ground != Ground::None { 0.30 * self.half } else { 0.0 };
        Transform::from_rotate(tilt)
            .post_scale(self.half, self.half)
            .post_translate(self.centre[0], self.centre[1] + lift)
    }
}

pub(crate) fn table_leg_colour() -> Rgb {
    WOOD.mix(INK, 0.35)
}

/// A hill is a shade of what is behind it.
pub(crate) fn hill_colour(background: Rgb) -> Rgb {
    if background.is_dark() { background.mix(PAPER, 0.22) } else { background.mix(INK, 0.26) }
}

/// The shade of a part. Close to the object's colour, so that the whole reads as one colour.
pub(crate) fn toned(colour: Rgb, tone: Tone) -> Rgb {
    let lightness = colour.lab()[0];
    let (black, white) = (Rgb(0, 0, 0), Rgb(255, 255, 255));
    match tone {
        Tone::Main => colour,
        Tone::Shade if lightness < 20.0 => colour.mix(white, 0.16),
        Tone::Shade => colour.mix(black, 0.16),
        Tone::Light if lightness < 20.0 => colour.mix(white, 0.10),
        Tone::Light if lightness > 92.0 => colour.mix(black, 0.07),
        Tone::Light => colour.mix(white, 0.26),
    }
}

fn pick<T: Copy>(stream: &mut Stream, choices: &[T]) -> T {
    choices[stream.below(choices.len() as u64) as usize]
}
