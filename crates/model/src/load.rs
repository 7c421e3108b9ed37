//! A diffusers folder, a single file or the built-in base → [`StableDiffusion`].

use crate::builder::{Builder, Source};
use crate::builtin;
use crate::error::{Error, Result};
use crate::kinds::dtype_of;
use crate::learned_words::LearnedWords;
use crate::model_configs::ModelConfigs;
use crate::parameters::Parameters;
use crate::stable_diffusion::{Origin, PromptEncoder, StableDiffusion};
use crate::text_encoder::{TextEncoder, TextEncoderConfig};
use crate::unet::UNet2DConditionModel;
use crate::vae::{AutoencoderKL, VaeConfig};

use sdtrain_state_dict::architecture::{Shapes, vae_stays_in_f32};
use sdtrain_state_dict::maps::text_places::TextFolder;
use sdtrain_state_dict::{
    Family, FileKind, LoadReport, PipelineConfigs, Reader, canonical_text_encoder, canonical_unet, canonical_vae,
    ldm_single_file, open_component, open_file, read_json, recognise, text_encoder_folders, unknown_tensors,
    vae_from_metadata, with_averaged_unet,
};
use sdtrain_tokenizer::{Misfit, PromptTokenizer};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where its tensors go.
    pub device: Device,
    /// Dtype of activations and of parameters that are not trained.
    pub compute: Kind,
    /// The UNet's parameters are kept in f32.
    pub unet_in_f32: bool,
    /// The text encoders' parameters are kept in f32.
    pub text_encoder_in_f32: bool,
    /// The VAE's parameters are kept in f32; without, they are where its configuration asks for it.
    pub vae_in_f32: bool,
    /// Weights are drawn from this seed; only the folder's configurations, scheduler and tokenizer are read.
    pub random: Option<u64>,
    /// A diffusers folder whose configurations, scheduler and tokenizer describe a single file that carries none.
    pub config: Option<PathBuf>,
    /// Which variant of the weight files to read, e.g. `fp16`.
    pub variant: Option<String>,
    /// Another VAE than the model's own.
    pub vae: Option<PathBuf>,
    /// Take the running mean of the UNet's weights that a single file has beside them.
    pub extract_ema: bool,
    /// Another text encoder than the model's own, of a family that has one.
    pub text_encoder: Option<OtherTextEncoder>,
    /// The folder of another tokenizer than the text encoder's own.
    pub tokenizer: Option<PathBuf>,
}

/// A text encoder that stands in the place of a model's own.
#[derive(Debug, Clone)]
pub struct OtherTextEncoder {
    /// Its folder, or the diffusers folder that it is a part of.
    pub folder: PathBuf,
    /// Weights are drawn from this seed, and only its `config.json` is read.
    pub random: Option<u64>,
}

impl LoadOptions {
    /// Everything in `compute` on `device`, as for sampling.
    pub fn new(device: Device, compute: Kind) -> LoadOptions {
        LoadOptions {
            device,
            compute,
            unet_in_f32: false,
            text_encoder_in_f32: false,
            vae_in_f32: false,
            random: None,
            config: None,
            variant: None,
            vae: None,
            extract_ema: false,
            text_encoder: None,
            tokenizer: None,
        }
    }

    /// What the parameters of UNet, VAE and text encoders are kept in.
    fn kinds(&self, vae: &VaeConfig) -> [Kind; 3] {
        let stays = |compute| vae_stays_in_f32(vae.force_upcast, compute);
        let vae_in_f32 = self.vae_in_f32 || dtype_of(self.compute).is_some_and(stays);
        [self.unet_in_f32, vae_in_f32, self.text_encoder_in_f32].map(|f32| if f32 { Kind::Float } else { self.compute })
    }
}

/// Loads the model at `location`: `builtin:NAME`, a diffusers folder or one file, `.safetensors` or PyTorch's.
pub fn load(location: &str, options: &LoadOptions) -> Result<StableDiffusion> {
    open(location, options, |parts| parts.assemble(location))
}

