//! What a run writes of what it has learned: checkpoints, products, and products on the way.

use super::{RAW, Trainer};
use crate::error::{Error, Result};
use crate::patience::until_the_disk_takes_it;
use crate::precision::kind_of;
use crate::signals::StopRequest;
use crate::state::{self, Position};
use sdtrain_checkpoint::ManifestInfo;
use sdtrain_recipe::TrainableKind;
use sdtrain_run_log::{MetricSink, RunLog};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tch::{Kind, Tensor};

impl Trainer {
    /// What brings the latents of the first training images to a standard deviation of 1, as the noise schedule expects
    /// them (Rombach et al. 2022, arXiv:2112.10752, appendix G).
    fn unit_scaling_factor(&self) -> Result<f64> {
        const IMAGES: usize = 256;
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        let mut images = 0;
        for plan in self.data.epoch_plan(0) {
            if images >= IMAGES {
                break;
            }
            let batch = self.data.load(&plan, 0)?;
            images += batch.len();
            let shape = [batch.len() as i64, 3, batch.size.1 as i64, batch.size.0 as i64];
            let pixels = Tensor::f_from_slice(&batch.pixels)?.f_reshape(shape)?;
            let (mean, logvar) = self.model.latent_distribution(&pixels)?;
            sum += mean.sum(Kind::Double).double_value(&[]);
            squares += (mean.square() + logvar.exp()).sum(Kind::Double).double_value(&[]);
            count += mean.numel() as f64;
        }
        let variance = squares / count - (sum / count).powi(2);
        Ok(1.0 / variance.sqrt())
    }

    /// When a checkpoint is due. A step that was skipped has left the weights as they were, and they can be saved; but whatever
    /// spoils every step may lie in them already, so that in such a row no older checkpoint is deleted.
    pub(super) fn save_checkpoint(&mut self, log: &mut RunLog, position: &Position, stop: &StopRequest) -> Result<()> {
        self.check_weights(position)?;
        log.flush();
        let info = ManifestInfo { step: position.step, epoch: position.epoch, ..self.manifest.clone() };
        let keep = if position.skipped_in_a_row > 0 { usize::MAX } else { self.config.checkpoint.keep_last };
        let path = until_the_disk_takes_it(self.patience(), stop, &mut |text| log.message(text), &mut || {
            self.publish(info.clone(), position, keep)
        })?;
        self.saved_step = Some(position.step);
        log.message(&format!("saved {}", path.display()));
        Ok(())
    }

    /// Writes a checkpoint, then deletes all but the newest `keep`; its folder.
    pub(super) fn publish(&self, info: ManifestInfo, position: &Position, keep: usize) -> Result<PathBuf> {
        let (folder, optimizer) = (self.folder.checkpoints(), self.optimizer.as_ref());
        state::save(&folder, info, position, optimizer, self.scaler.as_ref(), self.ema.as_ref(), keep)
    }

    /// Weights beyond all bounds never become a file: the last good checkpoint and product stay.
    pub(super) fn check_weights(&self, position: &Position) -> Result<()> {
        let groups = self.optimizer.groups();
        let weights: Vec<Tensor> =
            groups.iter().flat_map(|group| &group.parameters).map(|(_, weight)| weight.detach()).collect();
        let norm = sdtrain_torch::clip_grad_norm(&weights, None)?.double_value(&[]);
        if norm.is_finite() { Ok(()) } else { Err(Error::WeightsNotFinite { step: position.step }) }
    }

    pub(super) fn save_product(
        &mut self,
        log: &mut RunLog,
        stem: &str,
        position: &Position,
        stop: &StopRequest,
    ) -> Result<Vec<PathBuf>> {
        self.check_weights(position)?;
        if self.config.trainable_kind() == TrainableKind::Vae && self.config.vae_objective.train_encoder {
            self.model.vae.set_scaling_factor(self.unit_scaling_factor()?);
        }
        let kind = kind_of(self.config.precision.save);
        let mut metadata = self.metadata.clone();
        metadata.insert("ss_steps".into(), position.step.to_string());
        let epoch = position.epoch + u64::from(position.batch > 0);
        metadata.insert("ss_epoch".into(), epoch.max(1).to_string());
        let mut write = |this: &Self, stem: &str| {
            until_the_disk_takes_it(this.patience(), stop, &mut |text| log.message(text), &mut || {
                this.trainable.save(&this.model, &this.folder.path, stem, kind, &metadata)
            })
        };
        let mut product = self.with_average(|this| write(this, stem))??;
        if self.config.ema.save_raw {
            product.extend(write(self, &format!("{stem}{RAW}"))?);
        }
        Ok(product)
    }

    /// What the trained weights take in memory, and at least in a checkpoint.
    pub(super) fn trained_bytes(&self) -> u64 {
        let parameters = self.optimizer.groups().iter().flat_map(|group| &group.parameters);
        parameters.map(|(_, tensor)| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64).sum()
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60 * self.config.checkpoint.retry_minutes)
    }

    /// Does `work` with the averaged weights in the place of the trained ones, if there is an average: what came of it. An error of
    /// its own where the weights could not be exchanged.
    pub(super) fn with_average<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<Result<T>> {
        let exchange = |this: &mut Self| match &mut this.ema {
            Some(ema) => ema.exchange(this.optimizer.groups()),
            None => Ok(()),
        };
        self.torn = self.ema.is_some();
        exchange(self)?;
        let result = work(self);
        exchange(self)?;
        self.torn = false;
        Ok(result)
    }

    /// Deletes products on the way beyond `save.keep_last`, those that were written before a continuation included. One that
    /// cannot be deleted is only untidy.
    pub(super) fn prune_products(&mut self, log: &mut RunLog) {
        let Some(keep) = self.config.save.keep_last else { return };
        let mut stems = self.products_on_the_way();
        stems.truncate(stems.len().saturating_sub(keep));
        let raw: Vec<String> = stems.iter().map(|stem| format!("{stem}{RAW}")).collect();
        for name in stems.iter().chain(&raw).flat_map(|stem| self.trainable.product_names(stem)) {
            let path = self.folder.path.join(name);
            if !path.exists() {
                continue;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed {
                log.message(&format!("cannot delete {}: {error}", path.display()));
            }
        }
    }

    /// The names, without ending, of this run's products on the way, oldest first.
    fn products_on_the_way(&self) -> Vec<String> {
        let prefix = format!("{}-", self.config.name);
        let entries = fs::read_dir(&self.folder.path).into_iter().flatten().flatten();
        let mut found: Vec<(std::time::SystemTime, String)> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let stem = name.strip_suffix(".safetensors").unwrap_or(&name);
                let number = stem.strip_prefix(&prefix)?;
                let digits = number.strip_prefix("step").map_or((number, 6), |number| (number, 8));
                let is_number = digits.0.len() >= digits.1 && digits.0.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| Some((entry.metadata().ok()?.modified().ok()?, stem.to_string())))?
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, stem)| stem).collect()
    }
}
