//! What an image looks like, in 200 bytes: a difference hash, its colours on a coarse grid, its sharpness.

use image::RgbImage;
use sdtrain_data_loader::examine;

/// Longer side in pixels at which sharpness is measured, so that it says little about the size of the file.
const MEASURED_SIDE: usize = 1024;
/// Grid of the difference hash: each row compares 9 cells with their neighbours.
const HASH_GRID: (usize, usize) = (9, 8);
/// Cells along each side of the colour grid.
const COLOUR_GRID: usize = 8;
/// A cell counts as brighter than its neighbour from so many grey levels on; less is the noise of compression.
const BRIGHTER: f64 = 2.0;
/// Copies differ by less than this on average over the colour grid, and by less than the second number in every cell:
/// a small object is one or two cells.
const COLOUR_LIMITS: (f64, u8) = (8.0, 32);

/// Copies have the same width for their height, but for rounding and a trimmed edge.
const STRETCH_LIMIT: f64 = 1.05;

/// Where the colours lie on a few axes, in steps so wide that a copy is at most one step away on each.
pub(crate) type ColourCell = [i8; 5];

/// A cell and all that touch it.
pub(crate) fn neighbours(cell: ColourCell) -> impl Iterator<Item = ColourCell> {
    (0..3_i32.pow(cell.len() as u32)).map(move |number| {
        let mut rest = number;
        cell.map(|step| {
            let other = step + (rest % 3) as i8 - 1;
            rest /= 3;
            other
        })
    })
}

/// What an image looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// One bit for each pair of neighbours in the 9 × 8 grid of grey cells: whether the right one is brighter.
    pub hash: u64,
    /// Mean colour of each cell of the 8 × 8 grid.
    colours: Vec<u8>,
    /// Variance of the Laplacian of the grey image, scaled down to at most 1024 pixels a side; 0 is one flat colour.
    pub sharpness: f64,
    /// Width divided by height.
    aspect: f64,
    /// Whether the image has enough pixels for a hash to mean anything.
    is_hashed: bool,
}

impl Look {
    /// Looks at an image.
    pub(crate) fn at(image: RgbImage) -> Result<Look, String> {
        let image = fit_within(image, MEASURED_SIDE)?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let grey: Vec<f32> = image.pixels().map(|pixel| luma(pixel.0)).collect();
        let is_hashed = width >= HASH_GRID.0 && height >= HASH_GRID.0;
        let aspect = width as f64 / height.max(1) as f64;
        let mut look = Look { hash: 0, colours: Vec::new(), sharpness: sharpness(&grey, width), aspect, is_hashed };
        if is_hashed {
            let cells = cell_means(&grey, (width, height), HASH_GRID);
            for row in cells.chunks(HASH_GRID.0) {
                for pair in row.windows(2) {
                    look.hash = look.hash << 1 | u64::from(pair[1] > pair[0] + BRIGHTER);
                }
            }
            let raw = image.as_raw();
            for channel in 0..3 {
                let plane: Vec<f32> = raw[channel..].iter().step_by(3).map(|&value| f32::from(value)).collect();
                let means = cell_means(&plane, (width, height), (COLOUR_GRID, COLOUR_GRID));
                look.colours.extend(means.iter().map(|mean| mean.round() as u8));
            }
        }
        Ok(look)
    }

    /// Whether the image has enough pixels to be a copy of anything.
    pub(crate) fn is_hashed(&self) -> bool {
        self.is_hashed
    }

