//! Configuration → a run that is ready for its first step, in numbered steps.

use crate::caption_templates::TemplateCaptions;
use crate::class_images::with_class_images;
use crate::continuation;
use crate::error::{Error, Result};
use crate::identity::{self, DataDigest};
use crate::input_files::Inputs;
use crate::metadata::{self, RunFacts};
use crate::precision::kind_of;
use crate::ranks::{
    Alone, Facts, Flat, Gathered, GradientReducer, Overlapped, Ranks, Sharded, SharedOut, Shares, short,
};
use crate::rates;
use crate::run_folder::{ResumePolicy, RunFolder, Start};
use crate::samples;
use crate::shared_caches;
use crate::spikes::Spikes;
use crate::trainable;
use crate::trainer::{Outcome, Trainer};
use crate::validation::Validation;
use sdtrain_adapter::{WeightedAdapter, describe, fold};
use sdtrain_checkpoint::{ManifestInfo, probe};
use sdtrain_data_loader::DataSet;
use sdtrain_diffusion::{NoiseSchedule, PredictionType, SchedulerConfig};
use sdtrain_evaluate::prompt_reading;
use sdtrain_files::say;
use sdtrain_model::{LoadOptions, OtherTextEncoder, StableDiffusion, load, load_edited};
use sdtrain_optimizer::{Ema, GradScaler, Optimizer, ParamGroup, Storage, build_stored, convert_parameters};
use sdtrain_pipeline::sampler_for;
use sdtrain_recipe::{
    DataConfig, FloatType, Init, Learning, ModelLocation, ObjectiveKind, SamplerName, StoredType, TrainConfig,
    local_path,
};
use sdtrain_run_log::{
    Device as DeviceRecord, Program, RunRecord, git_commit, instruction_set, processor_name, program_digest,
};
use sdtrain_signals::StopRequest;
use sdtrain_state_dict::maps::textual_inversion::bundled_words;
use sdtrain_state_dict::open_file;
use sdtrain_torch::torch_version;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tch::Device;

/// What the command line adds to the configuration.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Everything the run writes goes here.
    pub output: PathBuf,
    /// The device's name: `auto`, `cpu`, `cuda:N`.
    pub device: String,
    /// What to do with an output folder that exists.
    pub resume: ResumePolicy,
}

/// Trains as `config` says.
pub fn train(config: TrainConfig, options: &RunOptions) -> Result<Outcome> {
    let stop = StopRequest::listen().map_err(|error| Error::storage("signals", error))?;
    train_unless(&stop, config, options)
}

/// The same for who listens to signals himself, as between two runs.
pub fn train_unless(stop: &StopRequest, config: TrainConfig, options: &RunOptions) -> Result<Outcome> {
    train_together(stop, config, options, &Rc::new(Ranks::alone()))
}

