//! Random masks for inpainting: rectangles, ellipses and strokes, or the whole picture.
//!
//! Strokes and boxes together are what masks for inpainting are commonly trained with (Suvorov et al. 2021, arXiv:2109.07161, section 3.3).

use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{InpaintingConfig, MaskShape};

use crate::ExampleKey;

/// Straight pieces of a stroke, at most.
const MOST_PIECES: u64 = 4;
/// A stroke is so many times as long, piece by piece, as it is thick.
const LENGTH_BY_WIDTH: f64 = 4.0;

/// The mask of an example of `width` × `height` pixels, row by row: 1 where it is covered, else 0.
pub fn random_mask(config: &InpaintingConfig, seed: u64, key: ExampleKey, (width, height): (usize, usize)) -> Vec<f32> {
    let mut draw = Stream::new(seed, Purpose::InpaintingMask, key.epoch, key.example);
    if draw.uniform() < config.whole_probability || config.shapes.is_empty() {
        return vec![1.0; width * height];
    }
    let mut canvas = Canvas { pixels: vec![0.0; width * height], width, height };
    for _ in 0..=draw.below(u64::from(config.max_shapes.max(1))) {
        let shape = config.shapes[draw.below(config.shapes.len() as u64) as usize];
        canvas.cover(shape, config, &mut draw);
    }
    canvas.pixels
}

struct Canvas {
    pixels: Vec<f32>,
    width: usize,
    height: usize,
}

impl Canvas {
    fn cover(&mut self, shape: MaskShape, config: &InpaintingConfig, draw: &mut Stream) {
        let (width, height) = (self.width as f64, self.height as f64);
        let extent = |draw: &mut Stream| config.min_size + (config.max_size - config.min_size) * draw.uniform();
        match shape {
            MaskShape::Rectangle | MaskShape::Ellipse => {
                let (across, down) = (extent(draw) * width, extent(draw) * height);
                let (left, top) = (draw.uniform() * (width - across), draw.uniform() * (height - down));
                let is_ellipse = shape == MaskShape::Ellipse;
                self.fill((left, top), (left + across, top + down), |x, y| {
                    let (x, y) = (2.0 * (x - left) / across - 1.0, 2.0 * (y - top) / down - 1.0);
                    if is_ellipse { x * x + y * y <= 1.0 } else { x.abs() <= 1.0 && y.abs() <= 1.0 }
                });
            }
            MaskShape::Stroke => {
                let length = extent(draw) * width.min(height);
                let radius = length / LENGTH_BY_WIDTH / 2.0;
                let mut from = (draw.uniform() * width, draw.uniform() * height);
                for _ in 0..=draw.below(MOST_PIECES) {
                    let angle = draw.uniform() * std::f64::consts::TAU;
                    let step = |from: f64, by: f64, side: f64| (from + length * by).clamp(0.0, side);
                    let to = (step(from.0, angle.cos(), width), step(from.1, angle.sin(), height));
                    let least = (from.0.min(to.0) - radius, from.1.min(to.1) - radius);
                    let most = (from.0.max(to.0) + radius, from.1.max(to.1) + radius);
                    self.fill(least, most, |x, y| distance((x, y), from, to) <= radius);
                    from = to;
                }
            }
        }
    }

    /// Covers every pixel whose centre is inside; only those from `least` to `most` are looked at, which hold all of them.
    fn fill(&mut self, least: (f64, f64), most: (f64, f64), inside: impl Fn(f64, f64) -> bool) {
        // A pixel more on each side: the sums that the bounds come from are rounded otherwise than those that decide.
        let range = |least: f64, most: f64, end: usize| {
            // Numbers below 0 become 0.
            let (first, last) = ((least - 1.0).floor() as usize, (most + 1.0).ceil() as usize);
            first.min(end)..last.min(end)
        };
        let (columns, rows) = (range(least.0, most.0, self.width), range(least.1, most.1, self.height));
        for row in rows {
            let pixels = &mut self.pixels[row * self.width..][..self.width];
            for column in columns.clone() {
                if inside(column as f64 + 0.5, row as f64 + 0.5) {
                    pixels[column] = 1.0;
                }
            }
        }
    }
}

