//! Several pictures as one.

use image::{Rgb, RgbImage, imageops};

/// Pixels between two pictures.
const GAP: u32 = 4;

/// Rows of pictures on a light ground, each cell as large as the largest picture, each picture enlarged `zoom` times
/// (nearest neighbour, so that small pictures stay sharp).
pub fn grid(rows: &[Vec<RgbImage>], zoom: u32) -> RgbImage {
    let all = || rows.iter().flatten();
    let cell_width = all().map(RgbImage::width).max().unwrap_or(1) * zoom;
    let cell_height = all().map(RgbImage::height).max().unwrap_or(1) * zoom;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let side = |cells: u32, size: u32| cells * (size + GAP) + GAP;
    let mut canvas =
        RgbImage::from_pixel(side(columns, cell_width), side(rows.len() as u32, cell_height), Rgb([238, 238, 238]));
    for (r, row) in rows.iter().enumerate() {
        for (c, picture) in row.iter().enumerate() {
            let large = imageops::resize(
                picture,
                picture.width() * zoom,
                picture.height() * zoom,
                imageops::FilterType::Nearest,
            );
            let (x, y) = (GAP + c as u32 * (cell_width + GAP), GAP + r as u32 * (cell_height + GAP));
            imageops::replace(&mut canvas, &large, i64::from(x), i64::from(y));
        }
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_has_its_cell() {
        let picture = |value| RgbImage::from_pixel(2, 3, Rgb([value; 3]));
        let canvas = grid(&[vec![picture(1), picture(2)], vec![picture(3)]], 2);
        assert_eq!(canvas.dimensions(), (2 * (4 + GAP) + GAP, 2 * (6 + GAP) + GAP));
        assert_eq!(canvas.get_pixel(GAP, GAP), &Rgb([1; 3]));
        assert_eq!(canvas.get_pixel(GAP + 4 + GAP, GAP), &Rgb([2; 3]));
        assert_eq!(canvas.get_pixel(GAP, GAP + 6 + GAP), &Rgb([3; 3]));
    }
}
