//! What a run that is continued must find as it was, and ranks at each other before they learn.

use crate::error::{Error, Result};
use crate::identity::{self, DataDigest};
use crate::ranks::{Facts, short};
use crate::run_folder::{RunFolder, Start};
use crate::seeded_bugs::{Bug, seeded};
use sdtrain_checkpoint::ManifestInfo;
use sdtrain_files::say;
use sdtrain_recipe::{Change, SAVED_AS, TrainConfig};
use sdtrain_run_log::{graphics_processor_names, processor_name};
use std::collections::BTreeMap;
use tch::Device;

/// Names in a manifest's details: adapters that are a part of the base; a digest of the base; of the words that training goes on from;
/// what is computed on; keys that were changed on the way. A digest of the adapter that training goes on from is called by its key.
const FUSED: &str = "fused";
const BASE: &str = "base";
const INITIAL_WORDS: &str = "initial words";
const DEVICE: &str = "device";
const CHANGED: &str = "changed after step ";

/// What a manifest says of the content that a run began with, and of what it is computed on; `fused` is what became a part of the base.
///
/// # Errors
/// Where a file that training goes on from cannot be read.
pub(crate) fn details(
    config: &TrainConfig,
    base: String,
    fused: Option<String>,
    device: Device,
) -> Result<BTreeMap<String, String>> {
    let mut details = BTreeMap::from([(BASE.to_string(), base), (DEVICE.to_string(), describe(device))]);
    details.extend(fused.map(|fused| (FUSED.to_string(), fused)));
    details.extend(identity::of_initial_adapter(config)?.map(|(key, digest)| (key.to_string(), digest)));
    details.extend(identity::of_initial_words(config)?.map(|words| (INITIAL_WORDS.to_string(), words)));
    Ok(details)
}

/// The kind of machine that numbers come from: another one may round otherwise.
fn describe(device: Device) -> String {
    model_of(device).unwrap_or_else(|| if device.is_cuda() { "CUDA" } else { "processor" }.into())
}

/// The model of what is computed on, where the system tells.
pub(crate) fn model_of(device: Device) -> Option<String> {
    if device.is_cuda() { graphics_processor_names() } else { processor_name() }
}

