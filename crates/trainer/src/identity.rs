//! What a continued run must find as it was: digests of the base model, of the files that training began with, and of the data.

use crate::error::{Error, Result};
use crate::setup::local_file;
use sdtrain_data_loader::{DataError, DataSet};
use sdtrain_model::{Parameters, StableDiffusion, sampled};
use sdtrain_recipe::TrainConfig;
use sdtrain_run_log::InputFile;
use sdtrain_torch::tensor_to_bytes;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tch::{Kind, Tensor};

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
    for parameters in by_order_of_digests(model) {
        let mut samples = Vec::new();
        for (name, weight) in parameters.iter() {
            field(name.as_bytes());
            field(format!("{:?} {:?}", weight.size(), weight.kind()).as_bytes());
            samples.push(sampled(weight)?);
        }
        if !samples.is_empty() {
            // One way from the device for all of them.
            field(&tensor_to_bytes(&Tensor::f_cat(&samples, 0)?)?);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

/// A digest of all numbers of a model, where [`of_base`] takes some: what ranks compare, each of which may have read a copy of its own.
pub(crate) fn of_all_numbers(model: &StableDiffusion) -> Result<String> {
    of_numbers(by_order_of_digests(model).flat_map(Parameters::iter).map(|(_, weight)| weight))
}

/// The parameters of every network, in the order that stored digests take them, which must stay.
pub(crate) fn by_order_of_digests(model: &StableDiffusion) -> impl Iterator<Item = &Parameters> {
    let of_text = model.text_encoders.iter().map(|encoder| encoder.network.parameters());
    of_text.chain([model.unet.parameters(), model.vae.parameters()])
}

/// A digest of the bits of all numbers of `tensors`, summed up for each: one pass over the memory.
pub(crate) fn of_numbers<'t>(tensors: impl Iterator<Item = &'t Tensor>) -> Result<String> {
    let sum = |tensor: &Tensor| {
        let bits = match tensor.kind().elt_size_in_bytes() {
            8 => Kind::Int64,
            4 => Kind::Int,
            2 => Kind::Int16,
            _ => Kind::Int8,
        };
        tensor.f_detach()?.f_view_dtype(bits)?.f_sum(Kind::Int64)
    };
    let sums: Vec<Tensor> = tensors.map(sum).collect::<std::result::Result<_, _>>()?;
    let mut hasher = blake3::Hasher::new();
    if !sums.is_empty() {
        hasher.update(&tensor_to_bytes(&Tensor::f_stack(&sums, 0)?)?);
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

/// The data set's fingerprint, which reads every image that has changed since it was last read: beside the first steps of a run that
/// begins.
pub(crate) struct DataDigest {
    data: Arc<DataSet>,
    thread: Option<JoinHandle<std::result::Result<String, DataError>>>,
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
    ///
    /// # Errors
    /// Where the disk does not give an image; who asks again has it read again.
    pub fn get(&mut self) -> Result<String> {
        if let Some(known) = &self.known {
            return Ok(known.clone());
        }
        let computed = self.thread.take().and_then(|thread| thread.join().ok());
        let digest = computed.unwrap_or_else(|| self.data.fingerprint())?;
        Ok(self.known.insert(digest).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_single_number_anywhere_is_another_digest() {
        let numbers = |kind| [Tensor::arange(5000, (Kind::Float, Device::Cpu)).to_kind(kind).reshape([50, 100])];
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double] {
            let other = numbers(kind);
            let _ = other[0].get(31).get(77).fill_(0.5);
            let [same, differs] = [numbers(kind), other].map(|all| of_numbers(all.iter()).expect("sums"));
            assert_eq!(same, of_numbers(numbers(kind).iter()).expect("sums"));
            assert_ne!(same, differs, "{kind:?}");
        }
    }
}
