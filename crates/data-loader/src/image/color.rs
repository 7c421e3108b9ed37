//! Random changes of colours: hue, gamma, saturation, brightness, contrast.

use image::RgbImage;
use sdtrain_random::Stream;
use sdtrain_recipe::{ColorAugmentation, ColorChanges};

/// How one visit changes the colours of its image; 0 changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ColorChange {
    /// Degrees.
    hue: f32,
    gamma: f32,
    saturation: f32,
    brightness: f32,
    contrast: f32,
}

impl ColorChange {
    /// Draws a change; `None` where there is none this time.
    pub fn draw(config: &ColorAugmentation, random: &mut Stream) -> Option<ColorChange> {
        let happens = random.uniform() < config.probability;
        let choice = random.uniform();
        let mut amounts = [config.hue, config.gamma, config.saturation, config.brightness, config.contrast]
            .map(|strength| (random.uniform() * 2.0 - 1.0) * strength);
        if config.changes == ColorChanges::One {
            let possible = amounts.iter().filter(|&&amount| amount != 0.0).count();
            let chosen = (choice * possible as f64) as usize;
            let others = amounts.iter_mut().filter(|amount| **amount != 0.0).enumerate();
            others.filter(|(place, _)| *place != chosen).for_each(|(_, amount)| *amount = 0.0);
        }
        let [hue, gamma, saturation, brightness, contrast] = amounts.map(|amount| amount as f32);
        happens.then_some(ColorChange { hue, gamma, saturation, brightness, contrast })
    }

    /// Changes the image: hue, saturation, brightness, contrast, gamma.
    pub fn apply(&self, image: &mut RgbImage) {
        if self.hue != 0.0 {
            for pixel in image.pixels_mut() {
                pixel.0 = turned(pixel.0, self.hue);
            }
        }
        if self.saturation != 0.0 {
            for pixel in image.pixels_mut() {
                let grey = luma(pixel.0);
                // The conversion to `u8` saturates.
                pixel.0 = pixel.0.map(|v| (grey + (f32::from(v) - grey) * (1.0 + self.saturation) + 0.5) as u8);
            }
        }
        if self.brightness != 0.0 || self.contrast != 0.0 || self.gamma != 0.0 {
            let curve = self.curve(mean_luma(image));
            for value in image.iter_mut() {
                *value = curve[usize::from(*value)];
            }
        }
    }

    /// What becomes of each value; `mean` is the image's luma before.
    fn curve(&self, mean: f32) -> [u8; 256] {
        let mean = (mean * (1.0 + self.brightness)).min(255.0);
        std::array::from_fn(|value| {
            let value = (value as f32 * (1.0 + self.brightness)).min(255.0);
            let value = (mean + (value - mean) * (1.0 + self.contrast)).clamp(0.0, 255.0);
            (255.0 * (value / 255.0).powf(1.0 + self.gamma) + 0.5) as u8
        })
    }
}

/// The colour with its hue turned, in the hexagon of HSV; value and saturation stay.
fn turned(colour: [u8; 3], degrees: f32) -> [u8; 3] {
    let [r, g, b] = colour.map(f32::from);
    let (largest, smallest) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = largest - smallest;
    if chroma == 0.0 {
        return colour;
    }
    // Sixths of a turn from red.
    let hue = if largest == r {
        (g - b) / chroma
    } else if largest == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    let hue = hue + degrees / 60.0;
    // Each channel is at its largest within a sixth of its own hue and at its smallest from two sixths on.
    [0.0, 2.0, 4.0].map(|own| {
        let away = (hue - own + 3.0).rem_euclid(6.0) - 3.0;
        (smallest + chroma * (2.0 - away.abs()).clamp(0.0, 1.0) + 0.5) as u8
    })
}

/// ITU-R BT.601.
fn luma(colour: [u8; 3]) -> f32 {
    let [r, g, b] = colour.map(f32::from);
    0.299 * r + 0.587 * g + 0.114 * b
}

fn mean_luma(image: &RgbImage) -> f32 {
    let sum: f64 = image.pixels().map(|pixel| f64::from(luma(pixel.0))).sum();
    (sum / f64::from(image.width() * image.height()).max(1.0)) as f32
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use sdtrain_random::Purpose;

    use super::*;

    fn changed(change: ColorChange, colour: [u8; 3]) -> [u8; 3] {
        // A white pixel beside it, so that a contrast has a mean to be around.
        let mut image = RgbImage::from_fn(2, 1, |x, _| Rgb(if x == 0 { colour } else { [255; 3] }));
        change.apply(&mut image);
        image.get_pixel(0, 0).0
    }

    #[test]
    fn each_property_is_what_it_is_called() {
        let hue = |hue| ColorChange { hue, ..ColorChange::default() };
        assert_eq!(changed(hue(120.0), [200, 50, 10]), [10, 200, 50]);
        assert_eq!(changed(hue(-120.0), [200, 50, 10]), [50, 10, 200]);
        assert_eq!(changed(hue(60.0), [255, 0, 0]), [255, 255, 0]);
        assert_eq!(changed(hue(30.0), [77, 77, 77]), [77, 77, 77]);
        let saturation = |saturation| ColorChange { saturation, ..ColorChange::default() };
        assert_eq!(changed(saturation(-1.0), [200, 50, 10]), [90, 90, 90]);
        assert_eq!(changed(saturation(0.5), [100, 50, 10]), [120, 45, 0]);
        assert_eq!(changed(ColorChange { brightness: 0.5, ..ColorChange::default() }, [100, 50, 200]), [150, 75, 255]);
        // Luma 100 beside 255: the mean is 177.5.
        assert_eq!(changed(ColorChange { contrast: -1.0, ..ColorChange::default() }, [100; 3]), [178; 3]);
        assert_eq!(changed(ColorChange { gamma: 1.0, ..ColorChange::default() }, [0, 51, 255]), [0, 10, 255]);
    }

    #[test]
    fn one_change_is_made_as_often_as_asked() {
        let config = ColorAugmentation { probability: 0.25, saturation: 0.1, ..ColorAugmentation::default() };
        let draws: Vec<_> = (0..4000)
            .filter_map(|example| ColorChange::draw(&config, &mut Stream::new(1, Purpose::Color, 0, example)))
            .collect();
        assert!((900..1100).contains(&draws.len()), "{}", draws.len());
        for change in &draws {
            let ColorChange { hue, gamma, saturation, brightness, contrast } = *change;
            let made = [hue, gamma, saturation, brightness, contrast].iter().filter(|&&v| v != 0.0).count();
            assert_eq!(made, 1, "{change:?}");
            assert!(hue.abs() <= 16.0 && gamma.abs() <= 0.05 && saturation.abs() <= 0.1);
        }
        let hues = draws.iter().filter(|change| change.hue != 0.0).count();
        assert!((280..400).contains(&hues), "{hues} of {}", draws.len());
    }

    #[test]
    fn all_changes_are_made_together() {
        let config = ColorAugmentation { probability: 1.0, changes: ColorChanges::All, ..ColorAugmentation::default() };
        let change = ColorChange::draw(&config, &mut Stream::new(1, Purpose::Color, 0, 0)).unwrap();
        assert!(change.hue != 0.0 && change.gamma != 0.0 && change.saturation == 0.0);
    }
}
