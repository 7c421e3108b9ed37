//! The running mean of the UNet's weights that a single-file checkpoint of an original training has beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::canonical::UNET_PREFIX;
use crate::error::{Error, Result};
use crate::reader::Reader;
use crate::renamed::Renamed;

/// What the names of the averaging begin with: its numbers, and the mean, where the weight's own name stands behind it, from
/// `diffusion_model` on and without its dots.
pub(crate) const EMA_PREFIX: &str = "model_ema.";

/// The name of the mean of the UNet's weight `name`.
pub(crate) fn mean_of(name: &str) -> String {
    let inside = name.split_once('.').map_or(name, |(_, inside)| inside);
    format!("{EMA_PREFIX}{}", inside.replace('.', ""))
}

/// What the names of the mean begin with, and those of the averaging's own numbers do not.
pub fn averaged_prefix() -> String {
    mean_of(UNET_PREFIX)
}

/// Whether the checkpoint has that mean, or numbers that are left of the averaging.
pub fn has_averaged(file: &dyn Reader) -> bool {
    file.names().iter().any(|name| name.starts_with(EMA_PREFIX))
}

/// The checkpoint with the mean of the UNet's weights in the place of these, and nothing else of the averaging.
///
/// # Errors
/// Where it has no mean of one of them.
pub fn with_averaged_unet(file: Arc<dyn Reader>) -> Result<Arc<dyn Reader>> {
    let of_unet = file.names().into_iter().filter(|name| name.starts_with(UNET_PREFIX));
    let names: BTreeMap<String, String> = of_unet.map(|name| (mean_of(name), name.to_owned())).collect();
    let lacking = names.iter().filter(|(mean, _)| file.info(mean).is_none()).count();
    if names.is_empty() || lacking > 0 {
        let reason = match lacking == names.len() {
            true => format!("holds no running mean of its UNet's weights (`{EMA_PREFIX}…`)"),
            false => {
                format!("holds no running mean (`{EMA_PREFIX}…`) of {lacking} of its UNet's {} tensors", names.len())
            }
        };
        return Err(Error::WrongKind { path: file.path().to_path_buf(), reason });
    }
    let renamed = Renamed::new(file, |name, info| {
        let name = match names.get(name) {
            Some(averaged) => averaged,
            None if name.starts_with(UNET_PREFIX) || name.starts_with(EMA_PREFIX) => return None,
            None => name,
        };
        Some((name.to_owned(), info.shape.clone()))
    })?;
    Ok(Arc::from(Box::new(renamed) as Box<dyn Reader>))
}

/// The checkpoint without the mean of the UNet's weights and the numbers of the averaging; one that has none is as it was.
///
/// # Errors
/// None of its own: no name becomes another's.
pub fn without_averaged_unet(file: Arc<dyn Reader>) -> Result<Arc<dyn Reader>> {
    let kept = Renamed::new(file, |name, info| {
        (!name.starts_with(EMA_PREFIX)).then(|| (name.to_owned(), info.shape.clone()))
    })?;
    Ok(Arc::from(Box::new(kept) as Box<dyn Reader>))
}
