//! BERT's WordPiece, as Chinese models have it: a `vocab.txt` of characters and pieces of words.

use tokenizers::TokenizerBuilder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use crate::folder::Kind;
use crate::prompt_tokenizer::Pipeline;
use crate::special::{Marks, SpecialTokens, TokenFiles};

/// Its file.
pub(crate) const FILE: &str = "vocab.txt";
/// With the positions of every released BERT.
pub(crate) const KIND: Kind = Kind { file: FILE, marks: Marks::BERT, usual_window: 512, pipeline };

/// From the content of a `vocab.txt`: a token on each line, numbered from 0.
fn pipeline(content: &[u8], files: &TokenFiles, special: &SpecialTokens) -> Result<Pipeline, String> {
    let vocabulary = WordPiece::read_bytes(content).map_err(|error| error.to_string())?;
    let lines = content.split_inclusive(|&byte| byte == b'\n').count();
    if vocabulary.len() != lines {
        return Err(format!("it has {lines} lines, but only {} different tokens", vocabulary.len()));
    }
    let model = WordPiece::builder()
        .vocab(vocabulary)
        .unk_token(special.unk.content.clone())
        .build()
        .map_err(|error| error.to_string())?;
    // As transformers' `BertTokenizer` reads its switches.
    let lowercase = files.flag("do_lower_case").unwrap_or(true);
    let chinese = files.flag("tokenize_chinese_chars").unwrap_or(true);
    let normalizer = BertNormalizer::new(true, chinese, files.flag("strip_accents"), lowercase);
    TokenizerBuilder::new()
        .with_model(model.into())
        .with_normalizer(Some(normalizer.into()))
        .with_pre_tokenizer(Some(BertPreTokenizer.into()))
        .with_post_processor(None)
        .with_decoder(None)
        .build()
        .map_err(|error| error.to_string())
}
