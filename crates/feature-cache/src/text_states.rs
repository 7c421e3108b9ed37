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
    /// Length of the vector that the text becomes beside its states, where it becomes one.
    pub pooled: Option<usize>,
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
    /// The text as one vector, likewise.
    pub pooled: Option<Vec<u8>>,
}

const FORMAT: &str = "sdtrain text states";
const STATES: &str = "states";
const POOLED: &str = "pooled";

impl TextEntry {
    fn tensors(&self) -> Vec<TensorEntry> {
        let TextForm { shape, pooled, dtype } = self.form;
        let tensor = |name: &str, shape: Vec<usize>, bytes: &Vec<u8>| TensorEntry {
            name: name.to_owned(),
            dtype,
            shape,
            bytes: bytes.clone(),
        };
        let pooled = pooled.zip(self.pooled.as_ref()).map(|(length, bytes)| tensor(POOLED, vec![length], bytes));
        std::iter::once(tensor(STATES, shape.to_vec(), &self.states)).chain(pooled).collect()
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
        let TextForm { shape, pooled, dtype } = form;
        let read = |name: &str, shape: &[usize]| -> Result<Vec<u8>, String> {
            let info = sealed.file.info(name).ok_or_else(|| format!("has no tensor `{name}`"))?;
            if info.dtype != dtype || info.shape != shape {
                return Err(format!("`{name}` is {} {:?}, not {dtype} {shape:?}", info.dtype, info.shape));
            }
            Ok(sealed.file.bytes(name).map_err(reason_of)?.into_owned())
        };
        let pooled = pooled.map(|length| read(POOLED, &[length])).transpose()?;
        let entry = TextEntry { form, states: read(STATES, &shape)?, pooled };
        sealed.check(&entry.tensors())?;
        Ok(entry)
    }

    fn most_bytes(form: TextForm) -> u64 {
        let numbers: u64 = form.shape.iter().map(|&length| length as u64).product();
        let numbers = numbers + form.pooled.unwrap_or(0) as u64;
        HEADER + numbers * form.dtype.size() as u64
    }
}
