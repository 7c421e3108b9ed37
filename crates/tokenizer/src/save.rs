//! The files of a `tokenizer` folder with CLIP's vocabulary, in the form that every version of transformers reads.

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use crate::Tokenizer;
use crate::prompt_tokenizer::PromptTokenizer;
use crate::vocabulary::MERGES_VERSION;

impl PromptTokenizer {
    pub(crate) fn clip_files(&self) -> Vec<(String, Vec<u8>)> {
        // The model writes its vocabulary by number and its merges by rank.
        let model = serde_json::to_value(self.pipeline.get_model()).expect("a vocabulary always serialises");
        let vocab = self.vocab_json();
        let mut merges = format!("{MERGES_VERSION}\n");
        for merge in model["merges"].as_array().into_iter().flatten() {
            if let [Some(left), Some(right)] = [merge[0].as_str(), merge[1].as_str()] {
                merges.push_str(&format!("{left} {right}\n"));
            }
        }
        let bos = self.special.bos.iter().map(|bos| ("bos_token", bos));
        let named = bos.chain([
            ("eos_token", &self.special.eos),
            ("pad_token", &self.special.pad),
            ("unk_token", &self.special.unk),
        ]);
        let described: Map<String, Value> =
            named.clone().map(|(key, token)| (key.to_string(), with_flags(token))).collect();
        let mut config: Map<String, Value> =
            named.map(|(key, token)| (key.to_string(), json!(token.content))).collect();
        config.insert("add_prefix_space".to_string(), json!(false));
        config.insert("do_lower_case".to_string(), json!(true));
        config.insert("model_max_length".to_string(), json!(self.window()));
        config.insert("tokenizer_class".to_string(), json!("CLIPTokenizer"));
        let mut files = vec![
            ("merges.txt".to_string(), merges.into_bytes()),
            ("special_tokens_map.json".to_string(), pretty(&described)),
            ("vocab.json".to_string(), vocab),
        ];
        let model_size = self.pipeline.get_vocab_size(false) as u32;
        let beyond = self.special.added.iter().filter(|(id, _)| **id >= model_size);
        let added: Map<String, Value> = beyond.map(|(id, token)| (token.content.clone(), json!(id))).collect();
        if !added.is_empty() {
            files.push(("added_tokens.json".to_string(), pretty(&added)));
        }
        files.push(("tokenizer_config.json".to_string(), pretty(&config)));
        files.sort();
        files
    }

    // By hand and not through a map, so that the tokens stand in the order of their numbers.
    fn vocab_json(&self) -> Vec<u8> {
        let vocabulary = self.pipeline.get_vocab(false);
        let mut tokens: Vec<(u32, String)> = vocabulary.into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        let line = |(id, token): &(u32, String)| format!("{}:{id}", Value::from(token.as_str()));
        let lines: Vec<String> = tokens.iter().map(line).collect();
        format!("{{{}}}", lines.join(",")).into_bytes()
    }
}

fn with_flags(token: &AddedToken) -> Value {
    json!({
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
    })
}

fn pretty(object: &Map<String, Value>) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(object).expect("an object always serialises");
    text.push('\n');
    text.into_bytes()
}
