//! A data set: opened once, then asked for the batches of any epoch in any order.

mod captions;
mod folders;
mod split;
mod still;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{AlphaConfig, DataConfig, Leftovers, LossConfig, MASK_COLUMN, ResizeKernel, Subset, TrainSection};

use crate::batch::{BatchPlan, Contents, ExampleId, HostBatch, HostImage, Visit};
use crate::buckets::{Buckets, Placement, Size};
use crate::epochs::EpochLengths;
use crate::groups::{check_batch_sizes, order_of};
use crate::image::{ColorChange, Picture, Transform};
use crate::order::{Order, Rank};
use crate::prefetch::Prefetcher;
use crate::report::DataReport;
use crate::scan::{Image, Scan, scan, too_many};
use crate::second_read::read_twice;
use crate::source::ImageLocation;
use crate::{DataError, ImageProblem, content, extra_images, image, source};

pub use folders::FolderTags;
pub use still::{PIXELS_VERSION, StillView};

/// Images and captions, and the order in which they are trained on.
#[derive(Debug)]
pub struct DataSet {
    seed: u64,
    images: Vec<Image>,
    subsets: Vec<Subset>,
    /// How the batches make optimizer steps; none where this is not for training, and captions are left as they are.
    steps: Option<TrainSection>,
    /// What the loss of regularization images is multiplied by.
    prior_loss_weight: f64,
    alpha: AlphaConfig,
    resize_kernel: ResizeKernel,
    leftovers: Leftovers,
    order: Order,
    /// Which part of every batch is loaded.
    /// Those that this process plays, of one world.
    ranks: Vec<Rank>,
    lengths: EpochLengths,
    report: DataReport,
    /// Images that could be opened but not decoded, with the reason; filled while loading.
    unreadable: Mutex<BTreeMap<usize, String>>,
}

impl DataSet {
    /// Looks at every image's header and caption. `bucket_step` is the step between bucket sides where the configuration has none.
    ///
    /// Every problem of the data is reported at once.
    pub fn open(config: &DataConfig, seed: u64, bucket_step: usize) -> Result<DataSet, DataError> {
        let (config, scan) = look_through(config, bucket_step)?.or_errors()?;
        let data = DataSet::new(&config, config.subsets.clone(), seed, scan)?;
        check_batch_sizes(&data.order, data.leftovers, 1)?;
        Ok(data)
    }

    /// The same for a run of this length, whose captions may depend on how far it is (see `token_warmup_step`), and with this
    /// loss, which says how much regularization images count. Without it each batch is a step, and the run has no end.
    pub fn for_run(mut self, train: &TrainSection, loss: &LossConfig) -> DataSet {
        self.steps = self.steps.map(|_| train.clone());
        self.prior_loss_weight = loss.prior_loss_weight;
        self
    }

    /// The part of one or more of several ranks that train together on batches of `data.batch_size` each; a data set that is not
    /// told so is that of the only one. Batches that are shared by all of them must not be larger than an epoch. A process that plays
    /// several ranks has a part of each batch for each of them, one after the other.
    ///
    /// # Panics
    /// Where `ranks` is empty, or they are of different worlds: a defect of the caller.
    pub fn for_ranks(mut self, ranks: &[Rank]) -> Result<DataSet, DataError> {
        let world = ranks[0].world();
        assert!(ranks.iter().all(|rank| rank.world() == world), "ranks of one world");
        self.order = self.order.with_larger_batches(world);
        check_batch_sizes(&self.order, self.leftovers, world)?;
        self.ranks = ranks.to_vec();
        self.lengths = EpochLengths::of(&self.order);
        self.report.count_epochs(&self.order);
        Ok(self)
    }

