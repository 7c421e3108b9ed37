//! The servers that addresses name, and what their answers mean.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, Error, ObjectStore, RetryConfig};

/// A server that sends nothing for so long is asked anew.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECTING: Duration = Duration::from_secs(10);

/// A file on a server.
pub(super) struct Remote {
    pub store: Arc<dyn ObjectStore>,
    pub path: Path,
}

/// Why a file did not come.
pub(super) enum Failure {
    /// Asking again would not help: what is wrong, and the way out.
    Final(String, String),
    /// The network or the server may be in order soon.
    Passing(String),
}

/// The server of an address: `https://host` or `s3://bucket`.
pub(super) fn server_of(address: &str) -> &str {
    let host = address.find("://").map_or(0, |at| at + 3);
    &address[..address[host..].find('/').map_or(address.len(), |slash| host + slash)]
}

/// How a server is asked; nothing is sent yet. `variables` are those of the environment.
pub(super) fn store_of(server: &str, variables: &[(String, String)]) -> Result<Arc<dyn ObjectStore>, Failure> {
    let unusable = |error: Error| Failure::Final(reason_of(&error), "look at the address and at `AWS_…`".to_owned());
    // Fails where it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Retrying is done where the parts of files are known.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let options =
        ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE).with_connect_timeout(CONNECTING);
    let Some(bucket) = server.strip_prefix("s3://") else {
        let options = options.with_allow_http(server.starts_with("http://"));
        let store = HttpBuilder::new().with_url(format!("{server}/")).with_client_options(options).with_retry(retry);
        return Ok(Arc::new(store.build().map_err(unusable)?));
    };
    let has_plain_endpoint =
        variables.iter().any(|(name, value)| name.starts_with("AWS_ENDPOINT") && value.starts_with("http://"));
    let mut store = AmazonS3Builder::new()
        .with_client_options(options.with_allow_http(has_plain_endpoint))
        .with_retry(retry)
        .with_bucket_name(bucket);
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            store = store.with_config(key, value);
        }
    }
    Ok(Arc::new(store.build().map_err(unusable)?))
}

/// The file's name on its server.
pub(super) fn path_of(address: &str) -> Result<Path, Failure> {
    let name = address[server_of(address).len()..].trim_start_matches('/');
    let path = match address.starts_with("s3://") {
        true => Path::parse(name),
        false => Path::from_url_path(name),
    };
    path.map_err(|error| Failure::Final(format!("names no file: {error}"), "look at the address".to_owned()))
}

impl Failure {
    /// What an error means for the file at an address.
    pub fn of(error: &Error, address: &str) -> Failure {
        let is_s3 = address.starts_with("s3://");
        match error {
            Error::NotFound { .. } => Failure::Final(
                "is not there (404)".to_owned(),
                "look at the address; braces must stand only for files that are there".to_owned(),
            ),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Failure::Final(
                "may not be read (403 or 401)".to_owned(),
                match is_s3 {
                    true => "set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or `AWS_SKIP_SIGNATURE=true` for a bucket \
                             that everybody may read; S3 says this of files that are not there, too",
                    false => "over HTTP only what everybody may read is fetched: download it first, and name the files",
                }
                .to_owned(),
            ),
            error => Failure::Passing(reason_of(error)),
        }
    }
}

/// The innermost reason, in one line: what lies around it repeats the address.
fn reason_of(error: &Error) -> String {
    const LONGEST: usize = 200;
    let mut innermost: &dyn StdError = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    text.lines().next().unwrap_or_default().chars().take(LONGEST).collect()
}
