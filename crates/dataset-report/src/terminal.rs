//! The inspection as text, as wide as the terminal is.

use std::fmt::Write;

use sdtrain_data_loader::{counted, epoch_in_words, extra_images_in_words, left_over_in_words};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::Inspection;
use crate::inspection::Spread;

/// Files of one kind that are named; `--json` and the page have all.
const NAMED: usize = 10;
/// Tags that are named.
const TAGS: usize = 15;
/// Lines never get narrower or wider than this.
const WIDTHS: (usize, usize) = (60, 120);
/// Longest bar.
const BAR: usize = 30;

impl Inspection {
    /// Everything there is to say, in lines of at most `width` columns where names allow.
    pub fn text(&self, width: usize) -> String {
        let width = width.clamp(WIDTHS.0, WIDTHS.1);
        let mut text = self.headline();
        for section in [self.buckets_text(width), self.files_text(), self.captions_text(width), self.copies_text(width)]
        {
            if !section.is_empty() {
                let _ = write!(text, "\n{section}");
            }
        }
        let left_out: Vec<String> = self.dropped.iter().map(|d| format!("`{}`: {}", d.path, d.reason)).collect();
        text += &list("\nleft out", &left_out, width);
        text += &list("\nwarnings", &self.warnings, width);
        if !self.errors.is_empty() {
            text += "\na training would not start:\n";
            for line in self.errors.iter().flat_map(|error| error.lines()) {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }

    fn headline(&self) -> String {
        let mut text = format!("{} found, {} kept", counted(self.found, "image"), self.kept);
        if self.unused > 0 {
            let _ = write!(text, " ({} regularization images are not needed)", self.unused);
        }
        match (self.visits_in_epochs, self.batches_in_epochs) {
            (Some(visits), Some(batches)) => text += &epoch_in_words(self.kept, visits, batches),
            _ if self.visits_per_epoch != self.kept => {
                let _ = write!(text, ", {} with repeats", self.visits_per_epoch);
            }
            _ => {}
        }
        text += &left_over_in_words(self.left_over.unwrap_or(0), self.carries);
        if !self.extra_images.is_empty() {
            let _ = write!(text, "; extra images: {}", extra_images_in_words(&self.extra_images));
        }
        if !self.decoded {
            text += "; only headers were read";
        }
        text + "\n"
    }

    fn buckets_text(&self, width: usize) -> String {
        let Some(most) = self.buckets.iter().map(|bucket| bucket.images).max() else { return String::new() };
        let head = ["bucket", "images", "visits", "batches", "cut away", "enlarged", ""].map(str::to_owned).to_vec();
        let bar = BAR.min(width - 58);
        let rows = self.buckets.iter().map(|bucket| {
            vec![
                format!("{} × {}", bucket.width, bucket.height),
                bucket.images.to_string(),
                bucket.visits.to_string(),
                bucket.batches.map_or("–".to_owned(), |batches| batches.to_string()),
                format!("{:.1} %", bucket.cut_away * 100.0),
                bucket.enlarged.to_string(),
                "█".repeat((bucket.images * bar).div_ceil(most)),
            ]
        });
        table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
    }

    fn files_text(&self) -> String {
        let Some(sizes) = &self.sizes else { return String::new() };
        let formats: Vec<String> =
            self.formats.iter().map(|f| format!("{} {} ({})", f.images, f.format, bytes(f.bytes as f64))).collect();
        let mut text = format!("files: {}\n", formats.join(", "));
        let row = |name: &str, spread: &Spread, shown: &dyn Fn(f64) -> String| {
            vec![name.to_owned(), shown(spread.least), shown(spread.median), shown(spread.most)]
        };
        let whole = |number: f64| format!("{number:.0}");
        let mut rows = vec![
            ["", "least", "median", "most"].map(str::to_owned).to_vec(),
            row("width", &sizes.width, &whole),
            row("height", &sizes.height, &whole),
            row("width / height", &sizes.aspect, &|number| format!("{number:.2}")),
            row("length", &sizes.bytes, &bytes),
            row("kB a pixel", &sizes.kilobytes_per_pixel, &|number| format!("{number:.5}")),
        ];
        rows.extend(sizes.dpi.as_ref().map(|dpi| row("dots an inch", dpi, &whole)));
        rows.extend(sizes.sharpness.as_ref().map(|sharpness| row("sharpness", sharpness, &whole)));
        text += &table(&rows);
        text
    }

    fn captions_text(&self, width: usize) -> String {
        let captions = &self.captions;
        let mut text = format!("captions: {} written", captions.from_file);
        if !captions.by_extension.is_empty() {
            let counts: Vec<String> =
                captions.by_extension.iter().map(|(ending, n)| format!("{n} `{ending}`")).collect();
            let _ = write!(text, " ({})", counts.join(", "));
        }
        for (count, what) in [
            (captions.from_class_tokens, "from `class_tokens`"),
            (captions.empty, "empty"),
            (captions.missing, "missing"),
            (captions.broken.len(), "that cannot be read"),
            (captions.without_image.len(), "without an image"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text += "\n";
        if let Some(spread) = &captions.tokens.spread {
            let window = captions.tokens.window;
            let _ = writeln!(
                text,
                "  {} different; {:.0} to {:.0} tokens, median {:.0}; {} longer than the {window} that are read",
                captions.distinct, spread.least, spread.most, spread.median, captions.tokens.over_long
            );
        }
        let shared: Vec<String> = captions.repeated.iter().map(|r| format!("{} × {}", r.images, r.caption)).collect();
        text += &list("  the same caption for several images", &shared, width);
        let long: Vec<String> =
            captions.tokens.over_long_captions.iter().map(|l| format!("{} tokens: `{}`", l.tokens, l.path)).collect();
        text += &list("  cut off", &long, width);
        text += &list("  no caption", &quoted(&captions.missing_images), width);
        let broken: Vec<String> = captions.broken.iter().map(|b| format!("`{}`: {}", b.path, b.reason)).collect();
        text += &list("  captions that cannot be read", &broken, width);
        text += &list("  captions without an image", &quoted(&captions.without_image), width);
        let frequent: Vec<_> = captions.tags.iter().filter(|tag| tag.images > 1).take(TAGS).collect();
        if let Some(most) = frequent.first().map(|tag| tag.images) {
            let _ = writeln!(text, "tags: {} different, the most frequent", captions.distinct_tags);
            let bar = BAR.min(width / 4);
            let rows: Vec<Vec<String>> = frequent
                .iter()
                .map(|tag| {
                    let name = shortened(&tag.tag, width - bar - 16);
                    vec![name, tag.images.to_string(), "█".repeat((tag.images * bar).div_ceil(most))]
                })
                .collect();
            text += &table(&rows);
        }
        text
    }

    fn copies_text(&self, width: usize) -> String {
        if self.duplicates.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "duplicates: {} with the same bytes, {} that look nearly the same\n",
            self.exact_copies, self.near_copies
        );
        for group in self.duplicates.iter().take(NAMED) {
            let _ = writeln!(text, "  {}", shortened(&group.kept, width - 2));
            for copy in group.copies.iter().take(NAMED) {
                let how = match copy.exact {
                    true => "same bytes".to_owned(),
                    false => format!("{} of 64 bits differ", copy.distance),
                };
                let caption = if copy.same_caption { "" } else { ", another caption" };
                let _ = writeln!(text, "    {}: {how}{caption}", copy.path);
            }
            if group.copies.len() > NAMED {
                let _ = writeln!(text, "    … and {} more", group.copies.len() - NAMED);
            }
        }
        if self.duplicates.len() > NAMED {
            let _ = writeln!(text, "  … and {} more", self.duplicates.len() - NAMED);
        }
        text
    }
}

fn quoted(paths: &[String]) -> Vec<String> {
    paths.iter().map(|path| format!("`{path}`")).collect()
}

/// A heading and the first lines, or nothing.
fn list(heading: &str, lines: &[String], width: usize) -> String {
    let mut text = String::new();
    if lines.is_empty() {
        return text;
    }
    let indent = if heading.starts_with(' ') { "    " } else { "  " };
    let _ = writeln!(text, "{heading}:");
    for line in lines.iter().take(NAMED) {
        // Messages may be longer than the window; only a caption is worth cutting, and it begins with its number.
        let line = if line.starts_with('`') { line.clone() } else { shortened(line, width - indent.len()) };
        let _ = writeln!(text, "{indent}{line}");
    }
    if lines.len() > NAMED {
        let _ = writeln!(text, "{indent}… and {} more", lines.len() - NAMED);
    }
    text
}

/// Columns of equal width, two blanks between them: numbers to the right, the first column and bars to the left.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width - cell.width());
            let is_left = column == 0 || cell.starts_with('█');
            let (before, after) = if is_left { ("", space.as_str()) } else { (space.as_str(), "") };
            let gap = if column == 0 { " " } else { "  " };
            let _ = write!(line, "{gap}{before}{cell}{after}");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A text of at most `width` columns on one line, cut with `…`.
fn shortened(text: &str, width: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.width() <= width {
        return text;
    }
    let mut short = String::new();
    let mut used = 1;
    for character in text.chars() {
        used += character.width().unwrap_or(0);
        if used > width {
            break;
        }
        short.push(character);
    }
    short + "…"
}

/// `1.2 MB`, as file managers count.
pub(crate) fn bytes(count: f64) -> String {
    match count {
        ..1e3 => format!("{count:.0} B"),
        ..1e6 => format!("{:.1} kB", count / 1e3),
        ..1e9 => format!("{:.1} MB", count / 1e6),
        _ => format!("{:.1} GB", count / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_script() {
        let rows = [vec!["瓶".to_owned(), "1".to_owned()], vec!["bottle".to_owned(), "20".to_owned()]];
        assert_eq!(table(&rows), "  瓶       1\n  bottle  20\n");
    }

    #[test]
    fn long_texts_are_cut_to_the_column() {
        assert_eq!(shortened("a red bottle", 6), "a red…");
        assert_eq!(shortened("瓶瓶瓶瓶", 5), "瓶瓶…");
        assert_eq!(shortened("two\nlines", 20), "two lines");
    }
}
