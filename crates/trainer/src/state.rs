//! What decides the next step ↔ the files of a checkpoint.

use crate::error::{Error, Result};
use crate::run_folder::CONFIG;
use crate::seeded_bugs::{Bug, seeded};
use crate::spikes::Spikes;
use sdtrain_checkpoint::{ManifestInfo, Pruned, prune, publish};
use sdtrain_model::{TensorReader, read_tensor};
use sdtrain_optimizer::{Ema, GradScaler, Optimizer};
use sdtrain_recipe::step_name;
use sdtrain_state_dict::{Reader, SafetensorsFile, write_source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

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
    #[serde(default)]
    spikes: Spikes,
    /// Of several ranks that add up gradients during the backward pass: see [`Contents::gradient_order`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gradient_order: Vec<String>,
}

const TENSORS: &str = "tensors.safetensors";
const STATE: &str = "state.json";

/// What a checkpoint is made of.
pub(crate) struct Contents<'a> {
    pub position: &'a Position,
    pub optimizer: &'a dyn Optimizer,
    pub scaler: Option<&'a GradScaler>,
    pub ema: Option<&'a Ema>,
    pub spikes: &'a Spikes,
    /// The names of parameters in the order by which ranks add up their gradients, where the bits depend on it.
    pub gradient_order: &'a [String],
    /// The resolved configuration.
    pub config: &'a str,
}

/// Publishes `folder/step-000250` with everything to continue exactly, then deletes all but the newest `keep_last`; its folder, and
/// what became of those. One that cannot be deleted is only untidy: the run goes on.
pub(crate) fn save(
    folder: &Path,
    info: ManifestInfo,
    contents: &Contents,
    keep_last: usize,
) -> Result<(PathBuf, Pruned)> {
    let Contents { position, optimizer, scaler, ema, spikes, gradient_order, config } = *contents;
    let tensors = tensors_of(optimizer, ema);
    let borrowed: Vec<(String, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    let reader = TensorReader::new(borrowed, None);
    let small = SmallState {
        position: *position,
        scaler: scaler.cloned(),
        ema_steps: ema.map(|ema| ema.state().1),
        spikes: spikes.clone(),
        gradient_order: gradient_order.to_vec(),
    };
    let name = step_name(position.step);
    publish(folder, &name, info, &mut |path| {
        write_source(&path.join(TENSORS), &reader, &BTreeMap::new())?;
        fs::write(path.join(STATE), serde_json::to_vec_pretty(&small)?)?;
        fs::write(path.join(CONFIG), config)?;
        Ok(())
    })?;
    let pruned = prune(folder, position.step, keep_last)?;
    Ok((folder.join(name), pruned))
}

/// Every tensor that decides the next step, by its name in a checkpoint.
fn tensors_of(optimizer: &dyn Optimizer, ema: Option<&Ema>) -> Vec<(String, Tensor)> {
    let parameters = optimizer.groups().iter().flat_map(|group| &group.parameters);
    let parameters = parameters.map(|(name, tensor)| (format!("parameter.{name}"), tensor.detach()));
    let kept = optimizer.state().into_iter().map(|(name, tensor)| (format!("optimizer.{name}"), tensor));
    let (averages, _) = ema.map(Ema::state).unwrap_or_default();
    let averages = averages.iter().map(|(name, tensor)| (format!("ema.{name}"), tensor.shallow_clone()));
    parameters.chain(kept).chain(averages).collect()
}

/// Where a continued run goes on.
pub(crate) struct Restored {
    pub position: Position,
    pub spikes: Spikes,
    /// See [`Contents::gradient_order`].
    pub gradient_order: Vec<String>,
}

/// Puts a checkpoint's content into parameters, optimizer and scaler; where to go on. `may_lack` says of what the run did not have
/// when the checkpoint was written, and now has: it begins.
pub(crate) fn restore(
    checkpoint: &Path,
    optimizer: &mut dyn Optimizer,
    scaler: Option<&mut GradScaler>,
    ema: Option<&mut Ema>,
    may_lack: &dyn Fn(&str) -> bool,
) -> Result<Restored> {
    let cannot = |reason: String| Error::CannotContinue { checkpoint: checkpoint.to_path_buf(), reason };
    let path = checkpoint.join(STATE);
    let small = fs::read(&path).map_err(|error| Error::storage(&path, error))?;
    let small: SmallState = serde_json::from_slice(&small).map_err(|error| cannot(format!("its {STATE}: {error}")))?;
    let file = SafetensorsFile::open(checkpoint.join(TENSORS))?;
    let mut found = Found { file: &file, failed: None };
    for (name, parameter) in optimizer.groups().iter().flat_map(|group| &group.parameters) {
        let saved = found.tensor(&format!("parameter.{name}")).filter(|saved| saved.size() == parameter.size());
        found.all_was_readable()?;
        let saved = saved.ok_or_else(|| cannot(format!(
                "it has no `{name}` of this size: its `{CONFIG}` says what its run trains (`method`, `lora`, `full`, `model`), and that is \
                 not this"
            )))?;
        sdtrain_torch::catch(|| tch::no_grad(|| parameter.shallow_clone().copy_(&saved)))?;
    }
    if !seeded(Bug::Optimizer) {
        let loaded = optimizer.load_state(&mut |name| found.tensor(&format!("optimizer.{name}")));
        found.all_was_readable()?;
        loaded.map_err(|error| cannot(error.to_string()))?;
    }
    match (scaler, small.scaler) {
        (Some(scaler), Some(saved)) if !seeded(Bug::Scaler) => *scaler = saved,
        (Some(_), None) if !seeded(Bug::MissingScaler) && !may_lack("precision.compute") => {
            return Err(cannot("it holds no loss scale".into()));
        }
        _ => {}
    }
    let mut ema = ema;
    if let Some(ema) = ema.as_deref_mut().filter(|_| !seeded(Bug::Average)) {
        let loaded = match small.ema_steps {
            Some(steps) => ema.load_state(steps, &mut |name| found.tensor(&format!("ema.{name}"))),
            // The average begins with the weights as they are now.
            None if may_lack("ema.enabled") => ema.load_state(0, &mut |name| {
                let mut parameters = optimizer.groups().iter().flat_map(|group| &group.parameters);
                parameters.find(|(other, _)| other == name).map(|(_, weight)| weight.detach())
            }),
            None => return Err(cannot("it holds no average of the weights".into())),
        };
        found.all_was_readable()?;
        loaded.map_err(|error| cannot(error.to_string()))?;
    }
    if let Some(name) = found.first_that_differs(&tensors_of(optimizer, ema.as_deref()))? {
        return Err(cannot(format!("`{name}` is not what was saved, once it was put back: a defect of this program")));
    }
    let mut position = small.position;
    if seeded(Bug::DataPosition) || seeded(Bug::Epoch) {
        position.batch = 0;
        position.epoch = if seeded(Bug::Epoch) { 0 } else { position.epoch };
    }
    if seeded(Bug::Dropout) {
        position.passes = 0;
    }
    if seeded(Bug::SkippedCount) {
        (position.skipped, position.skipped_in_a_row) = (0, 0);
    }
    Ok(Restored { position, spikes: small.spikes, gradient_order: small.gradient_order })
}

/// Looks tensors up; one that the disk refuses is another matter than one that is not there.
struct Found<'a> {
    file: &'a dyn Reader,
    failed: Option<Error>,
}

