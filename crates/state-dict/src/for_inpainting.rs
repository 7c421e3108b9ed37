//! A UNet of 4 input channels as one for inpainting: the first convolution gets channels for a mask and a masked picture, with weights of
//! zero, as Stable Diffusion's models for inpainting began (<https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-inpainting>).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::averaged::mean_of;
use crate::diffusers_folder::{PipelineConfigs, UNET, json_in_metadata};
use crate::error::{Error, Result};
use crate::reader::{Reader, TensorInfo};
use crate::recognise::{LDM_CONV_IN, UnetInput, recognise};

/// The first convolution under diffusers' names.
const CONV_IN: &str = "conv_in.weight";

/// How many channels a UNet for inpainting takes in: noisy latents, the mask, latents of the masked picture.
pub const INPAINTING_CHANNELS: usize = 9;

/// A UNet alone under diffusers' names, or a whole model in one file, with what a UNet for inpainting takes in. The new weights are zero, so
/// that the network still gives what it gave, whatever the mask.
pub struct ForInpainting<R> {
    inner: R,
    /// The first convolution, and its running mean where the file has one.
    wider: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl<R: Reader> ForInpainting<R> {
    /// Of `inner`.
    ///
    /// # Errors
    /// Where it holds no UNet, or one that takes in something else than 4 channels.
    pub fn new(inner: R) -> Result<ForInpainting<R>> {
        let wrong = |reason: String| Error::WrongKind { path: inner.path().to_path_buf(), reason };
        let found = [CONV_IN, LDM_CONV_IN].into_iter().find_map(|name| Some((name, inner.info(name)?.clone())));
        let Some((conv_in, info)) = found.filter(|(_, info)| info.shape.len() == 4) else {
            return Err(wrong("holds no UNet that could be made one for inpainting".to_string()));
        };
        match UnetInput::of_channels(info.shape[1]) {
            UnetInput::Plain => {}
            UnetInput::Inpaint => return Err(wrong("is made for inpainting already".to_string())),
            other => return Err(wrong(format!("holds a UNet{}; one with 4 can be made for inpainting", other.note()))),
        }
        let mut metadata = inner.metadata().clone();
        if let Some(mut config) = json_in_metadata(inner.path(), &metadata, UNET)? {
            config["in_channels"] = INPAINTING_CHANNELS.into();
            metadata.insert(UNET.to_string(), config.to_string());
        }
        // What it predicts stays, and may not be what models for inpainting are taken to predict.
        if let Some(family) = recognise(&inner).family() {
            let said = PipelineConfigs::assumed_of(&inner, family)?.prediction_metadata(family);
            if let Some((key, value)) = said {
                metadata.entry(key).or_insert(value);
            }
        }
        let averaged = mean_of(conv_in);
        let mean = inner.info(&averaged).filter(|mean| mean.shape == info.shape).cloned();
        let mut wider: BTreeMap<String, TensorInfo> = mean.map(|mean| (averaged, mean)).into_iter().collect();
        wider.insert(conv_in.to_owned(), info);
        for info in wider.values_mut() {
            info.shape[1] = INPAINTING_CHANNELS;
        }
        Ok(ForInpainting { inner, wider, metadata })
    }
}

impl PipelineConfigs {
    /// Of the same model with [`ForInpainting`] as its UNet.
    pub fn for_inpainting(mut self) -> PipelineConfigs {
        self.unet["in_channels"] = INPAINTING_CHANNELS.into();
        self
    }
}

impl<R: Reader> Reader for ForInpainting<R> {
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.wider.get(name).or_else(|| self.inner.info(name))
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let own = self.inner.bytes(name)?;
        let Some(info) = self.wider.get(name) else { return Ok(own) };
        // Zero is all bits zero in every type that weights have.
        let outputs = info.shape[0].max(1);
        let (row, wider) = (own.len() / outputs, info.byte_length() / outputs);
        let mut all = vec![0; outputs * wider];
        for (from, to) in own.chunks_exact(row.max(1)).zip(all.chunks_exact_mut(wider.max(1))) {
            to[..row].copy_from_slice(from);
        }
        Ok(Cow::Owned(all))
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.inner.name_in_file(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, SafetensorsFile, TensorEntry, recognise, sd2_predicts_noise, write_to};