    fn new(config: &DataConfig, subsets: Vec<Subset>, seed: u64, mut scan: Scan) -> Result<DataSet, DataError> {
        let order = order_of(config, &subsets, seed, &mut scan)?;
        let is_regularization = |subset: usize| subsets[subset].is_regularization;
        let regularization = || order.images().iter().filter(|image| is_regularization(image.subset));
        let mut report = DataReport {
            found: scan.found,
            kept: scan.images.len(),
            extra_images: extra_images::counts(scan.images.iter().flat_map(|image| image.extra_images.keys())),
            dropped: scan.dropped,
            unreadable: scan.unreadable,
            regularization: regularization().count(),
            regularization_visits: regularization().map(|image| image.repeats.in_every_epoch() as usize).sum(),
            unused: scan.unused,
            carries: config.leftovers == Leftovers::Carry,
            captions: scan.captions,
            warnings: scan.warnings,
            ..DataReport::default()
        };
        report.count_epochs(&order);
        Ok(DataSet {
            seed,
            images: scan.images,
            subsets,
            steps: Some(TrainSection::default()),
            prior_loss_weight: LossConfig::default().prior_loss_weight,
            alpha: config.alpha.clone(),
            resize_kernel: config.resize_kernel,
            leftovers: config.leftovers,
            lengths: EpochLengths::of(&order),
            order,
            ranks: vec![Rank::ALONE],
            report,
            unreadable: Mutex::default(),
        })
    }

    /// What was found.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// Whether visits of an image may be mirrored.
    pub fn may_be_mirrored(&self, image: usize) -> bool {
        self.subsets[self.images[image].subset].flip
    }

    /// Number of images; their indices are `0..images()`, in byte order of their paths, subset after subset.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// The file of an image.
    pub fn path(&self, image: usize) -> &std::path::Path {
        self.images[image].location.path()
    }

    /// The sizes of an image: its bucket, and what the whole image is scaled to.
    pub fn placement(&self, image: usize) -> Placement {
        self.images[image].placement
    }

    /// Batches of one epoch, the same on every rank. With `leftovers = "carry"` and with fractional repeats epochs differ in it,
    /// and one that comes after the first may have none.
    pub fn batches_of_epoch(&self, epoch: u64) -> usize {
        self.lengths.batches(&self.order, epoch)
    }

    /// Optimizer steps of a run over these data.
    pub fn total_steps(&self, train: &TrainSection) -> u64 {
        self.lengths.total_steps(&self.order, train)
    }

    /// The ranks that this process plays.
    pub fn ranks(&self) -> &[Rank] {
        &self.ranks
    }

    /// The batches of an epoch, a pure function of the seed and the epoch; of several ranks the part of each that this process plays,
    /// batch after batch.
    pub fn epoch_plan(&self, epoch: u64) -> Vec<BatchPlan> {
        let plans = self.order.epoch(epoch);
        match self.ranks[..] {
            [Rank::ALONE] => plans,
            _ => plans.iter().flat_map(|plan| self.ranks.iter().map(|&rank| plan.part_of(rank))).collect(),
        }
    }

    /// The same with each batch whole, whoever computes which part of it.
    pub fn whole_epoch_plan(&self, epoch: u64) -> Vec<BatchPlan> {
        self.order.epoch(epoch)
    }

    /// What the loss of an image is multiplied by: its own weight, its subset's, and that of regularization images where it is one.
    pub fn loss_weight(&self, image: usize) -> f32 {
        let subset = self.subset_of(image);
        let prior = if subset.is_regularization { self.prior_loss_weight } else { 1.0 };
        (self.images[image].loss_weight * subset.loss_weight * prior) as f32
    }

    /// Whether any image has a mask, or may have one in its alpha channel.
    pub fn has_masks(&self) -> bool {
        self.images.iter().any(|image| self.may_have_mask(image))
    }

    fn may_have_mask(&self, image: &Image) -> bool {
        self.subsets[image.subset].alpha_mask || image.extra_images.contains_key(MASK_COLUMN)
    }

