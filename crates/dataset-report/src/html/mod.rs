//! The inspection as one page that needs nothing else: pictures, charts and styles stand in it, and it runs no script.

mod chart;
mod thumbnail;

use std::collections::HashMap;
use std::fmt::Write;

use sdtrain_data_loader::{DataError, examine};
use sdtrain_recipe::DataConfig;

use crate::Inspection;
use crate::inspection::{DroppedImage, Placed, placed};
use crate::survey::{ImageFacts, Survey};
use crate::terminal::bytes;
use thumbnail::Thumbnails;

/// Pictures of a bucket.
const SAMPLES: usize = 8;
/// Pictures of all buckets together, so that a page stays a few megabytes.
const ALL_SAMPLES: usize = 200;
/// Groups of copies with pictures, pictures of each, and of the least sharp images.
const GROUPS: usize = 30;
const COPIES: usize = 5;
const BLURRED: usize = 8;
/// Lines of any list.
const LINES: usize = 500;

/// The page. `bucket_step` is that of the inspection.
pub fn page(
    inspection: &Inspection,
    survey: &Survey,
    config: &DataConfig,
    bucket_step: usize,
) -> Result<String, DataError> {
    let used = placed(survey, &survey.buckets(config, bucket_step)?);
    let mut pictures = Thumbnails::new(config, &survey.subsets);
    let mut page = head(inspection);
    page += &buckets(inspection, survey, &used, &mut pictures);
    page += &files(inspection, survey, &mut pictures);
    page += &captions(inspection);
    page += &copies(inspection, survey, &mut pictures);
    page += &problems("Left out", &inspection.dropped);
    let lines: Vec<String> = inspection.warnings.iter().map(|warning| escaped(warning)).collect();
    page += &section("Warnings", &list(&lines));
    page += "</body>\n</html>\n";
    Ok(page)
}

/// Text as it may stand between tags and in attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            '\n' | '\t' => safe.push(character),
            control if control.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}

fn head(inspection: &Inspection) -> String {
    let title = inspection.folders.first().map_or("data set", |folder| folder.rsplit('/').next().unwrap_or(folder));
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <title>{} – data set</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
        escaped(title),
        include_str!("style.css")
    );
    for folder in &inspection.folders {
        let _ = writeln!(text, "<p class=\"path soft\">{}</p>", escaped(folder));
    }
    text += "<div class=\"cards\">";
    let captions = &inspection.captions;
    let cards = [
        (inspection.found.to_string(), "images found", false),
        (inspection.kept.to_string(), "used by a run", inspection.kept < inspection.found),
        (inspection.unreadable.to_string(), "cannot be read", inspection.unreadable > 0),
        ((captions.missing + captions.empty).to_string(), "without a caption", captions.missing + captions.empty > 0),
        (captions.tokens.over_long.to_string(), "captions cut off", captions.tokens.over_long > 0),
        ((inspection.exact_copies + inspection.near_copies).to_string(), "copies", inspection.exact_copies > 0),
        (inspection.visits_per_epoch.to_string(), "visits in the first epoch", false),
    ];
    let batches =
        inspection.batches_per_epoch.map(|batches| (batches.to_string(), "batches in the first epoch", false));
    for (number, what, is_bad) in cards.into_iter().chain(batches) {
        let class = if is_bad { "card bad" } else { "card" };
        let _ = write!(text, "<div class=\"{class}\"><b>{number}</b>{what}</div>");
    }
    for (column, images) in &inspection.extra_images {
        let _ = write!(text, "<div class=\"card\"><b>{images}</b>with an image `{}`</div>", escaped(column));
    }
    text += "</div>\n";
    if !inspection.decoded {
        text += "<p class=\"soft\">Only headers were read: broken files, sharpness and copies are not known.</p>\n";
    }
    for error in &inspection.errors {
        let _ = writeln!(text, "<div class=\"box\"><b>A training would not start:</b> {}</div>", escaped(error));
    }
    text
}