/// The same with weights that `edit` has changed: it is given the model in f32 in host memory, so that the sums are the same on
/// every device, and what it leaves there is rounded once to what `options` ask for, as a file with those weights would be.
pub fn load_edited<E: From<Error>>(
    path: &str,
    options: &LoadOptions,
    edit: impl FnOnce(&StableDiffusion) -> std::result::Result<(), E>,
) -> std::result::Result<StableDiffusion, E> {
    let on_host = LoadOptions { device: Device::Cpu, compute: Kind::Float, ..options.clone() };
    let mut model = load(path, &on_host)?;
    edit(&model)?;
    let [unet, vae, text] = options.kinds(model.vae.config());
    model.unet.parameters().convert(options.device, unet)?;
    model.vae.parameters().convert(options.device, vae)?;
    for encoder in &model.text_encoders {
        encoder.network.parameters().convert(options.device, text)?;
    }
    (model.device, model.compute) = (options.device, options.compute);
    model.origin = Origin { location: path.to_string(), options: options.clone(), edited: true };
    Ok(model)
}

/// The VAE of the model that `load` loaded with the same arguments.
pub(crate) fn load_vae(location: &str, options: &LoadOptions) -> Result<AutoencoderKL> {
    open(location, options, |parts| parts.vae())
}

/// The text encoders of the model that `load` loaded with the same arguments.
pub(crate) fn load_text_encoders(location: &str, options: &LoadOptions) -> Result<Vec<Box<dyn TextEncoder>>> {
    open(location, options, |parts| parts.text_encoders())
}

/// Finds everything that the model at `location` is made of, for `build` to make what it wants.
fn open<T>(location: &str, options: &LoadOptions, build: impl FnOnce(Parts) -> Result<T>) -> Result<T> {
    if let Some(name) = location.strip_prefix("builtin:") {
        return from_single_file(Arc::new(builtin::open(name)?), options, build);
    }
    let path = Path::new(location);
    if path.is_dir() {
        return from_folder(path, options, build);
    }
    from_single_file(Arc::from(open_file(path)?), options, build)
}

fn from_folder<T>(folder: &Path, options: &LoadOptions, build: impl FnOnce(Parts) -> Result<T>) -> Result<T> {
    let (family, mut configs, mut tokenizers) = described_by(folder)?;
    if options.extract_ema {
        let reason = "is a folder; the mean of weights lies beside them in single files only, and is a `variant` of a folder's files";
        return Err(Error::Family(format!("`{}` {reason}", folder.display())));
    }
    let other_text = exchange_text(folder, family, &mut configs, &mut tokenizers, options)?;
    let parts = |files| Parts {
        path: folder,
        family,
        configs,
        tokenizers,
        other_text,
        no_tokenizer: None,
        files,
        unknown_tensors: None,
        options,
    };
    if options.random.is_some() {
        return build(parts(None));
    }
    let open = |part: &str, stem: &str| -> Result<Box<dyn Reader>> {
        Ok(open_component(&folder.join(part), stem, options.variant.as_deref())?)
    };
    let unet = canonical_unet(open("unet", "diffusion_pytorch_model")?)?;
    let vae = canonical_vae(open("vae", "diffusion_pytorch_model")?)?;
    let text_encoder = |place: &TextFolder| -> Result<Box<dyn Reader>> {
        Ok(Box::new(canonical_text_encoder(open(place.network, "model")?)?))
    };
    let text_encoders = family.text_folders().iter().map(text_encoder).collect::<Result<Vec<_>>>()?;
    build(parts(Some(Files { unet: &unet, vae: &vae, text_encoders: &text_encoders })))
}

/// Family, configurations and tokenizers of a diffusers folder.
fn described_by(folder: &Path) -> Result<(Family, ModelConfigs, Vec<PromptTokenizer>)> {
    let family = Family::of_supported_folder(folder)?;
    let configs = ModelConfigs::from_json(&PipelineConfigs::of_folder(folder, family)?)?;
    let tokenizer = |(place, config): (&TextFolder, &TextEncoderConfig)| {
        let tokenizer = PromptTokenizer::from_folder(folder.join(place.tokenizer))?;
        Ok(tokenizer.at_most(config.max_position_embeddings()))
    };
    let tokenizers = family.text_folders().iter().zip(&configs.text_encoders).map(tokenizer).collect::<Result<_>>()?;
    Ok((family, configs, tokenizers))
}