    /// A digest of what is trained on: names, contents, captions and repeats, in order; and masks and other images that belong to
    /// them, and the weights that tables give them. It does not change when the folder is moved or copied, and does when a file
    /// is added, removed, edited, or captioned anew. Reads every one of them that has changed since its content was last looked at.
    ///
    /// # Errors
    /// Where the disk does not give one, or one is gone.
    pub fn fingerprint(&self) -> Result<String, DataError> {
        let (digests, of_extra) = content::digests_with_extra(&self.images, &self.subsets);
        let (mut digests, mut of_extra) = (digests.into_iter(), of_extra.into_iter());
        self.digest_by(|file| match file {
            File::Image(image) => match digest_of(digests.next().flatten(), &image.location)? {
                Some(digest) => Ok(digest.to_vec()),
                None => Ok(image.file_length.to_le_bytes().to_vec()),
            },
            File::Extra(extra, _) => match digest_of(of_extra.next().flatten(), extra)? {
                Some(digest) => Ok(digest.to_vec()),
                None => Ok(extra.length().unwrap_or_default().to_le_bytes().to_vec()),
            },
        })
    }

    /// The same of what the look at the folders showed: lengths in the place of contents, and of masks and other images that lie in
    /// tables and archives nothing. It reads no file, and does not notice where one is replaced by another of its length.
    pub fn listing(&self) -> String {
        let of_lengths = self.digest_by(|file| match file {
            File::Image(image) => Ok(image.file_length.to_le_bytes().to_vec()),
            File::Extra(_, length) => Ok(length.map_or_else(Vec::new, |length| length.to_le_bytes().to_vec())),
        });
        of_lengths.unwrap_or_default()
    }

