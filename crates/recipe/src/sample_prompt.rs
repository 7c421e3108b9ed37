//! The prompts of `[samples]`: plain text, text with the options of kohya's prompt files behind it, or a table of settings.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use sdtrain_config::{Document, Fault, Parsed, Problem};
use serde::{Deserialize, Serialize};

use crate::{Resolution, SamplerName, SamplesConfig, TrainConfig};

/// One picture to draw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SamplePrompt {
    /// The prompt. Options as in kohya's prompt files may stand behind it: `a red bottle --w 512 --h 768 --d 1 --l 7.5 --s 30
    /// --n blurry --ss euler_a` (width, height, seed, guidance, steps, negative prompt, sampler).
    Text(String),
    /// The prompt with settings of its own.
    Settings(PictureConfig),
}

/// A prompt with the settings in which its picture differs from the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["prompt"]))]
pub struct PictureConfig {
    /// What the picture should show.
    pub prompt: String,

    /// What it should not show. Absent: `samples.negative`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-other-names" = ["negative_prompt"]))]
    pub negative: Option<String>,

    /// Denoising steps. Absent: `samples.steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-other-names" = ["sample_steps"]))]
    pub steps: Option<u32>,

    /// Classifier-free guidance. Absent: `samples.guidance`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-other-names" = ["scale", "guidance_scale"]))]
    pub guidance: Option<f64>,

    /// Seed of the noise. Absent: `samples.seed` and the picture's place in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,

    /// Width in pixels. Absent: `samples.width`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,

    /// Height in pixels. Absent: `samples.height`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,

    /// The sampler. Absent: `samples.sampler`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-other-names" = ["sample_sampler"]))]
    pub sampler: Option<SamplerName>,
}

/// A picture with everything that decides what it looks like, but the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// What it should show.
    pub prompt: String,
    /// What it should not show.
    pub negative: String,
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Seed of the noise.
    pub seed: u64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The model's own where absent.
    pub sampler: Option<SamplerName>,
}

impl SamplesConfig {
    /// The pictures that are asked for, in order; `resolution` is the size of those that have none.
    pub fn pictures(&self, resolution: Resolution) -> Vec<Picture> {
        let picture = |(index, prompt): (usize, &SamplePrompt)| {
            let own = prompt.settings();
            Picture {
                prompt: own.prompt,
                negative: own.negative.unwrap_or_else(|| self.negative.clone()),
                steps: own.steps.unwrap_or(self.steps),
                guidance: own.guidance.unwrap_or(self.guidance),
                seed: own.seed.unwrap_or(self.seed.wrapping_add(index as u64)),
                width: own.width.or(self.width).unwrap_or(resolution.width()),
                height: own.height.or(self.height).unwrap_or(resolution.height()),
                sampler: own.sampler.or(self.sampler),
            }
        };
        self.prompts.iter().enumerate().map(picture).collect()
    }
}

impl From<&str> for SamplePrompt {
    fn from(prompt: &str) -> SamplePrompt {
        SamplePrompt::Text(prompt.to_owned())
    }
}

impl SamplePrompt {
    /// As a table. Text stands for itself: what stood behind it in a file was read when the file was.
    pub fn settings(&self) -> PictureConfig {
        match self {
            SamplePrompt::Text(prompt) => PictureConfig { prompt: prompt.clone(), ..PictureConfig::default() },
            SamplePrompt::Settings(settings) => settings.clone(),
        }
    }

    /// A line of a prompt file: plain text where nothing stands behind the prompt.
    fn of_line(line: &str) -> Result<SamplePrompt, String> {
        let settings = read_line(line)?;
        let plain = PictureConfig { prompt: settings.prompt.clone(), ..PictureConfig::default() };
        Ok(if settings == plain { SamplePrompt::Text(plain.prompt) } else { SamplePrompt::Settings(settings) })
    }
}

