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

/// Begins what a checkpoint says of its data where not every image had been read before it was written: a digest of their names, lengths
/// and captions follows.
const LISTING: &str = "listing:";

/// Whether what a checkpoint says of its data knows nothing of what the files held.
pub(crate) fn is_listing(digest: &str) -> bool {
    digest.starts_with(LISTING)
}

/// A digest of the data, by which a continued run knows them again. To make it every image is read that has changed since it was last
/// read, beside the first steps of a run that begins. No checkpoint waits for it: whoever is asked to stop may have seconds left.
pub(crate) struct DataDigest {
    data: Arc<DataSet>,
    thread: Option<JoinHandle<std::result::Result<String, DataError>>>,
    known: Option<String>,
    listing: Option<String>,
}

impl DataDigest {
    /// Begins to compute it.
    pub fn of(data: &Arc<DataSet>) -> DataDigest {
        let mut digest = DataDigest { data: data.clone(), thread: None, known: None, listing: None };
        digest.begin();
        digest
    }

    fn begin(&mut self) {
        let own = self.data.clone();
        self.thread = thread::Builder::new().name("hash-data".into()).spawn(move || own.fingerprint()).ok();
    }

    /// The digest of all contents; waits for it where it is not ready.
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

    /// What a checkpoint says of the data that is written now.
    pub fn so_far(&mut self) -> String {
        let is_over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if self.known.is_none() && is_over {
            // An image that cannot be read now, since its disk is away, may be there again by the next checkpoint.
            if self.thread.is_none() || self.get().is_err() {
                self.begin();
            }
        }
        self.known.clone().unwrap_or_else(|| self.listing())
    }

    /// What a checkpoint that says `before` of its data would say of these.
    ///
    /// # Errors
    /// Where that takes their contents, and the disk does not give an image.
    pub fn as_in(&mut self, before: &str) -> Result<String> {
        if is_listing(before) { Ok(self.listing()) } else { self.get() }
    }

    fn listing(&mut self) -> String {
        let DataDigest { data, listing, .. } = self;
        listing.get_or_insert_with(|| format!("{LISTING}{}", data.listing())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_recipe::{BucketingConfig, DataConfig, Resolution, Subset};
    use std::fs;
    use std::sync::mpsc;
    use tch::Device;

    /// Three posters in a folder, and the data set of it.
    fn posters() -> (tempfile::TempDir, Arc<DataSet>) {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/posters");
        let images = fs::read_dir(ours).expect("posters").flatten().map(|entry| entry.path());
        for image in
            images.filter(|path| path.extension().is_some_and(|ending| ending != "txt" && ending != "toml")).take(3)
        {
            fs::copy(&image, folder.path().join(image.file_name().expect("a file"))).expect("a copy");
        }
        let subset =
            Subset { path: folder.path().to_owned(), class_tokens: Some("a poster".into()), ..Subset::default() };
        let bucketing = BucketingConfig { enabled: false, ..BucketingConfig::default() };
        let config = DataConfig {
            subsets: vec![subset],
            resolution: Resolution::Square(64),
            bucketing,
            ..DataConfig::default()
        };
        let data = DataSet::open(&config, 1, 8).expect("a data set");
        (folder, Arc::new(data))
    }

    #[test]
    fn a_checkpoint_does_not_wait_until_every_image_is_read() {
        let (_folder, data) = posters();
        let (go, wait) = mpsc::channel::<()>();
        let own = data.clone();
        let slow = thread::spawn(move || wait.recv().map_or_else(|_| own.fingerprint(), |()| own.fingerprint()));
        let mut digest = DataDigest { data: data.clone(), thread: Some(slow), known: None, listing: None };
        let early = digest.so_far();
        assert!(early.starts_with(LISTING), "{early}");
        assert_eq!(digest.as_in(&early).expect("nothing is read"), early);
        drop(go);
        let whole = digest.get().expect("all can be read");
        assert_eq!((digest.so_far(), digest.as_in(&whole).expect("known")), (whole.clone(), whole));
    }

    #[test]
    fn images_that_are_away_for_a_while_change_no_digest() {
        let (folder, data) = posters();
        let whole = data.fingerprint().expect("all can be read");
        let away = folder.path().with_extension("away");
        fs::rename(folder.path(), &away).expect("the disk goes");
        let mut digest = DataDigest::of(&data);
        digest.get().expect_err("they are gone");
        let meanwhile = digest.so_far();
        fs::rename(&away, folder.path()).expect("the disk comes back");
        assert!(meanwhile.starts_with(LISTING), "{meanwhile}");
        assert_eq!(digest.as_in(&meanwhile).expect("nothing is read"), meanwhile);
        // One that was begun while they were gone may still be on its way.
        let _ = digest.get();
        assert_eq!(digest.get().expect("they are there"), whole);
    }

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
