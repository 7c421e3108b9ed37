//! Whether the disk has room for what a run keeps: asked before half a minute goes into loading a model.

use std::fs::read_dir;
use std::path::Path;

use sdtrain_data_loader::DataSet;
use sdtrain_files::{free_space, in_words};
use sdtrain_recipe::{Every, HandedOn, TrainConfig, step_of_name};

use crate::model_parts::{ModelParts, count_parameters};
use crate::trained::Trained;
use crate::{ExitCode, Failure};

/// Bytes of a pixel in a picture and in the sheet of all pictures. PNG takes less, which makes up for the copy in the logs.
const PICTURE_BYTES_OF_PIXEL: u64 = 2 * 3;

/// Bytes of a latent in a cache: mean and log-variance in fp32, each of 4 channels.
const CACHED_BYTES_OF_LATENT: f64 = 2.0 * 4.0 * 4.0;

/// What makes room, or takes less.
const WAYS_OUT: &str = "free some space, lower `checkpoint.keep_last`, set `save.keep_last` where products are saved on the way, or choose \
                        another disk with `--output`";

/// Refuses an output folder on a disk that cannot hold the checkpoints of a run and its products. A run goes on without its pictures. What
/// lies in the folder by now counts, unless the run `begins_anew`: that is moved aside on the same disk, as a
/// link to a folder on another one never is.
pub(crate) fn check(
    config: &TrainConfig,
    trained: Trained,
    parts: &ModelParts,
    length: Length,
    output: &Path,
    begins_anew: bool,
) -> Result<(), Failure> {
    let Some(free) = free_at(output) else { return Ok(()) };
    // No folder has this name, so that nothing is found there.
    let filled = if begins_anew { output.join(".new") } else { output.to_owned() };
    match Kept::of(config, trained, parts, length, &filled).lacks_room(free, output) {
        Some(message) => Err(Failure::new(ExitCode::Storage, message).hint(WAYS_OUT)),
        None => Ok(()),
    }
}

/// What `check` says of a disk.
pub(crate) struct DiskSummary {
    /// What a run writes, and what is free.
    pub text: String,
    /// That the run would be refused.
    pub warning: Option<String>,
}

/// What `check` says of the disk that a run of `data` would write to.
pub(crate) fn in_summary(
    config: &TrainConfig,
    trained: Trained,
    parts: &ModelParts,
    data: &DataSet,
    output: &Path,
) -> DiskSummary {
    let kept = Kept::of(config, trained, parts, Length::of_data(config, data), output);
    let free = free_at(output);
    let mut text = format!("about {} in `{}`: {}", in_words(kept.bytes()), output.display(), kept.in_words());
    if kept.pictures > 0 {
        text.push_str(&format!("; up to {} of pictures", in_words(kept.pictures)));
    }
    if let Some(free) = free {
        text.push_str(&format!("; {} are free", in_words(free)));
    }
    if let Some(folder) = config.data.cache_dir.as_ref().filter(|_| config.data.cache_latents) {
        let bytes = latent_bytes(config, parts, data);
        text.push_str(&format!("; latents take up to {} in `{}`", in_words(bytes), folder.display()));
    }
    let lacking = free.and_then(|free| kept.lacks_room(free, output));
    let warning = lacking.map(|message| format!("{message}; `sdtrain train` refuses that: {WAYS_OUT}"));
    DiskSummary { text, warning }
}

/// Free bytes of the disk that `output` lies on. It need not be there yet: it will lie on the disk of the first folder above it that is.
fn free_at(output: &Path) -> Option<u64> {
    free_space(&std::path::absolute(output).unwrap_or_else(|_| output.to_owned()))
}

/// Steps and epochs of a run that end before its last step, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length {
    steps: Option<u64>,
    epochs: Option<u64>,
}

impl Length {
    /// What the configuration alone says.
    pub fn of_config(config: &TrainConfig) -> Length {
        let before_last = |length: Option<u64>| length.map(|length| length.saturating_sub(1));
        Length { steps: before_last(config.train.max_steps), epochs: before_last(config.train.max_epochs) }
    }

    /// The same where the images are known too.
    pub fn of_data(config: &TrainConfig, data: &DataSet) -> Length {
        let steps = data.total_steps(&config.train).saturating_sub(1);
        let (_, most) = data.report().batches_in_epochs;
        let epochs = steps / config.train.steps_per_epoch(most as u64).max(1);
        Length { steps: Some(steps), epochs: Length::of_config(config).epochs.or(Some(epochs)) }
    }

    /// How often something is due in it that is not due at the end.
    fn times(self, every: Every) -> u64 {
        let times = [(self.steps, every.steps), (self.epochs, every.epochs)];
        let times = times.map(|(length, every)| length.zip(every).map_or(0, |(length, every)| length / every));
        times[0].saturating_add(times[1])
    }
}

/// What a run still has to put on its disk, as much as is there at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    checkpoints: u64,
    /// Bytes of one.
    checkpoint: u64,
    products: u64,
    /// Bytes of one.
    product: u64,
    /// Bytes of all.
    pictures: u64,
}