/// The same as one of several ranks, all of which call it with the same configuration and options.
pub fn train_together(
    stop: &StopRequest,
    mut config: TrainConfig,
    options: &RunOptions,
    ranks: &Rc<Ranks>,
) -> Result<Outcome> {
    let started = Instant::now();
    config.data.check_images_are_used().map_err(|(message, hint)| Error::Config { message, hint: Some(hint) })?;
    // 1 device and threads
    sdtrain_torch::use_threads(config.train.threads);
    let device = sdtrain_torch::device(&options.device)?;
    ranks.use_device(device)?;
    if let Some(allowed) = config.precision.tf32 {
        sdtrain_torch::allow_tf32(allowed)?;
    }
    if config.train.fused_backward || !Storage::of(&config.precision, config.seed).is_plain() {
        sdtrain_torch::keep_freed_blocks()?;
    }
    let mut folder = RunFolder::open_together(&mut config, &options.output, &options.resume, ranks)?;
    if folder.start == Start::Finished {
        return Ok(Outcome::AlreadyDone);
    }
    if let Some(reason) = &folder.writes_again {
        say!("{reason}");
    }
    if let Some((message, hint)) = config.train.fused_backward_refused() {
        return Err(Error::Config { message: message.into(), hint: Some(hint.into()) });
    }
    let program = program();
    let build = build_of(&program);
    if ranks.size() > 1 {
        // What decides which way the ranks go from here on; what they train on is compared when it is known.
        ranks.compare(&facts_of_program(&config, &build, device))?;
    }
    if ranks.is_lead() {
        // Better now than at the first checkpoint.
        probe(&folder.checkpoints())?;
    }
    let mut record = RunRecord::begin(program, device_record(device));
    // 2 model
    record.phase("load_model");
    let model = load_model(&config, device)?;
    let base = identity::of_base(&model)?;
    // 3 data
    record.phase("open_data");
    // The lead draws what is missing and hashes what is new, once.
    let opened = |is_lead: bool| {
        let with_class = with_class_images(&config, &model, &folder.path, is_lead)?;
        open_data(&with_class, model.bucket_step(), ranks)
    };
    let mut opened_by_lead = None;
    if ranks.is_lead() {
        opened_by_lead = Some(opened(true)?);
    }
    ranks.follow_lead("data")?;
    let (data, held_out) = opened_by_lead.map_or_else(|| opened(false), Ok)?;
    // Measuring is the lead's.
    let held_out = held_out.filter(|_| ranks.is_lead());
    if ranks.is_lead() {
        say!("{}", data.report());
    }
    let captions = (0..data.images()).map(|image| data.caption(image));
    config.check_words_are_used(captions).map_err(|(message, hint)| Error::Config { message, hint: Some(hint) })?;
    for warning in words_left_behind(&config)?.iter().filter(|_| ranks.is_lead()) {
        say!("warning: {warning}");
    }
    // Whoever may not go on with this data or this base hears it before anything is encoded.
    let fused = match fused_adapters(&config)?.as_slice() {
        [] => None,
        adapters => Some(describe(adapters)?),
    };
    let mut data_digest = DataDigest::of(&data);
    let mut manifest = ManifestInfo {
        run_id: record.run_id.clone(),
        config_digest: blake3::hash(config.to_toml().as_bytes()).to_hex().to_string(),
        build,
        threads: tch::get_num_threads() as usize,
        instruction_set: instruction_set().unwrap_or_default(),
        details: continuation::details(&config, base, fused.clone(), device)?,
        ..ManifestInfo::default()
    };
    if ranks.is_lead() {
        continuation::check(&config, &mut folder, &mut manifest, &mut data_digest)?;
    }
    folder.hear_changes(ranks)?;
    if ranks.size() > 1 {
        ranks.compare(&continuation::facts(&manifest, &data_digest.get()?, &identity::of_all_numbers(&model)?))?;
    }
    record.changes = continuation::changes_in(&manifest);
    // 4 what is trained
    let trainable = trainable::build(&config, &model)?;
    // Rates that do not go together are refused before anything is encoded.
    let groups = rates::of_run(&config, trainable.param_groups(&model))?;
    record.phase("encode");
    // 5 what it is asked for
    let prompt_reading = prompt_reading(&config.model);
    let prediction_type = NoiseSchedule::new(&model.scheduler)?.prediction_type();
    let validation = held_out.as_ref().map(|data| Validation::new(&config, &model, data)).transpose()?;
    let objective = shared_caches::objective(&config, &model, &data, ranks)?;
    // 6 how it follows its gradients
    warn_of_blind_channels(&config, &model, &groups)?;
    let storage = Storage::of(&config.precision, config.seed);
    let gathered = Gathered::default();
    let (optimizer, reducer) = shared_out(&config, groups, storage, ranks, &gathered)?;
    let scaler = (config.precision.compute == FloatType::Fp16).then(GradScaler::default);
    // The average is the lead's, who alone saves and measures.
    let averages = config.ema.enabled && ranks.is_lead();
    let ema = averages.then(|| Ema::new(&config.ema, optimizer.groups()));
    // 7 the run
    let total_steps = data.total_steps(&config.train);
    if let Some((_, message, hint)) = config.length_refused(total_steps) {
        return Err(Error::Config { message, hint: Some(hint) });
    }
    folder.check_end(total_steps)?;
    if let Some(warning) = config.lr_schedule.warmup_warning(total_steps).filter(|_| ranks.is_lead()) {
        say!("warning: {warning}");
    }
    let folders = data.folders();
    let facts = RunFacts {
        num_train_images: data.report().visits_per_epoch - data.report().regularization_visits,
        num_reg_images: data.report().regularization_visits,
        num_validation_images: held_out.as_ref().map_or(0, DataSet::images),
        folders: &folders,
        files: metadata::of_files(&config)?,
        num_batches_per_epoch: data.report().batches_per_epoch,
        max_train_steps: total_steps,
        groups: optimizer.groups(),
        family: model.family,
        prediction_type,
        zero_terminal_snr: model.scheduler.rescale_betas_zero_snr == Some(true),
        adapter: trainable.adapter_kind(),
        clip_skip: config.model.clip_skip,
        fused: fused.as_deref(),
    };
    let metadata = metadata::product_metadata(&config, &facts, total_steps, 1);
    // The tags of a large data set are not kept while it is trained on.
    drop(folders);
    if let Some(folder) = config.debug.trace.as_ref().and_then(|path| path.parent()) {
        // Better now than after the steps.
        std::fs::create_dir_all(folder).map_err(|error| Error::storage(folder, error))?;
    }
    let sample_requests = samples::requests(&config.sample_pictures(), prompt_reading);
    let inputs = Inputs::hash(&config);
    let templates = TemplateCaptions::of(&config);
    let trainer = Trainer {
        config,
        folder,
        record,
        manifest,
        model,
        data,
        trainable,
        objective,
        optimizer,
        scaler,
        ema,
        held_out,
        validation,
        sample_requests,
        metadata,
        trace: None,
        profile: None,
        total_steps,
        started,
        inputs,
        templates,
        torn: false,
        left_out: BTreeSet::new(),
        saved_step: Cell::new(None),
        saved_together: None,
        is_folder_new: Cell::new(false),
        reserve: Default::default(),
        was_disk_full: Default::default(),
        grace_is_short: false,
        data_digest,
        spikes: Spikes::default(),
        ranks: Rc::clone(ranks),
        reducer,
        gradient_order: Arc::default(),
        gathered,
    };
    trainer.run(stop)
}