    /// The cell of its colours: brightness, left against right, top against bottom, the quarters crosswise, red against blue.
    ///
    /// Each axis adds up all colours with factors from −1 to 1, so on none of them can two pictures differ by more than by the sum
    /// of all differences, which for copies is less than the limit of the mean times the number of colours: one step.
    pub(crate) fn colour_cell(&self) -> ColourCell {
        let mut sums = [0_i32; 5];
        for (at, &colour) in self.colours.iter().enumerate() {
            let (channel, row, column) =
                (at / (COLOUR_GRID * COLOUR_GRID), at / COLOUR_GRID % COLOUR_GRID, at % COLOUR_GRID);
            let side = |is_first: bool| if is_first { 1 } else { -1 };
            let (across, down) = (side(column < COLOUR_GRID / 2), side(row < COLOUR_GRID / 2));
            let factors = [1, across, down, across * down, 1 - channel as i32];
            sums.iter_mut().zip(factors).for_each(|(sum, factor)| *sum += factor * i32::from(colour));
        }
        let step = COLOUR_LIMITS.0 * self.colours.len().max(1) as f64;
        sums.map(|sum| (f64::from(sum) / step).floor() as i8)
    }

    /// In how many bits the hashes differ, if that is at most `limit` and the colours agree as well.
    pub(crate) fn distance(&self, other: &Look, limit: u32) -> Option<u32> {
        let distance = (self.hash ^ other.hash).count_ones();
        let is_copy = distance <= limit && self.has_shape_of(other) && self.has_colours_of(other);
        (self.is_hashed && other.is_hashed && is_copy).then_some(distance)
    }

    /// The grids know nothing of shape: without this, a picture stretched to twice its width would be the better copy.
    fn has_shape_of(&self, other: &Look) -> bool {
        let ratio = self.aspect / other.aspect;
        ratio.max(1.0 / ratio) <= STRETCH_LIMIT
    }

    fn has_colours_of(&self, other: &Look) -> bool {
        let differences = || self.colours.iter().zip(&other.colours).map(|(a, b)| a.abs_diff(*b));
        let mean = differences().map(f64::from).sum::<f64>() / self.colours.len().max(1) as f64;
        mean < COLOUR_LIMITS.0 && differences().all(|difference| difference < COLOUR_LIMITS.1)
    }
}

/// The image so that its longer side has at most `side` pixels; never enlarged.
pub(crate) fn fit_within(image: RgbImage, side: usize) -> Result<RgbImage, String> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let longer = width.max(height);
    if longer <= side {
        return Ok(image);
    }
    let scaled = |length: usize| (length * side).div_ceil(longer).max(1);
    examine::resize(image, (scaled(width), scaled(height)))
}

/// Rec. 601, as every decoder to grey has it.
fn luma([r, g, b]: [u8; 3]) -> f32 {
    0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)
}

/// Mean of each cell of a grid laid over the plane, which has at least as many pixels each way as the grid has cells.
fn cell_means(plane: &[f32], (width, height): (usize, usize), grid: (usize, usize)) -> Vec<f64> {
    let edge = |cell: usize, cells: usize, length: usize| cell * length / cells;
    let mut means = Vec::with_capacity(grid.0 * grid.1);
    for row in 0..grid.1 {
        let rows = edge(row, grid.1, height)..edge(row + 1, grid.1, height);
        for column in 0..grid.0 {
            let columns = edge(column, grid.0, width)..edge(column + 1, grid.0, width);
            let count = rows.len() * columns.len();
            let sum: f64 = rows
                .clone()
                .flat_map(|y| &plane[y * width + columns.start..y * width + columns.end])
                .map(|&value| f64::from(value))
                .sum();
            means.push(sum / count.max(1) as f64);
        }
    }
    means
}

