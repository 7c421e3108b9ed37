//! The marks and other added tokens, as the JSON files beside a vocabulary describe them.
//! Their flags decide how they are found in a text, so they are read the way transformers reads them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::{Error, Result};
use crate::prompt_tokenizer::Pipeline;
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

impl TokenFiles {
    /// Those of a folder, but for what its `tokenizer.json` adds. `content` gives what it has.
    pub(crate) fn read<'c>(folder: &Path, content: impl Fn(&str) -> Option<&'c [u8]>) -> Result<TokenFiles> {
        let object = |name: &str| match content(name) {
            Some(content) => {
                serde_json::from_slice(content).map_err(|error| Error::bad_file(folder.join(name), error.to_string()))
            }
            None => Ok(Map::new()),
        };
        Ok(TokenFiles {
            tokenizer_config: object("tokenizer_config.json")?,
            special_tokens_map: object("special_tokens_map.json")?,
            added_tokens: object("added_tokens.json")?,
            tokenizer_json_added: Vec::new(),
        })
    }

    /// How many tokens the model is told to read at once; `usual` where that is not known.
    pub(crate) fn window(&self, usual: usize) -> usize {
        // transformers writes 1e30 where no length is known.
        let length = self.tokenizer_config.get("model_max_length").and_then(Value::as_u64);
        length.filter(|length| (3..=1 << 20).contains(length)).map_or(usual, |length| length as usize)
    }

    /// A switch of the `tokenizer_config.json`.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.tokenizer_config.get(key).and_then(Value::as_bool)
    }
}

/// A mark: its key in the files, and what it is where they do not say.
type Mark = (&'static str, &'static str);

/// The marks of a kind of tokenizer.
pub(crate) struct Marks {
    pub(crate) bos: Option<Mark>,
    pub(crate) eos: Mark,
    pub(crate) unk: Mark,
    pub(crate) pad: Mark,
    /// Others that are looked for in a text, where the files name them.
    pub(crate) others: &'static [&'static str],
}

impl Marks {
    pub(crate) const CLIP: Marks = Marks {
        bos: Some(("bos_token", START_MARK)),
        eos: ("eos_token", END_MARK),
        unk: ("unk_token", END_MARK),
        pad: ("pad_token", END_MARK),
        others: &[],
    };
    pub(crate) const BERT: Marks = Marks {
        bos: Some(("cls_token", "[CLS]")),
        eos: ("sep_token", "[SEP]"),
        unk: ("unk_token", "[UNK]"),
        pad: ("pad_token", "[PAD]"),
        others: &["mask_token"],
    };
    /// T5's, which begin a text with nothing.
    pub(crate) const T5: Marks = Marks {
        bos: None,
        eos: ("eos_token", "</s>"),
        unk: ("unk_token", "<unk>"),
        pad: ("pad_token", "<pad>"),
        others: &["bos_token", "cls_token", "sep_token", "mask_token"],
    };
}

/// The tokens that are looked for in a text before it is split into words.
#[derive(Clone)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: Option<AddedToken>,
    pub(crate) eos: AddedToken,
    pub(crate) unk: AddedToken,
    pub(crate) pad: AddedToken,
    /// Marks that a text may have and a prompt is never given.
    pub(crate) others: Vec<AddedToken>,
    /// Further tokens with their numbers, such as learned words.
    pub(crate) added: BTreeMap<u32, AddedToken>,
}

impl SpecialTokens {
    /// All of them, as they are written.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &str> {
        self.named().chain(self.added.values()).map(|token| token.content.as_str())
    }

    fn named(&self) -> impl Iterator<Item = &AddedToken> {
        self.bos.iter().chain([&self.eos, &self.unk, &self.pad]).chain(&self.others)
    }

    /// Makes a pipeline look for them.
    ///
    /// # Errors
    /// Where a token gets another number than the files say.
    pub(crate) fn teach(&self, pipeline: &mut Pipeline) -> std::result::Result<(), String> {
        let refused = |error: tokenizers::Error| error.to_string();
        for (id, token) in &self.added {
            pipeline.add_tokens([token.clone()]).map_err(refused)?;
            let given = pipeline.token_to_id(&token.content);
            if given != Some(*id) {
                let content = &token.content;
                return Err(format!("the added token `{content}` should have the number {id} but gets {given:?}"));
            }
        }
        let named: Vec<AddedToken> = self.named().cloned().collect();
        pipeline.add_special_tokens(named).map_err(refused)?;
        Ok(())
    }

    /// CLIP's marks with another padding token.
    pub(crate) fn with_pad(pad: &str) -> SpecialTokens {
        let mut files = TokenFiles::default();
        files.tokenizer_config.insert("pad_token".to_string(), Value::from(pad));
        SpecialTokens::from_files(&files, &Marks::CLIP)
    }

    pub(crate) fn from_files(files: &TokenFiles, marks: &Marks) -> SpecialTokens {
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
        let named = |key: &str, default: Option<&str>| {
            let older = files.special_tokens_map.get(key).filter(|_| older);
            let value = older.or_else(|| files.tokenizer_config.get(key)).filter(|value| !value.is_null());
            let token = value.and_then(described).or_else(|| Some(AddedToken::from(default?, true)))?;
            let listed = added.values().find(|listed| listed.content == token.content);
            let mut token = listed.cloned().unwrap_or(token);
            token.special = true;
            Some(token)
        };
        let mark = |(key, default): Mark| named(key, Some(default)).expect("it has a default");
        SpecialTokens {
            bos: marks.bos.map(mark),
            eos: mark(marks.eos),
            unk: mark(marks.unk),
            pad: mark(marks.pad),
            others: marks.others.iter().filter_map(|key| named(key, None)).collect(),
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
