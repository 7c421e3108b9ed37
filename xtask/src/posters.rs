//! `cargo xtask posters`: draws the sets of posters that the built-in base and the sample LoRA are trained on.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage, imageops};
use sdtrain_posters::{
    HELD_OUT, LORA_POSTERS, LORA_VALIDATION_POSTERS, Object, Poster, REGULARIZATION_POSTERS, SUBJECT_CLASS_POSTERS,
    SUBJECT_POSTERS, SUBJECT_REGULARIZATION_POSTERS, Style, WORD_POSTERS, WORD_VALIDATION_POSTERS, base_poster,
    draw_subject, held_out, lora_poster, lora_validation_poster, regularization_poster, subject_caption,
    subject_class_poster, subject_poster, subject_regularization_poster, varied_poster, vocabulary, window,
    word_poster, word_validation_poster,
};
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

const USAGE: &str = "\
usage: cargo xtask posters <set> [options]

  base      plain posters and captions: what the base model's UNet and text encoder learn   --count 6000 --out DIR
  vae       decorated posters and captions: what the base model's VAE learns                --count 4000 --out DIR
  windows   square windows of --window pixels (default 48) into pictures of the set `vae`    --count 24000 --out DIR
  lora      the sample set in datasets/posters, -regularization, -validation              --out datasets
  subject   the sample subject and its class: datasets/posters-subject, -subject-regularization, -subject-class
                                                                                            --out datasets
  word      the sample set of a thing with a word of its own: datasets/posters-word*        --out datasets
  captions  captions, one a line; with --held-out those that no set contains                --count 200 [--out FILE]
  tokenizer the base model's tokenizer files: every word of the captions is one token       --out DIR
  grid      one picture with every object in plain, decorated and LoRA style                --out FILE

options: --seed N (default 1), --size PIXELS or WIDTHxHEIGHT (default 96), --start INDEX (default 0)";

/// Runs `cargo xtask posters` with the arguments after `posters`.
pub fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let (set, options) = args.split_first().ok_or(USAGE)?;
    let options = Options::parse(options)?;
    match set.as_str() {
        "base" => {
            let folder = options.out_folder()?;
            for index in options.indices(6000) {
                let (poster, caption) = base_poster(options.seed, index);
                write_pair(&folder, index, &options.draw(&poster, Style::Plain), &caption)?;
            }
            Ok(())
        }
        "vae" => {
            let folder = options.out_folder()?;
            for index in options.indices(4000) {
                let (poster, style) = varied_poster(options.seed, index);
                write_pair(&folder, index, &options.draw(&poster, style), &poster.caption())?;
            }
            Ok(())
        }
        "windows" => {
            let folder = options.out_folder()?;
            for index in options.indices(24_000) {
                let (poster, style) = varied_poster(options.seed, index);
                let picture = options.draw(&poster, style);
                let side = options.window.min(picture.width()).min(picture.height());
                let (x, y) = window(options.seed, index, picture.dimensions(), side);
                let picture = imageops::crop_imm(&picture, x, y, side, side).to_image();
                write_pair(&folder, index, &picture, &poster.caption())?;
            }
            Ok(())
        }
        "lora" => write_sets(
            &options,
            &[
                ("posters", LORA_POSTERS, lora_poster, Style::Zenpop),
                ("posters-regularization", REGULARIZATION_POSTERS, regularization_poster, Style::Plain),
                ("posters-validation", LORA_VALIDATION_POSTERS, lora_validation_poster, Style::Zenpop),
            ],
        ),
        "subject" => write_subject_sets(&options),
        "word" => write_sets(
            &options,
            &[
                ("posters-word", WORD_POSTERS, word_poster, Style::Plain),
                ("posters-word-validation", WORD_VALIDATION_POSTERS, word_validation_poster, Style::Plain),
            ],
        ),
        "captions" => write_captions(&options),
        "tokenizer" => write_tokenizer(&options),
        "grid" => write_grid(&options),
        "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(format!("unknown set `{other}`\n\n{USAGE}").into()),
    }
}

/// CLIP's window, which the base model keeps.
const WINDOW: usize = 77;

fn write_tokenizer(options: &Options) -> Result<(), Box<dyn Error>> {
    let folder = options.out_folder()?;
    for (name, content) in PromptTokenizer::from_words(&vocabulary(), WINDOW).files() {
        fs::write(folder.join(name), content)?;
    }
    Ok(())
}

struct Options {
    count: Option<u64>,
    start: u64,
    out: Option<PathBuf>,
    size: (u32, u32),
    seed: u64,
    held_out: bool,
    window: u32,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options, Box<dyn Error>> {
        let mut options =
            Options { count: None, start: 0, out: None, size: (96, 96), seed: 1, held_out: false, window: 48 };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("`{name}` needs a value"));
            match name.as_str() {
                "--count" => options.count = Some(number(name, value()?)?),
                "--start" => options.start = number(name, value()?)?,
                "--seed" => options.seed = number(name, value()?)?,
                "--out" => options.out = Some(PathBuf::from(value()?)),
                "--size" => options.size = size(value()?)?,
                "--window" => options.window = number(name, value()?)?.clamp(16, 1024) as u32,
                "--held-out" => options.held_out = true,
                _ => return Err(format!("unknown option `{name}`\n\n{USAGE}").into()),
            }
        }
        Ok(options)
    }

    fn indices(&self, default_count: u64) -> std::ops::Range<u64> {
        self.start..self.start + self.count.unwrap_or(default_count)
    }

    fn draw(&self, poster: &Poster, style: Style) -> RgbImage {
        poster.draw_sized(self.size.0, self.size.1, style)
    }

    fn out_folder(&self) -> Result<PathBuf, Box<dyn Error>> {
        let folder = self.out.clone().ok_or("`--out DIR` is missing")?;
        fs::create_dir_all(&folder).map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
        Ok(folder)
    }
}

