//! How far held-out images are from what the autoencoder makes of them, and how far its latents from a standard normal distribution.

use crate::error::Result;
use crate::metric::{Column, Form, Metric, MetricEntry};
use sdtrain_data_loader::DataSet;
use sdtrain_model::{Lpips, StableDiffusion};
use sdtrain_recipe::TrainConfig;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use tch::{Kind, Tensor};

/// The list's line.
pub const ENTRY: MetricEntry = MetricEntry {
    name: "reconstruction",
    summary: "L1, L2, KL, PSNR and, with its network, LPIPS of the autoencoder on the held-out images, where it is what is trained",
    prepare: |setting| {
        if setting.config.objective_kind().denoises() {
            return Ok(None);
        }
        let data = setting.held_out;
        Ok(Some(Box::new(Measured { reconstruction: Reconstruction::new(setting.config, setting.model, data)?, data })))
    },
};

/// Images that go through the autoencoder together, at 512 × 512 pixels; of smaller ones as many as make as many pixels.
const PIXELS_AT_ONCE: usize = 2 * 512 * 512;

/// The pictures' values go from -1 to 1.
const PEAK_TO_PEAK: f64 = 2.0;

/// Held-out images by size. They are read anew for each measurement: all of them at once could be too many.
pub struct Reconstruction {
    batches: Vec<Vec<usize>>,
    /// Where the configuration names its network.
    lpips: Option<Lpips>,
}

/// The mean over the images of each figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReconstructionError {
    /// Mean absolute difference of image and reconstruction, of values from -1 to 1.
    pub l1: f64,
    /// Mean squared difference.
    pub l2: f64,
    /// KL(N(μ, σ²) ‖ N(0, 1)) in nats, summed over an image's latents before any scale.
    pub kl: f64,
    /// 10·log₁₀(2² / L2 of the image), in decibels: more is better.
    pub psnr: f64,
    /// LPIPS with the VGG16; less is more alike.
    pub lpips: Option<f64>,
}

impl ReconstructionError {
    /// Each figure under its tag.
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        let always = [
            ("reconstruction_l1", self.l1),
            ("reconstruction_l2", self.l2),
            ("latent_kl", self.kl),
            ("psnr", self.psnr),
        ];
        always.into_iter().chain(self.lpips.map(|lpips| ("lpips", lpips))).collect()
    }
}

impl fmt::Display for ReconstructionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReconstructionError { l1, l2, kl, psnr, lpips } = self;
        write!(f, "L1 {l1:.5}, L2 {l2:.5}, KL {kl:.1}, PSNR {psnr:.2} dB")?;
        lpips.map_or(Ok(()), |lpips| write!(f, ", LPIPS {lpips:.4}"))
    }
}

impl Reconstruction {
    /// For the images of `data`, cut at the centre, and the network of LPIPS that `config` names.
    ///
    /// # Errors
    /// Where that network cannot be read.
    pub fn new(config: &TrainConfig, model: &StableDiffusion, data: &DataSet) -> Result<Reconstruction> {
        let mut of_size: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for image in 0..data.images() {
            of_size.entry(data.placement(image).bucket).or_default().push(image);
        }
        let mut batches = Vec::new();
        for ((width, height), images) in of_size {
            let at_once = (PIXELS_AT_ONCE / (width * height).max(1)).max(1);
            batches.extend(images.chunks(at_once).map(<[usize]>::to_vec));
        }
        let lpips = config.vae_objective.lpips.as_deref().map(|path| Lpips::open(path, model.device)).transpose()?;
        Ok(Reconstruction { batches, lpips })
    }

    /// Of the autoencoder of `model` as it is now, on the same `data`: the mean of the latents' distribution is decoded, and the picture limited to
    /// the values that pictures have. NaN where it makes numbers that are not finite.
    pub fn measure(&self, model: &StableDiffusion, data: &DataSet) -> Result<ReconstructionError> {
        let (mut sums, mut lpips, mut count) = ([0.0; 4], 0.0, 0.0);
        for batch in &self.batches {
            let mut pixels = Vec::new();
            for &image in batch {
                let loaded = data.load_image(image, false)?;
                // Another one would stand in for an image that cannot be read; here it would only be counted twice.
                if loaded.image == image {
                    let (width, height) = loaded.size;
                    pixels.push(Tensor::f_from_slice(&loaded.pixels)?.f_reshape([3, height as i64, width as i64])?);
                }
            }
            if pixels.is_empty() {
                continue;
            }
            let pixels = Tensor::f_stack(&pixels, 0)?;
            let distribution = model.latent_distribution(&pixels)?;
            let latents = (&distribution.mean * model.vae.config().scaling_factor).f_to_device(model.device)?;
            let decoded = model.decode_latents(&latents)?;
            if let Some(network) = &self.lpips {
                lpips += sdtrain_torch::catch(|| {
                    let reference = pixels.to_device(model.device);
                    let distance = tch::no_grad(|| network.distance(&decoded, &reference));
                    distance.sum(Kind::Double).double_value(&[])
                })?;
            }
            let decoded = decoded.f_to_device(pixels.device())?;
            let figures = sdtrain_torch::catch(|| {
                let difference = &decoded - &pixels;
                let l1 = of_each(&difference.abs(), true);
                let l2 = of_each(&difference.square(), true);
                let kl = of_each(&distribution.kl_divergence(), false);
                let psnr = (l2.reciprocal() * (PEAK_TO_PEAK * PEAK_TO_PEAK)).log10() * 10.0;
                [l1, l2, kl, psnr].map(|figure| figure.sum(Kind::Double).double_value(&[]))
            })?;
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
            count += pixels.size()[0] as f64;
        }
        let [l1, l2, kl, psnr] = sums.map(|sum| sum / count);
        Ok(ReconstructionError { l1, l2, kl, psnr, lpips: self.lpips.as_ref().map(|_| lpips / count) })
    }

    /// How many images it looks at, readable or not.
    pub fn images(&self) -> usize {
        self.batches.iter().map(Vec::len).sum()
    }
}

/// The mean, or the sum, of each example: `[batch]`, f64.
fn of_each(tensor: &Tensor, mean: bool) -> Tensor {
    let dimensions = [1i64, 2, 3];
    match mean {
        true => tensor.mean_dim(dimensions.as_slice(), false, Kind::Double),
        false => tensor.sum_dim_intlist(dimensions.as_slice(), false, Kind::Double),
    }
}

/// The figures in the order of their columns.
struct Measured<'d> {
    reconstruction: Reconstruction,
    data: &'d DataSet,
}

impl Metric for Measured<'_> {
    fn columns(&self) -> Vec<Column> {
        let column = |key: &str, title: &str, form| Column {
            key: key.to_string(),
            group: "reconstruction of held-out images".to_string(),
            title: title.to_string(),
            form,
        };
        let mut columns = vec![
            column("reconstruction_l1", "L1", Form::Loss),
            column("reconstruction_l2", "L2", Form::Loss),
            column("latent_kl", "KL of an image", Form::Number),
            column("psnr", "PSNR", Form::Decibels),
        ];
        columns.extend(self.reconstruction.lpips.as_ref().map(|_| column("lpips", "LPIPS", Form::Loss)));
        columns
    }

    fn measure(&mut self, model: &StableDiffusion) -> Result<Vec<f64>> {
        let error = self.reconstruction.measure(model, self.data)?;
        Ok(error.figures().into_iter().map(|(_, figure)| figure).collect())
    }

    fn settings(&self) -> Map<String, Value> {
        Map::from_iter([("held_out_images".to_string(), json!(self.reconstruction.images()))])
    }
}