impl Kept {
    fn of(config: &TrainConfig, trained: Trained, parts: &ModelParts, length: Length, output: &Path) -> Kept {
        let name = &config.name;
        let on_the_way = length.times(config.save.every());
        // The newest is written before the oldest goes.
        let on_the_way =
            config.save.keep_last.map_or(on_the_way, |keep| on_the_way.min((keep as u64).saturating_add(1)));
        let to_come = on_the_way.saturating_sub(entries_in(output, |entry| is_product_on_the_way(entry, name)));
        let with_raw = if config.ema.enabled && config.ema.save_raw { 2 } else { 1 };
        // Those at the start and at the end come in any case.
        let sets = length.times(config.samples.every()).saturating_add(2);
        let sets = sets.saturating_sub(entries_in(&output.join("samples"), |entry| step_of_name(entry).is_some()));
        let pixels =
            config.sample_pictures().iter().map(|one| u64::from(one.width) * u64::from(one.height)).sum::<u64>();
        Kept {
            checkpoints: config.checkpoint.still_to_come(&output.join("checkpoints")),
            checkpoint: checkpoint_bytes(config, trained),
            products: to_come.saturating_add(1).saturating_mul(with_raw),
            product: product_bytes(config, trained, parts),
            pictures: pixels.saturating_mul(PICTURE_BYTES_OF_PIXEL).saturating_mul(sets),
        }
    }

    /// Of checkpoints and products.
    fn bytes(&self) -> u64 {
        let checkpoints = self.checkpoint.saturating_mul(self.checkpoints);
        let products = self.product.saturating_mul(self.products);
        checkpoints.saturating_add(products)
    }

    /// What is to be said where `free` bytes on the disk of `output` do not suffice. A run goes on without its pictures.
    fn lacks_room(&self, free: u64, output: &Path) -> Option<String> {
        (free < self.bytes()).then(|| {
            format!(
                "`{}`: its disk has {} left, and the run writes about {}: {}",
                output.display(),
                in_words(free),
                in_words(self.bytes()),
                self.in_words()
            )
        })
    }

    fn in_words(&self) -> String {
        let of = |count: u64, what: &str, bytes: u64| {
            let plural = if count == 1 { "" } else { "s" };
            format!("{count} {what}{plural} of {}", in_words(bytes))
        };
        format!(
            "{} and {}",
            of(self.checkpoints, "checkpoint", self.checkpoint),
            of(self.products, "product", self.product)
        )
    }
}

/// A checkpoint: the weights as they are kept, what the optimizer has for them, and their average.
fn checkpoint_bytes(config: &TrainConfig, trained: Trained) -> u64 {
    let weights = trained.parameters * config.precision.weight_bytes();
    let average = if config.ema.enabled { trained.parameters * 4 } else { 0 };
    (weights + trained.kept_state_bytes(config) + average) as u64
}

/// A product: a whole model with what stood still in it, or what was trained alone.
fn product_bytes(config: &TrainConfig, trained: Trained, parts: &ModelParts) -> u64 {
    let parameters: usize = match config.trainable_facts().hands_on {
        HandedOn::Model => parts.networks().map(|(_, shapes)| count_parameters(shapes)).sum(),
        HandedOn::Vae => parts.vae.as_ref().map_or(0, count_parameters),
        HandedOn::Adapters | HandedOn::Words => trained.parameters,
    };
    parameters as u64 * config.precision.save.bytes()
}

/// What the latents of all images take in a cache, those that may be mirrored twice.
fn latent_bytes(config: &TrainConfig, parts: &ModelParts, data: &DataSet) -> u64 {
    let pixels_of = |(width, height): (usize, usize)| (width * height) as f64;
    let buckets = data.report().buckets.iter();
    let pixels: f64 = buckets.map(|bucket| bucket.images as f64 * pixels_of(bucket.size)).sum();
    let forms = if config.data.subsets.iter().any(|subset| subset.flip) { 2.0 } else { 1.0 };
    let latents = pixels / (parts.downscale_factor() as f64).powi(2);
    (forms * latents * CACHED_BYTES_OF_LATENT) as u64
}

/// How many names in a folder `counts`; none where it cannot be read.
fn entries_in(folder: &Path, counts: impl Fn(&str) -> bool) -> u64 {
    let entries = read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| counts(&entry.file_name().to_string_lossy())).count() as u64
}

