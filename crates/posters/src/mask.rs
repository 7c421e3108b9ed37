//! Black-and-white areas of a picture: parts that hang together, holes, edges, and a fixed-size form for comparison.

/// Side of the fixed-size form.
pub(crate) const GRID: usize = 28;

/// A set of pixels.
#[derive(Clone)]
pub(crate) struct Mask {
    pub(crate) width: usize,
    pub(crate) height: usize,
    inside: Vec<bool>,
}

/// Left, top, and the first column and row beyond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) right: usize,
    pub(crate) bottom: usize,
}

impl Bounds {
    pub(crate) fn width(self) -> usize {
        self.right - self.left
    }

    pub(crate) fn height(self) -> usize {
        self.bottom - self.top
    }
}

impl Mask {
    pub(crate) fn from_fn(width: usize, height: usize, inside: impl Fn(usize, usize) -> bool) -> Mask {
        let inside = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| inside(x, y)).collect();
        Mask { width, height, inside }
    }

    pub(crate) fn contains(&self, x: usize, y: usize) -> bool {
        self.inside[y * self.width + x]
    }

    pub(crate) fn area(&self) -> usize {
        self.inside.iter().filter(|&&inside| inside).count()
    }

    pub(crate) fn pixels(&self) -> impl Iterator<Item = (usize, usize)> {
        let width = self.width;
        self.inside.iter().enumerate().filter(|&(_, &inside)| inside).map(move |(i, _)| (i % width, i / width))
    }

    /// The smallest box round it; `None` if it is empty.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        self.pixels().fold(None, |bounds, (x, y)| {
            let one = Bounds { left: x, top: y, right: x + 1, bottom: y + 1 };
            Some(bounds.map_or(one, |b: Bounds| Bounds {
                left: b.left.min(x),
                top: b.top,
                right: b.right.max(x + 1),
                bottom: y + 1,
            }))
        })
    }

    /// The parts that hang together over edges, those of at least `least` pixels.
    pub(crate) fn parts(&self, least: usize) -> Vec<Mask> {
        let mut left = self.clone();
        let mut parts = Vec::new();
        for start in 0..left.inside.len() {
            if left.inside[start] {
                let part = left.take_part(start);
                if part.len() >= least {
                    parts.push(self.with_only(&part));
                }
            }
        }
        parts
    }

    /// Removes the part that `start` is in, and gives its pixels.
    fn take_part(&mut self, start: usize) -> Vec<usize> {
        let mut part = vec![start];
        let mut next = 0;
        self.inside[start] = false;
        while let Some(&at) = part.get(next) {
            next += 1;
            let (x, y) = (at % self.width, at / self.width);
            let around = [
                (x > 0).then(|| at - 1),
                (x + 1 < self.width).then(|| at + 1),
                (y > 0).then(|| at - self.width),
                (y + 1 < self.height).then(|| at + self.width),
            ];
            for neighbour in around.into_iter().flatten() {
                if std::mem::take(&mut self.inside[neighbour]) {
                    part.push(neighbour);
                }
            }
        }
        part
    }

    fn with_only(&self, pixels: &[usize]) -> Mask {
        let mut inside = vec![false; self.inside.len()];
        pixels.iter().for_each(|&at| inside[at] = true);
        Mask { inside, ..*self }
    }

    fn complement(&self) -> Mask {
        Mask { inside: self.inside.iter().map(|&inside| !inside).collect(), ..*self }
    }

    /// This with everything it encloses.
    pub(crate) fn filled(&self) -> Mask {
        // Whatever of the outside cannot be reached from the edge is enclosed.
        let mut outside = self.complement();
        let (width, height) = (self.width, self.height);
        let edge = (0..width)
            .flat_map(|x| [x, (height - 1) * width + x])
            .chain((0..height).flat_map(|y| [y * width, y * width + width - 1]));
        let mut reached = Vec::new();
        for start in edge {
            if outside.inside[start] {
                reached.extend(outside.take_part(start));
            }
        }
        self.with_only(&reached).complement()
    }

    /// This and its neighbours over edges.
    pub(crate) fn grown(&self) -> Mask {
        self.with_neighbours(|here, around| here || around.contains(&true))
    }

    /// This without what touches the outside over an edge. The picture's edge does not count as outside.
    pub(crate) fn shrunk(&self) -> Mask {
        self.with_neighbours(|here, around| here && !around.contains(&false))
    }

    fn with_neighbours(&self, rule: impl Fn(bool, [bool; 4]) -> bool) -> Mask {
        Mask::from_fn(self.width, self.height, |x, y| {
            let here = self.contains(x, y);
            let at = |x: Option<usize>, y: Option<usize>| match (x, y) {
                (Some(x), Some(y)) if x < self.width && y < self.height => self.contains(x, y),
                _ => here,
            };
            let around = [
                at(x.checked_sub(1), Some(y)),
                at(Some(x + 1), Some(y)),
                at(Some(x), y.checked_sub(1)),
                at(Some(x), Some(y + 1)),
            ];
            rule(here, around)
        })
    }

    /// Its box stretched over `GRID` × `GRID` cells: how much of each cell is covered.
    pub(crate) fn normalised(&self, bounds: Bounds) -> Vec<f32> {
        let mut cells = Vec::with_capacity(GRID * GRID);
        let columns = shares(bounds.left, bounds.right);
        for row in shares(bounds.top, bounds.bottom) {
            for column in &columns {
                let covered: f32 = row
                    .iter()
                    .flat_map(|&(y, tall)| column.iter().map(move |&(x, wide)| (x, y, tall * wide)))
                    .filter(|&(x, y, _)| self.contains(x, y))
                    .map(|(_, _, share)| share)
                    .sum();
                cells.push(covered);
            }
        }
        cells
    }
}

