//! Histograms as SVG within the page; colours come from the style sheet, so that they fit light and dark.

use std::fmt::Write;

use super::escaped;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 110.0;
/// Room under the bars for the numbers.
const FOOT: f64 = 18.0;
const BINS: usize = 24;

/// How many values lie where, with the smallest and largest value written below. Nothing where there is no value.
pub(super) fn histogram(title: &str, values: &[f64], shown: &dyn Fn(f64) -> String) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !(least.is_finite() && most.is_finite()) {
        return String::new();
    }
    if least == most {
        let one = format!("{} for all {}", shown(least), values.len());
        return format!(
            "<figure><figcaption>{}</figcaption><p class=\"one\">{}</p></figure>",
            escaped(title),
            escaped(&one)
        );
    }
    let mut counts = [0_usize; BINS];
    let bin_width = (most - least) / BINS as f64;
    for value in values {
        counts[(((value - least) / bin_width) as usize).min(BINS - 1)] += 1;
    }
    let bars: Vec<(String, usize)> = counts
        .iter()
        .enumerate()
        .map(|(bin, &count)| {
            let start = least + bin as f64 * bin_width;
            (format!("{} to {}: {count}", shown(start), shown(start + bin_width)), count)
        })
        .collect();
    drawn(title, &bars, &shown(least), &shown(most))
}

/// Counts that were made already; the labels say what each bar counts.
pub(super) fn drawn(title: &str, bars: &[(String, usize)], left: &str, right: &str) -> String {
    let highest = bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    let step = WIDTH / bars.len().max(1) as f64;
    let room = HEIGHT - FOOT;
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">",
        escaped(title)
    );
    for (index, (label, count)) in bars.iter().enumerate() {
        let height = if *count == 0 { 0.0 } else { (*count as f64 / highest * (room - 4.0)).max(1.5) };
        // The hit area is the whole column, so that small bars can be asked as well.
        let _ = write!(
            svg,
            "<g><title>{}</title><rect class=\"hit\" x=\"{x:.1}\" y=\"0\" width=\"{step:.1}\" height=\"{room}\"/>\
             <rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/></g>",
            escaped(label),
            index as f64 * step + step * 0.08,
            room - height,
            step * 0.84,
            x = index as f64 * step,
        );
    }
    let baseline = HEIGHT - 4.0;
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"0\" y1=\"{room}\" x2=\"{WIDTH}\" y2=\"{room}\"/><text x=\"0\" y=\"{baseline}\">{}</text>\
         <text x=\"{WIDTH}\" y=\"{baseline}\" text-anchor=\"end\">{}</text></svg></figure>",
        escaped(left),
        escaped(right)
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bar() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        let svg = histogram("t", &values, &|value| format!("{value:.0}"));
        let counted: usize = svg
            .split("<title>")
            .skip(1)
            .filter_map(|part| part.split("</title>").next()?.rsplit_once(": ")?.1.parse::<usize>().ok())
            .sum();
        assert_eq!(counted, 101);
        assert!(svg.contains(">0</text>") && svg.contains(">100</text>"));
    }

    #[test]
    fn nothing_and_one_value_have_no_bars() {
        assert_eq!(histogram("t", &[], &|value| value.to_string()), "");
        assert!(histogram("t", &[3.0, 3.0], &|value| value.to_string()).contains("3 for all 2"));
    }
}
