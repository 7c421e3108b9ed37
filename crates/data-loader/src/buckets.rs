//! Aspect-ratio buckets: which sizes there are, and which of them an image of some shape is scaled and cut to.
//!
//! The sizes and the choice are those of kohya's sd-scripts (`model_util.make_bucket_resolutions`,
//! `BucketManager.select_bucket`), for any step, so that a data set falls into the same buckets here and there.

use sdtrain_recipe::{Batching, DataConfig, ResizeMode, Subset};

use crate::DataError;

/// Largest factor by which an image may be enlarged; beyond it there is nothing left to learn from.
const LARGEST_ENLARGEMENT: f64 = 16.0;

/// More sides of buckets than this are a slip in the configuration.
const MOST_SIDES: usize = 4096;

/// Width and height in pixels.
pub(crate) type Size = (usize, usize);

/// How one image gets to its bucket: scaled to cover it, then cut; or squeezed into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// `(width, height)` the network sees.
    pub bucket: Size,
    /// `(width, height)` the whole image is scaled to; no side is shorter than the bucket's.
    pub resized: Size,
}

/// The sizes that images of a data set are brought to.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    resolution: Size,
    step: usize,
    rule: Rule,
    /// Images are scaled to the very size of their bucket, so that nothing is cut off.
    squeezes: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    /// Every image is cut to the resolution.
    Single,
    /// The nearest shape of a fixed list, sorted by width, then height.
    Nearest(Vec<Size>),
    /// The image's own shape, never enlarged.
    OwnSize,
    /// The resolution is cut out of every image as it is.
    Unscaled,
}

impl Buckets {
    /// The buckets of each subset of a configuration; `default_step` is what the model needs where `bucketing.step` is absent.
    pub fn of_subsets(config: &DataConfig, default_step: usize) -> Result<Vec<Self>, DataError> {
        let mut known: Vec<(Batching, Buckets)> = Vec::new();
        let mut buckets = Vec::with_capacity(config.subsets.len());
        for subset in &config.subsets {
            let batching = config.batching(subset);
            if let Some((_, same)) = known.iter().find(|(other, _)| *other == batching) {
                buckets.push(same.clone().cropped_as(subset));
                continue;
            }
            let mut made =
                Buckets::new(&batching, default_step).map_err(|error| match batching == config.own_batching() {
                    true => error,
                    false => error.of_images_in(&subset.path),
                })?;
            made.squeezes = config.resize == ResizeMode::Squeeze;
            buckets.push(made.clone().cropped_as(subset));
            known.push((batching, made));
        }
        Ok(buckets)
    }

    /// Those of a subset, which may have its images cut without scaling them.
    fn cropped_as(self, subset: &Subset) -> Self {
        match self.rule {
            Rule::Single if subset.crop_unscaled => Self { rule: Rule::Unscaled, ..self },
            _ => self,
        }
    }

    /// The buckets of one group of subsets; `default_step` is what the model needs where `bucketing.step` is absent.
    pub fn new(config: &Batching, default_step: usize) -> Result<Self, DataError> {
        let (width, height) = (config.resolution.width() as usize, config.resolution.height() as usize);
        let resolution = (width, height);
        let step = config.bucketing.step.map_or(default_step, |step| step as usize).max(1);
        if width == 0 || height == 0 {
            return Err(DataError::bucketing("data.resolution", "must be at least 1 pixel", "512 is usual for SD1.5"));
        }
        if !config.bucketing.enabled {
            return Ok(Self { resolution, step, rule: Rule::Single, squeezes: false });
        }
        if (width * height) < step * step {
            return Err(DataError::bucketing(
                "data.resolution",
                &format!("{width} × {height} pixels hold no bucket of {step} × {step}, the smallest step"),
                "set a smaller `data.bucketing.step`, or a larger resolution",
            ));
        }
        if config.bucketing.no_upscale {
            return Ok(Self { resolution, step, rule: Rule::OwnSize, squeezes: false });
        }
        let (min, max) = config.bucketing.side_range(config.resolution);
        let (min, max) = (min as usize, max as usize);
        if min > width.min(height) {
            return Err(DataError::bucketing(
                "data.bucketing.min",
                &format!("{min} is more than the shorter side of the resolution, {}", width.min(height)),
                "leave it out, or set it to half of the resolution",
            ));
        }
        if max < width.max(height) {
            return Err(DataError::bucketing(
                "data.bucketing.max",
                &format!("{max} is less than the longer side of the resolution, {}", width.max(height)),
                "leave it out, or set it to twice the resolution",
            ));
        }
        let min = (min / step * step).max(step);
        let max = max.div_ceil(step) * step;
        if max.min(width * height / min).saturating_sub(min) / step > MOST_SIDES {
            return Err(DataError::bucketing(
                "data.bucketing.step",
                &format!("sides from {min} to {max} in steps of {step} pixels make more than {MOST_SIDES} buckets"),
                "64 is usual for SD1.5 at 512 pixels; or raise `data.bucketing.min`",
            ));
        }
        Ok(Self { resolution, step, rule: Rule::Nearest(sizes(resolution, min, max, step)), squeezes: false })
    }