fn from_single_file<T>(
    file: Arc<dyn Reader>,
    options: &LoadOptions,
    build: impl FnOnce(Parts) -> Result<T>,
) -> Result<T> {
    let path = file.path().to_path_buf();
    let file: Arc<dyn Reader> = if options.extract_ema { with_averaged_unet(file)? } else { file };
    let kind = recognise(file.as_ref());
    let FileKind::Ldm { family, input, .. } = kind else {
        let families = "only whole models of the SD1, SD2 and SDXL families can be loaded";
        return Err(Error::Family(format!("`{}` is a {kind}; {families}", path.display())));
    };
    family.check_supported(input, &path)?;
    let mut no_tokenizer = None;
    let (mut configs, mut tokenizers) = match (&options.config, embedded(file.as_ref(), family)?) {
        (Some(folder), _) => {
            let (_, configs, tokenizers) = described_by(folder)?;
            (configs, tokenizers)
        }
        (None, Some(embedded)) => embedded,
        (None, None) => {
            let assumed = PipelineConfigs::assumed_of(file.as_ref(), family)?;
            if options.text_encoder.is_none() && options.tokenizer.is_none() {
                no_tokenizer = assumed.check_reads_words_of_clip(&path).err();
            }
            let tokenizer = |pad: &&str| Ok(PromptTokenizer::builtin_padded_with(pad)?);
            let tokenizers = family.pad_tokens().iter().map(tokenizer).collect::<Result<_>>()?;
            (ModelConfigs::from_json(&assumed)?, tokenizers)
        }
    };
    let other_text = exchange_text(&path, family, &mut configs, &mut tokenizers, options)?;
    let is_exchanged = other_text.is_some();
    let described = |files, unknown_tensors| Parts {
        path: &path,
        family,
        configs,
        tokenizers,
        other_text,
        no_tokenizer,
        files,
        unknown_tensors,
        options,
    };
    if options.random.is_some() {
        return build(described(None, None));
    }
    let parts = ldm_single_file(file)?;
    let unknown = unknown_tensors(&parts.leftover);
    let lacks = |part: &str| Error::Family(format!("`{}` holds no {part}", path.display()));
    let vae = parts.vae.as_ref().ok_or_else(|| lacks("VAE"))?;
    match (parts.text_encoders.len(), family.text_places().len()) {
        (0, _) if !is_exchanged => Err(lacks("text encoder")),
        (1, 2) => Err(lacks("second text encoder")),
        _ => build(described(Some(Files { unet: &parts.unet, vae, text_encoders: &parts.text_encoders }), unknown)),
    }
}

/// Configurations and tokenizers in the metadata of a single file that this program wrote for a model that differs from SD1
/// in more than its weights, which a reader could not know.
fn embedded(file: &dyn Reader, family: Family) -> Result<Option<(ModelConfigs, Vec<PromptTokenizer>)>> {
    let Some((configs, files)) = PipelineConfigs::from_metadata(file.path(), file.metadata())? else {
        return Ok(None);
    };
    let configs = ModelConfigs::from_json(&configs)?;
    let tokenizer = |(pad, config): (&&str, &TextEncoderConfig)| {
        Ok(PromptTokenizer::embedded(file.path(), &files, pad, config.max_position_embeddings())?)
    };
    let tokenizers = family.pad_tokens().iter().zip(&configs.text_encoders).map(tokenizer).collect::<Result<_>>()?;
    Ok(Some((configs, tokenizers)))
}

/// Puts the text encoder and the tokenizer that `options` name in the place of those of the model at `path`.
fn exchange_text(
    path: &Path,
    family: Family,
    configs: &mut ModelConfigs,
    tokenizers: &mut Vec<PromptTokenizer>,
    options: &LoadOptions,
) -> Result<Option<OtherText>> {
    if options.text_encoder.is_none() && options.tokenizer.is_none() {
        return Ok(None);
    }
    if tokenizers.len() != 1 {
        let (path, title) = (path.display(), family.title());
        return Err(Error::Family(format!(
            "`{path}` is of the {title} family, which has two text encoders; only of a model with one another can take its place"
        )));
    }
    let (mut other, mut tokenizer) = (None, None);
    if let Some(OtherTextEncoder { folder, random }) = &options.text_encoder {
        let (network, own_tokenizer) = text_encoder_folders(folder);
        configs.text_encoders = vec![TextEncoderConfig::from_json(&read_json(&network.join("config.json"))?)?];
        configs.check()?;
        other = Some(match random {
            Some(seed) => OtherText::Random(*seed),
            None => OtherText::File(Box::new(canonical_text_encoder(open_component(&network, "model", None)?)?)),
        });
        match PromptTokenizer::from_folder(own_tokenizer) {
            Err(sdtrain_tokenizer::Error::NoTokenizer { .. }) => {}
            found => tokenizer = Some(found?),
        }
    }
    if let Some(folder) = &options.tokenizer {
        tokenizer = Some(PromptTokenizer::from_folder(folder)?);
    }
    let own = tokenizers.remove(0);
    tokenizers.push(tokenizer.unwrap_or(own).at_most(configs.text_encoders[0].max_position_embeddings()));
    Ok(other)
}