/// `NAME-step00000250.safetensors`, or the folder `NAME-000002`. What is beside it as `-raw` is not counted.
fn is_product_on_the_way(entry: &str, name: &str) -> bool {
    let Some(rest) = entry.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let stem = rest.strip_suffix(".safetensors").unwrap_or(rest);
    let number = stem.strip_prefix("step").unwrap_or(stem);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use sdtrain_recipe::{FloatType, Method, StoredType, VaeProduct};
    use sdtrain_state_dict::architecture::Shapes;

    use super::*;

    /// A model of 1000, 100 and 10 numbers.
    fn parts() -> ModelParts {
        let network = |numbers: usize| Shapes::from_iter([("weight".to_owned(), vec![numbers])]);
        ModelParts {
            kind: String::new(),
            family: sdtrain_state_dict::Family::Sd1,
            unet: network(1000),
            vae: Some(network(100)),
            force_upcast: None,
            text_config: serde_json::Value::Null,
            text_encoders: vec![network(10)],
            unknown_tensors: None,
        }
    }

    fn refusal(parameters: usize) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let trained = Trained { parameters, state_bytes: 8 * parameters, ..Trained::default() };
        let config = TrainConfig::default();
        let output = folder.path().join("outputs/run");
        let refused = check(&config, trained, &parts(), Length::of_config(&config), &output, false).err()?;
        assert_eq!(refused.code, ExitCode::Storage);
        Some(refused.problems.to_string())
    }

    #[test]
    fn a_run_that_fits_on_no_disk_is_refused_before_its_model_is_loaded() {
        assert!(refusal(1_000_000).is_none());
        let refused = refusal(1 << 50).expect("no disk has this room");
        assert!(refused.contains("3 checkpoints of") && refused.contains("1 product of"), "{refused}");
        assert!(refused.contains("outputs/run"), "{refused}");
    }

    #[test]
    fn what_is_free_suffices_to_the_last_byte_for_all_but_the_pictures() {
        let kept = Kept { checkpoints: 51, checkpoint: 1 << 19, products: 1, product: 1 << 20, pictures: 1 << 40 };
        let needed = 51 * (1 << 19) + (1 << 20);
        let output = Path::new("outputs/run");
        assert_eq!(kept.lacks_room(needed, output), None);
        assert_eq!(kept.lacks_room(u64::MAX, output), None);
        let said = "`outputs/run`: its disk has 5.0 MiB left, and the run writes about 26.5 MiB: 51 checkpoints of 512.0 KiB and 1 \
                    product of 1.0 MiB";
        assert_eq!(kept.lacks_room(5 << 20, output).as_deref(), Some(said));
        assert!(kept.lacks_room(needed - 1, output).is_some());
    }

    #[test]
    fn a_product_is_all_that_is_written() {
        let trained = Trained { parameters: 7, state_bytes: 56, ..Trained::default() };
        let mut config = TrainConfig::default();
        assert_eq!(product_bytes(&config, trained, &parts()), 7 * 4);
        config.method = Method::Full;
        assert_eq!(product_bytes(&config, trained, &parts()), 1110 * 4);
        config.precision.save = FloatType::Fp16;
        assert_eq!(product_bytes(&config, trained, &parts()), 1110 * 2);
        config.method = Method::Vae;
        config.vae_objective.product = VaeProduct::Vae;
        assert_eq!(product_bytes(&config, trained, &parts()), 100 * 2);
    }

    #[test]
    fn products_and_pictures_on_the_way_count_as_often_as_they_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let trained = Trained { parameters: 7, state_bytes: 56, ..Trained::default() };
        let mut config = TrainConfig { name: "run".into(), ..TrainConfig::default() };
        config.train.max_steps = Some(1000);
        let products = |config: &TrainConfig| {
            Kept::of(config, trained, &parts(), Length::of_config(config), folder.path()).products
        };
        assert_eq!(products(&config), 1);
        config.save.every_steps = Some(100);
        // That of the last step is the product itself.
        assert_eq!(products(&config), 9 + 1);
        config.save.keep_last = Some(3);
        assert_eq!(products(&config), 4 + 1);
        config.ema.enabled = true;
        config.ema.save_raw = true;
        assert_eq!(products(&config), 2 * (4 + 1));
        for name in
            ["run-step00000100.safetensors", "run-step00000100-raw.safetensors", "run-000002", "run.safetensors"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(products(&config), 2 * (2 + 1));

        let length = Length::of_config(&config);
        let pictures = |config: &TrainConfig| Kept::of(config, trained, &parts(), length, folder.path()).pictures;
        assert_eq!(pictures(&config), 0);
        config.samples.prompts = vec!["a bottle".into()];
        config.samples.width = Some(10);
        config.samples.height = Some(20);
        assert_eq!(pictures(&config), 2 * 200 * 6);
        config.samples.every_steps = Some(500);
        assert_eq!(pictures(&config), 3 * 200 * 6);
    }

    #[test]
    fn everything_that_is_kept_counts() {
        let trained = Trained { parameters: 10, state_bytes: 80, large_state_bytes: 80, rest: 0 };
        let mut config = TrainConfig::default();
        assert_eq!(checkpoint_bytes(&config, trained), 120);
        config.ema.enabled = true;
        config.precision.weights = StoredType::Bf16;
        config.precision.optimizer_state = StoredType::Bf16;
        assert_eq!(checkpoint_bytes(&config, trained), 20 + 40 + 40);
    }

    #[test]
    fn what_is_not_as_large_as_the_weights_is_not_halved() {
        let trained = Trained { parameters: 10, state_bytes: 20, large_state_bytes: 8, rest: 0 };
        let mut config = TrainConfig::default();
        assert_eq!(checkpoint_bytes(&config, trained), 40 + 20);
        config.precision.optimizer_state = StoredType::Bf16;
        assert_eq!(checkpoint_bytes(&config, trained), 40 + 16);
    }
}
