//! The picture that `sdtrain sample` starts from, and its mask, at the size of what is drawn.

use sdtrain::args::SampleArgs;
use sdtrain::{ExitCode, Failure};
use sdtrain_data_loader::{ImageLocation, Placement, examine};
use sdtrain_model::StableDiffusion;
use sdtrain_pipeline::InitImage;
use sdtrain_recipe::{AlphaConfig, ResizeKernel};
use std::path::Path;

/// Width and height.
type Size = (u32, u32);

/// Size of the pictures that `args` ask for, and what they start from.
pub fn read(args: &SampleArgs, model: &StableDiffusion) -> Result<(Size, Option<InitImage>), Failure> {
    check_kind(args, model)?;
    let side = default_side(model);
    let Some(path) = &args.init_image else {
        return Ok(((args.width.unwrap_or(side), args.height.unwrap_or(side)), None));
    };
    let picture = examine::decode(&ImageLocation::file(path.clone()), &AlphaConfig::default());
    let picture = picture.map_err(|reason| unreadable("--init-image", path, &reason))?;
    let own = picture.dimensions();
    let step = model.downscale_factor() as u32;
    let fitting = |own: u32| (own - own % step).max(step);
    let size = (args.width.unwrap_or(fitting(own.0)), args.height.unwrap_or(fitting(own.1)));
    tell_of_scaling("--init-image", own, size);
    let pixels = |(width, height): Size| u64::from(width) * u64::from(height);
    if args.width.is_none() && args.height.is_none() && pixels(size) > 4 * pixels((side, side)) {
        let (width, height) = size;
        eprintln!("warning: {width} × {height} pixels are many for a model that was made for {side} × {side}");
        eprintln!("  hint: `--width` and `--height` draw a smaller picture");
    }
    let whole = (size.0 as usize, size.1 as usize);
    // PIL's kernel, which diffusers scales with.
    let picture = examine::cut(picture, Placement { bucket: whole, resized: whole }, ResizeKernel::Lanczos);
    let picture = picture.map_err(|reason| unreadable("--init-image", path, &reason))?;
    let mask = args.mask.as_ref().map(|path| {
        let failed = |reason: String| unreadable("--mask", path, &reason);
        let mask = examine::decode_mask(&ImageLocation::file(path.clone())).map_err(failed)?;
        if mask.dimensions() != own {
            tell_of_scaling("--mask", mask.dimensions(), size);
        }
        examine::resize_mask(mask, whole).map_err(failed)
    });
    Ok((size, Some(InitImage { picture, strength: args.effective_strength(), mask: mask.transpose()? })))
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
    eprintln!("`{option}` has {width} × {height} pixels and is scaled to {} × {}{how}", to.0, to.1);
}

fn unreadable(option: &str, path: &Path, reason: &str) -> Failure {
    Failure::new(ExitCode::Data, format!("`{option}`: `{}`: {reason}", path.display()))
}

/// The side in pixels of the pictures that the model was trained on.
fn default_side(model: &StableDiffusion) -> u32 {
    let latents = model.unet.config().sample_size.as_u64().unwrap_or(64) as u32;
    latents * model.downscale_factor() as u32
}
