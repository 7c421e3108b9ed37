//! Where the hub is, where its cache lies, and who asks: from the variables that `huggingface_hub` reads.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sdtrain_recipe::{hub_cache, hub_home};

/// The hub itself.
const HUB: &str = "https://huggingface.co";

/// How the hub is asked, and how patiently.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub or of a mirror, without a slash at its end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Folder of the cache (`HF_HUB_CACHE`, or `hub` below `HF_HOME`).
    pub cache: PathBuf,
    /// Says who asks (`HF_TOKEN`, or the file `token` in `HF_HOME`).
    pub token: Option<Token>,
    /// Whether nothing may be asked (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// How often a file is asked for without any more of it coming.
    pub attempts: u32,
    /// Wait in front of the second attempt; it doubles. A server that asks for more gets it, up to a minute.
    pub pause: Duration,
}

impl Settings {
    /// Those that the environment states.
    pub fn from_environment() -> Settings {
        let variable = |name: &str| {
            let value = std::env::var(name).ok()?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let is_on = |name: &str| variable(name).is_some_and(|value| is_true(&value));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned());
        let from_file = || {
            let file = variable("HF_TOKEN_PATH").map_or_else(|| hub_home().join("token"), PathBuf::from);
            Token::new(&std::fs::read_to_string(file).ok()?)
        };
        let named = || ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(|name| Token::new(&variable(name)?));
        let token = match is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => named().or_else(from_file),
        };
        Settings {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: hub_cache(),
            token,
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            attempts: 6,
            pause: Duration::from_millis(500),
        }
    }
}

/// As `huggingface_hub` reads a variable that is on or off.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

/// An access token. It cannot be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// None where there is nothing but spaces.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::new(" hf_secret\n").expect("a token");
        assert_eq!((token.secret(), format!("{token:?}").as_str()), ("hf_secret", "Token(…)"));
        assert_eq!(Token::new(" \n"), None);
    }

    #[test]
    fn a_variable_is_on_as_the_hubs_own_library_has_it() {
        assert!(["1", "on", "Yes", "TRUE"].into_iter().all(is_true));
        assert!(!["0", "off", "", "2"].into_iter().any(is_true));
    }
}
