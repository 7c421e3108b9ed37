//! Latents in a folder: which are there, making those that are not, and reading them batch by batch.

use super::encode::{Encoded, Moments, encode};
use super::encoder_identity::encoder_identity;
use crate::error::{Error, Result};
use sdtrain_data_loader::{DataSet, ImageProblem};
use sdtrain_feature_cache::{
    EncoderIdentity, EntryName, Found, LatentEntry, LatentFolder, LatentKey, Moments as StoredMoments, Origin,
    file_bytes, kohya_npz,
};
use sdtrain_model::StableDiffusion;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use tch::Tensor;

/// The latents of one data set in a folder that may hold many.
pub(super) struct DiskLatents {
    folder: LatentFolder,
    data: Arc<DataSet>,
    encoder: EncoderIdentity,
    /// The entry of each image; none for one that cannot be read.
    names: Vec<Option<EntryName>>,
}

/// What of a data set is in the folder.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Images with a whole entry.
    pub hits: usize,
    /// Those of them that came from kohya's files.
    pub imported: usize,
    /// The other images.
    pub missing: Vec<usize>,
    /// Files that were there but damaged, with the reason.
    pub damaged: Vec<(PathBuf, String)>,
    /// What the missing entries will take at most.
    pub missing_bytes: u64,
}

impl Survey {
    /// One line on it.
    pub fn summary(&self, folder: &Path) -> String {
        let total = self.hits + self.missing.len();
        let mut text = format!("{} of {total} images are in `{}`", self.hits, folder.display());
        if self.imported > 0 {
            let _ = write!(text, " ({} from kohya's files, without randomness)", self.imported);
        }
        if !self.missing.is_empty() {
            let _ = write!(text, ", {} to encode take {}", self.missing.len(), mebibytes(self.missing_bytes));
        }
        text
    }

    /// Names what is made again because it was damaged.
    pub fn tell_of_damage(&self) {
        for (path, reason) in &self.damaged {
            tell_of_damage(path, reason);
        }
    }
}