/// From a point to the piece between two others.
fn distance(point: (f64, f64), from: (f64, f64), to: (f64, f64)) -> f64 {
    let (along, across) = (to.0 - from.0, to.1 - from.1);
    let length = along * along + across * across;
    let share = match length > 0.0 {
        true => (((point.0 - from.0) * along + (point.1 - from.1) * across) / length).clamp(0.0, 1.0),
        false => 0.0,
    };
    (point.0 - from.0 - share * along).hypot(point.1 - from.1 - share * across)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (48, 32);

    fn mask(config: &InpaintingConfig, example: u64) -> Vec<f32> {
        random_mask(config, 7, ExampleKey { epoch: 3, example }, SIZE)
    }

    fn share(mask: &[f32]) -> f64 {
        mask.iter().map(|&value| f64::from(value)).sum::<f64>() / mask.len() as f64
    }

    fn of(shape: MaskShape, size: f64) -> InpaintingConfig {
        InpaintingConfig {
            shapes: vec![shape],
            max_shapes: 1,
            min_size: size,
            max_size: size,
            whole_probability: 0.0,
            ..InpaintingConfig::default()
        }
    }

    #[test]
    fn a_mask_is_its_keys_and_nothing_else() {
        let config = InpaintingConfig::default();
        assert_eq!(mask(&config, 5), mask(&config, 5));
        let others = [
            random_mask(&config, 8, ExampleKey { epoch: 3, example: 5 }, SIZE),
            random_mask(&config, 7, ExampleKey { epoch: 4, example: 5 }, SIZE),
            mask(&config, 6),
        ];
        assert!(others.iter().all(|other| *other != mask(&config, 5)));
        assert!(mask(&config, 5).iter().all(|value| [0.0, 1.0].contains(value)));
    }

    #[test]
    fn shapes_have_the_areas_that_their_extents_give_them() {
        for example in 0..40 {
            // Half of each side: a quarter of the area, and π/4 of that.
            let [rectangle, ellipse] =
                [MaskShape::Rectangle, MaskShape::Ellipse].map(|shape| share(&mask(&of(shape, 0.5), example)));
            // A row or column of pixels more or less.
            assert!((rectangle - 0.25).abs() < 0.04, "{rectangle}");
            assert!((ellipse - 0.25 * std::f64::consts::FRAC_PI_4).abs() < 0.03, "{ellipse}");
            // A piece of half the shorter side, with its round ends, and at most four of them.
            let stroke = share(&mask(&of(MaskShape::Stroke, 0.5), example));
            let piece = (16.0 * 4.0 + std::f64::consts::PI * 4.0) / (48.0 * 32.0);
            assert!(stroke > 0.0 && stroke < 4.2 * piece, "{stroke} of {piece}");
        }
    }

    #[test]
    fn only_the_part_of_the_picture_that_holds_the_shape_is_walked() {
        let canvas = || Canvas { pixels: vec![0.0; 48 * 32], width: 48, height: 32 };
        let mut draw = Stream::new(5, Purpose::InpaintingMask, 0, 0);
        let mut point = || (draw.uniform() * 48.0, draw.uniform() * 32.0);
        for _ in 0..200 {
            let (from, to, radius) = (point(), point(), point().0 / 8.0);
            let inside = |x: f64, y: f64| distance((x, y), from, to) <= radius;
            let least = (from.0.min(to.0) - radius, from.1.min(to.1) - radius);
            let most = (from.0.max(to.0) + radius, from.1.max(to.1) + radius);
            let (mut part, mut whole) = (canvas(), canvas());
            part.fill(least, most, inside);
            whole.fill((0.0, 0.0), (48.0, 32.0), inside);
            assert_eq!(part.pixels, whole.pixels, "from {from:?} to {to:?}, {radius}");
        }
        // A shape that is as large as the picture, at its edge, and one beyond it.
        let mut all = canvas();
        all.fill((0.0, 0.0), (48.0, 32.0), |_, _| true);
        assert!(all.pixels.iter().all(|&pixel| pixel == 1.0));
        let mut none = canvas();
        none.fill((-9.0, -9.0), (-5.0, -5.0), |x, y| x < -5.0 && y < -5.0);
        assert!(none.pixels.iter().all(|&pixel| pixel == 0.0));
    }

    #[test]
    fn so_many_pictures_are_covered_whole_as_is_asked_for() {
        let config = InpaintingConfig { max_size: 0.5, ..InpaintingConfig::default() };
        let whole = (0..2000).filter(|&example| share(&mask(&config, example)) == 1.0).count();
        // 500 expected, standard deviation 19: five of them.
        assert!((403..=597).contains(&whole), "{whole}");
    }

    #[test]
    fn one_to_the_largest_number_of_shapes_are_drawn() {
        let single = of(MaskShape::Rectangle, 0.1);
        let several = InpaintingConfig { max_shapes: 8, ..single.clone() };
        let mean =
            |config: &InpaintingConfig| (0..500).map(|example| share(&mask(config, example))).sum::<f64>() / 500.0;
        // 4.5 on average, less where they overlap.
        let times = mean(&several) / mean(&single);
        assert!((4.0..4.6).contains(&times), "{times}");
    }
}
