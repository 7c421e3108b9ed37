//! The picture that `sdtrain sample` starts from, and its mask, at the size of what is drawn.

use image::{GrayImage, Luma, RgbImage};
use sdtrain::args::SampleArgs;
use sdtrain::{ExitCode, Failure, local_file};
use sdtrain_data_loader::{ImageLocation, Placement, examine};
use sdtrain_files::say;
use sdtrain_model::StableDiffusion;
use sdtrain_pipeline::InitImage;
use sdtrain_recipe::{AlphaConfig, ResizeKernel};
use std::path::{Path, PathBuf};

/// Width and height.
type Size = (u32, u32);

/// With more than so many times the pixels that a model was made for, it begins to repeat what it shows.
const MANY: u64 = 4;
/// So many times are refused: the attention over them alone fills a device.
const TOO_MANY: u64 = 16;

/// The files that pictures start from, as they are.
pub struct Originals {
    picture: Original,
    mask: Option<Original>,
}

/// One of them.
struct Original {
    option: &'static str,
    path: PathBuf,
    pixels: RgbImage,
}

/// Reads the files that `args` name, before a model is loaded: one that is broken is said at once. None where pictures start from noise.
pub fn decode(args: &SampleArgs) -> Result<Option<Originals>, Failure> {
    let Some(path) = &args.init_image else { return Ok(None) };
    let picture = Original::decode("--init-image", path, &AlphaConfig::default())?;
    // A mask's transparency says nothing, as in diffusers.
    let opaque = AlphaConfig { ignore: true, ..AlphaConfig::default() };
    let mask = args.mask.as_deref().map(|path| Original::decode("--mask", path, &opaque)).transpose()?;
    Ok(Some(Originals { picture, mask }))
}

/// Size of the pictures that `args` ask `model` for, and what they start from.
pub fn fit(
    args: &SampleArgs,
    originals: Option<Originals>,
    model: &StableDiffusion,
) -> Result<(Size, Option<InitImage>), Failure> {
    check_kind(args, model)?;
    let side = default_side(model);
    let Some(Originals { picture, mask }) = originals else {
        return Ok(((args.width.unwrap_or(side), args.height.unwrap_or(side)), None));
    };
    let own = picture.pixels.dimensions();
    let step = model.downscale_factor() as u32;
    let size = size_of((args.width, args.height), own, step);
    check_area(size, side, step)?;
    tell_of_scaling("--init-image", own, size);
    if let Some(mask) = mask.as_ref().filter(|mask| mask.pixels.dimensions() != own) {
        tell_of_scaling("--mask", mask.pixels.dimensions(), size);
    }
    // diffusers scales a mask in its colours, and tells white from black afterwards.
    let mask = mask.map(|mask| Ok::<_, Failure>(light(&mask.scaled(size)?))).transpose()?;
    Ok((size, Some(InitImage { picture: picture.scaled(size)?, strength: args.effective_strength(), mask })))
}

impl Original {
    /// The file behind `path`, which `option` of the command line names.
    fn decode(option: &'static str, path: &Path, alpha: &AlphaConfig) -> Result<Original, Failure> {
        let pixels = examine::decode(&ImageLocation::file(local_file(path)?), alpha);
        let pixels = pixels.map_err(|reason| unreadable(option, path, &reason))?;
        Ok(Original { option, path: path.to_path_buf(), pixels })
    }

    /// The whole picture at another size, with PIL's kernel, which diffusers scales with.
    fn scaled(self, (width, height): Size) -> Result<RgbImage, Failure> {
        let whole = (width as usize, height as usize);
        let scaled = examine::cut(self.pixels, Placement { bucket: whole, resized: whole }, ResizeKernel::Lanczos);
        scaled.map_err(|reason| unreadable(self.option, &self.path, &reason))
    }
}

/// The light of a picture's colours (ITU-R 601), to the bit as PIL's `convert("L")` has it, by which diffusers reads a mask.
fn light(picture: &RgbImage) -> GrayImage {
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue] = picture.get_pixel(x, y).0.map(u32::from);
        // PIL's `L24`: 65,536ths of 0.299, 0.587 and 0.114, rounded.
        Luma([((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8])
    })
}

/// Size of what is drawn: the sides that were asked for, another one in the proportions of the picture, whose size is `own`, and without
/// any its own size; what is not asked for is a multiple of `step`.
fn size_of(asked: (Option<u32>, Option<u32>), own: Size, step: u32) -> Size {
    let rounded_down = |side: u32| (side - side % step).max(step);
    let beside = |given: u32, of_given: u32, of_other: u32| {
        let exact = f64::from(of_other) * f64::from(given) / f64::from(of_given);
        ((exact / f64::from(step)).round().max(1.0) * f64::from(step)) as u32
    };
    match asked {
        (Some(width), Some(height)) => (width, height),
        (Some(width), None) => (width, beside(width, own.0, own.1)),
        (None, Some(height)) => (beside(height, own.1, own.0), height),
        (None, None) => (rounded_down(own.0), rounded_down(own.1)),
    }
}