/// The weights of a text encoder that is not the model's own.
enum OtherText {
    File(Box<dyn Reader>),
    Random(u64),
}

/// Where the weights of each network are.
#[derive(Clone, Copy)]
struct Files<'a> {
    unet: &'a dyn Reader,
    vae: &'a dyn Reader,
    text_encoders: &'a [Box<dyn Reader>],
}

/// What a model is made of, found but not read yet.
struct Parts<'a> {
    path: &'a Path,
    family: Family,
    configs: ModelConfigs,
    tokenizers: Vec<PromptTokenizer>,
    other_text: Option<OtherText>,
    /// That the tokenizer is CLIP's for want of another, and the text encoder does not read its words.
    no_tokenizer: Option<sdtrain_state_dict::Error>,
    /// Absent: weights are drawn from `options.random`.
    files: Option<Files<'a>>,
    /// See [`StableDiffusion::unknown_tensors`].
    unknown_tensors: Option<String>,
    options: &'a LoadOptions,
}

impl<'a> Parts<'a> {
    fn source(&self, file: impl FnOnce(Files<'a>) -> &'a dyn Reader) -> Source<'a> {
        let random = Source::Random(self.options.random.unwrap_or_default());
        self.files.map_or(random, |files| Source::File(file(files)))
    }

    fn text_encoders(&self) -> Result<Vec<Box<dyn TextEncoder>>> {
        let [_, _, kind] = self.options.kinds(&self.configs.vae);
        let build = |(index, config): (usize, &TextEncoderConfig)| {
            let source = match &self.other_text {
                Some(OtherText::File(file)) => Source::File(file),
                Some(OtherText::Random(seed)) => Source::Random(*seed),
                None => self.source(|files| &*files.text_encoders[index]),
            };
            built(source, kind, self.options.device, |builder| config.build(builder), |network| network.parameters())
        };
        self.configs.text_encoders.iter().enumerate().map(build).collect()
    }

    fn unet(&self) -> Result<UNet2DConditionModel> {
        let [kind, _, _] = self.options.kinds(&self.configs.vae);
        let (source, config) = (self.source(|files| files.unet), &self.configs.unet);
        built(
            source,
            kind,
            self.options.device,
            |builder| UNet2DConditionModel::new(builder, config),
            UNet2DConditionModel::parameters,
        )
    }

    fn vae(&self) -> Result<AutoencoderKL> {
        let config = &self.configs.vae;
        match &self.options.vae {
            Some(other) => other_vae(other, config, self.options),
            None => built_vae(self.source(|files| files.vae), config, self.options),
        }
    }

    /// That the tokenizers make no token that a text encoder does not know, and that one which was put beside another's weights is theirs, as
    /// far as it can be told. What came together was made together: a text encoder that was drawn larger than it had to be is one.
    fn check_vocabularies(&self) -> Result<()> {
        let is_exchanged = match &self.other_text {
            Some(OtherText::File(_)) => true,
            Some(OtherText::Random(_)) => false,
            None => self.options.tokenizer.is_some() && self.files.is_some(),
        };
        let places = self.family.text_folders().iter();
        for ((place, tokenizer), config) in places.zip(&self.tokenizers).zip(&self.configs.text_encoders) {
            let misfit = Misfit::of(tokenizer, config.word_table()).filter(Misfit::is_certain);
            if let Some(misfit) = misfit.filter(|misfit| is_exchanged || misfit.counts_for_drawn()) {
                let [tokenizer, network] = [place.tokenizer, place.network].map(|name| name.replace('_', " "));
                let (path, said) = (self.path.display(), misfit.in_words(&tokenizer, &network));
                return Err(Error::Config(format!("`{path}`: {said}")));
            }
        }
        Ok(())
    }