/// The optimizer of the run, of this rank's share alone where it is shared out, and how gradients become one for it.
fn shared_out(
    config: &TrainConfig,
    groups: Vec<ParamGroup>,
    storage: Storage,
    ranks: &Ranks,
    gathered: &Gathered,
) -> Result<(Box<dyn Optimizer>, Box<dyn GradientReducer>)> {
    if ranks.size() > 1 && config.ranks.shard_optimizer {
        // Those of others, too: all ranks compute with the same weights.
        convert_parameters(&groups, &storage)?;
        let shares = Arc::new(Shares::of_groups(&groups, ranks.size()));
        let own = build_stored(&config.optimizer, shares.groups_of(ranks.rank(), &groups), storage, false)?;
        let sharded = Sharded::new(own, groups, Arc::clone(gathered));
        return Ok((Box::new(sharded), Box::new(SharedOut { shares })));
    }
    // The reducer's buckets lie where the weights are; Gloo takes none from a GPU.
    let mut weights = groups.iter().flat_map(|group| &group.parameters);
    let travel_as_they_are = weights.all(|(_, weight)| weight.device() == ranks.buffer_device());
    let optimizer = build_stored(&config.optimizer, groups, storage, config.train.fused_backward)?;
    // Sums in half of the digits are no sums.
    let is_wide = config.precision.weights == StoredType::Fp32;
    let overlaps = config.overlaps_reduction() && is_wide && travel_as_they_are;
    let reducer: Box<dyn GradientReducer> = match (ranks.is_alone(), overlaps) {
        (true, _) => Box::new(Alone),
        (_, true) => Box::new(Overlapped::default()),
        (_, false) => Box::new(Flat::default()),
    };
    Ok((optimizer, reducer))
}

