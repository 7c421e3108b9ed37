//! A hub on this machine, with a second host for large files, that cuts connections, refuses ranges and sends something else.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use sdtrain_hub::{Settings, Token};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const TOKEN: &str = "hf_verysecret";
/// Files of this size and more are large: the hub sends on to the other host for them.
const LARGE: usize = 1000;

/// What the two hosts do.
#[derive(Default)]
pub struct Behaviour {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Sent in the place of a file's content.
    pub instead: BTreeMap<String, Vec<u8>>,
    pub has_ranges: bool,
    /// Of each answer with the content of a large file so many bytes are sent before the connection is cut, until the list is empty.
    pub cuts: VecDeque<usize>,
    /// Status and `X-Error-Code` of each answer of the hub, until the list is empty.
    pub refusals: VecDeque<(u16, &'static str)>,
    /// Seconds that each of them asks to wait.
    pub retry_after: Option<u32>,
    /// Who does not say this token gets nothing.
    pub wants_token: Option<&'static str>,
    /// Around a hash in a header.
    pub quotes: (&'static str, &'static str),
    /// The hub says no hashes.
    pub is_silent: bool,
    /// Wait in front of a large file.
    pub delay: Duration,
    /// `hub METHOD PATH RANGE TOKEN`, the last two only where they were sent.
    pub requests: Vec<String>,
}

/// A hub with one repository, until the test ends.
pub struct Server {
    pub endpoint: String,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    /// With these files in `org/repo`.
    pub fn start(files: &[(&str, &[u8])]) -> Server {
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        let behaviour = Behaviour { files, has_ranges: true, quotes: ("\"", "\""), ..Behaviour::default() };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let content = listen("content", None, &behaviour);
        let hub = listen("hub", Some(content), &behaviour);
        Server { endpoint: format!("http://127.0.0.1:{hub}"), behaviour }
    }

    pub fn set(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    pub fn requests(&self) -> Vec<String> {
        self.set().requests.clone()
    }

    /// How to ask it, with a cache in `folder`.
    pub fn settings(&self, folder: &Path) -> Settings {
        Settings {
            endpoint: self.endpoint.clone(),
            cache: folder.to_owned(),
            token: Token::new(TOKEN),
            offline: false,
            attempts: 3,
            pause: Duration::from_millis(1),
        }
    }
}

/// The port of a new host; one that knows another sends on to it.
fn listen(host: &'static str, content: Option<u16>, behaviour: &Arc<Mutex<Behaviour>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = behaviour.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let shared = shared.clone();
            thread::spawn(move || answer(connection, host, content, &shared));
        }
    });
    port
}

/// One request a connection.
fn answer(
    mut connection: TcpStream,
    host: &str,
    content_port: Option<u16>,
    behaviour: &Mutex<Behaviour>,
) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines().map_while(Result::ok);
    let request = lines.next()?;
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |wanted: &str| {
        let lines = headers.iter().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let mut words = request.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let mut set = behaviour.lock().unwrap();
    let range = header("range").map_or(String::new(), |range| format!(" {range}"));
    let token = header("authorization").map_or(String::new(), |value| format!(" {value}"));
    set.requests.push(format!("{host} {method} {path}{range}{token}"));
    let mut say = |status: u16, headers: &str, body: &[u8]| {
        let length = body.len();
        write!(connection, "HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n")
            .ok()?;
        if method == "GET" { connection.write_all(body).ok() } else { Some(()) }
    };
    let Some(content_port) = content_port else {
        let file = set.instead.get(&path[1..]).or_else(|| set.files.get(&path[1..]))?.clone();
        let start = range.strip_prefix(" bytes=").and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
        let start = start.filter(|_| set.has_ranges).unwrap_or(0);
        let body = &file[start..];
        let cut = set.cuts.pop_front().unwrap_or(body.len()).min(body.len());
        let delay = set.delay;
        drop(set);
        thread::sleep(delay);
        let of_all = format!("Content-Range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
        let (status, of_all) = if start > 0 { (206, of_all.as_str()) } else { (200, "") };
        write!(
            connection,
            "HTTP/1.1 {status} X\r\nConnection: close\r\n{of_all}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .ok()?;
        return connection.write_all(&body[..cut]).ok();
    };
    if let Some((status, code)) = set.refusals.pop_front() {
        let wait = set.retry_after.map_or(String::new(), |seconds| format!("Retry-After: {seconds}\r\n"));
        return say(status, &format!("X-Error-Code: {code}\r\n{wait}"), b"");
    }
    if set.wants_token.is_some_and(|wanted| token != format!(" Bearer {wanted}")) {
        return say(401, "X-Error-Code: GatedRepo\r\n", b"");
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/repo/revision/") {
        if !["main", COMMIT, "refs%2Fpr%2F1"].contains(&revision) {
            return say(404, "X-Error-Code: RevisionNotFound\r\n", b"");
        }
        let names: Vec<String> = set.files.keys().map(|name| format!(r#"{{"rfilename": "{name}"}}"#)).collect();
        let list = format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, names.join(", "));
        return say(200, "", list.as_bytes());
    }
    // As the hub does it, the address of a file leads on within the hub first.
    if let Some(name) = path.strip_prefix(&format!("/org/repo/resolve/{COMMIT}/")) {
        let location = format!("Location: /cache/{name}\r\n");
        return say(307, &location, b"");
    }
    let Some((name, file)) = path.strip_prefix("/cache/").and_then(|name| Some((name, set.files.get(name)?.clone())))
    else {
        return say(404, "X-Error-Code: RepoNotFound\r\n", b"");
    };
    let (open, close) = set.quotes;
    let (is_silent, is_large) = (set.is_silent, file.len() >= LARGE);
    let mut head = format!("X-Repo-Commit: {COMMIT}\r\n");
    match (is_silent, is_large) {
        (true, _) => {}
        (false, true) => {
            let (hash, size) = (sha256(&file), file.len());
            head += &format!("X-Linked-ETag: {open}{hash}{close}\r\nX-Linked-Size: {size}\r\n");
        }
        (false, false) => head += &format!("ETag: {open}{}{close}\r\n", git_sha1(&file)),
    }
    if is_large {
        // Its own tag and length are another's.
        head += &format!("ETag: \"{}\"\r\nLocation: http://127.0.0.1:{content_port}/{name}\r\n", "f".repeat(40));
        return say(302, &head, b"Found");
    }
    let body = set.instead.get(name).unwrap_or(&file).clone();
    say(200, &head, &body)
}

pub fn sha256(content: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(content);
    in_hex(context)
}

pub fn git_sha1(content: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", content.len()).as_bytes());
    context.update(content);
    in_hex(context)
}

fn in_hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that differ everywhere.
pub fn content(length: usize, seed: u32) -> Vec<u8> {
    let number = |i: u32| (i + seed).wrapping_mul(2_654_435_761).to_be_bytes();
    (0..length as u32).flat_map(number).take(length).collect()
}
