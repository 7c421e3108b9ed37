//! Adapter files: read in kohya's and in PEFT's form, written in either.

use crate::error::{Error, Result};
use crate::lora::{Lora, LoraModule, Networks, beside};
use sdtrain_model::{Adaptable, TensorReader, read_tensor};
use sdtrain_state_dict::maps::lora_kohya::{KohyaModules, TextEncoders, is_kohya_name, kohya_name};
use sdtrain_state_dict::maps::lora_peft::{self, LoraKey, LoraTensor, Part, peft_name};
use sdtrain_state_dict::maps::peft_metadata::{self, AdaptedLayer, PeftConfig};
use sdtrain_state_dict::maps::textual_inversion::BUNDLE_PREFIX;
use sdtrain_state_dict::{Reader, read_floats, write_source};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// An adapter file's tensors, sorted out by layer.
#[derive(Debug)]
pub struct LoraFile {
    layers: BTreeMap<(Part, String), LayerTensors>,
    /// What the metadata of files in PEFT's form says of each network.
    described: BTreeMap<Part, PeftConfig>,
    name: String,
}

#[derive(Debug, Default)]
struct LayerTensors {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f64>,
}

impl LoraFile {
    /// Reads all adapters of `reader`, whose layers must be among those of `networks`.
    pub fn read(reader: &dyn Reader, networks: &Networks) -> Result<LoraFile> {
        let file = reader.path().display().to_string();
        let does_not_fit = |reason: String| Error::DoesNotFit { file: file.clone(), reason };
        let kohya = KohyaModules::new(networks.layers().map(|(part, path, _)| (part, path)));
        let mut layers: BTreeMap<(Part, String), LayerTensors> = BTreeMap::new();
        let mut unknown = Vec::new();
        for name in reader.names() {
            // Words that come along are no adapters; see `read_bundled_words`.
            if name.starts_with(BUNDLE_PREFIX) {
                continue;
            }
            let key = if is_kohya_name(name) { kohya.parse(name) } else { lora_peft::parse(name) };
            let Some(LoraKey { part, module, tensor }) = key else {
                unknown.push(format!("`{name}`"));
                continue;
            };
            let slot = layers.entry((part, module)).or_default();
            match tensor {
                LoraTensor::Down => slot.down = Some(read(reader, name)?),
                LoraTensor::Up => slot.up = Some(read(reader, name)?),
                LoraTensor::Alpha => slot.alpha = read_floats(reader, name)?.first().map(|&alpha| f64::from(alpha)),
            }
        }
        if !unknown.is_empty() {
            let first: Vec<String> = unknown.iter().take(3).cloned().collect();
            return Err(does_not_fit(format!(
                "{} tensors have no layer in it, the first are {}",
                unknown.len(),
                first.join(", ")
            )));
        }
        if layers.is_empty() {
            return Err(does_not_fit("it holds no low-rank adapter".into()));
        }
        let described = reader.metadata().get(peft_metadata::KEY).and_then(|text| peft_metadata::from_json(text));
        Ok(LoraFile { layers, described: described.unwrap_or_default(), name: file })
    }

    /// The adapters beside the layers of `networks`, in f32, as trained or to be trained.
    pub fn into_lora(self, networks: &Networks) -> Result<Lora> {
        let known: BTreeMap<(Part, &str), &Adaptable> =
            networks.layers().map(|(part, path, layer)| ((part, path), layer)).collect();
        let mut modules = Vec::new();
        for ((part, path), LayerTensors { down, up, alpha }) in self.layers {
            let does_not_fit = |reason: &str| Error::DoesNotFit {
                file: self.name.clone(),
                reason: format!("`{part}.{path}`: {reason}"),
            };
            let layer = known.get(&(part, path.as_str())).ok_or_else(|| does_not_fit("there is no such layer"))?;
            let (Some(down), Some(up)) = (down, up) else {
                return Err(does_not_fit("one of its two matrices is missing"));
            };
            let weight = layer.weight().size();
            let rank = down.size()[0];
            let fits = down.size()[1..] == weight[1..] && up.size()[0] == weight[0] && up.size().get(1) == Some(&rank);
            if !fits {
                return Err(does_not_fit(&format!(
                    "matrices {:?} and {:?} beside a weight {weight:?}",
                    down.size(),
                    up.size()
                )));
            }
            let described = self.described.get(&part).map(|config| config.effective_alpha(&path, rank as usize));
            let alpha = alpha.or(described).unwrap_or(rank as f64);
            let device = layer.weight().device();
            let (down, up) = (down.to_device(device), up.to_device(device));
            let layer = beside(layer, down, up, alpha);
            modules.push(LoraModule { part, path, alpha, layer });
        }
        Ok(Lora::from_modules(modules))
    }
}

