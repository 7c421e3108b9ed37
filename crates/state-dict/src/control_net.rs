//! A ControlNet by itself: in a folder of diffusers', or in a file in either naming, also with the whole model that it was trained beside.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::architecture;
use crate::canonical::{check_unscaled, has_prefix};
use crate::diffusers_folder::{PipelineConfigs, json_in_metadata, read_json};
use crate::error::{Error, Result};
use crate::family::Family;
use crate::load_report::LoadReport;
use crate::maps::control_net::{ControlNetLayout, control_net_to_ldm, ldm_to_control_net};
use crate::reader::Reader;
use crate::recognise::{FileKind, recognise};
use crate::renamed::Renamed;
use crate::single_file::renamed_fully;

/// What files with the original names put in front of them.
pub(crate) const CONTROL_NET_PREFIX: &str = "control_model.";
/// diffusers' class, as a folder's `config.json` names it.
const CLASS: &str = "ControlNetModel";
/// The metadata of a single file that hold the configuration of the folder that it was made of.
const CONFIG: &str = "sdtrain.control_net";
/// Tensors with which files of other programs say that theirs are no weights, though they are called like a ControlNet's.
const NO_WEIGHTS: [(&str, &str); 2] = [
    ("difference", "holds differences from a model's weights, which make a ControlNet together with that model"),
    ("lora_controlnet", "is a Control-LoRA: small matrices that make a ControlNet together with a model"),
];

/// Whether `folder` holds a ControlNet alone, by its `config.json`.
pub fn is_control_net_folder(folder: &Path) -> bool {
    read_json(&folder.join("config.json")).is_ok_and(|config| config["_class_name"] == CLASS)
}

/// A ControlNet and its configuration.
pub struct ControlNet<R> {
    /// Its tensors under diffusers' names.
    pub network: Renamed<R>,
    /// `config.json`.
    pub config: Json,
    /// Tensors of its file that no ControlNet has, under their own names.
    pub unknown: Vec<String>,
    /// Tensors of its file that belong to something else: the whole model that it was trained beside.
    pub others: Vec<String>,
}

impl<R: Reader> ControlNet<R> {
    /// That in `file`. The configuration is the one in its metadata; where there is none, that of its family's release.
    ///
    /// # Errors
    /// Where it holds none, its metadata cannot be read, or no tensor shows its family.
    pub fn of_file(file: R) -> Result<ControlNet<R>> {
        let said = json_in_metadata(file.path(), file.metadata(), CONFIG)?;
        let kind = recognise(&file);
        let path = file.path().to_path_buf();
        let mut found = ControlNet::new(file, Json::Null)?;
        found.config = match (said, kind) {
            (Some(config), _) => config,
            (None, FileKind::ControlNet { family: Some(family), .. }) => {
                let mut config = released(family);
                let inputs = |name: &str| found.network.info(name).and_then(|info| info.shape.get(1).copied());
                for (key, layer) in [
                    ("in_channels", "conv_in.weight"),
                    ("conditioning_channels", "controlnet_cond_embedding.conv_in.weight"),
                ] {
                    if let Some(channels) = inputs(layer) {
                        config[key] = channels.into();
                    }
                }
                config
            }
            (None, kind) => {
                let reason =
                    format!("is a {kind} that carries no configuration, and none of its tensors shows its family");
                return Err(Error::WrongKind { path, reason });
            }
        };
        Ok(found)
    }

    /// That in `reader` with the configuration `config`.
    ///
    /// # Errors
    /// Where it holds none.
    pub fn new(reader: R, config: Json) -> Result<ControlNet<R>> {
        check_unscaled(&reader)?;
        if let Some((name, what)) = NO_WEIGHTS.into_iter().find(|(name, _)| reader.info(name).is_some()) {
            let reason = format!("{what} (`{name}`); such files are not supported");
            return Err(Error::WrongKind { path: reader.path().to_path_buf(), reason });
        }
        let inside = has_prefix(&reader, CONTROL_NET_PREFIX);
        let own = |name: &str| -> Option<String> {
            let stripped = if inside { name.strip_prefix(CONTROL_NET_PREFIX)? } else { name };
            Some(stripped.to_string())
        };
        let names: Vec<String> = reader.names().into_iter().filter_map(own).collect();
        let layout = match names.iter().any(|name| name.starts_with("down_blocks.")) {
            true => None,
            false => {
                let layout = ControlNetLayout::from_ldm_names(names.iter().map(String::as_str));
                let reason = "holds no ControlNet: neither `down_blocks` nor `input_blocks` behind an `input_hint_block` were found";
                let path = || reader.path().to_path_buf();
                let none = || Error::WrongKind { path: path(), reason: reason.to_string() };
                Some(layout.ok_or_else(none)?)
            }
        };
        let map = |name: &str| -> Option<String> {
            let name = own(name)?;
            match &layout {
                Some(layout) => ldm_to_control_net(&name, layout),
                None => Some(name),
            }
        };
        let (mut unknown, mut others) = (Vec::new(), Vec::new());
        for name in reader.names() {
            match (own(name), map(name)) {
                (None, _) => others.push(name.to_string()),
                (Some(_), None) => unknown.push(name.to_string()),
                (Some(_), Some(_)) => {}
            }
        }
        let network = Renamed::new(reader, |name, info| Some((map(name)?, info.shape.clone())))?;
        Ok(ControlNet { network, config, unknown, others })
    }

    /// What of it does not fit its configuration.
    ///
    /// # Errors
    /// Where the configuration describes no ControlNet that is known.
    pub fn report(&self) -> Result<LoadReport> {
        let parameters = architecture::control_net(&self.config).map_err(|reason| Error::WrongKind {
            path: self.network.path().to_path_buf(),
            reason: format!("has a configuration that cannot be read: {reason}"),
        })?;
        let mut report = LoadReport::compare(&parameters, &self.network, |_| false);
        report.unexpected.extend(self.unknown.iter().cloned());
        Ok(report)
    }

    /// Under the names of a file of its own, which begin with `control_model.`.
    ///
    /// # Errors
    /// Where a tensor has no place in such a file.
    pub fn to_ldm(&self) -> Result<Renamed<&dyn Reader>> {
        let network: &dyn Reader = &self.network;
        let layout = ControlNetLayout::from_diffusers_names(network.names()).ok_or_else(|| Error::WrongKind {
            path: network.path().to_path_buf(),
            reason: "is no ControlNet: no `down_blocks` were found".to_string(),
        })?;
        renamed_fully(network, |name, shape| {
            Some((format!("{CONTROL_NET_PREFIX}{}", control_net_to_ldm(name, &layout)?), shape.to_vec()))
        })
    }

    /// Key and value of the metadata with which a single file carries its configuration.
    pub fn metadata(&self) -> (String, String) {
        (CONFIG.to_string(), self.config.to_string())
    }
}

/// The configuration of a ControlNet beside the UNet that was released of `family`. Whether the states of its pictures are averaged
/// (`global_pool_conditions`, of the one for shuffled pictures) is seen in no file.
fn released(family: Family) -> Json {
    /// What a UNet has beyond it.
    const OF_UNET: [&str; 5] = ["_class_name", "center_input_sample", "out_channels", "sample_size", "up_block_types"];
    let mut config = json!({
        "_class_name": CLASS,
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": false,
    });
    let unet = PipelineConfigs::released(family, false).unet;
    for (key, value) in unet.as_object().into_iter().flatten().filter(|(key, _)| !OF_UNET.contains(&key.as_str())) {
        config[key] = value.clone();
    }
    config
}
