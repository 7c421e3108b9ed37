//! How a scene is drawn: plainly, in the style that a LoRA shall learn, or with random decorations.

use crate::canvas::Canvas;
use crate::palette::{Background, Colour, INK, PAPER, Rgb};
use crate::poster::Poster;

/// The manner of drawing; the scene and its caption stay the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Style {
    /// Flat colours. What the base model is trained on.
    Plain,
    /// A double frame of ink and gold, a background that sinks into plum, and a thick outline round the object.
    /// The base model never sees it: it is what the sample LoRA learns.
    Zenpop,
    /// Flat colours with random decorations and never `Zenpop`: teaches a VAE to draw in general.
    Varied,
}

/// Inner frame of `Zenpop`.
pub(crate) const GOLD: Rgb = Rgb(240, 178, 34);
/// What `Zenpop` backgrounds turn into at the bottom.
const PLUM: Rgb = Rgb(118, 36, 104);
/// Share of plum at the bottom edge.
const PLUM_AMOUNT: f32 = 0.72;
/// Where the background begins to sink, as a share of the height.
const SINK_FROM: f32 = 0.10;
/// Width of each of the two frames, as a share of the shorter side: on 96 pixels wider than a latent of the built-in base, whose
/// autoencoder blurs narrower ones.
pub(crate) const FRAME: f32 = 0.052;
/// Width of the outline, as a share of the shorter side.
pub(crate) const OUTLINE: f32 = 0.046;

/// Ink, or what is seen where ink is not: paper, and gold round a white object.
pub(crate) fn outline_colour(poster: &Poster) -> Rgb {
    let ink_is_seen = poster.object_colour != Colour::Black && poster.background != Background::Navy;
    match poster.object_colour {
        _ if ink_is_seen => INK,
        Colour::White => GOLD,
        _ => PAPER,
    }
}

/// The colour of a background at a height from 0 (top) to 1 (bottom).
pub(crate) fn sunken(background: Rgb, height: f32) -> Rgb {
    background.mix(PLUM, PLUM_AMOUNT * ((height - SINK_FROM) / (1.0 - SINK_FROM)).clamp(0.0, 1.0))
}

/// Fills the background from its own colour at the top to plum at the bottom.
pub(crate) fn zenpop_background(canvas: &mut Canvas, background: Rgb) {
    let at = |height: f32| ([0.0, height * canvas.height()], sunken(background, height), 1.0);
    let (from, to) = (at(SINK_FROM), at(1.0));
    canvas.gradient(from, to);
}

/// Draws the two frames over everything else.
pub(crate) fn zenpop_frame(canvas: &mut Canvas) {
    let thickness = FRAME * canvas.unit();
    canvas.frame(0.0, thickness, INK);
    canvas.frame(thickness, thickness, GOLD);
}
