//! Requests to the hub: who is told the token, where redirects lead, and what an answer that is no success means.

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode, Url};
use sdtrain_files::Backoff;
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::settings::Settings;

/// A server that sends nothing for so long is asked anew.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECTING: Duration = Duration::from_secs(10);
/// A server may ask to wait for a day; whoever wants that starts the command again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;
/// A list of a repository's files is not longer.
const LONGEST_LIST: usize = 64 << 20;

/// Asks the hub, and the hosts that it sends on to.
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<HeaderValue>,
}

/// Why an answer did not come.
pub(crate) enum Failure {
    /// The hub says no: status and its own word for the reason.
    Refused(StatusCode, Option<String>),
    /// The network or the server may be in order soon.
    Passing(String),
    /// The same, and the server asks to wait so long before it is asked again.
    Busy(String, Duration),
    /// The answer cannot be meant, and asking again would bring the same.
    Senseless(String),
    /// Asking again would not help.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

/// What the hub says of a file, on the way to it.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) hash: Option<Hash>,
    pub(crate) size: Option<u64>,
    pub(crate) commit: Option<String>,
}

impl Facts {
    /// Takes over what an answer of the hub says. Of a large file the answer is a redirect, and its own length and tag are not the file's.
    fn add(&mut self, headers: &HeaderMap, is_file: bool) {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let linked = text("x-linked-etag").and_then(Hash::from_header);
        let own = text(ETAG.as_str()).filter(|_| is_file).and_then(Hash::from_header);
        self.hash = self.hash.take().or(linked).or(own);
        let number = |name: &str| text(name)?.trim().parse().ok();
        let length = || number(CONTENT_LENGTH.as_str()).filter(|_| is_file);
        self.size = self.size.or_else(|| number("x-linked-size")).or_else(length);
        self.commit = self.commit.take().or_else(|| text("x-repo-commit").map(str::to_owned));
    }
}

impl Client {
    /// One for the hub of the settings; nothing is sent yet.
    pub(crate) fn new(settings: &Settings) -> Result<Client> {
        let mut endpoint = Url::parse(&settings.endpoint)
            .ok()
            .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
            .ok_or_else(|| Error::Setup("`HF_ENDPOINT` is no address of the form `https://HOST`".to_owned()))?;
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err(Error::Setup("`HF_ENDPOINT` has a user or password in it".to_owned()));
        }
        endpoint.set_query(None);
        endpoint.set_fragment(None);
        let token = settings.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret()))
                .map_err(|_| Error::Setup("the token has characters that none has".to_owned()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        // Fails where it was done before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("sdtrain/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECTING)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| Error::Setup(reason_of(&error)))?;
        Ok(Client { http, endpoint, token: token.transpose()? })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The hub's address as a message names it.
    pub(crate) fn server(&self) -> String {
        self.endpoint.as_str().trim_end_matches('/').to_owned()
    }

    /// An address on the hub; each part is written so that nothing in it counts as an address' own signs.
    pub(crate) fn address<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    /// The text at an address of the hub.
    pub(crate) async fn text(&self, url: Url) -> std::result::Result<Vec<u8>, Failure> {
        let (mut response, _) = self.follow(Method::GET, url, None, true).await?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(passing)? {
            text.extend_from_slice(&chunk);
            if text.len() > LONGEST_LIST {
                let reason = format!("answers with a list of files of more than {} MB", LONGEST_LIST >> 20);
                return Err(Failure::Senseless(reason));
            }
        }
        Ok(text)
    }

    /// What the hub says of the file at an address.
    pub(crate) async fn facts(&self, url: Url) -> std::result::Result<Facts, Failure> {
        Ok(self.follow(Method::HEAD, url, None, false).await?.1)
    }

    /// The content of the file at an address, from the byte `from` on where the server can do so.
    pub(crate) async fn content(&self, url: Url, from: u64) -> std::result::Result<Response, Failure> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        Ok(self.follow(Method::GET, url, range, true).await?.0)
    }

    /// Sends a request and follows where it is sent on to; with `everywhere` off only as far as the hub itself answers.
    async fn follow(
        &self,
        method: Method,
        mut url: Url,
        range: Option<String>,
        everywhere: bool,
    ) -> std::result::Result<(Response, Facts), Failure> {
        let mut facts = Facts::default();
        for _ in 0..=MOST_REDIRECTS {
            // Compressed, its length would be another.
            let mut request = self.http.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            let is_hub = url.origin() == self.endpoint.origin();
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.header(AUTHORIZATION, token);
            }
            if let Some(range) = &range {
                request = request.header(RANGE, range);
            }
            let response = request.send().await.map_err(passing)?;
            let status = response.status();
            if is_hub {
                facts.add(response.headers(), status.is_success());
            }
            let Some(location) = response.headers().get(LOCATION).filter(|_| status.is_redirection()) else {
                return match status.is_success() {
                    true => Ok((response, facts)),
                    false => Err(refused(&response, is_hub)),
                };
            };
            let next = location.to_str().ok().and_then(|location| url.join(location).ok());
            let is_safe = |next: &Url| next.scheme() == "https" || next.scheme() == "http" && url.scheme() == "http";
            let Some(next) = next.filter(is_safe) else {
                return Err(Failure::Passing("it is sent on to an address that is none, or not secure".to_owned()));
            };
            if !everywhere && next.origin() != self.endpoint.origin() {
                return Ok((response, facts));
            }
            url = next;
        }
        Err(Failure::Passing("it is sent on from one address to the next without end".to_owned()))
    }
}