/// One tensor in f32 on the host.
fn read(reader: &dyn Reader, name: &str) -> Result<Tensor> {
    Ok(read_tensor(reader, name, Some(Kind::Float), Device::Cpu)?)
}

impl Lora {
    /// Writes the adapters in kohya's form: `lora_unet_….lora_down.weight`, `.lora_up.weight`, `.alpha`.
    pub fn save_kohya(&self, path: &Path, kind: Kind, metadata: &BTreeMap<String, String>) -> Result<()> {
        let reader = self.tensors(kind, &|key| Some(kohya_name(key, TextEncoders::One)));
        Ok(write_source(path, &reader, metadata)?)
    }

    /// Writes the adapters in PEFT's form: `unet.….lora_A.weight`, `.lora_B.weight`, with ranks and alphas in the
    /// metadata, where diffusers writes and reads them. Readers that look at the tensors alone take alpha for the rank.
    pub fn save_peft(&self, path: &Path, kind: Kind, metadata: &BTreeMap<String, String>) -> Result<()> {
        let mut metadata = metadata.clone();
        metadata.insert("format".to_string(), "pt".to_string());
        metadata.insert(peft_metadata::KEY.to_string(), self.peft_metadata());
        let reader = self.tensors(kind, &|key| (key.tensor != LoraTensor::Alpha).then(|| peft_name(key)));
        Ok(write_source(path, &reader, &metadata)?)
    }

    fn peft_metadata(&self) -> String {
        let mut layers: BTreeMap<Part, Vec<AdaptedLayer>> = BTreeMap::new();
        for module in self.modules() {
            let layer = AdaptedLayer { module: &module.path, rank: module.rank() as usize, alpha: module.alpha };
            layers.entry(module.part).or_default().push(layer);
        }
        let configs = layers.iter().map(|(part, layers)| (*part, PeftConfig::describing(layers))).collect();
        peft_metadata::to_json(&configs)
    }

    /// The tensors of a file, those that `name` has a name for.
    fn tensors(&self, kind: Kind, name: &dyn Fn(&LoraKey) -> Option<String>) -> TensorReader {
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for module in self.modules() {
            let mut put = |tensor, value: Tensor| {
                let key = LoraKey { part: module.part, module: module.path.clone(), tensor };
                tensors.extend(name(&key).map(|name| (name, value)));
            };
            put(LoraTensor::Down, module.layer.down.detach());
            put(LoraTensor::Up, module.layer.up.detach());
            put(LoraTensor::Alpha, Tensor::from(module.alpha as f32));
        }
        TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind))
    }
}

/// The `ss_*` keys that name the network itself; the trainer adds those of the run.
pub fn kohya_metadata(lora: &Lora) -> BTreeMap<String, String> {
    let first = lora.modules().first();
    let text = |value: Option<String>| value.unwrap_or_else(|| "None".to_string());
    BTreeMap::from([
        ("ss_network_module".to_string(), "networks.lora".to_string()),
        ("ss_network_dim".to_string(), text(first.map(|m| m.rank().to_string()))),
        ("ss_network_alpha".to_string(), text(first.map(|m| m.alpha.to_string()))),
        ("ss_base_model_version".to_string(), "sd_v1".to_string()),
        ("ss_v2".to_string(), "False".to_string()),
    ])
}