/// Warns of many more pixels than those of the `side` that the model was made for, and refuses what no device holds.
fn check_area(size: Size, side: u32, step: u32) -> Result<(), Failure> {
    let pixels = |(width, height): Size| u64::from(width) * u64::from(height);
    let (found, usual) = (pixels(size), pixels((side, side)));
    if found <= MANY * usual {
        return Ok(());
    }
    let said =
        |how: &str| format!("{} × {} pixels are {how} for a model that was made for {side} × {side}", size.0, size.1);
    let (width, height) = fitting(size, side, step);
    let hint = format!("`--width {width} --height {height}` draws a smaller picture");
    if found > TOO_MANY * usual {
        return Err(Failure::new(ExitCode::Configuration, said("too many")).hint(hint));
    }
    say!("warning: {}", said("many"));
    say!("  hint: {hint}");
    Ok(())
}

/// A size of nearly the same proportions with no more pixels than `side` × `side`, as `--width` and `--height` take it.
fn fitting((width, height): Size, side: u32, step: u32) -> Size {
    // The options take multiples of 8; `step` is a power of 2.
    let step = f64::from(step.max(8));
    let scale = f64::from(side) / (f64::from(width) * f64::from(height)).sqrt();
    let scaled = |own: u32| ((f64::from(own) * scale / step).floor().max(1.0) * step) as u32;
    (scaled(width), scaled(height))
}

/// That a model that goes on from a picture is given one, and one for inpainting what it paints into.
fn check_kind(args: &SampleArgs, model: &StableDiffusion) -> Result<(), Failure> {
    if args.init_image.is_none() && !model.family.makes_pictures_of_noise() {
        let (name, title) = (&args.model, model.family.title());
        let message = format!("`--model {name}` is of the {title} family, which goes on from a picture");
        let hint = "add `--init-image PICTURE --strength 0.3`, a picture that the base model made";
        return Err(Failure::new(ExitCode::Configuration, message).hint(hint));
    }
    if !model.takes_mask() || args.mask.is_some() {
        return Ok(());
    }
    let (lacks, hint) = match args.init_image {
        Some(_) => ("a mask", "add `--mask MASK`, a picture that is white where it is painted anew"),
        None => (
            "a picture and a mask",
            "add `--init-image PICTURE --mask MASK`; a mask that is white everywhere leaves nothing of the picture",
        ),
    };
    let message = format!("`--model {}` is made for inpainting: it needs {lacks}", args.model);
    Err(Failure::new(ExitCode::Configuration, message).hint(hint))
}

fn tell_of_scaling(option: &str, (width, height): Size, to: Size) {
    if (width, height) == to {
        return;
    }
    let stretches = u64::from(width) * u64::from(to.1) != u64::from(height) * u64::from(to.0);
    let how = if stretches { ", which changes its proportions" } else { "" };
    say!("`{option}` has {width} × {height} pixels and is scaled to {} × {}{how}", to.0, to.1);
}

fn unreadable(option: &str, path: &Path, reason: &str) -> Failure {
    Failure::new(ExitCode::Data, format!("`{option}`: `{}`: {reason}", path.display()))
}

/// The side in pixels of the pictures that the model was trained on.
fn default_side(model: &StableDiffusion) -> u32 {
    // SD1's latents, where the configuration gives no single number.
    model.resolution().unwrap_or(64 * model.downscale_factor() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn a_mask_is_read_by_its_light_as_pil_reads_it() {
        // Of `Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))`.
        for (colour, expected) in [
            ([255, 255, 255], 255),
            ([255, 0, 0], 76),
            ([0, 255, 0], 150),
            ([0, 0, 255], 29),
            ([128, 128, 128], 128),
            ([255, 255, 0], 226),
        ] {
            assert_eq!(light(&RgbImage::from_pixel(1, 1, Rgb(colour))).get_pixel(0, 0).0, [expected], "{colour:?}");
        }
    }

    #[test]
    fn a_side_that_is_not_given_keeps_the_proportions() {
        let own = (1000, 750);
        assert_eq!(size_of((None, None), own, 8), (1000, 744));
        assert_eq!(size_of((Some(512), None), own, 8), (512, 384));
        assert_eq!(size_of((None, Some(512)), own, 8), (680, 512));
        assert_eq!(size_of((Some(64), Some(512)), own, 8), (64, 512));
        assert_eq!(size_of((Some(8), None), (1000, 3), 8), (8, 8));
        assert_eq!(size_of((None, None), (5, 3), 8), (8, 8));
    }

    #[test]
    fn a_picture_much_larger_than_the_model_is_refused_with_one_that_fits() {
        assert!(check_area((1024, 1024), 512, 8).is_ok());
        assert!(check_area((2048, 2048), 512, 8).is_ok());
        let failure = check_area((4000, 3000), 512, 8).expect_err("46 times as many");
        let said = failure.problems.to_string();
        assert!(said.contains("4000 × 3000 pixels are too many for a model that was made for 512 × 512"), "{said}");
        assert!(said.contains("`--width 584 --height 440`"), "{said}");
        assert_eq!(fitting((40_000, 10), 512, 2), (32_376, 8));
    }
}