    /// The fixed list of sizes, sorted; empty where every image brings its own (`no_upscale`).
    pub fn sizes(&self) -> Vec<Size> {
        match &self.rule {
            Rule::Single | Rule::Unscaled => vec![self.resolution],
            Rule::Nearest(sizes) => sizes.clone(),
            Rule::OwnSize => Vec::new(),
        }
    }

    /// Where an image of this size goes, or why it cannot be used.
    pub fn place(&self, image: Size) -> Result<Placement, String> {
        let placement = match &self.rule {
            Rule::Single => cover(image, self.resolution),
            Rule::Nearest(sizes) => cover(image, nearest(sizes, image)),
            Rule::OwnSize => self.own_size(image),
            Rule::Unscaled if image.0 < self.resolution.0 || image.1 < self.resolution.1 => {
                return Err(format!(
                    "{} × {} pixels are too few to cut {} × {} out of them without scaling (`crop_unscaled`)",
                    image.0, image.1, self.resolution.0, self.resolution.1
                ));
            }
            Rule::Unscaled => Placement { bucket: self.resolution, resized: image },
        };
        let bucket = placement.bucket;
        let placement = if self.squeezes { Placement { bucket, resized: bucket } } else { placement };
        let resized = placement.resized;
        if bucket.0 == 0 || bucket.1 == 0 {
            return Err(format!(
                "{} × {} pixels; the smallest bucket is {} × {}",
                image.0, image.1, self.step, self.step
            ));
        }
        let enlargement = (resized.0 as f64 / image.0 as f64).max(resized.1 as f64 / image.1 as f64);
        if enlargement > LARGEST_ENLARGEMENT {
            return Err(format!(
                "{} × {} pixels would have to be enlarged {enlargement:.0} times to fill {} × {}",
                image.0, image.1, bucket.0, bucket.1
            ));
        }
        Ok(placement)
    }

    /// The bucket of an image that is never enlarged: shrunk to the resolution's area where it is larger, then rounded down to
    /// whole steps. Of the two ways to round, the one that keeps the shape better.
    fn own_size(&self, (width, height): Size) -> Placement {
        let step = self.step;
        let area = (self.resolution.0 * self.resolution.1) as f64;
        let to_steps = |side: f64| (side + 0.5) as usize / step * step;
        let aspect = width as f64 / height as f64;
        let resized = if (width * height) as f64 > area {
            let by_width = to_steps((area * aspect).sqrt());
            let by_width = (by_width, to_steps(by_width as f64 / aspect));
            let by_height = to_steps((area / aspect).sqrt());
            let by_height = (to_steps(by_height as f64 * aspect), by_height);
            let error = |(w, h): Size| (w as f64 / h as f64 - aspect).abs();
            if error(by_width) < error(by_height) {
                (by_width.0, (by_width.0 as f64 / aspect + 0.5) as usize)
            } else {
                ((by_height.1 as f64 * aspect + 0.5) as usize, by_height.1)
            }
        } else {
            (width, height)
        };
        Placement { bucket: (resized.0 / step * step, resized.1 / step * step), resized }
    }
}