/// A continued run must find its data and its base as they were, unless `checkpoint.allow_changes` says otherwise: order and noise
/// are drawn for exactly these images, and the weights that were learned fit this base. What differs goes into the manifest.
pub(crate) fn check(
    config: &TrainConfig,
    folder: &mut RunFolder,
    manifest: &mut ManifestInfo,
    data: &mut DataDigest,
) -> Result<()> {
    let Start::Continue(saved) = &folder.start else { return Ok(()) };
    let before = &saved.info;
    let cannot = |what: &str, section: &str| Error::CannotContinue {
        checkpoint: saved.folder.clone(),
        reason: format!(
            "{what} have changed since; `--resume never` starts anew, and `checkpoint.allow_changes = [\"{section}\"]` goes on \
             with them as they are"
        ),
    };
    if let Some(change) = folder.changes.iter().find(|change| SAVED_AS.contains(&change.key.as_str())) {
        return Err(Error::CannotContinue {
            checkpoint: saved.folder.clone(),
            reason: format!(
                "its weights and optimizer state are those of `{}` = {}, and {} cannot go on with them; leave the key as it was, or \
                 begin a run of another `name` with this one's product",
                change.key, change.before, change.now
            ),
        });
    }
    manifest.data_digest = data.as_in(&before.data_digest)?;
    let mut changes = folder.changes.clone();
    let mut content = |what: &str, section: &str, old: Option<&String>, new: Option<&String>| {
        if old == new || seeded(Bug::AnyData) && section == "data" || seeded(Bug::AnyBase) && section == "model" {
            return Ok(());
        }
        if !config.allows_change_of(section) {
            return Err(cannot(what, section));
        }
        changes.push(Change {
            key: format!("content of `{section}`"),
            before: "other".into(),
            now: format!("{what} have changed"),
            decides_steps: true,
            changes_order: section == "data",
            is_allowed: true,
        });
        Ok(())
    };
    content("the images or captions", "data", Some(&before.data_digest), Some(&manifest.data_digest))?;
    if identity::is_listing(&before.data_digest) && before.data_digest == manifest.data_digest {
        say!(
            "note: the checkpoint was written before every image had been read: names, lengths and captions of the data are as they \
             were, and whether the files hold the same is not known"
        );
    }
    let (old, new) = (&before.details, &manifest.details);
    content("the adapters of `model.fuse`", "model.fuse", old.get(FUSED), new.get(FUSED))?;
    // In another format the same weights are other numbers, and what was rounded cannot be told from what was replaced.
    match folder.changes.iter().find(|change| change.key == "precision.compute") {
        Some(change) => say!(
            "note: whether the base model is still the same is not known: its weights were looked at in {}, and are in {} now",
            change.before,
            change.now
        ),
        None if old.contains_key(BASE) => {
            content("the weights of the base model", "model", old.get(BASE), new.get(BASE))?;
        }
        None => {}
    }
    // What training went on from: the state that is saved followed from it, as a stage does from the one before.
    let initial = config.trainable_facts().initial.map(|(key, _)| key).filter(|key| old.contains_key(*key));
    if let Some(key) = initial {
        content(&format!("the adapters of `{key}`"), key, old.get(key), new.get(key))?;
    }
    if old.contains_key(INITIAL_WORDS) {
        let (old, new) = (old.get(INITIAL_WORDS), new.get(INITIAL_WORDS));
        content("the first vectors of words", "textual_inversion", old, new)?;
    }
    let earlier = before.details.iter().filter(|(name, _)| name.starts_with(CHANGED));
    manifest.details.extend(earlier.map(|(name, change)| (name.clone(), change.clone())));
    for change in changes.iter().filter(|change| change.key != "checkpoint.allow_changes") {
        let name = format!("{CHANGED}{:06}: {}", before.step, change.key);
        manifest.details.insert(name, format!("{} → {}", change.before, change.now));
    }
    let machine = |info: &ManifestInfo| {
        let device = info.details.get(DEVICE).map(|device| format!("{device}, ")).unwrap_or_default();
        format!("{device}{} threads, {}", info.threads, info.instruction_set)
    };
    if (before.threads, &before.instruction_set) != (manifest.threads, &manifest.instruction_set)
        || before.details.get(DEVICE).is_some_and(|device| manifest.details.get(DEVICE) != Some(device))
    {
        say!(
            "note: the run was begun with {}; with {} it goes on equal to rounding, not to the bit",
            machine(before),
            machine(manifest)
        );
    }
    if before.build != manifest.build {
        say!(
            "note: the checkpoint was written by {}, and this is {}: where they compute alike, the run goes on to the bit",
            before.build,
            manifest.build
        );
    }
    folder.changes = changes;
    Ok(())
}

/// What all ranks must have in common before they learn: the content of files, which may be other ones on other machines.
/// `weights` is [`identity::of_all_numbers`].
pub(crate) fn facts(manifest: &ManifestInfo, data: &str, weights: &str) -> Facts {
    // Machines may differ in what they are called.
    let content = manifest.details.iter().filter(|(name, _)| !name.starts_with(CHANGED) && *name != DEVICE);
    let mut facts: BTreeMap<String, String> =
        content.map(|(name, digest)| (format!("content: {name}"), short(digest))).collect();
    facts.insert("images and captions".into(), short(data));
    facts.insert("every weight of the base".into(), short(weights));
    Facts(facts)
}

/// What was changed on the way, in words.
pub(crate) fn changes_in(manifest: &ManifestInfo) -> Vec<String> {
    let changes = manifest.details.iter().filter(|(name, _)| name.starts_with(CHANGED));
    changes.map(|(name, change)| format!("{name}: {change}")).collect()
}
