//! States of texts in a folder: which are there, making those that are not, and reading them batch by batch.

use super::encoder_identity::text_encoder_identity;
use super::{encode, on_host};
use crate::Progress;
use crate::error::Result;
use crate::parallel::in_parallel;
use crate::survey::{Look, Survey, tell_of_damage, tell_of_deletion};
use sdtrain_feature_cache::{Entry, EntryName, Found, TextEncoderIdentity, TextEntry, TextFolder, TextForm, TextKey};
use sdtrain_model::{PromptReading, PromptTokens, StableDiffusion, TextLayer, TextStates, dtype_of, kind_of};
use sdtrain_torch::{tensor_from_bytes, tensor_to_bytes};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::Device;

/// Text states of one model, read in one way, in a folder that may hold those of many.
pub struct DiskTexts {
    folder: TextFolder,
    encoder: TextEncoderIdentity,
    reading: PromptReading,
    form: TextForm,
    /// The entries of the texts that were known beforehand.
    names: BTreeSet<EntryName>,
}

impl DiskTexts {
    /// Opens the folder and checks the entry of each of `texts` that there is. Texts of the same tokens have one entry.
    pub fn open(
        folder: &Path,
        model: &StableDiffusion,
        texts: &BTreeSet<String>,
        reading: PromptReading,
    ) -> Result<(DiskTexts, Survey<String>)> {
        let folder = TextFolder::open(folder)?;
        let encoder = text_encoder_identity(model)?;
        let (shape, pooled) = (model.text_states_shape(&reading)?, model.pooled_width());
        let form = TextForm { shape, pooled, dtype: encoder.compute };
        let mut disk = DiskTexts { folder, encoder, reading, form, names: BTreeSet::new() };
        let mut by_name = BTreeMap::new();
        for text in texts {
            by_name.entry(disk.name(model, text)?).or_insert(text);
        }
        let by_name: Vec<(EntryName, &String)> = by_name.into_iter().collect();
        let looks = in_parallel(&by_name, |(name, _)| disk.look(name));
        let mut survey = Survey::new("texts");
        for ((name, text), look) in by_name.into_iter().zip(looks) {
            survey.add(text.clone(), look?, TextEntry::most_bytes(form));
            disk.names.insert(name);
        }
        Ok((disk, survey))
    }

    /// The folder, for what concerns all of its entries.
    pub fn folder(&self) -> &TextFolder {
        &self.folder
    }

    /// The entries of the texts that it was opened with.
    pub fn names(&self) -> impl Iterator<Item = EntryName> {
        self.names.iter().copied()
    }

    /// Encodes what the survey misses and keeps it. Refuses to begin where there is no room for it.
    pub fn fill(&self, model: &StableDiffusion, survey: &Survey<String>, progress: Progress) -> Result<()> {
        self.folder.check_room(survey.missing_bytes)?;
        for (done, text) in (1..).zip(&survey.missing) {
            self.keep(&self.name(model, text)?, &encode(model, text, &self.reading)?)?;
            progress(done, survey.missing.len());
        }
        Ok(())
    }

    /// The states of a text on the host, without a dimension for several. They are encoded where they are not there.
    pub(super) fn states(&self, model: &StableDiffusion, text: &str) -> Result<TextStates> {
        let name = self.name(model, text)?;
        match self.folder.read(&name, self.form)? {
            Found::Entry(entry) => {
                let kind = kind_of(self.form.dtype).expect("the text encoder computes in it");
                let shape = self.form.shape.map(|length| length as i64);
                let hidden_states = tensor_from_bytes(&entry.states, kind, &shape, kind, Device::Cpu)?;
                let length = self.form.pooled.unwrap_or_default() as i64;
                let pooled = |bytes: &Vec<u8>| tensor_from_bytes(bytes, kind, &[length], kind, Device::Cpu);
                return Ok(TextStates { hidden_states, pooled: entry.pooled.as_ref().map(pooled).transpose()? });
            }
            Found::Damaged { path, reason } => tell_of_damage(&path, &reason),
            Found::Missing if self.names.contains(&name) => tell_of_deletion(&self.folder.path(&name)),
            // Another image stands in for one that could not be read, with a caption of its own.
            Found::Missing => {}
        }
        let states = encode(model, text, &self.reading)?;
        self.keep(&name, &states)?;
        on_host(&states)
    }

    fn name(&self, model: &StableDiffusion, text: &str) -> Result<EntryName> {
        let (mut all_ids, mut all_weights, mut windows) = (Vec::new(), None::<Vec<f32>>, 0);
        for PromptTokens { ids, weights } in model.prompt_tokens(text, &self.reading)? {
            windows = ids.len() / model.text_window();
            all_ids.extend(ids);
            if let Some(weights) = weights {
                all_weights.get_or_insert_with(Vec::new).extend(weights);
            }
        }
        // Taken apart without `..`, so that a new field cannot be forgotten here. Whether there is a final norm is a part of the identity.
        let PromptReading { clip_skip: _, max_token_length: _, weights: _ } = self.reading;
        let TextLayer { from_end: clip_skip, final_norm: _ } = model.text_layer(&self.reading);
        let (ids, weights) = (&all_ids[..], all_weights.as_deref());
        Ok(TextKey { ids, weights, windows, clip_skip, encoder: &self.encoder }.name())
    }

    fn look(&self, name: &EntryName) -> Result<Look> {
        Ok(match self.folder.read(name, self.form)? {
            Found::Entry(_) => Look::Hit { imported: false },
            Found::Missing => Look::Missing,
            Found::Damaged { path, reason } => Look::Damaged(path, reason),
        })
    }

    fn keep(&self, name: &EntryName, TextStates { hidden_states, pooled }: &TextStates) -> Result<()> {
        debug_assert_eq!(dtype_of(hidden_states.kind()), Some(self.form.dtype));
        let pooled = pooled.as_ref().map(tensor_to_bytes).transpose()?;
        let entry = TextEntry { form: self.form, states: tensor_to_bytes(hidden_states)?, pooled };
        Ok(self.folder.write(name, &entry)?)
    }
}
