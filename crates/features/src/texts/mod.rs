//! States of texts under a frozen text encoder: of those seen lately, or of all that a run will see, in memory or on disk.

mod disk;
mod encoder_identity;

pub use disk::DiskTexts;

use crate::Progress;
use crate::error::{Error, Result};
use sdtrain_model::{PromptReading, StableDiffusion, TextStates};
use sdtrain_recipe::DataConfig;
use std::collections::{BTreeSet, HashMap};
use tch::{Device, Tensor};

/// Different texts kept where not all are known beforehand; with shuffled captions there is no end to them.
const CAPACITY: usize = 4096;

/// States by text. A frozen text encoder runs once for each different one.
pub struct TextCache {
    store: Store,
    reading: PromptReading,
}

enum Store {
    /// On the model's device, as many as `CAPACITY`.
    Recent(HashMap<String, TextStates>),
    /// All of them, on the host: there may be gigabytes.
    Memory(HashMap<String, TextStates>),
    /// All of them, read when they are needed.
    Disk(DiskTexts),
}

impl TextCache {
    /// Of texts that are encoded when they are first seen, and forgotten when there are too many.
    pub fn of_recent(reading: PromptReading) -> TextCache {
        TextCache { store: Store::Recent(HashMap::new()), reading }
    }

    /// Of all of `texts`, encoded now where `data.cache_dir` does not hold them.
    pub fn fill(
        model: &StableDiffusion,
        texts: BTreeSet<String>,
        reading: PromptReading,
        config: &DataConfig,
        progress: Progress,
    ) -> Result<TextCache> {
        let store = match &config.cache_dir {
            None => {
                let (mut states, total) = (HashMap::new(), texts.len());
                for (done, text) in (1..).zip(texts) {
                    let encoded = on_host(&encode(model, &text, &reading)?)?;
                    states.insert(text, encoded);
                    progress(done, total);
                }
                Store::Memory(states)
            }
            Some(folder) => {
                let (disk, survey) = DiskTexts::open(folder, model, &texts, reading)?;
                survey.tell("text encoder outputs", folder);
                disk.fill(model, &survey, progress)?;
                Store::Disk(disk)
            }
        };
        Ok(TextCache { store, reading })
    }

    /// Whether the text encoder has nothing left to do: every text was known beforehand.
    pub fn is_complete(&self) -> bool {
        !matches!(self.store, Store::Recent(_))
    }

    /// The states of `texts` on the model's device, in the compute dtype.
    ///
    /// A text that was not known beforehand, or whose entry is gone or damaged by now, is encoded.
    pub fn encode(&mut self, model: &StableDiffusion, texts: &[String]) -> Result<TextStates> {
        let reading = self.reading;
        let states = match &mut self.store {
            Store::Recent(states) => {
                if states.len() + texts.len() > CAPACITY {
                    states.clear();
                }
                of_each(states, texts, |text| encode(model, text, &reading))?
            }
            Store::Memory(states) => of_each(states, texts, |text| on_host(&encode(model, text, &reading)?))?,
            Store::Disk(disk) => {
                texts.iter().map(|text| disk.states(model, text)).collect::<Result<Vec<TextStates>>>()?
            }
        };
        let stacked =
            |all: Vec<&Tensor>| -> Result<Tensor> { Ok(Tensor::f_stack(&all, 0)?.f_to_device(model.device)?) };
        let pooled: Option<Vec<&Tensor>> = states.iter().map(|states| states.pooled.as_ref()).collect();
        Ok(TextStates {
            hidden_states: stacked(states.iter().map(|states| &states.hidden_states).collect())?,
            pooled: pooled.map(stacked).transpose()?,
        })
    }
}

/// What `states` has of each text, made where it has nothing.
fn of_each(
    states: &mut HashMap<String, TextStates>,
    texts: &[String],
    make: impl Fn(&str) -> Result<TextStates>,
) -> Result<Vec<TextStates>> {
    let mut all = Vec::with_capacity(texts.len());
    for text in texts {
        if let Some(known) = states.get(text) {
            all.push(known.shallow_clone());
            continue;
        }
        let made = make(text)?;
        all.push(made.shallow_clone());
        states.insert(text.clone(), made);
    }
    Ok(all)
}

/// The states of one text by itself, without a dimension for several: they must not depend on which others shared its batch.
fn encode(model: &StableDiffusion, text: &str, reading: &PromptReading) -> Result<TextStates> {
    let states = model.encode_prompts(&[text.to_owned()], reading)?.map(|states| states.f_squeeze_dim(0))?;
    let finite = |states: &Tensor| -> Result<bool> { Ok(states.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0) };
    match finite(&states.hidden_states)? && states.pooled.as_ref().map_or(Ok(true), finite)? {
        false => Err(Error::StatesNotFinite { text: text.to_owned() }),
        true => Ok(states),
    }
}

fn on_host(states: &TextStates) -> Result<TextStates> {
    Ok(states.map(|states| states.f_to_device(Device::Cpu))?)
}