/// What all ranks must have in common before they go the same way.
fn facts_of_program(config: &TrainConfig, build: &str, device: Device) -> Facts {
    let mut facts = BTreeMap::from(
        [
            ("build", build.to_string()),
            ("seed", config.seed.to_string()),
            ("processor threads", tch::get_num_threads().to_string()),
            ("instruction set", instruction_set().unwrap_or_default()),
            ("device", if device.is_cuda() { "cuda" } else { "cpu" }.to_string()),
        ]
        .map(|(name, value)| (name.to_string(), value)),
    );
    let configuration = serde_json::to_value(config).unwrap_or_default();
    // What is recorded may be one rank's alone.
    for (name, value) in configuration.as_object().into_iter().flatten().filter(|(name, _)| *name != "debug") {
        let digest = blake3::hash(value.to_string().as_bytes()).to_hex();
        facts.insert(format!("configuration, `{name}`"), short(&digest));
    }
    Facts(facts)
}

/// Warnings of words in the adapter files of `config` that its run leaves behind.
fn words_left_behind(config: &TrainConfig) -> Result<Vec<String>> {
    config.words_left_behind(|path| Ok(bundled_words(&open_file(local_file(path)?)?)))
}

/// The program as a manifest names it.
fn build_of(program: &Program) -> String {
    let commit = program.git_commit.as_deref().map(|commit| format!(" ({commit})")).unwrap_or_default();
    let versions = program.versions.iter().map(|(name, version)| format!(", {name} {version}")).collect::<String>();
    format!("{} {}{commit}{versions}", program.name, program.version)
}

fn program() -> Program {
    Program {
        name: "sdtrain".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        // Of the folder that this program was built in, which `scripts/run` does before every call.
        git_commit: git_commit(Path::new(env!("CARGO_MANIFEST_DIR"))),
        // The folder may have moved on, or hold changes that are in no commit: what tells two programs apart is their content.
        versions: [("executable", program_digest()), ("libtorch", Some(torch_version().to_string()))]
            .into_iter()
            .filter_map(|(name, version)| Some((name.to_string(), version?)))
            .collect(),
    }
}

fn device_record(device: Device) -> DeviceRecord {
    let kind = match device {
        Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".to_string(),
    };
    DeviceRecord {
        kind,
        name: continuation::model_of(device).or_else(processor_name),
        threads: tch::get_num_threads() as usize,
        instruction_set: instruction_set(),
    }
}

/// Loads the model with the trained networks in f32, unless their weights are to be bf16, and the others in the compute dtype.
pub fn load_model(config: &TrainConfig, device: Device) -> Result<StableDiffusion> {
    let trained = config.trainable_facts();
    let in_f32 = |network| network == Learning::Weights && config.precision.weights == StoredType::Fp32;
    let options = LoadOptions {
        unet_in_f32: in_f32(trained.unet),
        text_encoder_in_f32: in_f32(trained.text_encoder),
        vae_in_f32: in_f32(trained.vae),
        random: (config.model.init == Init::Random).then_some(config.seed),
        variant: config.model.variant.clone(),
        vae: config.model.vae.as_deref().map(local_file).transpose()?,
        extract_ema: config.model.extract_ema,
        text_encoder: config.model.text_encoder.as_deref().map(local_file).transpose()?.map(|folder| {
            OtherTextEncoder { folder, random: (config.model.text_encoder_init == Init::Random).then_some(config.seed) }
        }),
        tokenizer: config.model.tokenizer.as_deref().map(local_file).transpose()?,
        ..LoadOptions::new(device, kind_of(config.precision.compute))
    };
    let location =
        ModelLocation::find(&config.model.path).map_err(|(message, hint)| Error::Config { message, hint })?;
    let mut model = match fused_adapters(config)?.as_slice() {
        [] => load(&location.to_string(), &options)?,
        adapters => load_edited(&location.to_string(), &options, |model| Ok::<_, Error>(fold(model, adapters)?))?,
    };
    model.scheduler = scheduler_of(config, &model.scheduler);
    check_against_model(config, &model)?;
    if let Some(unknown) = &model.unknown_tensors {
        say!("warning: `{}` holds {unknown}; nothing reads them", model.path.display());
    }
    Ok(model)
}