fn buckets(inspection: &Inspection, survey: &Survey, used: &[Placed], pictures: &mut Thumbnails) -> String {
    let Some(most) = inspection.buckets.iter().map(|bucket| bucket.images).max() else { return String::new() };
    let mut text = "<div class=\"scroll\"><table><tr><th>bucket</th><th>images</th><th>visits</th><th>batches</th>\
                    <th>cut away</th><th>enlarged</th><th class=\"left\"></th></tr>\n"
        .to_owned();
    for bucket in &inspection.buckets {
        let _ = writeln!(
            text,
            "<tr><td>{} × {}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1} %</td><td>{}</td>\
             <td class=\"wide\"><span class=\"meter\" style=\"width: {:.1}%\"></span></td></tr>",
            bucket.width,
            bucket.height,
            bucket.images,
            bucket.visits,
            bucket.batches.map_or("–".to_owned(), |batches| batches.to_string()),
            bucket.cut_away * 100.0,
            bucket.enlarged,
            100.0 * bucket.images as f64 / most as f64
        );
    }
    text += "</table></div>\n";
    let mut members: HashMap<(usize, usize), Vec<&Placed>> = HashMap::new();
    for image in used {
        members.entry(image.placement.bucket).or_default().push(image);
    }
    let shown = SAMPLES.min((ALL_SAMPLES / inspection.buckets.len()).max(1));
    for bucket in inspection.buckets.iter().take(ALL_SAMPLES) {
        let members = members.remove(&(bucket.width, bucket.height)).unwrap_or_default();
        let _ = writeln!(
            text,
            "<h3>{} × {} <span class=\"soft\">as a run without random crops cuts them</span></h3><div class=\"pictures\">",
            bucket.width, bucket.height
        );
        let count = shown.min(members.len());
        for sample in 0..count {
            // Evenly spread, so that the first folder does not stand for all.
            let Placed { facts, placement } = members[sample * members.len() / count];
            let caption = examine::plain_caption(&facts.captions, &survey.subsets[facts.subset]);
            text += &picture(facts, &pictures.element(facts, Some(*placement)), &caption);
        }
        text += "</div>\n";
    }
    section("Buckets", &text)
}

/// One picture with its name and a line of text.
fn picture(facts: &ImageFacts, element: &str, line: &str) -> String {
    let relative = facts.relative.to_string_lossy();
    format!(
        "<div class=\"picture\" title=\"{0}\">{element}<span class=\"path\">{1}</span><span class=\"caption\">{0}</span></div>\n",
        escaped(line),
        escaped(&relative)
    )
}

fn files(inspection: &Inspection, survey: &Survey, pictures: &mut Thumbnails) -> String {
    let formats: Vec<String> = inspection
        .formats
        .iter()
        .map(|format| format!("{} {} ({})", format.images, escaped(&format.format), bytes(format.bytes as f64)))
        .collect();
    let of = |number: &dyn Fn(&ImageFacts, f64, f64) -> Option<f64>| -> Vec<f64> {
        let sized = survey.images.iter().filter_map(|image| Some((image, image.size?)));
        sized.filter_map(|(image, (width, height))| number(image, width as f64, height as f64)).collect()
    };
    let whole = |number: f64| format!("{number:.0}");
    let charts = [
        chart::histogram("shorter side in pixels", &of(&|_, w, h| Some(w.min(h))), &whole),
        chart::histogram("longer side in pixels", &of(&|_, w, h| Some(w.max(h))), &whole),
        chart::histogram("width / height", &of(&|_, w, h| Some(w / h)), &|number| format!("{number:.2}")),
        chart::histogram("length of the file", &of(&|image, _, _| Some(image.bytes as f64)), &bytes),
        chart::histogram(
            "kilobytes a pixel",
            &of(&|image, w, h| Some(image.bytes as f64 / 1024.0 / (w * h))),
            &|number| format!("{number:.5}"),
        ),
        chart::histogram("dots an inch, where stated", &of(&|image, _, _| image.dpi), &whole),
        chart::histogram(
            "sharpness (variance of the Laplacian)",
            &of(&|image, _, _| image.look.as_ref().map(|look| look.sharpness)),
            &whole,
        ),
    ];
    let mut text = format!("<p>{}</p><div class=\"charts\">{}</div>\n", formats.join(", "), charts.concat());
    let sharpness = |image: &ImageFacts| image.look.as_ref().map(|look| look.sharpness);
    let mut blurred: Vec<(f64, &ImageFacts)> =
        survey.images.iter().filter_map(|image| Some((sharpness(image)?, image))).collect();
    blurred.sort_by(|a, b| a.0.total_cmp(&b.0));
    if blurred.len() > 1 {
        text += "<h3>The least sharp</h3><div class=\"pictures\">";
        for (sharpness, facts) in blurred.into_iter().take(BLURRED) {
            text += &picture(facts, &pictures.element(facts, None), &format!("sharpness {sharpness:.1}"));
        }
        text += "</div>\n";
    }
    section("Files", &text)
}