/// Takes the options out of the texts of `samples.prompts`, and reads `samples.prompts_file` in behind them.
pub(crate) fn take_over_lines(parsed: &mut Parsed<TrainConfig>, document: &Document) {
    let Some(config) = &mut parsed.value else { return };
    let samples = &mut config.samples;
    let mut fault = |key: &str, problem: Problem| parsed.faults.push(Fault { key: key.to_owned(), problem });
    for (index, prompt) in samples.prompts.iter_mut().enumerate() {
        let SamplePrompt::Text(line) = prompt else { continue };
        match SamplePrompt::of_line(line) {
            Ok(read) => *prompt = read,
            Err(reason) => {
                let key = format!("samples.prompts.{index}");
                fault(&key, document.problem(&key, format!("`{key}`: {reason}")).hint(OPTIONS));
            }
        }
    }
    let Some(path) = samples.prompts_file.take() else { return };
    const KEY: &str = "samples.prompts_file";
    match read_file(&path) {
        Ok((prompts, problems)) => {
            samples.prompts.extend(prompts);
            problems.into_iter().for_each(|problem| fault(KEY, problem));
        }
        Err((reason, hint)) => {
            let message = format!("`{KEY}`: `{}` {reason}", path.display());
            let mut problem = document.problem(KEY, message);
            problem.hint = hint.map(str::to_owned);
            fault(KEY, problem);
        }
    }
}

type FileTrouble = (String, Option<&'static str>);

/// The prompts of a file in the form of kohya's sd-scripts: one a line; blank lines and those that begin with `#` are skipped.
fn read_file(path: &Path) -> Result<(Vec<SamplePrompt>, Vec<Problem>), FileTrouble> {
    if !path.is_file() {
        let what = if path.exists() { "is a folder, not a file" } else { "does not exist" };
        return Err((what.to_owned(), None));
    }
    if path.extension().is_some_and(|ending| ["toml", "json"].iter().any(|other| ending.eq_ignore_ascii_case(other))) {
        let hint = "write them as tables: `[[samples.prompts]]` with `prompt`, `width`, `height`, `seed`, …";
        return Err(("is not a text file, and others are not read".to_owned(), Some(hint)));
    }
    let text = std::fs::read_to_string(path).map_err(|error| (format!("cannot be read: {error}"), None))?;
    let (mut prompts, mut problems) = (Vec::new(), Vec::new());
    // Editors on Windows put a byte order mark in front.
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match SamplePrompt::of_line(line) {
            Ok(prompt) => prompts.push(prompt),
            Err(message) => {
                let file = Some(PathBuf::from(path));
                problems.push(Problem { file, line: Some(number), message, hint: Some(OPTIONS.to_owned()) });
            }
        }
    }
    if prompts.is_empty() && problems.is_empty() {
        return Err(("holds no prompt".to_owned(), Some("each line that is not blank is one")));
    }
    Ok((prompts, problems))
}

const OPTIONS: &str = "behind a prompt: `--w` width, `--h` height, `--d` seed, `--s` steps, `--l` guidance, `--n` negative prompt, `--ss` sampler";

/// Reads `prompt --w 512 --n blurry`. Only what stands behind ` --` and a letter is an option, so that a prompt may begin with
/// "n " and hold dashes; kohya's scripts try their patterns on the prompt too.
fn read_line(line: &str) -> Result<PictureConfig, String> {
    let (prompt, options) = split_at_options(line);
    let mut settings = PictureConfig { prompt: prompt.trim().to_owned(), ..PictureConfig::default() };
    for option in options {
        let (name, value) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "w" => settings.width = Some(side(&name, value)?),
            "h" => settings.height = Some(side(&name, value)?),
            "d" => settings.seed = Some(number(&name, value)?),
            "s" => settings.steps = Some(number(&name, value)?),
            "l" => settings.guidance = Some(number(&name, value)?),
            "n" => settings.negative = Some(value.to_owned()),
            "ss" => settings.sampler = Some(sampler(value)?),
            "g" => return Err("`--g` is for models that guidance was distilled into; `--l` is guidance".to_owned()),
            "cn" | "ctr" | "rcfg" | "fs" | "am" | "of" | "i" => {
                return Err(format!("`--{name}` is not made for models of this kind"));
            }
            _ => return Err(format!("unknown option `--{name}`")),
        }
    }
    Ok(settings)
}

/// The text before the first option, and each option without its dashes.
fn split_at_options(line: &str) -> (&str, Vec<&str>) {
    let starts: Vec<usize> = line
        .match_indices(" --")
        .map(|(at, _)| at)
        .filter(|at| line[at + 3..].starts_with(|c: char| c.is_ascii_alphabetic()))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    let options = starts.iter().zip(ends).map(|(start, end)| line[start + 3..end].trim()).collect();
    (&line[..starts.first().copied().unwrap_or(line.len())], options)
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`--{name}` takes a number, not \"{value}\""))
}