/// Variance of the 4-neighbour Laplacian (Pech-Pacheco et al. 2000), borders left out.
fn sharpness(grey: &[f32], width: usize) -> f64 {
    let height = grey.len() / width.max(1);
    if width < 3 || height < 3 {
        return 0.0;
    }
    let (mut sum, mut squares) = (0.0, 0.0);
    for y in 1..height - 1 {
        let row = y * width;
        for at in row + 1..row + width - 1 {
            let laplacian = grey[at - 1] + grey[at + 1] + grey[at - width] + grey[at + width] - 4.0 * grey[at];
            sum += f64::from(laplacian);
            squares += f64::from(laplacian) * f64::from(laplacian);
        }
    }
    let count = ((width - 2) * (height - 2)) as f64;
    (squares / count - (sum / count).powi(2)).max(0.0)
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use image::imageops::{FilterType, blur, resize};

    use super::*;

    /// Something with edges, slopes and colour, different for each `kind`.
    fn picture(width: u32, height: u32, kind: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
            let wave = ((u * 7.0 + kind as f32).sin() * (v * 5.0 - kind as f32 * 0.7).cos() * 100.0 + 120.0) as u8;
            let bar = if (u - 0.2 - kind as f32 * 0.1).abs() < 0.05 { 250 } else { wave };
            Rgb([bar, wave, 255 - wave])
        })
    }

    fn distance(a: &RgbImage, b: &RgbImage) -> Option<u32> {
        Look::at(a.clone()).unwrap().distance(&Look::at(b.clone()).unwrap(), 4)
    }

    #[test]
    fn a_smaller_or_recompressed_copy_is_near_and_another_picture_is_not() {
        let original = picture(600, 400, 1);
        assert!(distance(&original, &resize(&original, 300, 200, FilterType::Lanczos3)).is_some());
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 40).encode_image(&original).unwrap();
        assert!(distance(&original, &image::load_from_memory(&bytes).unwrap().into_rgb8()).is_some());
        assert_eq!(distance(&original, &picture(600, 400, 2)), None);
    }

    #[test]
    fn the_same_shape_in_another_colour_is_another_picture() {
        let red = RgbImage::from_fn(64, 64, |x, _| if x > 30 { Rgb([200, 40, 40]) } else { Rgb([255; 3]) });
        let blue = RgbImage::from_fn(64, 64, |x, _| if x > 30 { Rgb([40, 100, 160]) } else { Rgb([255; 3]) });
        assert_eq!(Look::at(red.clone()).unwrap().hash, Look::at(blue.clone()).unwrap().hash);
        assert_eq!(distance(&red, &blue), None);
    }

    #[test]
    fn a_stretched_copy_is_not_the_same_picture() {
        let original = picture(300, 300, 1);
        assert_eq!(distance(&original, &resize(&original, 600, 300, FilterType::Lanczos3)), None);
        assert!(distance(&original, &resize(&original, 306, 300, FilterType::Lanczos3)).is_some());
    }

    #[test]
    fn an_object_more_is_another_picture() {
        let empty = RgbImage::from_pixel(128, 128, Rgb([230; 3]));
        let mut dot = empty.clone();
        (0..16).for_each(|i| (0..16).for_each(|j| dot.put_pixel(60 + i, 60 + j, Rgb([20, 20, 20]))));
        assert_eq!(distance(&empty, &dot), None);
    }

    #[test]
    fn sharpness_falls_with_blur_and_hardly_depends_on_the_size() {
        let sharp = |image: RgbImage| Look::at(image).unwrap().sharpness;
        let image = RgbImage::from_fn(900, 700, |x, y| Rgb([if (x / 20 + y / 20) % 2 == 0 { 220 } else { 30 }; 3]));
        assert!(sharp(image.clone()) > 10.0 * sharp(blur(&image, 3.0)));
        assert_eq!(sharp(RgbImage::from_pixel(50, 50, Rgb([9; 3]))), 0.0);
        // By hand: the middle of a cross of ones around a zero has the Laplacian 4, so one value, so no variance.
        assert_eq!(sharpness(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], 3), 0.0);
        // Two inner pixels with −4 and 1: mean −1.5, variance 6.25.
        assert_eq!(sharpness(&[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 4), 6.25);
    }

    #[test]
    fn images_of_a_few_pixels_are_copies_of_nothing() {
        let tiny = RgbImage::new(4, 4);
        assert_eq!(distance(&tiny, &tiny), None);
    }
}