fn captions(inspection: &Inspection) -> String {
    let captions = &inspection.captions;
    let counts = [
        (captions.from_file, "written"),
        (captions.from_class_tokens, "from class_tokens"),
        (captions.empty, "empty"),
        (captions.missing, "missing"),
        (captions.broken.len(), "that cannot be read"),
        (captions.without_image.len(), "without an image"),
        (captions.distinct, "different"),
        (captions.tokens.over_long, "cut off"),
    ];
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let mut text = format!("<p>{}</p>\n", counts.join(", "));
    if captions.tokens.spread.is_some() {
        let last = captions.tokens.histogram.iter().rposition(|count| *count > 0).unwrap_or(0);
        let bars: Vec<(String, usize)> = captions.tokens.histogram[..=last]
            .iter()
            .enumerate()
            .map(|(index, &count)| match index {
                30 => (format!("300 tokens and more: {count}"), count),
                _ => (format!("{} to {} tokens: {count}", index * 10, index * 10 + 9), count),
            })
            .collect();
        let title = format!("tokens of a caption; {} are read", captions.tokens.window);
        let most = if last == 30 { "300 and more".to_owned() } else { (last * 10 + 9).to_string() };
        let _ = writeln!(text, "<div class=\"charts\">{}</div>", chart::drawn(&title, &bars, "0", &most));
    }
    let frequent: Vec<_> = captions.tags.iter().filter(|tag| tag.images > 1).collect();
    if let Some(most) = frequent.first().map(|tag| tag.images) {
        let _ = write!(text, "<h3>Most frequent of {} tags</h3><div class=\"scroll\"><table>", captions.distinct_tags);
        for tag in frequent.iter().take(40) {
            let _ = writeln!(
                text,
                "<tr><td>{}</td><td>{}</td><td class=\"wide\"><span class=\"meter\" style=\"width: {:.1}%\"></span></td></tr>",
                escaped(&tag.tag),
                tag.images,
                100.0 * tag.images as f64 / most as f64
            );
        }
        text += "</table></div>\n";
    }
    let path = |path: &String| format!("<span class=\"path\">{}</span>", escaped(path));
    let shared: Vec<String> =
        captions.repeated.iter().map(|r| format!("{} × {}", r.images, escaped(&r.caption))).collect();
    text += &folded("The same caption for several images", &shared);
    let long: Vec<String> = captions
        .tokens
        .over_long_captions
        .iter()
        .map(|long| format!("{} tokens: {}", long.tokens, path(&long.path)))
        .collect();
    text += &folded("Cut off", &long);
    text += &folded("No caption", &captions.missing_images.iter().map(path).collect::<Vec<_>>());
    text += &folded("Captions without an image", &captions.without_image.iter().map(path).collect::<Vec<_>>());
    let broken = captions.broken.iter().map(|b| format!("{}: {}", path(&b.path), escaped(&b.reason)));
    text += &folded("Captions that cannot be read", &broken.collect::<Vec<_>>());
    section("Captions", &text)
}

fn copies(inspection: &Inspection, survey: &Survey, pictures: &mut Thumbnails) -> String {
    if inspection.duplicates.is_empty() {
        return String::new();
    }
    let by_name: HashMap<String, &ImageFacts> = survey.images.iter().map(|image| (image.name(), image)).collect();
    let mut text = format!(
        "<p>{} with the same bytes as another image, {} that look nearly the same</p>\n",
        inspection.exact_copies, inspection.near_copies
    );
    for group in inspection.duplicates.iter().take(GROUPS) {
        text += "<div class=\"group pictures\">";
        let kept = std::iter::once((&group.kept, "the best".to_owned()));
        let copies = group.copies.iter().map(|copy| {
            let how = match copy.exact {
                true => "same bytes".to_owned(),
                false => format!("{} of 64 bits differ", copy.distance),
            };
            (&copy.path, if copy.same_caption { how } else { how + ", another caption" })
        });
        for (path, how) in kept.chain(copies).take(COPIES + 1) {
            if let Some(facts) = by_name.get(path) {
                let size = facts.size.map(|(width, height)| format!("{width} × {height}, ")).unwrap_or_default();
                text += &picture(facts, &pictures.element(facts, None), &format!("{size}{how}"));
            }
        }
        if group.copies.len() > COPIES {
            let _ = write!(text, "<p class=\"soft\">and {} more</p>", group.copies.len() - COPIES);
        }
        text += "</div>\n";
    }
    if inspection.duplicates.len() > GROUPS {
        let _ = write!(text, "<p class=\"soft\">and {} more groups</p>", inspection.duplicates.len() - GROUPS);
    }
    section("Copies", &text)
}

fn problems(title: &str, problems: &[DroppedImage]) -> String {
    let line = |problem: &DroppedImage| {
        format!("<span class=\"path\">{}</span>: {}", escaped(&problem.path), escaped(&problem.reason))
    };
    section(title, &list(&problems.iter().map(line).collect::<Vec<_>>()))
}

/// A heading and what stands under it, or nothing.
fn section(title: &str, content: &str) -> String {
    if content.is_empty() { String::new() } else { format!("<h2>{}</h2>\n{content}", escaped(title)) }
}

/// Lines that are HTML already.
fn list(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut text = "<ul>\n".to_owned();
    for line in lines.iter().take(LINES) {
        let _ = writeln!(text, "<li>{line}</li>");
    }
    if lines.len() > LINES {
        let _ = writeln!(text, "<li class=\"soft\">and {} more</li>", lines.len() - LINES);
    }
    text + "</ul>\n"
}

/// A list that is opened by its heading.
fn folded(title: &str, lines: &[String]) -> String {
    match lines.is_empty() {
        true => String::new(),
        false => format!("<details><summary>{} ({})</summary>{}</details>\n", escaped(title), lines.len(), list(lines)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_caption_says_is_markup() {
        assert_eq!(escaped("<b a='1' c=\"2\">&\u{0}\u{1b}"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;  ");
    }
}