fn refused(response: &Response, is_hub: bool) -> Failure {
    let status = response.status();
    let may_pass = status.is_server_error()
        || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
        // The address there is valid for a while, and the hub gives another.
        || !is_hub;
    if may_pass {
        let reason = format!("the server answers {}", status.as_u16());
        return match wait_asked_for(response.headers()) {
            Some(wait) => Failure::Busy(reason, wait),
            None => Failure::Passing(reason),
        };
    }
    let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
    Failure::Refused(status, code.map(str::to_owned))
}

/// What `Retry-After` says in seconds, within bounds. One that states a date is passed over.
fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

pub(crate) fn passing(error: reqwest::Error) -> Failure {
    Failure::Passing(reason_of(&error))
}

/// The innermost reason, in one line. What lies around it repeats the address, which may hold a signature.
fn reason_of(error: &reqwest::Error) -> String {
    const LONGEST: usize = 200;
    if error.is_timeout() {
        return "no answer came in time".to_owned();
    }
    let Some(mut innermost) = error.source() else { return "the request failed".to_owned() };
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().lines().next().unwrap_or_default().chars().take(LONGEST).collect()
}

/// Waits and asks again, as long as there is reason to.
pub(crate) struct Tries(Backoff);

impl Tries {
    pub(crate) fn new(settings: &Settings) -> Tries {
        Tries(Backoff::new(settings.attempts, settings.pause))
    }

    /// Waits, or gives the failure back where it is the last. `here`: bytes of the file that are here.
    pub(crate) async fn again(&mut self, failure: Failure, here: u64) -> std::result::Result<(), Failure> {
        let asked_for = match failure {
            Failure::Passing(_) => Duration::ZERO,
            Failure::Busy(_, wait) => wait,
            _ => return Err(failure),
        };
        let Some(pause) = self.0.failed(here) else { return Err(failure) };
        sleep(pause.max(asked_for)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_asks_to_wait_is_believed_up_to_a_minute() {
        let asked = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            wait_asked_for(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(["0", " 7", "60", "86400"].map(asked), [Some(0), Some(7), Some(60), Some(60)]);
        assert_eq!(["", "-1", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"].map(asked), [None; 4]);
        assert_eq!(wait_asked_for(&HeaderMap::new()), None);
    }
}
