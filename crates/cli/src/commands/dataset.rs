//! `sdtrain dataset`: looks at folders of images and captions.

use std::path::PathBuf;

use sdtrain_data_loader::{DataReport, DataSet, TokenReport};
use sdtrain_recipe::{DataConfig, MissingCaption, Subset};
use sdtrain_tokenizer::{ClipTokenizer, Tokenizer};
use serde_json::{Value as Json, json};

use crate::args::{ConfigArgs, DatasetArgs, DatasetCommand, DatasetInspectArgs};
use crate::commands::check::load_or_explain;
use crate::{Failure, model_tokenizer, print_answer};

/// Runs one of its commands.
pub(crate) fn run(args: &DatasetArgs) -> Result<(), Failure> {
    match &args.command {
        DatasetCommand::Inspect(args) => inspect(args),
    }
}

/// Sides of buckets are multiples of this where no model says otherwise.
const BUCKET_STEP: usize = 64;

fn inspect(args: &DatasetInspectArgs) -> Result<(), Failure> {
    let (data, seed, tokenizer) = match (&args.config, &args.folder) {
        (Some(config), _) => {
            let config = ConfigArgs { config: config.clone(), set: args.set.clone() };
            let config = load_or_explain(&config)?.config;
            let tokenizer = model_tokenizer::of(&config.model)?;
            (config.data, config.seed, tokenizer)
        }
        (None, folder) => (of_folder(folder.clone().unwrap_or_default()), 0, ClipTokenizer::builtin()),
    };
    let data = DataSet::open(&data, seed, BUCKET_STEP)?;
    let tokens = data.count_tokens(&tokenizer, tokenizer.window() - 2);
    print_answer(&match args.json {
        true => format!("{:#}\n", as_json(data.report(), &tokens)),
        false => format!("{}\n  tokens: {tokens}\n", data.report()),
    });
    Ok(())
}

/// A folder by itself: nothing is refused for want of a caption.
fn of_folder(path: PathBuf) -> DataConfig {
    let mut data = DataConfig { subsets: vec![Subset { path, ..Subset::default() }], ..DataConfig::default() };
    data.caption.missing = MissingCaption::Empty;
    data
}

fn as_json(report: &DataReport, tokens: &TokenReport) -> Json {
    let buckets: Vec<Json> = report
        .buckets
        .iter()
        .map(|bucket| {
            json!({
                "width": bucket.size.0,
                "height": bucket.size.1,
                "images": bucket.images,
                "visits": bucket.visits,
                "batches": bucket.batches,
            })
        })
        .collect();
    let dropped: Vec<Json> = report
        .dropped
        .iter()
        .map(|image| json!({"path": image.path.to_string_lossy(), "reason": image.reason}))
        .collect();
    let long: Vec<Json> = tokens
        .images
        .iter()
        .map(|image| json!({"path": image.path.to_string_lossy(), "tokens": image.tokens}))
        .collect();
    let captions = &report.captions;
    let without_image: Vec<_> = captions.without_image.iter().map(|path| path.to_string_lossy()).collect();
    json!({
        "found": report.found,
        "kept": report.kept,
        "unreadable": report.unreadable,
        "dropped": dropped,
        "buckets": buckets,
        "captions": {
            "from_file": captions.from_file,
            "by_extension": captions.by_extension,
            "from_class_tokens": captions.from_class_tokens,
            "empty": captions.empty,
            "missing": captions.missing,
            "without_image": without_image,
        },
        "tokens": {
            "limit": tokens.limit,
            "captions": tokens.captions,
            "mean": tokens.mean(),
            "longest": tokens.longest,
            "too_long": tokens.too_long,
            "images": long,
        },
        "visits_per_epoch": report.visits_per_epoch,
        "left_over": report.left_over,
        "batches_per_epoch": report.batches_per_epoch,
        "warnings": report.warnings,
    })
}
