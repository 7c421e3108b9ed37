//! An evaluation as aligned text: one block for each group of columns, one line a model.

use crate::evaluation::Row;
use crate::metric::Column;

/// Between two columns.
const GAP: &str = "  ";

/// The text; every line ends.
pub fn text(columns: &[Column], rows: &[Row]) -> String {
    let groups: Vec<&[Column]> = columns.chunk_by(|a, b| a.group == b.group).collect();
    let first_cells =
        groups.iter().map(|group| group[0].group.as_str()).chain(rows.iter().map(|row| row.name.as_str()));
    let names = first_cells.map(width).max().unwrap_or(0);
    let mut blocks = Vec::new();
    let mut start = 0;
    for group in groups {
        let figures = |row: &Row| -> Vec<String> {
            group.iter().zip(&row.figures[start..]).map(|(column, &figure)| column.form.print(figure)).collect()
        };
        let mut lines = vec![(group[0].group.clone(), group.iter().map(|column| column.title.clone()).collect())];
        lines.extend(rows.iter().map(|row| (row.name.clone(), figures(row))));
        blocks.push(aligned(names, &lines));
        start += group.len();
    }
    blocks.join("\n")
}

/// First cells to the left, the others to the right.
fn aligned(names: usize, lines: &[(String, Vec<String>)]) -> String {
    let columns = lines.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..columns).map(|c| lines.iter().map(|(_, cells)| width(&cells[c])).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (name, cells) in lines {
        text.push_str(&format!("{name:<names$}"));
        for (cell, &width) in cells.iter().zip(&widths) {
            text.push_str(&format!("{GAP}{cell:>width$}"));
        }
        text.push('\n');
    }
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use crate::evaluation::tests::example;

    #[test]
    fn every_group_is_a_block_of_aligned_columns() {
        let expected = "\
loss on held-out images, by timestep     mean       0–999
base                                  0.25000     0.50000
cat, \"the\" one.safetensors            0.12500  not finite

right in 32 pictures                  object
base                                     3 %
cat, \"the\" one.safetensors             100 %
";
        assert_eq!(example().table(), expected);
    }
}
