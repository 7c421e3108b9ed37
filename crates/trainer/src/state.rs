//! What decides the next step ↔ the files of a checkpoint.

use crate::error::{Error, Result};
use sdtrain_checkpoint::{ManifestInfo, prune, publish};
use sdtrain_model::{TensorReader, read_tensor};
use sdtrain_optimizer::{Ema, GradScaler, Optimizer};
use sdtrain_state_dict::{SafetensorsFile, write_source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Where a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimizer steps done.
    pub step: u64,
    /// Epochs complete.
    pub epoch: u64,
    /// Batches of the current epoch done.
    pub batch: usize,
    /// Forward passes done.
    pub passes: u64,
    /// Steps that changed nothing since a loss or gradient was not finite, those of loss scaling not counted.
    #[serde(default)]
    pub skipped: u64,
    /// How many of them were the latest steps.
    #[serde(default)]
    pub skipped_in_a_row: u64,
}

/// The small part of a checkpoint. Order, noise and timesteps are functions of the seed and the position, so there is
/// no generator to save.
#[derive(Debug, Serialize, Deserialize)]
struct SmallState {
    position: Position,
    scaler: Option<GradScaler>,
    /// Optimizer steps that the average of the weights has seen.
    #[serde(default)]
    ema_steps: Option<u64>,
}

const TENSORS: &str = "tensors.safetensors";
const STATE: &str = "state.json";

/// Publishes `folder/step-000250` with everything to continue exactly, then deletes all but the newest `keep_last`; its folder.
pub(crate) fn save(
    folder: &Path,
    info: ManifestInfo,
    position: &Position,
    optimizer: &dyn Optimizer,
    scaler: Option<&GradScaler>,
    ema: Option<&Ema>,
    keep_last: usize,
) -> Result<PathBuf> {
    let parameters = optimizer.groups().iter().flat_map(|group| &group.parameters);
    let mut tensors: Vec<(String, Tensor)> =
        parameters.map(|(name, tensor)| (format!("parameter.{name}"), tensor.detach())).collect();
    tensors.extend(optimizer.state().into_iter().map(|(name, tensor)| (format!("optimizer.{name}"), tensor)));
    let averages = ema.map(Ema::state);
    let borrowed_averages = averages.iter().flat_map(|(averages, _)| averages.iter());
    tensors.extend(borrowed_averages.map(|(name, tensor)| (format!("ema.{name}"), tensor.shallow_clone())));
    let borrowed: Vec<(String, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    let reader = TensorReader::new(borrowed, None);
    let small =
        SmallState { position: *position, scaler: scaler.cloned(), ema_steps: averages.map(|(_, steps)| steps) };
    let name = format!("step-{:06}", position.step);
    publish(folder, &name, info, &mut |path| {
        write_source(&path.join(TENSORS), &reader, &BTreeMap::new())?;
        fs::write(path.join(STATE), serde_json::to_vec_pretty(&small)?)?;
        Ok(())
    })?;
    // A folder that cannot be deleted is only untidy: the run goes on.
    let _ = prune(folder, position.step, keep_last)?;
    Ok(folder.join(name))
}

/// Puts a checkpoint's content into parameters, optimizer and scaler; the position to go on from.
pub(crate) fn restore(
    checkpoint: &Path,
    optimizer: &mut dyn Optimizer,
    scaler: Option<&mut GradScaler>,
    ema: Option<&mut Ema>,
) -> Result<Position> {
    let cannot = |reason: String| Error::CannotContinue { checkpoint: checkpoint.to_path_buf(), reason };
    let small = fs::read(checkpoint.join(STATE)).map_err(|error| cannot(error.to_string()))?;
    let small: SmallState = serde_json::from_slice(&small).map_err(|error| cannot(error.to_string()))?;
    let file = SafetensorsFile::open(checkpoint.join(TENSORS))?;
    for (name, parameter) in optimizer.groups().iter().flat_map(|group| &group.parameters) {
        let saved = read(&file, &format!("parameter.{name}"))
            .filter(|saved| saved.size() == parameter.size())
            .ok_or_else(|| cannot(format!("it has no `{name}` of this size")))?;
        tch::no_grad(|| parameter.shallow_clone().copy_(&saved));
    }
    optimizer
        .load_state(&mut |name| read(&file, &format!("optimizer.{name}")))
        .map_err(|error| cannot(error.to_string()))?;
    if let (Some(scaler), Some(saved)) = (scaler, small.scaler) {
        *scaler = saved;
    }
    if let Some(ema) = ema {
        let steps = small.ema_steps.ok_or_else(|| cannot("it holds no average of the weights".into()))?;
        ema.load_state(steps, &mut |name| read(&file, &format!("ema.{name}")))
            .map_err(|error| cannot(error.to_string()))?;
    }
    Ok(small.position)
}

fn read(file: &SafetensorsFile, name: &str) -> Option<Tensor> {
    read_tensor(file, name, None, Device::Cpu).ok()
}
