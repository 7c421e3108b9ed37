//! Adapter files: read in kohya's and in PEFT's form, written in either.

use crate::error::{Error, Result};
use crate::kinds::{Described, LayerTensors, read_layer};
use crate::layer::{Attached, Form};
use crate::lora::{Lora, LoraModule, Networks};
use crate::metadata::peft_metadata;
use crate::site::Site;
use sdtrain_model::{Adaptable, TensorReader, read_tensor, read_weight};
use sdtrain_state_dict::maps::adapter_family::family_of_adapter_file;
use sdtrain_state_dict::maps::lora_kohya::{KohyaModules, is_kohya_name, kohya_name};
use sdtrain_state_dict::maps::lora_peft::{self, LoraKey, LoraTensor, Part, peft_name};
use sdtrain_state_dict::maps::peft_metadata::{self, PeftConfig};
use sdtrain_state_dict::maps::textual_inversion::BUNDLE_PREFIX;
use sdtrain_state_dict::{Family, FileKind, Reader, recognise, write_source};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// An adapter file's tensors, sorted out by layer.
#[derive(Debug)]
pub struct LoraFile {
    layers: BTreeMap<(Part, String), LayerTensors>,
    /// What the metadata of files in PEFT's form says of each network.
    described: BTreeMap<Part, PeftConfig>,
    name: String,
    /// The family that they show to be for.
    family: Option<Family>,
}

impl LoraFile {
    /// Reads all adapters of `reader`, whose layers must be among those of `networks`.
    pub fn read(reader: &dyn Reader, networks: &Networks) -> Result<LoraFile> {
        let file = reader.path().display().to_string();
        let family = family_of_adapter_file(reader);
        let does_not_fit = |reason: String| Error::DoesNotFit { file: file.clone(), reason, family };
        let kohya = KohyaModules::new(networks.layers().map(|(part, path, _)| (part, path)));
        let mut layers: BTreeMap<(Part, String), LayerTensors> = BTreeMap::new();
        let mut unknown = Vec::new();
        for name in reader.names() {
            // Words that come along are no adapters; see `read_bundled_words`.
            if name.starts_with(BUNDLE_PREFIX) {
                continue;
            }
            let (key, form) = match is_kohya_name(name) {
                true => (kohya.parse(name), Form::Kohya),
                false => (lora_peft::parse(name), Form::Peft),
            };
            let Some(LoraKey { part, module, tensor }) = key else {
                unknown.push(format!("`{name}`"));
                continue;
            };
            let value = match tensor {
                LoraTensor::Alpha => {
                    let alpha = read_tensor(reader, name, Some(Kind::Float), Device::Cpu)?;
                    check_alpha(&alpha, &file, &format!("{part}.{module}"))?;
                    alpha
                }
                _ => read_weight(reader, name, Kind::Float, Device::Cpu)?,
            };
            let layer = layers.entry((part, module)).or_insert_with(|| LayerTensors::new(form));
            layer.insert(tensor, value);
        }
        if !unknown.is_empty() {
            let kind = recognise(reader);
            if !kind.is_adapter() && kind != FileKind::Unknown {
                return Err(Error::OtherKind { file, kind });
            }
            let first: Vec<String> = unknown.iter().take(3).cloned().collect();
            return Err(does_not_fit(format!(
                "{} tensors have no layer in it, the first are {}",
                unknown.len(),
                first.join(", ")
            )));
        }
        if layers.is_empty() {
            return Err(does_not_fit("it holds no adapter".into()));
        }
        let described = reader.metadata().get(peft_metadata::KEY).and_then(|text| peft_metadata::from_json(text));
        Ok(LoraFile { layers, described: described.unwrap_or_default(), name: file, family })
    }