    /// That the networks of a single file fit, all of them in one report; those of a folder have files of their own, which are checked
    /// when they are read. [`built`] holds each against its network once more, since networks are loaded alone, too: that reads no weight,
    /// and a second look at shapes takes less than to tell every way there that the first has been.
    fn check_fit(&self) -> Result<()> {
        let Some(files) = self.files.filter(|_| !self.path.is_dir()) else { return Ok(()) };
        let unet = |builder: Builder<'_>| UNet2DConditionModel::new(builder, &self.configs.unet);
        let mut reports = vec![("unet", report(files.unet, unet, UNet2DConditionModel::parameters)?)];
        if self.options.vae.is_none() {
            let vae = |builder: Builder<'_>| AutoencoderKL::new(builder, &self.configs.vae);
            reports.push(("vae", report(files.vae, vae, AutoencoderKL::parameters)?));
        }
        if self.other_text.is_none() {
            let places = self.family.text_folders().iter();
            for ((place, config), file) in places.zip(&self.configs.text_encoders).zip(files.text_encoders) {
                let text_encoder = |builder: Builder<'_>| config.build(builder);
                reports.push((place.network, report(file, text_encoder, |network| network.parameters())?));
            }
        }
        Ok(LoadReport::of_model(self.path, reports).into_result()?)
    }

    fn assemble(mut self, location: &str) -> Result<StableDiffusion> {
        self.check_fit()?;
        if let Some(error) = self.no_tokenizer.take() {
            return Err(error.into());
        }
        self.check_vocabularies()?;
        let (vae, networks, unet) = (self.vae()?, self.text_encoders()?, self.unet()?);
        let folders = self.family.text_folders().iter();
        let text_encoders = folders.zip(self.tokenizers).zip(networks).map(|((folder, tokenizer), network)| {
            PromptEncoder { name: folder.network, tokenizer: Rc::new(tokenizer), network }
        });
        Ok(StableDiffusion {
            path: self.path.to_path_buf(),
            family: self.family,
            text_encoders: text_encoders.collect(),
            learned: LearnedWords::default(),
            vae,
            unet,
            scheduler: self.configs.scheduler,
            zeros_for_empty_prompt: self.configs.zeros_for_empty_prompt,
            device: self.options.device,
            compute: self.options.compute,
            unknown_tensors: self.unknown_tensors,
            origin: Origin { location: location.to_string(), options: self.options.clone(), edited: false },
            unloaded: RefCell::default(),
        })
    }
}

/// A VAE by itself: a diffusers folder (its `config.json` counts), or a file in either naming, also one of a whole model
/// (what its metadata say counts, else `config`).
fn other_vae(path: &Path, config: &VaeConfig, options: &LoadOptions) -> Result<AutoencoderKL> {
    let own_config;
    let (file, config): (Box<dyn Reader>, _) = if path.is_dir() {
        own_config = VaeConfig::from_json(&read_json(&path.join("config.json"))?)?;
        (open_component(path, "diffusion_pytorch_model", None)?, &own_config)
    } else {
        let file = open_file(path)?;
        // A file of this program says how its VAE is made.
        own_config = match vae_from_metadata(file.path(), file.metadata())? {
            Some(told) => VaeConfig::from_json(&told)?,
            None => config.clone(),
        };
        (file, &own_config)
    };
    let reader = canonical_vae(file)?;
    // By its own configuration: one that does well in 16 bits says so there.
    built_vae(Source::File(&reader), config, options)
}

fn built_vae(source: Source<'_>, config: &VaeConfig, options: &LoadOptions) -> Result<AutoencoderKL> {
    let [_, kind, _] = options.kinds(config);
    built(source, kind, options.device, |builder| AutoencoderKL::new(builder, config), AutoencoderKL::parameters)
}

/// The network that `make` makes of the weights in `source`. A file is first held against the names and shapes that it asks for: what is
/// missing, of another shape or not of this network is one report, and nothing of the file was read for it.
fn built<Network>(
    source: Source<'_>,
    kind: Kind,
    device: Device,
    make: impl Fn(Builder<'_>) -> Result<Network>,
    parameters: impl Fn(&Network) -> &Parameters,
) -> Result<Network> {
    if let Source::File(file) = source {
        report(file, &make, parameters)?.into_result()?;
    }
    make(Builder::new(source, kind, device))
}

/// What does not fit when the tensors of `file` meet the network that `make` makes.
fn report<Network>(
    file: &dyn Reader,
    make: impl Fn(Builder<'_>) -> Result<Network>,
    parameters: impl Fn(&Network) -> &Parameters,
) -> Result<LoadReport> {
    let without_weights = make(Builder::new(Source::Shapes, Kind::Float, Device::Cpu))?;
    let shape = |tensor: &Tensor| -> Vec<usize> { tensor.size().into_iter().map(|side| side as usize).collect() };
    let tensors = parameters(&without_weights).iter();
    let asked: Shapes = tensors.map(|(name, tensor)| (name.to_string(), shape(tensor))).collect();
    Ok(LoadReport::of_network(&asked, file))
}
