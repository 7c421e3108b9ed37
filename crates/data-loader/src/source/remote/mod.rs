//! Files named by address: each is fetched once into a folder of this machine, and then read there like any other.

#[cfg(feature = "remote")]
mod download;
#[cfg(feature = "remote")]
mod store;
#[cfg(all(test, feature = "remote"))]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sdtrain_recipe::{DataConfig, address_mistake, cache_folder, is_address};

use super::shards;
use crate::DataError;

/// The configuration with files in the place of addresses; what is not there yet is fetched.
pub(super) fn fetched(config: &DataConfig) -> Result<Cow<'_, DataConfig>, DataError> {
    if !config.subsets.iter().any(|subset| is_address(&subset.path)) {
        return Ok(Cow::Borrowed(config));
    }
    let (wanted, folder, local) = placed(config)?;
    fetch(&wanted, &folder)?;
    Ok(Cow::Owned(local))
}

/// Every address with the file it becomes, the folder of all of them, and the configuration that names the files.
fn placed(config: &DataConfig) -> Result<(BTreeMap<String, PathBuf>, PathBuf, DataConfig), DataError> {
    let usual = || Some(cache_folder()?.join("downloads"));
    let mut config = config.clone();
    let mut wanted = BTreeMap::new();
    let mut errors = Vec::new();
    let folder = config.download_dir.clone().or_else(usual);
    for subset in config.subsets.iter_mut().filter(|subset| is_address(&subset.path)) {
        let pattern = subset.path.clone();
        let Some(folder) = &folder else {
            let error = DataError::source_file(&pattern, None, "cannot be fetched: there is no folder to keep it in");
            errors.push(error.with_hint("set `data.download_dir`"));
            continue;
        };
        let text = pattern.to_string_lossy();
        let addresses = match shards::expanded(&text) {
            Ok(addresses) => addresses,
            Err(reason) => {
                errors.push(DataError::source_file(&pattern, None, reason));
                continue;
            }
        };
        // Braces may make another address of a good one.
        let mistake = [text.as_ref()].into_iter().chain(addresses.iter().map(String::as_str));
        if let Some((message, hint)) = mistake.map(Path::new).find_map(address_mistake) {
            errors.push(DataError::source_file(&pattern, None, message).with_hint(hint));
            continue;
        }
        wanted.extend(addresses.into_iter().map(|address| (address.clone(), place_of(folder, &address))));
        subset.path = place_of(folder, &text);
    }
    DataError::all(errors)?;
    Ok((wanted, folder.unwrap_or_default(), config))
}

/// `https://host/folder/file` is kept as `https/host/folder/file`; a pattern stays one.
fn place_of(folder: &Path, address: &str) -> PathBuf {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    folder.join(scheme).join(rest)
}

#[cfg(feature = "remote")]
fn fetch(wanted: &BTreeMap<String, PathBuf>, folder: &Path) -> Result<(), DataError> {
    download::fetch_all(wanted, folder, &download::Settings::usual())
}

#[cfg(not(feature = "remote"))]
fn fetch(wanted: &BTreeMap<String, PathBuf>, _: &Path) -> Result<(), DataError> {
    match wanted.iter().find(|(_, file)| !file.is_file()) {
        None => Ok(()),
        Some((address, file)) => {
            let error = DataError::source_file(Path::new(address), None, "is not fetched by this build of the program");
            Err(error.with_hint(format!("build it with the feature `remote`, or put the file at `{}`", file.display())))
        }
    }
}