    /// The adapters beside the layers of `networks`, in f32, as trained or to be trained.
    pub fn into_lora(self, networks: &Networks) -> Result<Lora> {
        let known: BTreeMap<(Part, &str), &Adaptable> =
            networks.layers().map(|(part, path, layer)| ((part, path), layer)).collect();
        let mut modules = Vec::new();
        for ((part, path), mut tensors) in self.layers {
            let does_not_fit = |reason: &str| Error::DoesNotFit {
                file: self.name.clone(),
                reason: format!("`{part}.{path}`: {reason}"),
                family: self.family,
            };
            let layer = known.get(&(part, path.as_str())).ok_or_else(|| does_not_fit("there is no such layer"))?;
            tensors.describe(self.described.get(&part).map(|config| Described {
                // What is no rank is refused where it counts.
                rank: i64::try_from(config.rank_of(&path)).unwrap_or_default(),
                alpha: config.alpha_of(&path),
                rank_stabilized: config.use_rslora,
            }));
            let site = Site::of(layer);
            let tensors = tensors.on_device(site.device())?;
            let (kind, adapter) = read_layer(&site, tensors).map_err(|reason| does_not_fit(&reason))?;
            modules.push(LoraModule { part, path, kind, layer: Rc::new(Attached::new(site, adapter)) });
        }
        Ok(Lora::from_modules(modules, networks))
    }
}

/// That the alpha of `layer` in `file` is a number.
pub(crate) fn check_alpha(alpha: &Tensor, file: &str, layer: &str) -> Result<()> {
    let numbers = Vec::<f32>::try_from(&alpha.f_reshape([-1])?)?;
    match numbers.into_iter().find(|number| !number.is_finite()) {
        None => Ok(()),
        Some(alpha) => {
            Err(Error::NoScale { file: file.to_string(), layer: layer.to_string(), alpha: f64::from(alpha) })
        }
    }
}

impl Lora {
    /// Writes the adapters in kohya's form: `lora_unet_….lora_down.weight`, `.lora_up.weight`, `.alpha`, and LyCORIS' names
    /// for the other kinds.
    pub fn save_kohya(&self, path: &Path, kind: Kind, metadata: &BTreeMap<String, String>) -> Result<()> {
        let reader = self.tensors(kind, Form::Kohya)?;
        Ok(write_source(path, &reader, metadata)?)
    }

    /// Writes the adapters in PEFT's form: `unet.….lora_A.weight`, `.lora_B.weight`, with ranks and alphas in the
    /// metadata, where diffusers writes and reads them. Readers that look at the tensors alone take alpha for the rank.
    pub fn save_peft(&self, path: &Path, kind: Kind, metadata: &BTreeMap<String, String>) -> Result<()> {
        let mut metadata = metadata.clone();
        metadata.insert("format".to_string(), "pt".to_string());
        metadata.insert(peft_metadata::KEY.to_string(), peft_metadata(self));
        let reader = self.tensors(kind, Form::Peft)?;
        Ok(write_source(path, &reader, &metadata)?)
    }

    /// Whether files of this form can hold all adapters.
    pub fn check_form(&self, form: Form) -> Result<()> {
        self.tensors(Kind::Float, form).map(drop)
    }

    /// The tensors of a file.
    fn tensors(&self, kind: Kind, form: Form) -> Result<TensorReader> {
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for module in self.modules() {
            let layer = &module.layer;
            let of_layer = layer.adapter().tensors(layer.site(), form);
            let of_layer = of_layer
                .map_err(|reason| Error::NoPlace { layer: format!("{}.{}", module.part, module.path), reason })?;
            // PEFT's form has alphas in the metadata.
            let alpha = module.alpha().filter(|_| form == Form::Kohya);
            let alpha = alpha.map(|alpha| (LoraTensor::Alpha, Tensor::from(alpha as f32)));
            for (tensor, value) in of_layer.into_iter().chain(alpha) {
                let key = LoraKey { part: module.part, module: module.path.clone(), tensor };
                let name = match form {
                    Form::Kohya => kohya_name(&key, self.kohya_naming()),
                    Form::Peft => peft_name(&key),
                };
                tensors.push((name, value));
            }
        }
        Ok(TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind)))
    }
}
