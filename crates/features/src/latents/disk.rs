//! Latents in a folder: which are there, making those that are not, and reading them batch by batch.

use super::encode::{Encoded, Moments, encode};
use super::encoder_identity::encoder_identity;
use crate::Progress;
use crate::error::{Error, Result};
use crate::parallel::in_parallel;
use crate::survey::{Look, Survey, tell_of_damage, tell_of_deletion};
use sdtrain_data_loader::{DataSet, ImageProblem};
use sdtrain_feature_cache::{
    EncoderIdentity, EntryName, Found, LatentEntry, LatentFolder, LatentKey, Moments as StoredMoments, Origin,
    file_bytes, kohya_npz,
};
use sdtrain_model::StableDiffusion;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::Path;
use tch::Tensor;

/// The latents of one data set in a folder that may hold many.
pub struct DiskLatents<D> {
    folder: LatentFolder,
    data: D,
    encoder: EncoderIdentity,
    /// The entry of each image; none for one that cannot be read.
    names: Vec<Option<EntryName>>,
}

impl<D: Deref<Target = DataSet>> DiskLatents<D> {
    /// Opens the folder, finds out every image's digest and checks every entry that there is. `what` the images are goes into
    /// messages.
    pub fn open(
        folder: &Path,
        model: &StableDiffusion,
        data: D,
        what: &'static str,
    ) -> Result<(DiskLatents<D>, Survey<usize>)> {
        let folder = LatentFolder::open(folder)?;
        // What cannot be read is looked at again when it is to be encoded, and left out there.
        let digests = data.image_digests();
        let mut disk = DiskLatents { folder, data, encoder: encoder_identity(model)?, names: Vec::new() };
        disk.names = (0..).zip(&digests).map(|(image, digest)| Some(disk.name(image, digest.as_ref()?))).collect();
        // Copies of an image share an entry, which is made once; so that it has what each of them wants, by one that may be mirrored.
        let mut images: Vec<usize> = (0..digests.len()).collect();
        images.sort_by_key(|&image| !disk.data.may_be_mirrored(image));
        let mut made_of_another = BTreeSet::new();
        let mut survey = Survey::new(what);
        let (entries, names, data) =
            (Entries { folder: &disk.folder, encoder: &disk.encoder }, &disk.names, &*disk.data);
        let looks = in_parallel(&images, |&image| entries.look(data, image, names[image].as_ref()));
        for (image, look) in images.into_iter().zip(looks) {
            let look = look?;
            let is_hit = matches!(look, Look::Hit { .. });
            if is_hit || names[image].is_none_or(|name| made_of_another.insert(name)) {
                survey.add(image, look, disk.bytes(image));
            }
        }
        Ok((disk, survey))
    }

    /// The folder, for what concerns all of its entries.
    pub fn folder(&self) -> &LatentFolder {
        &self.folder
    }

    /// The entries of this data set.
    pub fn names(&self) -> impl Iterator<Item = EntryName> {
        self.names.iter().copied().flatten()
    }

    /// Whether an image could be read, so that it has an entry.
    pub fn has(&self, image: usize) -> bool {
        self.names[image].is_some()
    }

    /// Encodes what the survey misses and keeps it; how many could be read. Refuses to begin where there is no room for it.
    pub fn fill(
        &mut self,
        model: &StableDiffusion,
        survey: &Survey<usize>,
        workers: usize,
        progress: Progress,
    ) -> Result<usize> {
        self.folder.check_room(survey.missing_bytes)?;
        let (mut done, mut made) = (0, 0);
        let (names, entries) = (&mut self.names, Entries { folder: &self.folder, encoder: &self.encoder });
        let data = &*self.data;
        encode(model, data, &survey.missing, true, workers, &mut |image, encoded| {
            names[image] = match encoded {
                Some(encoded) => {
                    made += 1;
                    Some(entries.keep(data, image, &encoded)?)
                }
                None => None,
            };
            done += 1;
            progress(done, survey.missing.len());
            Ok(())
        })?;
        Ok(made)
    }

    /// Takes what kohya's files beside the images hold, for images that have no entry: how many, and which files did not fit.
    pub fn import_npz(&mut self, survey: &mut Survey<usize>) -> Result<(usize, Vec<ImageProblem>)> {
        let (mut taken, mut refused, mut left) = (0, Vec::new(), Vec::new());
        for &image in &survey.missing {
            let view = self.data.still_view(image);
            let file = self.data.image_file(image).zip(self.names[image]);
            let npz = file.and_then(|(path, name)| Some((path, name, kohya_npz::find(path, view.original_size)?)));
            let Some((path, name, npz)) = npz else {
                left.push(image);
                continue;
            };
            let shape = self.encoder.latent_shape(view.bucket);
            let read = match self.data.is_turned(image) {
                true => Err("its image is turned when it is read (EXIF), which those scripts do not do".to_owned()),
                false => kohya_npz::read(&npz, path, &view, shape, self.data.may_be_mirrored(image)),
            };
            match read {
                Ok(entry) => {
                    self.folder.write(&name, &entry)?;
                    survey.missing_bytes = survey.missing_bytes.saturating_sub(self.bytes(image));
                    taken += 1;
                }
                Err(reason) => {
                    refused.push(ImageProblem { path: npz, reason });
                    left.push(image);
                }
            }
        }
        survey.missing = left;
        survey.hits += taken;
        survey.imported += taken;
        Ok((taken, refused))
    }

