//! A small drawing surface: four times finer than the picture, then averaged down.

use image::{Rgb as Pixel, RgbImage};
use tiny_skia::{
    FillRule, GradientStop, LineCap, LineJoin, LinearGradient, Paint, Path, PathBuilder, Pixmap, Point, Rect, Shader,
    SpreadMode, Stroke, Transform,
};

use crate::palette::Rgb;

const SUPERSAMPLE: u32 = 4;

/// Everything is given in pixels of the final picture.
pub(crate) struct Canvas {
    pixmap: Pixmap,
    width: u32,
    height: u32,
}

impl Canvas {
    /// An area filled with one colour. A side of 0 is taken as 1.
    pub(crate) fn new(width: u32, height: u32, colour: Rgb) -> Canvas {
        let (width, height) = (width.clamp(1, 4096), height.clamp(1, 4096));
        let mut pixmap = Pixmap::new(width * SUPERSAMPLE, height * SUPERSAMPLE).expect("both sides are 1..=16384");
        pixmap.fill(tiny_skia::Color::from_rgba8(colour.0, colour.1, colour.2, 255));
        Canvas { pixmap, width, height }
    }

    pub(crate) fn width(&self) -> f32 {
        self.width as f32
    }

    pub(crate) fn height(&self) -> f32 {
        self.height as f32
    }

    /// The length that things are measured by: the shorter side.
    pub(crate) fn unit(&self) -> f32 {
        self.width.min(self.height) as f32
    }

    pub(crate) fn fill(&mut self, path: &Path, placed: Transform, colour: Rgb) {
        self.fill_with_opacity(path, placed, colour, 1.0);
    }

    pub(crate) fn fill_with_opacity(&mut self, path: &Path, placed: Transform, colour: Rgb, opacity: f32) {
        let paint = paint(colour, opacity);
        self.pixmap.fill_path(path, &paint, FillRule::EvenOdd, placed.post_concat(fine()), None);
    }

    /// Strokes a path whose points are first moved by `placed`; `width` is in pixels of the picture.
    pub(crate) fn stroke(&mut self, path: &Path, placed: Transform, colour: Rgb, width: f32) {
        let Some(path) = path.clone().transform(placed) else { return };
        let stroke = Stroke { width, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
        self.pixmap.stroke_path(&path, &paint(colour, 1.0), &stroke, fine(), None);
    }

    pub(crate) fn rect(&mut self, x: f32, y: f32, width: f32, height: f32, colour: Rgb) {
        self.rect_with_opacity([x, y, width, height], colour, 1.0);
    }

    pub(crate) fn rect_with_opacity(&mut self, [x, y, width, height]: [f32; 4], colour: Rgb, opacity: f32) {
        if let Some(rect) = Rect::from_xywh(x, y, width, height) {
            self.pixmap.fill_rect(rect, &paint(colour, opacity), fine(), None);
        }
    }

    pub(crate) fn circle(&mut self, x: f32, y: f32, radius: f32, colour: Rgb, opacity: f32) {
        if let Some(path) = PathBuilder::from_circle(x, y, radius) {
            self.fill_with_opacity(&path, Transform::identity(), colour, opacity);
        }
    }

    /// Fills the whole picture with a gradient from `from` to `to`.
    pub(crate) fn gradient(&mut self, from: ([f32; 2], Rgb, f32), to: ([f32; 2], Rgb, f32)) {
        let stop = |position: f32, (_, colour, opacity): ([f32; 2], Rgb, f32)| {
            let mut colour = tiny_skia::Color::from_rgba8(colour.0, colour.1, colour.2, 255);
            colour.set_alpha(opacity);
            GradientStop::new(position, colour)
        };
        let [start, end] = [from.0, to.0].map(|[x, y]| Point::from_xy(x, y));
        let stops = vec![stop(0.0, from), stop(1.0, to)];
        let Some(shader) = LinearGradient::new(start, end, stops, SpreadMode::Pad, Transform::identity()) else {
            return;
        };
        self.fill_all(shader);
    }

    fn fill_all(&mut self, shader: Shader<'_>) {
        let everything =
            Rect::from_xywh(0.0, 0.0, self.width as f32, self.height as f32).expect("both sides are at least 1");
        let paint = Paint { shader, anti_alias: true, ..Paint::default() };
        self.pixmap.fill_rect(everything, &paint, fine(), None);
    }

    /// A frame of this width just inside a rectangle `inset` from every side.
    pub(crate) fn frame(&mut self, inset: f32, thickness: f32, colour: Rgb) {
        let (width, height) = (self.width() - 2.0 * inset, self.height() - 2.0 * inset);
        self.rect(inset, inset, width, thickness, colour);
        self.rect(inset, inset + height - thickness, width, thickness, colour);
        self.rect(inset, inset, thickness, height, colour);
        self.rect(inset + width - thickness, inset, thickness, height, colour);
    }

    /// The finished picture.
    pub(crate) fn finish(self) -> RgbImage {
        let fine_width = (self.width * SUPERSAMPLE) as usize;
        let pixels = self.pixmap.data(); // opaque, so premultiplied colours are the colours
        RgbImage::from_fn(self.width, self.height, |x, y| {
            let mut sum = [0u32; 3];
            for row in 0..SUPERSAMPLE {
                let start = (y * SUPERSAMPLE + row) as usize * fine_width + (x * SUPERSAMPLE) as usize;
                for pixel in pixels[start * 4..(start + SUPERSAMPLE as usize) * 4].chunks_exact(4) {
                    sum.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += value as u32);
                }
            }
            let count = SUPERSAMPLE * SUPERSAMPLE;
            Pixel(sum.map(|sum| ((sum + count / 2) / count) as u8))
        })
    }
}

fn fine() -> Transform {
    Transform::from_scale(SUPERSAMPLE as f32, SUPERSAMPLE as f32)
}

fn paint(colour: Rgb, opacity: f32) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(colour.0, colour.1, colour.2, (opacity.clamp(0.0, 1.0) * 255.0).round() as u8);
    paint
}