/// All sizes whose sides are multiples of `step` within `min..=max` and whose area fits the resolution's.
fn sizes(resolution: Size, min: usize, max: usize, step: usize) -> Vec<Size> {
    let area = resolution.0 * resolution.1;
    let square = area.isqrt() / step * step;
    let mut sizes = vec![(square, square)];
    // A wider one would be lower than `min`.
    for width in (min..=max.min(area / min)).step_by(step) {
        let height = (area / width / step * step).min(max);
        if height >= min {
            sizes.push((width, height));
            sizes.push((height, width));
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The size of the list whose width/height is nearest to the image's; of equally near ones the first.
fn nearest(sizes: &[Size], image: Size) -> Size {
    if sizes.contains(&image) {
        return image;
    }
    let aspect = image.0 as f64 / image.1 as f64;
    let mut best = (f64::INFINITY, sizes[0]);
    for &size in sizes {
        let error = (size.0 as f64 / size.1 as f64 - aspect).abs();
        if error < best.0 {
            best = (error, size);
        }
    }
    best.1
}

/// Scales the image so that it just covers the bucket.
fn cover(image: Size, bucket: Size) -> Placement {
    let (width, height) = (image.0 as f64, image.1 as f64);
    let wider = width / height > bucket.0 as f64 / bucket.1 as f64;
    let scale = if wider { bucket.1 as f64 / height } else { bucket.0 as f64 / width };
    let resized = ((width * scale + 0.5) as usize, (height * scale + 0.5) as usize);
    Placement { bucket, resized: (resized.0.max(bucket.0), resized.1.max(bucket.1)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sdtrain_recipe::{BucketingConfig, Resolution};

    use super::*;

    fn config(resolution: Resolution, bucketing: BucketingConfig) -> Batching {
        Batching { resolution, bucketing, batch_size: 1 }
    }

    fn buckets(side: u32, min: u32, max: u32) -> Buckets {
        let bucketing = BucketingConfig { min: Some(min), max: Some(max), ..BucketingConfig::default() };
        Buckets::new(&config(Resolution::Square(side), bucketing), 64).unwrap()
    }

    fn no_upscale() -> Buckets {
        let bucketing = BucketingConfig { no_upscale: true, ..BucketingConfig::default() };
        Buckets::new(&config(Resolution::Square(512), bucketing), 64).unwrap()
    }

    fn placed(buckets: &Buckets, image: Size) -> (Size, Size) {
        let placement = buckets.place(image).unwrap();
        (placement.bucket, placement.resized)
    }

    #[test]
    fn sizes_at_512_are_kohyas() {
        let half = [(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)];
        let mut expected: Vec<Size> = half.iter().flat_map(|&(w, h)| [(w, h), (h, w)]).collect();
        expected.push((512, 512));
        expected.sort_unstable();
        assert_eq!(expected.len(), 17);
        assert_eq!(buckets(512, 256, 1024).sizes(), expected);
    }

    #[test]
    fn sizes_at_1024_are_kohyas() {
        let wide = buckets(1024, 256, 2048).sizes();
        assert_eq!(wide.len(), 41);
        for size in [(1344, 768), (1216, 832), (1152, 896), (1024, 1024)] {
            assert!(wide.contains(&size), "{size:?}");
        }
        let narrow = buckets(1024, 256, 1024).sizes();
        assert_eq!(narrow.len(), 25);
        assert!(narrow.iter().all(|&(w, h)| w == 1024 || h == 1024));
    }

    #[test]
    fn without_limits_sides_lie_between_half_and_twice_the_resolution() {
        let default = Buckets::new(&config(Resolution::Square(512), BucketingConfig::default()), 64).unwrap();
        assert_eq!(default, buckets(512, 256, 1024));
        let small = Buckets::new(&config(Resolution::Square(128), BucketingConfig::default()), 32).unwrap();
        assert!(small.sizes().iter().all(|&(w, h)| w * h <= 128 * 128 && w.min(h) >= 64 && w.max(h) <= 256));
        assert!(small.sizes().contains(&(128, 128)));
    }

    #[test]
    fn images_go_where_kohya_sends_them() {
        let buckets = buckets(512, 256, 1024);
        assert_eq!(placed(&buckets, (1920, 1080)), ((640, 384), (683, 384)));
        assert_eq!(placed(&buckets, (3000, 1000)), ((832, 256), (832, 277)));
        assert_eq!(placed(&buckets, (640, 480)), ((576, 448), (597, 448)));
        assert_eq!(placed(&buckets, (512, 512)), ((512, 512), (512, 512)));
        assert_eq!(placed(&buckets, (100, 100)), ((512, 512), (512, 512)));
    }

    #[test]
    fn of_two_equally_near_shapes_the_narrower_is_taken() {
        let bucketing = BucketingConfig { step: Some(32), ..BucketingConfig::default() };
        let buckets = Buckets::new(&config(Resolution::Square(64), bucketing), 64).unwrap();
        assert_eq!(buckets.sizes(), [(32, 96), (32, 128), (64, 64), (96, 32), (128, 32)]);
        assert_eq!(placed(&buckets, (200, 100)).0, (64, 64));
    }

    #[test]
    fn an_image_of_a_buckets_size_stays_as_it_is() {
        let buckets = buckets(512, 256, 1024);
        for size in buckets.sizes() {
            assert_eq!(placed(&buckets, size), (size, size));
        }
    }

    #[test]
    fn without_enlarging_images_keep_their_size() {
        let buckets = no_upscale();
        assert_eq!(placed(&buckets, (640, 480)), ((512, 384), (512, 384)));
        assert_eq!(placed(&buckets, (513, 511)), ((512, 448), (513, 511)));
        assert_eq!(placed(&buckets, (200, 300)), ((192, 256), (200, 300)));
        assert!(buckets.place((63, 500)).unwrap_err().contains("smallest bucket is 64 × 64"));
    }

    #[test]
    fn a_scaled_image_always_covers_its_bucket() {
        let buckets = [buckets(512, 256, 1024), no_upscale(), buckets(128, 64, 256)];
        for width in (65..2000).step_by(37) {
            for height in (65..2000).step_by(41) {
                for buckets in &buckets {
                    let (bucket, resized) = placed(buckets, (width, height));
                    assert!(
                        resized.0 >= bucket.0 && resized.1 >= bucket.1,
                        "{width} × {height}: {resized:?} {bucket:?}"
                    );
                }
            }
        }
    }

    /// Buckets of any resolution, limits and step that a configuration may have.
    fn any_buckets() -> impl Strategy<Value = (Buckets, Batching)> {
        let sides = (48_u32..700, 48_u32..700, prop::sample::select(vec![8_u32, 16, 32, 48, 64]));
        (sides, 0.3_f64..1.0, 1.0_f64..3.0, any::<bool>()).prop_filter_map(
            "limits that no configuration may have",
            |((width, height, step), least, most, no_upscale)| {
                let bucketing = BucketingConfig {
                    min: Some((f64::from(width.min(height)) * least) as u32),
                    max: Some((f64::from(width.max(height)) * most) as u32),
                    step: Some(step),
                    no_upscale,
                    ..BucketingConfig::default()
                };
                let config = config(Resolution::Size([width, height]), bucketing);
                Some((Buckets::new(&config, 64).ok()?, config))
            },
        )
    }

    proptest! {
        #[test]
        fn every_bucket_keeps_to_step_limits_and_area((buckets, config) in any_buckets()) {
            let step = buckets.step;
            let area = buckets.resolution.0 * buckets.resolution.1;
            let (min, max) = config.bucketing.side_range(config.resolution);
            let sizes = buckets.sizes();
            prop_assert!(sizes.is_sorted() && (!sizes.is_empty() || config.bucketing.no_upscale));
            for &(width, height) in &sizes {
                prop_assert!(width % step == 0 && height % step == 0 && width * height <= area, "{width} × {height}");
                let (shorter, longer) = (width.min(height), width.max(height));
                // The least is rounded down to whole steps, and the most up.
                prop_assert!(shorter + step > min as usize && longer < max as usize + step, "{width} × {height}");
                prop_assert!(sizes.contains(&(height, width)));
            }
        }

        #[test]
        fn every_image_covers_its_bucket_and_no_other_bucket_is_nearer(
            (buckets, config) in any_buckets(), width in 1_usize..3000, height in 1_usize..3000
        ) {
            let Ok(Placement { bucket, resized }) = buckets.place((width, height)) else { return Ok(()) };
            prop_assert!(resized.0 >= bucket.0 && resized.1 >= bucket.1, "{bucket:?} {resized:?}");
            prop_assert!(bucket.0 % buckets.step == 0 && bucket.1 % buckets.step == 0);
            if config.bucketing.no_upscale {
                prop_assert!(resized.0 <= width && resized.1 <= height, "{resized:?} of {width} × {height}");
                prop_assert!(resized.0 < bucket.0 + buckets.step && resized.1 < bucket.1 + buckets.step);
                return Ok(());
            }
            prop_assert!(buckets.sizes().contains(&bucket));
            // One side fits exactly, and the other is scaled by the same factor.
            prop_assert!(resized.0 == bucket.0 || resized.1 == bucket.1, "{bucket:?} {resized:?}");
            let error = |size: Size| (size.0 as f64 / size.1 as f64 - width as f64 / height as f64).abs();
            let is_own_size = bucket == (width, height);
            prop_assert!(is_own_size || buckets.sizes().into_iter().all(|other| error(bucket) <= error(other)));
        }
    }

    #[test]
    fn without_bucketing_there_is_one_size() {
        let off = BucketingConfig { enabled: false, ..BucketingConfig::default() };
        let buckets = Buckets::new(&config(Resolution::Size([96, 64]), off), 64).unwrap();
        assert_eq!(buckets.sizes(), [(96, 64)]);
        assert_eq!(placed(&buckets, (300, 300)), ((96, 64), (96, 96)));
    }

    #[test]
    fn an_image_that_is_cut_unscaled_keeps_its_size() {
        let off = BucketingConfig { enabled: false, ..BucketingConfig::default() };
        let unscaled = Subset { crop_unscaled: true, ..Subset::default() };
        let subsets = vec![Subset::default(), unscaled];
        let config =
            DataConfig { resolution: Resolution::Size([96, 64]), bucketing: off, subsets, ..DataConfig::default() };
        let [scaled, unscaled] = &Buckets::of_subsets(&config, 64).unwrap()[..] else { panic!() };
        assert_eq!(placed(scaled, (300, 300)), ((96, 64), (96, 96)));
        assert_eq!(placed(unscaled, (300, 300)), ((96, 64), (300, 300)));
        assert_eq!(placed(unscaled, (96, 64)), ((96, 64), (96, 64)));
        assert!(unscaled.place((95, 300)).unwrap_err().starts_with("95 × 300 pixels are too few to cut 96 × 64"));
    }

    #[test]
    fn a_squeezed_image_has_the_size_of_the_bucket_that_is_nearest_to_its_shape() {
        let of = |bucketing: BucketingConfig| {
            let (resolution, subsets) = (Resolution::Square(512), vec![Subset::default()]);
            let config =
                DataConfig { resolution, bucketing, subsets, resize: ResizeMode::Squeeze, ..DataConfig::default() };
            Buckets::of_subsets(&config, 64).unwrap().remove(0)
        };
        let off = of(BucketingConfig { enabled: false, ..BucketingConfig::default() });
        assert_eq!(placed(&off, (1920, 1080)), ((512, 512), (512, 512)));
        assert_eq!(placed(&of(BucketingConfig::default()), (1920, 1080)), ((640, 384), (640, 384)));
        let own_size = of(BucketingConfig { no_upscale: true, ..BucketingConfig::default() });
        assert_eq!(placed(&own_size, (200, 300)), ((192, 256), (192, 256)));
        // By the side that grows most.
        assert!(off.place((20, 512)).unwrap_err().starts_with("20 × 512 pixels would have to be enlarged 26 times"));
    }

    #[test]
    fn an_image_of_a_few_pixels_is_refused() {
        let reason = buckets(512, 256, 1024).place((3, 512)).unwrap_err();
        assert!(reason.starts_with("3 × 512 pixels would have to be enlarged 85 times"), "{reason}");
    }

    #[test]
    fn limits_that_exclude_the_resolution_are_refused() {
        let refused = |min, max, side| {
            let bucketing = BucketingConfig { min, max, ..BucketingConfig::default() };
            Buckets::new(&config(Resolution::Square(side), bucketing), 64).unwrap_err().to_string()
        };
        assert!(refused(Some(600), None, 512).contains("`data.bucketing.min`"));
        assert!(refused(None, Some(500), 512).contains("`data.bucketing.max`"));
        assert!(refused(None, None, 32).contains("`data.resolution`"));
    }

    #[test]
    fn each_subset_has_its_own_or_those_of_the_data() {
        let own = Subset { resolution: Some(Resolution::Square(1024)), ..Subset::default() };
        let config = DataConfig { subsets: vec![Subset::default(), own], ..DataConfig::default() };
        let both = Buckets::of_subsets(&config, 64).unwrap();
        assert_eq!(both[0], Buckets::new(&config.own_batching(), 64).unwrap());
        assert!(!both[0].sizes().contains(&(1024, 1024)) && both[1].sizes().contains(&(1024, 1024)));
        let small = Subset { resolution: Some(Resolution::Square(32)), path: "icons".into(), ..Subset::default() };
        let error = Buckets::of_subsets(&DataConfig { subsets: vec![small], ..config }, 64).unwrap_err().to_string();
        assert!(error.starts_with("`data.resolution`: 32 × 32") && error.ends_with("; so for `icons`"), "{error}");
    }

    #[test]
    fn a_longest_side_without_end_makes_no_more_buckets_and_a_step_of_nothing_is_refused() {
        assert_eq!(buckets(512, 64, u32::MAX - 63).sizes(), buckets(512, 64, 4096).sizes());
        let bucketing =
            BucketingConfig { min: Some(1), step: Some(1), max: Some(1 << 20), ..BucketingConfig::default() };
        let error = Buckets::new(&config(Resolution::Square(1024), bucketing), 64).unwrap_err().to_string();
        assert!(error.starts_with("`data.bucketing.step`: sides from 1 to 1048576"), "{error}");
    }
}
