//! Sheets of pictures for a person to look at: all of one set, or those of the base model above those of the trained one.

use crate::grid;
use image::RgbImage;

/// Pictures in a row, at most.
const COLUMNS: usize = 6;

/// Small pictures are shown enlarged, but no wider than this.
const WIDTH: u32 = 256;

/// Pictures in rows.
pub fn sheet(pictures: &[RgbImage]) -> RgbImage {
    grid(&pictures.chunks(COLUMNS).map(<[RgbImage]>::to_vec).collect::<Vec<_>>(), zoom(pictures))
}

/// The base's pictures in one row and those of the trained model, of the same prompts and seeds, below them; pairs of
/// rows where there are many.
pub fn comparison_sheet(base: &[RgbImage], trained: &[RgbImage]) -> RgbImage {
    let pairs = base.chunks(COLUMNS).zip(trained.chunks(COLUMNS));
    let rows: Vec<Vec<RgbImage>> = pairs.flat_map(|(base, trained)| [base.to_vec(), trained.to_vec()]).collect();
    grid(&rows, zoom(base).min(zoom(trained)))
}

fn zoom(pictures: &[RgbImage]) -> u32 {
    let widest = pictures.iter().map(RgbImage::width).max().unwrap_or(WIDTH);
    (WIDTH / widest.max(1)).clamp(1, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn the_trained_model_is_below_the_base() {
        let pictures = |value: u8| -> Vec<RgbImage> {
            (0..8).map(|index| RgbImage::from_pixel(96, 96, Rgb([value + index; 3]))).collect()
        };
        let canvas = comparison_sheet(&pictures(0), &pictures(100));
        // Six columns and four rows of pictures at twice their size.
        let (column, row) = (canvas.width() / 6, canvas.height() / 4);
        assert!(column >= 192 && row >= 192, "{:?}", canvas.dimensions());
        let value = |c: u32, r: u32| canvas.get_pixel(c * column + column / 2, r * row + row / 2)[0];
        assert_eq!((value(0, 0), value(5, 0), value(0, 2), value(1, 2)), (0, 5, 6, 7));
        assert_eq!((value(0, 1), value(5, 1), value(0, 3), value(1, 3)), (100, 105, 106, 107));
    }
}