    fn file(name: &str, shape: &[usize], metadata: &[(&str, &str)]) -> SafetensorsFile {
        let bytes = (0..shape.iter().product::<usize>()).flat_map(|place| (place as f32 + 1.0).to_le_bytes()).collect();
        let entries = [
            TensorEntry { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes },
            TensorEntry { name: "other".into(), dtype: Dtype::F32, shape: vec![1], bytes: vec![7; 4] },
        ];
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let mut content = Vec::new();
        write_to(&mut content, entries.as_slice(), &metadata).unwrap();
        SafetensorsFile::from_bytes(content, "memory").unwrap()
    }

    #[test]
    fn new_channels_stand_behind_the_old_ones_and_are_zero() {
        let wider = ForInpainting::new(file(CONV_IN, &[2, 4, 1, 1], &[])).unwrap();
        assert_eq!(wider.info(CONV_IN).unwrap().shape, [2, 9, 1, 1]);
        let floats = crate::read_floats(&wider, CONV_IN).unwrap();
        assert_eq!(floats[..9], [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(floats[9..], [5.0, 6.0, 7.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(wider.bytes("other").unwrap().as_ref(), [7; 4]);
    }

    #[test]
    fn a_single_file_keeps_saying_what_it_predicts_and_says_what_it_takes_in() {
        let of_sd2 = "cond_stage_model.model.x";
        let metadata = [(UNET, r#"{"in_channels": 4, "sample_size": 8}"#)];
        let plain = file(LDM_CONV_IN, &[2, 4, 1, 1], &metadata);
        let wider = ForInpainting::new(plain).unwrap();
        assert_eq!(wider.metadata()[UNET], r#"{"in_channels":9,"sample_size":8}"#);
        assert!(matches!(recognise(&wider), crate::FileKind::Ldm { input: UnetInput::Inpaint, .. }));
        let entry = |name: &str, shape: &[usize]| TensorEntry {
            name: name.into(),
            dtype: Dtype::U8,
            shape: shape.to_vec(),
            bytes: vec![0; shape.iter().product()],
        };
        let mut content = Vec::new();
        let entries = [entry(LDM_CONV_IN, &[1, 4, 1, 1]), entry(of_sd2, &[1])];
        write_to(&mut content, entries.as_slice(), &BTreeMap::new()).unwrap();
        let sd2 = SafetensorsFile::from_bytes(content, "memory").unwrap();
        assert!(!sd2_predicts_noise(&sd2).unwrap());
        assert!(!sd2_predicts_noise(&ForInpainting::new(sd2).unwrap()).unwrap());
    }

    #[test]
    fn the_running_mean_becomes_as_wide_as_the_weights() {
        let entry = |name: String, value: u8| TensorEntry {
            name,
            dtype: Dtype::U8,
            shape: vec![1, 4, 1, 1],
            bytes: vec![value; 4],
        };
        let mut content = Vec::new();
        let entries = [entry(mean_of(LDM_CONV_IN), 3), entry(LDM_CONV_IN.into(), 2)];
        write_to(&mut content, entries.as_slice(), &BTreeMap::new()).unwrap();
        let wider = ForInpainting::new(SafetensorsFile::from_bytes(content, "memory").unwrap()).unwrap();
        for (name, value) in [(LDM_CONV_IN, 2), ("model_ema.diffusion_modelinput_blocks00weight", 3)] {
            assert_eq!(wider.info(name).unwrap().shape, [1, 9, 1, 1]);
            assert_eq!(wider.bytes(name).unwrap().as_ref(), [value, value, value, value, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn what_takes_in_something_else_is_refused() {
        for (shape, reason) in [([2, 9, 1, 1], "already"), ([2, 8, 1, 1], "editing by instruction")] {
            let error = ForInpainting::new(file(CONV_IN, &shape, &[])).err().expect("refused");
            assert!(error.to_string().contains(reason), "{error}");
        }
        let error = ForInpainting::new(file("x", &[2, 4, 1, 1], &[])).err().expect("refused");
        assert!(error.to_string().contains("holds no UNet"), "{error}");
    }
}