/// For each of `GRID` equal pieces of `from..to`: the pixels it meets and their shares, which add up to 1.
fn shares(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let length = (to - from) as f32 / GRID as f32;
    (0..GRID)
        .map(|piece| {
            let (start, end) = (from as f32 + piece as f32 * length, from as f32 + (piece + 1) as f32 * length);
            (start.floor() as usize..(end.ceil() as usize).min(to))
                .map(|pixel| (pixel, (end.min(pixel as f32 + 1.0) - start.max(pixel as f32)).max(0.0) / length))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let rows: Vec<Vec<u8>> = rows.iter().map(|row| row.bytes().collect()).collect();
        Mask::from_fn(rows[0].len(), rows.len(), |x, y| rows[y][x] == b'#')
    }

    #[test]
    fn parts_hang_together_over_edges_only() {
        let areas: Vec<usize> = mask(&["##..", "..#.", "..##"]).parts(1).iter().map(Mask::area).collect();
        assert_eq!(areas, [2, 3]);
    }

    #[test]
    fn filled_closes_holes_but_not_bays() {
        assert_eq!(mask(&["###.", "#.#.", "####"]).filled().area(), 10);
        assert_eq!(mask(&["#.#.", "#.#.", "####"]).filled().area(), 8);
    }

    #[test]
    fn bounds_are_tight() {
        let bounds = mask(&["....", ".##.", "..#."]).bounds();
        assert_eq!(bounds, Some(Bounds { left: 1, top: 1, right: 3, bottom: 3 }));
        assert_eq!(mask(&["...."]).bounds(), None);
    }

    #[test]
    fn normalised_keeps_the_covered_share() {
        let mask = mask(&["##..", "##..", "...."]);
        let share = |bounds| mask.normalised(bounds).iter().sum::<f32>() / (GRID * GRID) as f32;
        assert!((share(Bounds { left: 0, top: 0, right: 4, bottom: 3 }) - 4.0 / 12.0).abs() < 1e-4);
        assert!((share(Bounds { left: 0, top: 0, right: 2, bottom: 2 }) - 1.0).abs() < 1e-4);
    }
}
