//! What a text encoder makes of one text, as an entry.

use std::path::Path;

use sdtrain_state_dict::{Dtype, Reader, TensorEntry};

use crate::entry::{Entry, HEADER, Sealed, reason_of, seal};
use crate::key::EntryName;

/// The form of a text's states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextForm {
    /// `[tokens, hidden_size]`.
    pub shape: [usize; 2],
    /// The number format that they were computed in.
    pub dtype: Dtype,
}

/// What is kept of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEntry {
    /// Its form.
    pub form: TextForm,
    /// What the denoiser attends to, as safetensors has it: little-endian, row by row.
    pub states: Vec<u8>,
}

const FORMAT: &str = "sdtrain text states";
const STATES: &str = "states";

impl TextEntry {
    fn tensors(&self) -> [TensorEntry; 1] {
        [TensorEntry {
            name: STATES.to_owned(),
            dtype: self.form.dtype,
            shape: self.form.shape.to_vec(),
            bytes: self.states.clone(),
        }]
    }
}

impl Entry for TextEntry {
    type Form = TextForm;

    const FOLDER: &'static str = "texts";

    fn form(&self) -> TextForm {
        self.form
    }

    fn to_bytes(&self, name: &EntryName) -> sdtrain_state_dict::Result<Vec<u8>> {
        seal(FORMAT, "", name, &self.tensors())
    }

    fn from_bytes(bytes: Vec<u8>, path: &Path, name: &EntryName, form: TextForm) -> Result<TextEntry, String> {
        let sealed = Sealed::open(FORMAT, bytes, path, name)?;
        let info = sealed.file.info(STATES).ok_or_else(|| format!("has no tensor `{STATES}`"))?;
        if info.dtype != form.dtype || info.shape != form.shape {
            let TextForm { shape, dtype } = form;
            return Err(format!("`{STATES}` is {} {:?}, not {dtype} {shape:?}", info.dtype, info.shape));
        }
        let states = sealed.file.bytes(STATES).map_err(reason_of)?.into_owned();
        let entry = TextEntry { form, states };
        sealed.check(&entry.tensors())?;
        Ok(entry)
    }

    fn most_bytes(form: TextForm) -> u64 {
        let numbers: u64 = form.shape.iter().map(|&length| length as u64).product();
        HEADER + numbers * form.dtype.size() as u64
    }
}
