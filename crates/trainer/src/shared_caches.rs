//! Caches on a disk that several ranks share: each rank makes its part of what is missing, and every entry is made once.

use crate::error::Result;
use crate::objective::{self, Objective};
use crate::ranks::Ranks;
use sdtrain_data_loader::DataSet;
use sdtrain_evaluate::prompt_reading;
use sdtrain_features::{DiskLatents, DiskTexts};
use sdtrain_files::say;
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::TrainConfig;
use std::path::Path;
use std::sync::Arc;

/// The objective of a run; what it keeps on disk all ranks make together. In memory each rank keeps all of it.
pub(crate) fn objective(
    config: &TrainConfig,
    model: &StableDiffusion,
    data: &Arc<DataSet>,
    ranks: &Ranks,
) -> Result<Box<dyn Objective>> {
    let build = || objective::build(config, model, data);
    let folder = config.data.cache_dir.as_ref().filter(|_| ranks.size() > 1);
    let Some(folder) = folder else { return build() };
    if config.objective_kind().denoises() && config.debug.trace_inputs.is_none() {
        fill_together(config, folder, model, data, ranks)?;
    }
    // What is of one objective alone, the lead makes first.
    let of_lead = ranks.is_lead().then(build).transpose()?;
    ranks.follow_lead("caches")?;
    of_lead.map_or_else(build, Ok)
}

/// Makes this rank's part of what is missing, and waits for the others'. The lead says how many each has made.
fn fill_together(
    config: &TrainConfig,
    folder: &Path,
    model: &StableDiffusion,
    data: &DataSet,
    ranks: &Ranks,
) -> Result<()> {
    let everybody = |about: &str| ranks.gather(about, String::new()).map(drop);
    let is_own = |number: u64| number % ranks.size() as u64 == ranks.rank() as u64;
    let mut silent = |_, _| ();
    if config.data.cache_latents {
        let (mut disk, mut survey) = DiskLatents::open(folder, model, data, "images")?;
        if ranks.is_lead() {
            survey.tell("latents", folder);
        }
        // All have looked before anybody makes one.
        everybody("latents surveyed")?;
        survey.missing.retain(|&image| is_own(image as u64));
        let made = disk.fill(model, &survey, config.data.workers, &mut silent)?;
        tell_who_made(ranks, "images", made)?;
    }
    if config.data.cache_text_encoder_outputs && !config.trains_text_encoder() {
        let (disk, mut survey) =
            DiskTexts::open(folder, model, &data.captions_of_run()?, prompt_reading(&config.model))?;
        if ranks.is_lead() {
            survey.tell("text encoder outputs", folder);
        }
        everybody("texts surveyed")?;
        survey.missing.retain(|text| is_own(u64::from(blake3::hash(text.as_bytes()).as_bytes()[0])));
        disk.fill(model, &survey, &mut silent)?;
        tell_who_made(ranks, "texts", survey.missing.len())?;
    }
    Ok(())
}

/// Waits until every rank has made its part; `own` is how many this one has.
fn tell_who_made(ranks: &Ranks, what: &str, own: usize) -> Result<()> {
    let made = ranks.gather(&format!("{what} made"), own.to_string())?;
    if ranks.is_lead() && made.iter().any(|number| number != "0") {
        let by_rank = made.iter().enumerate().map(|(rank, number)| format!("{number} by rank {rank}"));
        say!("{what} encoded: {}", by_rank.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}