/// Says so where a model was made for inpainting and not trained for it, and the run of `groups` leaves the weights of its new channels
/// alone, without an adapter beside them: whatever it learns, the mask would change nothing.
fn warn_of_blind_channels(config: &TrainConfig, model: &StableDiffusion, groups: &[ParamGroup]) -> Result<()> {
    // The weight's name begins so, and those of its adapters; the bias says nothing of single channels.
    let is_conv_in = |name: &str| name.starts_with("unet.conv_in.") && name != "unet.conv_in.bias";
    let mut learning = groups.iter().filter(|group| group.learning_rate != 0.0).flat_map(|group| &group.parameters);
    if config.objective_kind() != ObjectiveKind::Inpainting || learning.any(|(name, _)| is_conv_in(name)) {
        return Ok(());
    }
    let Some(weight) = model.unet.parameters().get("conv_in.weight").filter(|_| model.takes_mask()) else {
        return Ok(());
    };
    let own = model.unet.config().out_channels;
    let largest = weight.f_narrow(1, own, weight.size()[1] - own)?.f_abs()?.f_max()?.f_double_value(&[])?;
    if largest == 0.0 {
        say!("warning: the UNet's weights for mask and picture are all zero, and this run leaves them so");
        say!(
            "  hint: `trainable = \"full\"` trains them (`unet.conv_in.weight`), or take a model that was trained for inpainting"
        );
    }
    Ok(())
}

/// The adapters that become a part of the base.
fn fused_adapters(config: &TrainConfig) -> Result<Vec<WeightedAdapter>> {
    let fused = config.model.fuse.iter();
    fused.map(|fused| Ok(WeightedAdapter { path: local_file(&fused.path)?, weight: fused.weight })).collect()
}

/// The file or folder that a path or a name of the hub stands for.
pub(crate) fn local_file(path: &Path) -> Result<PathBuf> {
    local_path(path).map_err(|(message, hint)| Error::Config { message, hint })
}

/// What only the model's own configuration can show to be wrong.
fn check_against_model(config: &TrainConfig, model: &StableDiffusion) -> Result<()> {
    let wrong = |message: String, hint: &str| Err(Error::Config { message, hint: Some(hint.into()) });
    if let Some((message, hint)) = config.unet_input_refused(model.unet.config().in_channels) {
        return wrong(message, &hint);
    }
    let scheduler = &model.scheduler;
    let schedule = NoiseSchedule::new(scheduler)?;
    let timesteps = schedule.num_train_timesteps() as u64;
    for (key, value) in [("min", Some(config.timesteps.min + 1)), ("max", config.timesteps.max)] {
        if value.is_some_and(|value| u64::from(value) > timesteps) {
            let message = format!("`timesteps.{key}`: the model has {timesteps} timesteps, 0 to {}", timesteps - 1);
            return wrong(message, "leave it out for all of them");
        }
    }
    if config.objective_kind().denoises() {
        let rescaled = scheduler.rescale_betas_zero_snr == Some(true);
        let trains_the_last = config.timesteps.max.is_none_or(|max| u64::from(max) >= timesteps);
        if rescaled && trains_the_last && schedule.prediction_type() == PredictionType::Epsilon {
            let message = "`model.zero_terminal_snr`: the model predicts the noise, of which pure noise says nothing";
            let hint = "set `model.prediction_type = \"v_prediction\"` with it, or `model.zero_terminal_snr = false` where \
                        only the model's own files ask for it";
            return wrong(message.into(), hint);
        }
        let prediction_type = match schedule.prediction_type() {
            PredictionType::Epsilon => sdtrain_recipe::PredictionType::Epsilon,
            PredictionType::VPrediction => sdtrain_recipe::PredictionType::VPrediction,
            PredictionType::Sample => sdtrain_recipe::PredictionType::Sample,
        };
        if let Some((_, message, hint)) = config.loss.contradiction(prediction_type, rescaled) {
            return wrong(message, hint);
        }
    }
    for (section, sampler, steps) in samplers_of(config) {
        if let Err(error) = sampler_for(scheduler, sampler, steps as usize) {
            return wrong(format!("`{section}.steps`, `{section}.sampler`: {error}"), "20 to 50 steps are usual");
        }
    }
    let layers = model.text_layers();
    if config.model.clip_skip.is_some_and(|skip| skip as usize > layers) {
        return wrong(format!("`model.clip_skip`: the text encoder has only {layers} layers"), "2 is the usual value");
    }
    Ok(())
}