fn tell_of_damage(path: &Path, reason: &str) {
    eprintln!("made again, it was damaged: `{}`: {reason}", path.display());
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// What became of an image's entry.
enum Look {
    Hit(Origin),
    Missing,
    Damaged(PathBuf, String),
}

impl DiskLatents {
    /// Opens the folder, reads every image's bytes for their digest and every entry that there is.
    pub fn open(folder: &Path, model: &StableDiffusion, data: &Arc<DataSet>) -> Result<(DiskLatents, Survey)> {
        let folder = LatentFolder::open(folder)?;
        let names = vec![None; data.images()];
        let mut disk = DiskLatents { folder, data: data.clone(), encoder: encoder_identity(model)?, names };
        let survey = disk.survey()?;
        Ok((disk, survey))
    }

    /// Encodes `images` and keeps them; how many could be read. `progress(done, total)`.
    pub fn fill(
        &mut self,
        model: &StableDiffusion,
        images: &[usize],
        workers: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<usize> {
        let data = self.data.clone();
        let (mut done, mut made) = (0, 0);
        encode(model, &data, images, true, workers, &mut |encoded| {
            if let Some(encoded) = encoded {
                self.keep(&encoded)?;
                made += 1;
            }
            done += 1;
            progress(done, images.len());
            Ok(())
        })?;
        Ok(made)
    }

    /// Takes what kohya's files beside the images hold, for images that have no entry: how many, and which files did not fit.
    pub fn import_npz(&mut self, survey: &mut Survey) -> Result<(usize, Vec<ImageProblem>)> {
        let (mut taken, mut refused, mut left) = (0, Vec::new(), Vec::new());
        for &image in &survey.missing {
            let view = self.data.still_view(image);
            let file = self.data.image_file(image).zip(self.names[image]);
            let npz = file.and_then(|(path, name)| Some((path, name, kohya_npz::find(path, view.original_size)?)));
            let Some((path, name, npz)) = npz else {
                left.push(image);
                continue;
            };
            let read = match self.data.is_turned(image) {
                true => Err("its image is turned when it is read (EXIF), which those scripts do not do".to_owned()),
                false => kohya_npz::read(&npz, path, &view, self.shape(image), self.data.may_be_mirrored(image)),
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

    /// The moments of an image that is trained on. One whose entry is gone or damaged is encoded again.
    pub fn moments(&self, model: &StableDiffusion, image: usize, flipped: bool) -> Result<Moments> {
        let path = self.data.path(image);
        let name = self.names[image].ok_or_else(|| Error::storage(path, "cannot be read, so it has no latents"))?;
        match self.folder.read(&name, self.shape(image))? {
            Found::Entry(LatentEntry { shape, plain, mirrored, .. }) => {
                let wanted = if flipped { mirrored } else { Some(plain) };
                if let Some(stored) = wanted {
                    return tensors(&stored, shape);
                }
            }
            Found::Damaged { path, reason } => tell_of_damage(&path, &reason),
            Found::Missing => eprintln!("made again, it was deleted: `{}`", self.folder.path(&name).display()),
        }
        let mut again = None;
        encode(model, &self.data, &[image], true, 1, &mut |encoded| {
            again = encoded;
            Ok(())
        })?;
        let again = again.filter(|again| again.digest.map(|digest| self.name(image, &digest)) == Some(name));
        let again = again.ok_or_else(|| Error::storage(path, "was changed since the run began"))?;
        self.folder.write(&name, &self.entry(&again)?)?;
        let wanted = if flipped { again.mirrored } else { Some(again.plain) };
        wanted.ok_or_else(|| Error::storage(path, "is mirrored, but may not be"))
    }

    fn shape(&self, image: usize) -> [usize; 3] {
        self.encoder.latent_shape(self.data.placement(image).bucket)
    }

    fn bytes(&self, image: usize) -> u64 {
        file_bytes(self.shape(image), self.data.may_be_mirrored(image))
    }

    fn name(&self, image: usize, digest: &[u8; 32]) -> EntryName {
        LatentKey { image: digest, view: &self.data.still_view(image), encoder: &self.encoder }.name()
    }

    fn keep(&mut self, encoded: &Encoded) -> Result<()> {
        let digest = encoded.digest.as_ref().expect("it was asked for");
        let name = self.name(encoded.image, digest);
        self.folder.write(&name, &self.entry(encoded)?)?;
        self.names[encoded.image] = Some(name);
        Ok(())
    }

    fn entry(&self, encoded: &Encoded) -> Result<LatentEntry> {
        Ok(LatentEntry {
            shape: self.shape(encoded.image),
            plain: stored(&encoded.plain)?,
            mirrored: encoded.mirrored.as_ref().map(stored).transpose()?,
            origin: Origin::Encoded,
        })
    }

    /// Looks at all images on as many threads as the machine has; most of it is reading.
    fn survey(&mut self) -> Result<Survey> {
        let count = self.data.images();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(threads).max(1);
        let this = &*self;
        let looks: Result<Vec<(Option<EntryName>, Look)>> = thread::scope(|scope| {
            let starts = (0..count).step_by(share);
            let workers: Vec<_> = starts
                .map(|start| {
                    scope.spawn(move || (start..count.min(start + share)).map(|image| this.look(image)).collect())
                })
                .collect();
            let mut all = Vec::with_capacity(count);
            for worker in workers {
                let part: Vec<std::result::Result<_, sdtrain_feature_cache::Error>> =
                    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                for look in part {
                    all.push(look?);
                }
            }
            Ok(all)
        });
        let mut survey = Survey::default();
        for (image, (name, look)) in looks?.into_iter().enumerate() {
            self.names[image] = name;
            match look {
                Look::Hit(origin) => {
                    survey.hits += 1;
                    survey.imported += usize::from(origin == Origin::KohyaNpz);
                    continue;
                }
                Look::Missing => {}
                Look::Damaged(path, reason) => survey.damaged.push((path, reason)),
            }
            survey.missing_bytes += self.bytes(image);
            survey.missing.push(image);
        }
        Ok(survey)
    }

    fn look(&self, image: usize) -> std::result::Result<(Option<EntryName>, Look), sdtrain_feature_cache::Error> {
        // What cannot be read is looked at again when it is to be encoded, and left out there.
        let Ok(digest) = self.data.image_digest(image) else { return Ok((None, Look::Missing)) };
        let name = self.name(image, &digest);
        let look = match self.folder.read(&name, self.shape(image))? {
            Found::Entry(entry) if entry.mirrored.is_none() && self.data.may_be_mirrored(image) => Look::Missing,
            Found::Entry(entry) => Look::Hit(entry.origin),
            Found::Missing => Look::Missing,
            Found::Damaged { path, reason } => Look::Damaged(path, reason),
        };
        Ok((Some(name), look))
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