    /// A digest of all there is to know about the images, and of what `content` says of each file, in order.
    fn digest_by(&self, mut content: impl FnMut(File) -> Result<Vec<u8>, DataError>) -> Result<String, DataError> {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (image, ordered) in self.images.iter().zip(self.order.images()) {
            field(image.relative(&self.subsets[image.subset]).as_os_str().as_encoded_bytes());
            field(&content(File::Image(image))?);
            for caption in &image.captions {
                field(caption.text.as_bytes());
            }
            field(&ordered.repeats.to_bytes());
            for (place, (column, extra)) in image.extra_images.iter().enumerate() {
                let length = image.extra_lengths.get(place).copied().flatten();
                field(column.as_bytes());
                field(&content(File::Extra(extra, length))?);
            }
            if image.loss_weight != 1.0 {
                field(&image.loss_weight.to_le_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Whether an image looks the same each time but for mirroring, so that its latents can be kept.
    pub fn is_cacheable(&self) -> bool {
        let changes_colours = |subset: &Subset| subset.color_augmentation.as_ref().is_some_and(|c| c.probability > 0.0);
        !self.subsets.iter().any(|subset| subset.random_crop || changes_colours(subset))
    }

    /// Which examples a batch holds. Images known by now to be unreadable are already replaced.
    pub fn examples_of(&self, plan: &BatchPlan, epoch: u64) -> Result<Vec<ExampleId>, DataError> {
        let example = |&visit: &Visit| Ok(self.example_id(visit, self.stand_in(visit.image)?, epoch));
        plan.visits.iter().map(example).collect()
    }

    /// One image, cut at the centre, for latents that are kept: their key is `(image, flipped)`.
    ///
    /// An image that cannot be read is replaced by the next readable one of its bucket; `HostImage::image` says by which.
    pub fn load_image(&self, image: usize, flipped: bool) -> Result<HostImage, DataError> {
        self.load_readable(image, Contents::Whole, |_| View { flipped, random_crop: None, color_change: None })
    }

    /// Reads the images of a batch and makes their captions.
    ///
    /// An image that cannot be read is replaced by the next readable one of its bucket and listed by `unreadable`.
    pub fn load(&self, plan: &BatchPlan, epoch: u64) -> Result<HostBatch, DataError> {
        self.load_only(Contents::Whole, plan, epoch)
    }

    /// The same with only a part of what belongs to the images, where the rest comes from elsewhere.
    pub fn load_only(&self, contents: Contents, plan: &BatchPlan, epoch: u64) -> Result<HostBatch, DataError> {
        let count = plan.visits.len();
        let progress = self.progress(plan, epoch);
        let mut batch = HostBatch {
            pixels: match contents {
                Contents::Whole => Vec::with_capacity(count * 3 * plan.size.0 * plan.size.1),
                Contents::Masks => Vec::new(),
            },
            size: plan.size,
            captions: Vec::with_capacity(count),
            examples: Vec::with_capacity(count),
            original_sizes: Vec::with_capacity(count),
            crop_offsets: Vec::with_capacity(count),
            mask: None,
            extra_images: BTreeMap::new(),
            loss_weights: Vec::with_capacity(count),
            whole: plan.whole,
        };
        let area = plan.size.0 * plan.size.1;
        for (place, &visit) in plan.visits.iter().enumerate() {
            let loaded = self.load_readable(visit.image, contents, |image| View {
                flipped: self.is_flipped(visit, image, epoch),
                random_crop: self.subset_of(image).random_crop.then(|| self.stream(Purpose::Crop, visit, epoch)),
                color_change: self
                    .subset_of(image)
                    .color_augmentation
                    .as_ref()
                    .and_then(|config| ColorChange::draw(config, &mut self.stream(Purpose::Color, visit, epoch))),
            })?;
            if let Some(mask) = loaded.mask {
                let masks = batch.mask.get_or_insert_with(|| vec![1.0; count * area]);
                masks[place * area..(place + 1) * area].copy_from_slice(&mask);
            }
            for (column, pixels) in loaded.extra_images {
                batch.extra_images.entry(column).or_default().extend(pixels);
            }
            batch.pixels.extend(loaded.pixels);
            batch.captions.push(self.caption_of_visit(visit, loaded.image, progress));
            batch.examples.push(self.example_id(visit, loaded.image, epoch));
            batch.loss_weights.push(self.loss_weight(loaded.image));
            batch.original_sizes.push(loaded.original_size);
            batch.crop_offsets.push(loaded.crop_offset);
        }
        Ok(batch)
    }

    /// The batches from one point on, without end, read ahead by `workers` threads; 0 reads each when it is asked for.
    pub fn prefetch(self: Arc<Self>, start_epoch: u64, start_batch: usize, workers: usize) -> Prefetcher {
        self.prefetch_only(Contents::Whole, start_epoch, start_batch, workers)
    }

    /// The same with only a part of what belongs to the images.
    pub fn prefetch_only(
        self: Arc<Self>,
        contents: Contents,
        start_epoch: u64,
        start_batch: usize,
        workers: usize,
    ) -> Prefetcher {
        Prefetcher::start(self, contents, start_epoch, start_batch, workers)
    }

    /// Images that turned out unreadable while loading, to be listed again at the end of a run.
    pub fn unreadable(&self) -> Vec<ImageProblem> {
        self.problems(&self.known_unreadable())
    }

    fn load_readable(
        &self,
        image: usize,
        contents: Contents,
        view: impl Fn(usize) -> View,
    ) -> Result<HostImage, DataError> {
        // Which image comes out depends on the files alone, not on what was found unreadable before.
        loop {
            let image = self.stand_in(image)?;
            // A panic may be one of a library, at an image that it has never seen the like of: whoever asked learns which it was.
            let files = self.images[image].locations();
            let read = || read_twice(files, || self.read(image, contents, view(image)));
            let read = catch_unwind(AssertUnwindSafe(read));
            match read.map_err(|_| DataError::Panicked { path: self.path(image).to_owned() })?? {
                Ok(loaded) => return Ok(loaded),
                Err(reason) => self.known_unreadable().insert(image, reason),
            };
        }
    }

    fn read(&self, index: usize, contents: Contents, view: View) -> Result<HostImage, String> {
        let image = &self.images[index];
        #[cfg(test)]
        assert!(!image.location.path().ends_with(crate::prefetch::MAKES_READERS_PANIC), "as a test wants it");
        let Placement { bucket, resized } = image.placement;
        let corner = view.corner((resized.0 - bucket.0, resized.1 - bucket.1));
        let transform = Transform { resized, corner, bucket, flipped: view.flipped };
        let mut loaded = HostImage {
            pixels: Vec::new(),
            size: bucket,
            original_size: image.size,
            crop_offset: transform.crop_offset(),
            mask: None,
            extra_images: BTreeMap::new(),
            image: index,
        };
        let has_own_mask = image.extra_images.contains_key(MASK_COLUMN);
        let mut mask = None;
        if contents == Contents::Whole || (self.may_have_mask(image) && !has_own_mask) {
            let picture = self.decode(image)?;
            mask = picture.alpha.filter(|_| self.subsets[image.subset].alpha_mask);
            if contents == Contents::Whole {
                let mut seen = transform.image(picture.rgb, self.kernel_of(image))?;
                if let Some(change) = view.color_change {
                    change.apply(&mut seen);
                }
                loaded.pixels = image::normalised(&seen);
            }
        }
        for (column, location) in &image.extra_images {
            let of_column = |reason| format!("its `{column}` image `{}` {reason}", location.path().display());
            if column == MASK_COLUMN {
                mask = Some(image::decode_mask(location).map_err(of_column)?);
            } else if contents == Contents::Whole {
                let extra = image::decode(location, &self.alpha)
                    .and_then(|extra| transform.image(extra.rgb, self.kernel_of(image)));
                loaded.extra_images.insert(column.clone(), image::normalised(&extra.map_err(of_column)?));
            }
        }
        let mask = mask.map(|mask| transform.mask(mask)).transpose()?;
        loaded.mask = mask.map(|mask| image::weights(&mask));
        Ok(loaded)
    }

    fn decode(&self, image: &Image) -> Result<Picture, String> {
        let picture = image::decode(&image.location, &self.alpha)?;
        let (size, now) = (image.size, (picture.rgb.width() as usize, picture.rgb.height() as usize));
        match now == size {
            true => Ok(picture),
            false => Err(format!("was {} × {} pixels at the start and is {} × {} now", size.0, size.1, now.0, now.1)),
        }
    }

    fn kernel_of(&self, image: &Image) -> ResizeKernel {
        self.subsets[image.subset].resize_kernel.unwrap_or(self.resize_kernel)
    }

    /// The image itself, or where it is known to be unreadable the next one of its bucket that is not;
    /// an error for every image once too many are known.
    fn stand_in(&self, image: usize) -> Result<usize, DataError> {
        let unreadable = self.known_unreadable();
        if too_many(self.report.unreadable + unreadable.len(), self.report.found) {
            let unreadable = self.problems(&unreadable);
            return Err(DataError::TooManyUnreadable { found: self.report.found, unreadable });
        }
        let ordered = self.order.images();
        let bucket = ordered[image].bucket;
        let count = self.images.len();
        (image..image + count)
            .map(|index| index % count)
            .find(|index| ordered[*index].bucket == bucket && !unreadable.contains_key(index))
            .ok_or_else(|| DataError::BucketUnreadable {
                bucket: self.images[image].placement.bucket,
                unreadable: self.problems(&unreadable),
            })
    }

    fn known_unreadable(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problems(&self, unreadable: &BTreeMap<usize, String>) -> Vec<ImageProblem> {
        let problem = |(&image, reason): (&usize, &String)| ImageProblem {
            path: self.path(image).to_owned(),
            reason: reason.clone(),
        };
        unreadable.iter().map(problem).collect()
    }

    fn subset_of(&self, image: usize) -> &Subset {
        &self.subsets[self.images[image].subset]
    }

    /// A visit that waited has the draws of the epoch that it was due in, where no other visit has them.
    fn stream(&self, purpose: Purpose, visit: Visit, epoch: u64) -> Stream {
        Stream::new(self.seed, purpose, epoch - visit.epochs_ago, self.index(visit))
    }

    fn index(&self, visit: Visit) -> u64 {
        visit.image as u64 + visit.repeat as u64 * self.images.len() as u64
    }

    /// `image` is the visit's own, or the one that stands in for it and whose subset then decides.
    fn is_flipped(&self, visit: Visit, image: usize, epoch: u64) -> bool {
        self.may_be_mirrored(image) && self.stream(Purpose::Flip, visit, epoch).uniform() < 0.5
    }

    /// `image` is the visit's own, or the one that stands in for it.
    fn example_id(&self, visit: Visit, image: usize, epoch: u64) -> ExampleId {
        ExampleId {
            index: self.index(visit),
            image,
            flipped: self.is_flipped(visit, image, epoch),
            epoch: epoch - visit.epochs_ago,
            path: self.path(image).to_owned(),
        }
    }
}

/// What the data of a configuration are.
struct LookedThrough {
    /// The configuration with a subset for each set of images.
    config: DataConfig,
    scan: Scan,
    /// Why a run would not start.
    errors: Vec<DataError>,
}

impl LookedThrough {
    fn or_errors(self) -> Result<(DataConfig, Scan), DataError> {
        DataError::all(self.errors)?;
        Ok((self.config, self.scan))
    }
}

fn look_through(config: &DataConfig, bucket_step: usize) -> Result<LookedThrough, DataError> {
    let (config, notes) = source::expand(config)?;
    let buckets = Buckets::of_subsets(&config, bucket_step)?;
    let (mut scan, errors) = scan(&config, &buckets);
    scan.warnings.splice(0..0, notes);
    Ok(LookedThrough { config, scan, errors })
}

/// What there is to say about the data of a configuration beside why a run would not start, if it would not.
pub(crate) fn warnings(config: &DataConfig, bucket_step: usize) -> Result<Vec<String>, DataError> {
    Ok(look_through(config, bucket_step)?.scan.warnings)
}

/// How one visit looks at an image.
struct View {
    flipped: bool,
    /// Where a random crop's place is drawn from; without, the centre is cut.
    random_crop: Option<Stream>,
    color_change: Option<ColorChange>,
}

impl View {
    /// `trim` is by how much the scaled image is wider and higher than its bucket.
    fn corner(&self, trim: Size) -> Size {
        match self.random_crop.clone() {
            Some(mut random) => (random.below(trim.0 as u64 + 1) as usize, random.below(trim.1 as u64 + 1) as usize),
            None => (trim.0 / 2, trim.1 / 2),
        }
    }
}

/// What a digest of the data asks the content of.
enum File<'a> {
    Image(&'a Image),
    /// A mask, or another image that belongs to one, and how long it was when the folders were looked at, where it is a file of its own.
    Extra(&'a ImageLocation, Option<u64>),
}

/// The digest of a file, which is read once more where that is not `known`; none where it cannot be by its own fault.
fn digest_of(known: Option<content::Digest>, location: &ImageLocation) -> Result<Option<content::Digest>, DataError> {
    if known.is_some() {
        return Ok(known);
    }
    let read = || location.read().map_err(|error| error.to_string());
    match read_twice([location].into_iter(), read)? {
        Ok(bytes) => Ok(Some(content::digest(&bytes))),
        // Its folder may be there again later. What it held must not be made up until then.
        Err(reason) if !location.file_and_entry().0.exists() => {
            Err(DataError::Disk { path: location.path().to_owned(), reason })
        }
        Err(_) => Ok(None),
    }
}
