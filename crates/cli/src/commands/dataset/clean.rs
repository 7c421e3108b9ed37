//! `sdtrain dataset clean`: shows what would be taken out, takes it out, and puts it back.

use std::fmt::Write;
use std::path::Path;

use sdtrain_data_loader::counted;
use sdtrain_dataset_report::clean::{Moved, Plan, Removal, apply, undo};
use sdtrain_dataset_report::{Depth, DroppedImage, Survey, table};
use sdtrain_recipe::CleanConfig;
use serde_json::{Value as Json, json};

use super::Wanted;
use super::progress::Progress;
use crate::args::{CleanOptions, DatasetCleanArgs};
use crate::{ExitCode, Failure, print_answer};

/// Images that are named; `--json` names all.
const NAMED: usize = 20;

pub(super) fn run(args: &DatasetCleanArgs) -> Result<(), Failure> {
    match &args.undo {
        Some(manifest) => put_back(manifest, args.json),
        None => take_out(args),
    }
}

fn take_out(args: &DatasetCleanArgs) -> Result<(), Failure> {
    let mut data = Wanted::of(args.folder.as_ref(), args.config.as_ref(), &args.set)?.data;
    override_with(&mut data.clean, &args.options);
    if let Some(mistake) = data.clean.mistakes().into_iter().next() {
        let option = format!("--{}", mistake.key.replace('_', "-"));
        let failure = Failure::new(ExitCode::Configuration, format!("`{option}` {}", mistake.message));
        return Err(failure.maybe_hint(mistake.hint.map(str::to_owned)));
    }
    let progress = Progress::start();
    let survey = Survey::of(&data, Depth::Pixels, &|done, all| progress.report(done, all))?;
    progress.end();
    let plan = Plan::of(&survey, &data, args.to.as_deref())?;
    let moved = match args.apply {
        true => Some(apply(&plan)?),
        false => None,
    };
    print_answer(&match args.json {
        true => as_json(&json!({"plan": plan, "moved": moved})),
        false => in_words(&plan, moved.as_ref()),
    });
    moved.map_or(Ok(()), |moved| none_failed(&moved.failed))
}

fn put_back(manifest: &Path, json: bool) -> Result<(), Failure> {
    let restored = undo(manifest)?;
    print_answer(&match json {
        true => as_json(&json!(restored)),
        false if restored.in_place == 0 => format!("{} files moved back\n", restored.files),
        false => format!("{} files moved back, {} were in place already\n", restored.files, restored.in_place),
    });
    none_failed(&restored.failed)
}

fn as_json(value: &Json) -> String {
    format!("{value:#}\n")
}

/// Options of the command line win over the configuration.
fn override_with(clean: &mut CleanConfig, options: &CleanOptions) {
    fn set<T: Copy>(value: &mut T, option: Option<T>) {
        *value = option.unwrap_or(*value);
    }
    set(&mut clean.min_side, options.min_side);
    set(&mut clean.max_side, options.max_side);
    set(&mut clean.min_kilobytes_per_pixel, options.min_kilobytes_per_pixel);
    set(&mut clean.kilobyte, options.kilobyte);
    set(&mut clean.min_dpi, options.min_dpi);
    set(&mut clean.missing_dpi, options.missing_dpi.map(Into::into));
    set(&mut clean.max_aspect, options.max_aspect);
    set(&mut clean.min_sharpness, options.min_sharpness);
    set(&mut clean.duplicates, options.duplicates.map(Into::into));
    set(&mut clean.duplicate_distance, options.duplicate_distance);
    set(&mut clean.broken, options.broken);
}

fn in_words(plan: &Plan, moved: Option<&Moved>) -> String {
    let out = plan.removals.len();
    let mut text =
        format!("{} looked at: {out} to take out, {} stay\n", counted(plan.found, "image"), plan.found - out);
    let rules: Vec<Vec<String>> = plan
        .rules
        .iter()
        .filter(|rule| rule.images > 0)
        .map(|rule| vec![format!("`{}`", rule.rule), rule.images.to_string()])
        .collect();
    text += &table(&rules);
    for removal in plan.removals.iter().take(NAMED) {
        let _ = writeln!(text, "  {}", named(removal));
    }
    if out > NAMED {
        let _ = writeln!(text, "  … and {} more", out - NAMED);
    }
    for image in plan.staying.iter().take(NAMED) {
        let _ = writeln!(text, "  not moved: `{}`: {}", image.path, image.reason);
    }
    if plan.staying.len() > NAMED {
        let _ = writeln!(text, "  … and {} more are not moved", plan.staying.len() - NAMED);
    }
    for note in &plan.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    match moved {
        Some(moved) => {
            let _ = writeln!(
                text,
                "moved {} and {} of theirs",
                counted(moved.images, "image"),
                counted(moved.others, "file")
            );
            for manifest in &moved.manifests {
                let _ = writeln!(text, "to undo it: sdtrain dataset clean --undo {}", shell_word(manifest));
            }
        }
        None if out > 0 => {
            let mut folders: Vec<String> = plan.removals.iter().map(|r| format!("`{}`", r.to.display())).collect();
            folders.dedup();
            let _ = writeln!(text, "nothing was moved yet; with `--apply` they go to {}", folders.join(", "));
        }
        None => {}
    }
    text
}

fn named(removal: &Removal) -> String {
    let reasons: Vec<&str> = removal.reasons.iter().map(|reason| reason.reason.as_str()).collect();
    format!("`{}`: {}", removal.folder.join(&removal.file).display(), reasons.join("; "))
}

/// A path that can be pasted into a shell.
fn shell_word(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,=@%".contains(c);
    match path.chars().all(is_plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

fn none_failed(failed: &[DroppedImage]) -> Result<(), Failure> {
    if failed.is_empty() {
        return Ok(());
    }
    let mut message = format!("{} files could not be moved:", failed.len());
    for file in failed.iter().take(NAMED) {
        let _ = write!(message, "\n  `{}`: {}", file.path, file.reason);
    }
    if failed.len() > NAMED {
        let _ = write!(message, "\n  … and {} more", failed.len() - NAMED);
    }
    Err(Failure::new(ExitCode::Storage, message).hint("the others were moved; the command can be repeated"))
}