    /// The moments of an image that has an entry. One whose entry is gone or damaged is encoded again.
    pub(super) fn moments(&self, model: &StableDiffusion, image: usize, mirrored: bool) -> Result<Moments> {
        let data = &*self.data;
        let failed = |reason: &'static str| Error::Image { path: data.path(image).to_owned(), reason };
        let name = self.names[image].ok_or_else(|| failed("cannot be read, so it has no latents"))?;
        let entries = Entries { folder: &self.folder, encoder: &self.encoder };
        match self.folder.read(&name, entries.shape(data, image))? {
            Found::Entry(LatentEntry { shape, plain, mirrored: other_side, .. }) => {
                let wanted = if mirrored { other_side } else { Some(plain) };
                if let Some(stored) = wanted {
                    return tensors(&stored, shape);
                }
            }
            Found::Damaged { path, reason } => tell_of_damage(&path, &reason),
            Found::Missing => tell_of_deletion(&self.folder.path(&name)),
        }
        let mut again = None;
        encode(model, data, &[image], true, 1, &mut |_, encoded| {
            again = encoded;
            Ok(())
        })?;
        let again = again.filter(|again| again.digest.map(|digest| self.name(image, &digest)) == Some(name));
        let again = again.ok_or_else(|| failed("was changed since the run began"))?;
        entries.keep(data, image, &again)?;
        let wanted = if mirrored { again.mirrored } else { Some(again.plain) };
        wanted.ok_or_else(|| failed("is mirrored, but may not be"))
    }

    fn bytes(&self, image: usize) -> u64 {
        let shape = self.encoder.latent_shape(self.data.placement(image).bucket);
        file_bytes(shape, self.data.may_be_mirrored(image))
    }

    fn name(&self, image: usize, digest: &[u8; 32]) -> EntryName {
        Entries { folder: &self.folder, encoder: &self.encoder }.name(&self.data, image, digest)
    }
}

/// The folder, as seen by one encoder.
struct Entries<'a> {
    folder: &'a LatentFolder,
    encoder: &'a EncoderIdentity,
}

impl Entries<'_> {
    fn shape(&self, data: &DataSet, image: usize) -> [usize; 3] {
        self.encoder.latent_shape(data.placement(image).bucket)
    }

    fn name(&self, data: &DataSet, image: usize, digest: &[u8; 32]) -> EntryName {
        LatentKey { image: digest, view: &data.still_view(image), encoder: self.encoder }.name()
    }

    fn look(&self, data: &DataSet, image: usize, name: Option<&EntryName>) -> Result<Look> {
        let Some(name) = name else { return Ok(Look::Missing) };
        Ok(match self.folder.read(name, self.shape(data, image))? {
            Found::Entry(entry) if entry.mirrored.is_none() && data.may_be_mirrored(image) => Look::Missing,
            Found::Entry(entry) => Look::Hit { imported: entry.origin == Origin::KohyaNpz },
            Found::Missing => Look::Missing,
            Found::Damaged { path, reason } => Look::Damaged(path, reason),
        })
    }

    /// Writes the entry, under the name that the bytes have which were encoded.
    fn keep(&self, data: &DataSet, image: usize, encoded: &Encoded) -> Result<EntryName> {
        let digest = encoded.digest.as_ref().expect("it was asked for");
        let name = self.name(data, image, digest);
        let entry = LatentEntry {
            shape: self.shape(data, image),
            plain: stored(&encoded.plain)?,
            mirrored: encoded.mirrored.as_ref().map(stored).transpose()?,
            origin: Origin::Encoded,
        };
        self.folder.write(&name, &entry)?;
        Ok(name)
    }
}

fn stored(moments: &Moments) -> Result<StoredMoments> {
    let values = |tensor: &Tensor| Vec::<f32>::try_from(tensor.f_reshape([-1])?);
    Ok(StoredMoments { mean: values(&moments.mean)?, logvar: values(&moments.logvar)? })
}

fn tensors(stored: &StoredMoments, shape: [usize; 3]) -> Result<Moments> {
    let shape = shape.map(|length| length as i64);
    let tensor = |values: &[f32]| Tensor::f_from_slice(values)?.f_reshape(shape);
    Ok(Moments { mean: tensor(&stored.mean)?, logvar: tensor(&stored.logvar)? })
}
