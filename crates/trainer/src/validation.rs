//! What is measured on held-out images while a run goes on: the loss of the denoiser, or the autoencoder's reconstruction.

use crate::error::Result;
use sdtrain_data_loader::DataSet;
use sdtrain_evaluate::{DenoisingLoss, Reconstruction, prompt_reading};
use sdtrain_model::{PromptReading, StableDiffusion};
use sdtrain_recipe::TrainConfig;
use sdtrain_signals::StopRequest;

/// The measurement that suits what the run is asked for.
pub enum Validation {
    /// By bands of timesteps.
    Denoising(DenoisingLoss, PromptReading),
    /// Through the autoencoder and back.
    Reconstruction(Reconstruction),
}

/// The figures of one measurement.
pub struct Measured {
    /// Tag behind `validation/`, and number.
    pub scalars: Vec<(String, f64)>,
    /// The same for a reader.
    pub text: String,
}

impl Validation {
    /// For the held-out images `data`, which are encoded now where the autoencoder stays as it is.
    pub fn new(config: &TrainConfig, model: &StableDiffusion, data: &DataSet) -> Result<Validation> {
        if !config.objective_kind().denoises() {
            return Ok(Validation::Reconstruction(Reconstruction::new(config, model, data)?));
        }
        let (bands, repeats) = (config.validation.timestep_bands as usize, config.validation.repeats as usize);
        let loss = DenoisingLoss::new(model, data, &config.data, bands, repeats)?;
        Ok(Validation::Denoising(loss, prompt_reading(&config.model)))
    }

    /// Of `model` as it is now, on the same `data`; nothing where somebody asks to stop meanwhile.
    pub fn measure(&self, model: &StableDiffusion, data: &DataSet, stop: &StopRequest) -> Result<Option<Measured>> {
        match self {
            Validation::Denoising(loss, reading) => {
                let Some(losses) = loss.losses_while(model, reading, &|| !stop.is_set())? else { return Ok(None) };
                let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
                let bands: Vec<String> = losses.iter().map(|loss| format!("{loss:.5}")).collect();
                let of_bands = losses.iter().enumerate().map(|(band, &loss)| (format!("band_{band}"), loss));
                let scalars = of_bands.chain([("loss".to_string(), mean)]).collect();
                Ok(Some(Measured { scalars, text: format!("{mean:.5} (bands {})", bands.join(" ")) }))
            }
            Validation::Reconstruction(reconstruction) => {
                let error = reconstruction.measure(model, data)?;
                let scalars = error.figures().into_iter().map(|(tag, figure)| (tag.to_string(), figure)).collect();
                Ok(Some(Measured { scalars, text: error.to_string() }))
            }
        }
    }
}