impl Found<'_> {
    fn tensor(&mut self, name: &str) -> Option<Tensor> {
        self.file.info(name)?;
        match read_tensor(self.file, name, None, Device::Cpu) {
            Ok(tensor) => Some(tensor),
            Err(error) => {
                self.failed.get_or_insert(error.into());
                None
            }
        }
    }

    /// The first of `tensors` that the file has too, with other bits.
    fn first_that_differs(&mut self, tensors: &[(String, Tensor)]) -> Result<Option<String>> {
        for (name, tensor) in tensors {
            let Some(saved) = self.tensor(name) else {
                self.all_was_readable()?;
                continue;
            };
            // Compared as bits: a number that is none equals itself.
            let is_same = sdtrain_torch::catch(|| {
                let there = tensor.to_device(Device::Cpu).contiguous();
                saved.kind() == there.kind() && saved.size() == there.size() && bits(&saved).equal(&bits(&there))
            })?;
            if !is_same {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// An error where the disk refused one of those that were asked for.
    fn all_was_readable(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// The same memory as whole numbers.
fn bits(tensor: &Tensor) -> Tensor {
    tensor.reshape([-1]).view_dtype(Kind::Uint8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_optimizer::{MissingState, ParamGroup};
    use sdtrain_state_dict::{Dtype, TensorInfo};
    use std::borrow::Cow;

    /// A file whose one tensor the disk refuses.
    struct Refusing(TensorInfo, BTreeMap<String, String>);

    impl Reader for Refusing {
        fn names(&self) -> Vec<&str> {
            vec!["x"]
        }
        fn info(&self, name: &str) -> Option<&TensorInfo> {
            (name == "x").then_some(&self.0)
        }
        fn bytes(&self, _: &str) -> sdtrain_state_dict::Result<Cow<'_, [u8]>> {
            let source = std::io::Error::from_raw_os_error(5);
            Err(sdtrain_state_dict::Error::Io { action: "read", path: "tensors.safetensors".into(), source })
        }
        fn metadata(&self) -> &BTreeMap<String, String> {
            &self.1
        }
        fn path(&self) -> &Path {
            Path::new("tensors.safetensors")
        }
    }

    #[test]
    fn a_tensor_that_the_disk_refuses_is_not_one_that_is_absent() {
        let file = Refusing(TensorInfo { dtype: Dtype::F32, shape: vec![1] }, BTreeMap::new());
        let mut found = Found { file: &file, failed: None };
        assert!(found.tensor("y").is_none() && found.all_was_readable().is_ok());
        assert!(found.tensor("x").is_none());
        let error = found.all_was_readable().expect_err("it was refused");
        assert!(sdtrain_checkpoint::storage_error(&error).is_some(), "{error:?}");
    }

    /// What is wrong with an optimizer that takes a saved state back.
    #[derive(Clone, Copy, PartialEq)]
    enum Defect {
        None,
        /// It leaves its own state as it was.
        Forgets,
        /// It changes a parameter that had been put back.
        Spoils,
    }

    struct Faulty {
        groups: Vec<ParamGroup>,
        mean: Tensor,
        defect: Defect,
    }

    impl Faulty {
        fn new(parameter: &[f32], mean: &[f32], defect: Defect) -> Faulty {
            let parameters = vec![("unet.bias".to_owned(), Tensor::from_slice(parameter))];
            let groups = vec![ParamGroup { name: "unet".into(), learning_rate: 1.0, parameters }];
            Faulty { groups, mean: Tensor::from_slice(mean), defect }
        }
    }

    impl Optimizer for Faulty {
        fn step(&mut self, _: &[f64], _: Option<&Tensor>) -> sdtrain_torch::Result<()> {
            Ok(())
        }
        fn groups(&self) -> &[ParamGroup] {
            &self.groups
        }
        fn state(&self) -> Vec<(String, Tensor)> {
            vec![("mean".to_owned(), self.mean.shallow_clone())]
        }
        fn load_state(
            &mut self,
            find: &mut dyn FnMut(&str) -> Option<Tensor>,
        ) -> std::result::Result<(), MissingState> {
            if self.defect != Defect::Forgets {
                self.mean.copy_(&find("mean").expect("it was saved"));
            }
            if self.defect == Defect::Spoils {
                let _ = self.groups[0].parameters[0].1.fill_(0.0);
            }
            Ok(())
        }
    }

    /// A number that is none is the same bits again, and no reason to refuse.
    #[test]
    fn what_was_put_back_is_held_against_the_file_once_more() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let saved = Faulty::new(&[1.0, 2.0], &[f32::NAN, -0.0], Defect::None);
        let tensors = tensors_of(&saved, None);
        let borrowed: Vec<(String, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        let reader = TensorReader::new(borrowed, None);
        write_source(&folder.path().join(TENSORS), &reader, &BTreeMap::new()).expect("there is room");
        let position = Position { step: 3, ..Position::default() };
        let (spikes, gradient_order) = (Spikes::default(), Vec::new());
        let small = SmallState { position, scaler: None, ema_steps: None, spikes, gradient_order };
        let small = serde_json::to_vec(&small).expect("plain values");
        fs::write(folder.path().join(STATE), small).expect("there is room");

        let put_back = |defect| {
            let mut optimizer = Faulty::new(&[0.0, 0.0], &[0.0, 0.0], defect);
            let restored = restore(folder.path(), &mut optimizer, None, None, &|_| false);
            (restored.map(|restored| restored.position.step), optimizer)
        };
        let (step, optimizer) = put_back(Defect::None);
        assert_eq!(step.expect("nothing is wrong"), 3);
        let weights = Vec::<f32>::try_from(&optimizer.groups[0].parameters[0].1).expect("two numbers");
        assert_eq!(weights, [1.0, 2.0]);
        for (defect, name) in [(Defect::Forgets, "optimizer.mean"), (Defect::Spoils, "parameter.unet.bias")] {
            match put_back(defect).0 {
                Err(Error::CannotContinue { reason, .. }) => {
                    assert!(reason.starts_with(&format!("`{name}` is not what was saved")), "{reason}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
