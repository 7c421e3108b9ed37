//! The marks and other added tokens, as the JSON files beside a vocabulary describe them.
//! Their flags decide how they are found in a text, so they are read the way transformers reads them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::vocabulary::{END_MARK, START_MARK};

/// The content of the JSON files beside a vocabulary; empty objects for those that are absent.
#[derive(Default)]
pub(crate) struct TokenFiles {
    pub(crate) tokenizer_config: Map<String, Value>,
    pub(crate) special_tokens_map: Map<String, Value>,
    /// `added_tokens.json`: token and number.
    pub(crate) added_tokens: Map<String, Value>,
    /// `added_tokens` of a `tokenizer.json`.
    pub(crate) tokenizer_json_added: Vec<Value>,
}

/// The tokens that are looked for in a text before it is split into words.
#[derive(Clone)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: AddedToken,
    pub(crate) eos: AddedToken,
    pub(crate) unk: AddedToken,
    pub(crate) pad: AddedToken,
    /// Further tokens with their numbers, such as learned words.
    pub(crate) added: BTreeMap<u32, AddedToken>,
}

impl SpecialTokens {
    /// All of them, as they are written.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &str> {
        let named = [&self.bos, &self.eos, &self.unk, &self.pad];
        named.into_iter().chain(self.added.values()).map(|token| token.content.as_str())
    }

    /// CLIP's marks with another padding token.
    pub(crate) fn with_pad(pad: &str) -> SpecialTokens {
        let mut files = TokenFiles::default();
        files.tokenizer_config.insert("pad_token".to_string(), Value::from(pad));
        SpecialTokens::from_files(&files)
    }

    pub(crate) fn from_files(files: &TokenFiles) -> SpecialTokens {
        let mut added = BTreeMap::new();
        // Newer files list every added token with its flags; only without that list are the older files read.
        if let Some(listed) = files.tokenizer_config.get("added_tokens_decoder").and_then(Value::as_object) {
            for (id, token) in listed {
                if let (Ok(id), Some(token)) = (id.parse(), described(token)) {
                    added.insert(id, token);
                }
            }
        } else {
            for (content, id) in &files.added_tokens {
                if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                    added.insert(id, AddedToken::from(content, false));
                }
            }
            for token in &files.tokenizer_json_added {
                let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
                if let (Some(id), Some(token)) = (id, described(token)) {
                    added.insert(id, token);
                }
            }
        }
        let older = !files.tokenizer_config.contains_key("added_tokens_decoder");
        let named = |key: &str, default: &str| {
            let older = files.special_tokens_map.get(key).filter(|_| older);
            let value = older.or_else(|| files.tokenizer_config.get(key)).filter(|value| !value.is_null());
            let token = value.and_then(described).unwrap_or_else(|| AddedToken::from(default, true));
            let listed = added.values().find(|listed| listed.content == token.content);
            let mut token = listed.cloned().unwrap_or(token);
            token.special = true;
            token
        };
        SpecialTokens {
            bos: named("bos_token", START_MARK),
            eos: named("eos_token", END_MARK),
            unk: named("unk_token", END_MARK),
            pad: named("pad_token", END_MARK),
            added,
        }
    }
}

/// A token given as a plain string or with its flags.
fn described(value: &Value) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return (!content.is_empty()).then(|| AddedToken::from(content, true));
    }
    let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", false);
    let content = value.get("content")?.as_str().filter(|content| !content.is_empty())?;
    let token = AddedToken::from(content, special);
    let normalized = flag("normalized", !special);
    Some(
        token
            .normalized(normalized)
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false)),
    )
}