/// The samplers that the run will draw with, each once: its section of the configuration, its name, its steps.
fn samplers_of(config: &TrainConfig) -> Vec<(&'static str, Option<SamplerName>, u32)> {
    let of_class_images = ("dreambooth", config.dreambooth.sampler, config.dreambooth.steps);
    let mut samplers = Vec::from_iter(config.uses_class_images().then_some(of_class_images));
    for picture in config.sample_pictures() {
        let sampler = ("samples", picture.sampler, picture.steps);
        if !samplers.contains(&sampler) {
            samplers.push(sampler);
        }
    }
    samplers
}

/// The model's scheduler configuration with what `[model]` says about it.
fn scheduler_of(config: &TrainConfig, scheduler: &SchedulerConfig) -> SchedulerConfig {
    let mut scheduler = scheduler.clone();
    if let Some(prediction_type) = config.model.prediction_type {
        scheduler.prediction_type = Some(match prediction_type {
            sdtrain_recipe::PredictionType::Epsilon => PredictionType::Epsilon,
            sdtrain_recipe::PredictionType::VPrediction => PredictionType::VPrediction,
            sdtrain_recipe::PredictionType::Sample => PredictionType::Sample,
        });
    }
    if let Some(rescale) = config.model.zero_terminal_snr {
        scheduler.rescale_betas_zero_snr = Some(rescale);
    }
    scheduler
}

/// The training images, and the held-out ones where there are any.
pub(crate) fn open_data(
    config: &TrainConfig,
    bucket_step: usize,
    ranks: &Ranks,
) -> Result<(Arc<DataSet>, Option<DataSet>)> {
    let parts = ranks.parts(config.train.ranks())?;
    if let (None, Some(split)) = (&config.validation.path, config.validation.split) {
        let (data, held_out) = DataSet::open_split(&config.data, config.seed, bucket_step, split)?;
        return Ok((Arc::new(data.for_run(&config.train, &config.loss).for_ranks(&parts)?), Some(held_out)));
    }
    let data = DataSet::open(&config.data, config.seed, bucket_step)?;
    let mut data = data.for_run(&config.train, &config.loss).for_ranks(&parts)?;
    let held_out = open_held_out(config, bucket_step)?;
    if let Some(held_out) = &held_out {
        data = data.compared_with(held_out);
    }
    Ok((Arc::new(data), held_out))
}

/// The held-out images of `[validation]`, if there are any.
pub fn open_held_out(config: &TrainConfig, bucket_step: usize) -> Result<Option<DataSet>> {
    match (&config.validation.path, config.validation.split) {
        (Some(path), _) => {
            let subsets = vec![config.held_out_subset(path)];
            // Held-out images may be fewer than a training batch.
            let data = DataConfig { subsets, batch_size: 1, ..config.data.clone() };
            Ok(Some(DataSet::open(&data, config.seed, bucket_step)?))
        }
        (None, Some(split)) => Ok(Some(DataSet::open_split(&config.data, config.seed, bucket_step, split)?.1)),
        (None, None) => Ok(None),
    }
}
