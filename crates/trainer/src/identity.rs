//! What a continued run must find as it was: digests of the base model, of the files that training began with, and of the data.

use crate::error::{Error, Result};
use crate::setup::local_file;
use sdtrain_data_loader::DataSet;
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::TrainConfig;
use sdtrain_run_log::InputFile;
use sdtrain_torch::tensor_to_bytes;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tch::{Kind, Tensor};

/// Numbers of each tensor that the digest of a model takes in at least, where it has so many.
const SAMPLED: i64 = 64;

/// A digest of a model's weights as they were loaded: equal for equal weights, wherever and however they are stored, and another for
/// another `precision.compute`, which they are rounded to. It takes every
/// tensor's name and shape and 64 numbers spread over it, so that it costs a hundredth of a second and no reading of the files;
/// whatever training or merging does to a tensor changes nearly all of its numbers.
pub(crate) fn of_base(model: &StableDiffusion) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let of_text = model.text_encoders.iter().map(|encoder| encoder.network.parameters());
    for parameters in of_text.chain([model.unet.parameters(), model.vae.parameters()]) {
        let mut sampled = Vec::new();
        for (name, weight) in parameters.iter() {
            field(name.as_bytes());
            field(format!("{:?} {:?}", weight.size(), weight.kind()).as_bytes());
            sampled.push(sample(weight)?);
        }
        if !sampled.is_empty() {
            // One way from the device for all of them.
            field(&tensor_to_bytes(&Tensor::f_cat(&sampled, 0)?)?);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

/// The key that names an adapter which training goes on from, and a digest of the file.
pub(crate) fn of_initial_adapter(config: &TrainConfig) -> Result<Option<(&'static str, String)>> {
    config.trainable_facts().initial.map(|(key, path)| Ok((key, of_file(path)?))).transpose()
}

/// Words that go on from a file, each with a digest of its own; none where no word does.
pub(crate) fn of_initial_words(config: &TrainConfig) -> Result<Option<String>> {
    let mut words = Vec::new();
    for token in config.learned_tokens() {
        if let Some(path) = &token.initial {
            words.push(format!("{}: {}", token.word, of_file(path)?));
        }
    }
    Ok((!words.is_empty()).then(|| words.join(", ")))
}

fn of_file(path: &Path) -> Result<String> {
    let path = local_file(path)?;
    let file = InputFile::of(&path).map_err(|error| Error::storage(&path, error))?;
    Ok(file.blake3[..32].to_string())
}

/// 64 to 127 numbers at equal distances, or all of fewer, the first and one near the last among them, in fp32.
fn sample(weight: &Tensor) -> Result<Tensor> {
    let flat = weight.f_detach()?.f_reshape([-1])?;
    let count = flat.numel() as i64;
    let stride = (count / SAMPLED).max(1);
    Ok(flat.f_slice(0, 0, count, stride)?.f_to_kind(Kind::Float)?)
}

/// The data set's fingerprint, which reads every image that has changed since it was last read: beside the first steps of a run that
/// begins.
pub(crate) struct DataDigest {
    data: Arc<DataSet>,
    thread: Option<JoinHandle<String>>,
    known: Option<String>,
}

impl DataDigest {
    /// Begins to compute it.
    pub fn of(data: &Arc<DataSet>) -> DataDigest {
        let own = data.clone();
        let thread = thread::Builder::new().name("hash-data".into()).spawn(move || own.fingerprint()).ok();
        DataDigest { data: data.clone(), thread, known: None }
    }

    /// The digest; waits for it where it is not ready.
    pub fn get(&mut self) -> String {
        let thread = self.thread.take();
        let (data, computed) = (&self.data, || thread.and_then(|thread| thread.join().ok()));
        self.known.get_or_insert_with(|| computed().unwrap_or_else(|| data.fingerprint())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_all_over_a_tensor_are_sampled() {
        for (count, expected) in [(1, 1), (63, 63), (64, 64), (100, 100), (128, 64), (1000, 67)] {
            let numbers = Tensor::arange(count, (Kind::Float, tch::Device::Cpu));
            let found = sample(&numbers).expect("a slice");
            assert_eq!(found.size(), [expected], "{count}");
            assert!(found.max().double_value(&[]) >= count as f64 * 0.98 - 1.0, "{count}: up to its end");
        }
    }
}