/// Sides are cut to multiples of 8 and are at least 64, as in kohya's scripts.
fn side(name: &str, value: &str) -> Result<u32, String> {
    let side: u32 = number(name, value)?;
    Ok((side - side % 8).max(64))
}

/// kohya's names of samplers, where we have them.
fn sampler(name: &str) -> Result<SamplerName, String> {
    let known = match name.to_ascii_lowercase().as_str() {
        "k_lms" => Some(SamplerName::Lms),
        "k_euler" => Some(SamplerName::Euler),
        "k_euler_a" => Some(SamplerName::EulerA),
        "dpmsolver++" => Some(SamplerName::Dpmpp2m),
        name => name.parse().ok(),
    };
    known.ok_or_else(|| {
        let names: Vec<&str> = SamplerName::ALL.into_iter().map(SamplerName::name).collect();
        format!("there is no sampler `{name}`, only {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> PictureConfig {
        read_line(line).unwrap_or_else(|reason| panic!("{line}: {reason}"))
    }

    #[test]
    fn every_option_of_a_line_is_read_whatever_its_case_and_order() {
        let expected = PictureConfig {
            prompt: "a red bottle, on a table".to_owned(),
            negative: Some("blurry, low quality".to_owned()),
            steps: Some(28),
            guidance: Some(7.5),
            seed: Some(1),
            width: Some(512),
            height: Some(768),
            sampler: Some(SamplerName::EulerA),
        };
        let lines = [
            "a red bottle, on a table --n blurry, low quality --w 512 --h 768 --d 1 --l 7.5 --s 28 --ss k_euler_a",
            "a red bottle, on a table --W 519 --H 775 --D 1 --SS euler_a --L 7.5  --S 28 --N blurry, low quality ",
        ];
        for line in lines {
            assert_eq!(read(line), expected, "{line}");
        }
        assert_eq!(read("a --w 10").width, Some(64));
    }

    #[test]
    fn kohya_prompts_that_begin_like_an_option_are_prompts() {
        // sd-scripts `line_to_prompt_dict` matches its patterns against the prompt too.
        for line in ["n a cat", "w 5", "a cat -- asleep -- on a sofa", "a--w 5", "s 3 bottles", ""] {
            assert_eq!(read(line), PictureConfig { prompt: line.to_owned(), ..PictureConfig::default() });
        }
        assert_eq!(
            read("n a cat --d 3"),
            PictureConfig { prompt: "n a cat".into(), seed: Some(3), ..Default::default() }
        );
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (line, expected) in [
            ("a --x 3", "unknown option `--x`"),
            ("a --w wide", "`--w` takes a number, not \"wide\""),
            ("a --d", "`--d` takes a number, not \"\""),
            ("a --d -1", "`--d` takes a number, not \"-1\""),
            ("a --ss dpm_2", "there is no sampler `dpm_2`, only ddim, "),
            ("a --cn edges.png", "`--cn` is not made for models of this kind"),
            ("a --g 3.5", "`--l` is guidance"),
        ] {
            let reason = read_line(line).unwrap_err();
            assert!(reason.contains(expected), "{line}: {reason}");
        }
    }

    #[test]
    fn pictures_take_from_the_section_what_they_have_not() {
        let samples = SamplesConfig {
            prompts: vec!["a".into(), SamplePrompt::Settings(read("b --d 99 --w 128 --l 1")), "c".into()],
            seed: 5,
            height: Some(64),
            negative: "blurry".into(),
            ..SamplesConfig::default()
        };
        let pictures = samples.pictures(Resolution::Square(96));
        let seen: Vec<_> = pictures.iter().map(|p| (p.seed, p.width, p.height, p.guidance, p.steps)).collect();
        assert_eq!(seen, [(5, 96, 64, 7.5, 30), (99, 128, 64, 1.0, 30), (7, 96, 64, 7.5, 30)]);
        assert!(pictures.iter().all(|picture| picture.negative == "blurry" && picture.sampler.is_none()));
    }
}