fn number(name: &str, text: &str) -> Result<u64, Box<dyn Error>> {
    text.parse().map_err(|_| format!("`{name}` takes a whole number, not `{text}`").into())
}

fn size(text: &str) -> Result<(u32, u32), Box<dyn Error>> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let side = |side: &str| side.parse::<u32>().ok().filter(|side| (16..=1024).contains(side));
    match (side(width), side(height)) {
        (Some(width), Some(height)) => Ok((width, height)),
        _ => Err(format!("`--size` takes PIXELS or WIDTHxHEIGHT from 16 to 1024, not `{text}`").into()),
    }
}

fn write_pair(folder: &Path, index: u64, picture: &RgbImage, caption: &str) -> Result<(), Box<dyn Error>> {
    let path = folder.join(format!("{index:05}.png"));
    write_png(&path, picture)?;
    let path = path.with_extension("txt");
    fs::write(&path, format!("{caption}\n")).map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
    Ok(())
}

fn write_png(path: &Path, picture: &RgbImage) -> Result<(), Box<dyn Error>> {
    picture
        .save_with_format(path, ImageFormat::Png)
        .map_err(|error| format!("cannot write `{}`: {error}", path.display()).into())
}

/// Folder, number of posters, what they are of, and how they are drawn.
type Set = (&'static str, u64, fn(u64, u64) -> (Poster, String), Style);

fn write_sets(options: &Options, sets: &[Set]) -> Result<(), Box<dyn Error>> {
    let parent = options.out.clone().unwrap_or_else(|| PathBuf::from("datasets"));
    for &(name, count, draw, style) in sets {
        let folder = parent.join(name);
        fs::create_dir_all(&folder).map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
        for index in 0..count {
            let (poster, caption) = draw(options.seed, index);
            write_pair(&folder, index, &options.draw(&poster, style), &caption)?;
        }
    }
    Ok(())
}

/// The subject, whose captions have a word of its own, and its class.
fn write_subject_sets(options: &Options) -> Result<(), Box<dyn Error>> {
    let parent = options.out.clone().unwrap_or_else(|| PathBuf::from("datasets"));
    let folder = |name: &str| -> Result<PathBuf, Box<dyn Error>> {
        let folder = parent.join(name);
        fs::create_dir_all(&folder).map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
        Ok(folder)
    };
    let subject = folder("posters-subject")?;
    for index in 0..SUBJECT_POSTERS {
        let poster = subject_poster(options.seed, index);
        write_pair(&subject, index, &draw_subject(&poster, options.size.0), &subject_caption(&poster))?;
    }
    type Drawn = fn(u64, u64) -> (Poster, String);
    let sets: [(&str, u64, Drawn); 2] = [
        ("posters-subject-regularization", SUBJECT_REGULARIZATION_POSTERS, subject_regularization_poster),
        ("posters-subject-class", SUBJECT_CLASS_POSTERS, subject_class_poster),
    ];
    for (name, count, drawn) in sets {
        let class = folder(name)?;
        for index in 0..count {
            let (poster, caption) = drawn(options.seed, index);
            write_pair(&class, index, &options.draw(&poster, Style::Plain), &caption)?;
        }
    }
    Ok(())
}

fn write_captions(options: &Options) -> Result<(), Box<dyn Error>> {
    let count = options.count.unwrap_or(HELD_OUT as u64);
    let captions: Vec<String> = if options.held_out {
        if count > HELD_OUT as u64 {
            return Err(format!("only {HELD_OUT} captions are held out, not {count}").into());
        }
        held_out(count as usize).iter().map(Poster::caption).collect()
    } else {
        options.indices(count).map(|index| base_poster(options.seed, index).1).collect()
    };
    let text = captions.join("\n") + "\n";
    match &options.out {
        Some(path) => {
            fs::write(path, text).map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// Three rows of eight: plain, decorated, LoRA style; one column for each object.
fn write_grid(options: &Options) -> Result<(), Box<dyn Error>> {
    let path = options.out.clone().ok_or("`--out FILE` is missing")?;
    let (width, height) = options.size;
    let gap = 4;
    let columns = Object::ALL.len() as u32;
    let mut grid =
        RgbImage::from_pixel(columns * (width + gap) + gap, 3 * (height + gap) + gap, image::Rgb([255, 255, 255]));
    for (row, style) in [Style::Plain, Style::Varied, Style::Zenpop].into_iter().enumerate() {
        for column in 0..columns {
            let (poster, _) = lora_poster(options.seed, options.start + u64::from(column + columns * row as u32));
            let picture = options.draw(&poster, style);
            let (x, y) = (gap + column * (width + gap), gap + row as u32 * (height + gap));
            imageops::replace(&mut grid, &picture, i64::from(x), i64::from(y));
        }
    }
    write_png(&path, &grid)
}
