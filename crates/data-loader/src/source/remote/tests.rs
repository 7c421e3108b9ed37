//! Fetching from a server on this machine that cuts connections, refuses ranges and changes its mind.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sdtrain_recipe::{CaptionConfig, DataConfig, MissingCaption, Resolution, Subset};

use super::download::{Settings, check_room, fetch_all};
use super::{fetched, place_of};
use crate::{DataError, DataSet};

/// What the server does.
#[derive(Default)]
struct Behaviour {
    files: BTreeMap<String, Vec<u8>>,
    e_tag: Option<&'static str>,
    has_ranges: bool,
    /// Of each answer to a GET so many bytes are sent before the connection is cut, until the list is empty.
    cuts: VecDeque<usize>,
    /// Status of each answer, until the list is empty.
    statuses: VecDeque<u16>,
    /// Added to the length in answers to HEAD.
    too_long: usize,
    /// Wait in front of the body of an answer.
    delay: Duration,
    requests: Vec<String>,
}

/// An HTTP server on a port of its own, until the test ends.
struct Server {
    port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    fn start(files: &[(&str, &[u8])]) -> Server {
        let files = files.iter().map(|(name, content)| (format!("/{name}"), content.to_vec())).collect();
        let behaviour = Behaviour { files, e_tag: Some("\"1\""), has_ranges: true, ..Behaviour::default() };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = behaviour.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || answer(connection, &shared));
            }
        });
        Server { port, behaviour }
    }

    fn set(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    fn address(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Lines of all requests so far, each with its range.
    fn requests(&self) -> Vec<String> {
        self.set().requests.clone()
    }

    fn fetch(&self, name: &str, folder: &Path, attempts: u32) -> Result<PathBuf, DataError> {
        let address = self.address(name);
        let file = place_of(folder, &address);
        fetch_all(&BTreeMap::from([(address, file.clone())]), folder, &settings(attempts, Vec::new()))?;
        Ok(file)
    }
}

/// One request a connection.
fn answer(mut connection: TcpStream, behaviour: &Mutex<Behaviour>) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines().map_while(Result::ok);
    let request = lines.next()?;
    let headers: Vec<String> =
        lines.take_while(|line| !line.is_empty()).map(|line| line.to_ascii_lowercase()).collect();
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let (method, rest) = request.split_once(' ')?;
    let name = rest.split_once(' ')?.0;
    let mut set = behaviour.lock().unwrap();
    let signed =
        if header("authorization").is_some_and(|value| value.starts_with("aws4-hmac-sha256")) { " signed" } else { "" };
    let range = header("range").map_or(String::new(), |range| format!(" {range}"));
    set.requests.push(format!("{method} {name}{range}{signed}"));
    let status = set.statuses.pop_front();
    let file = set.files.get(name).cloned();
    let (Some(file), None) = (file, status) else {
        let status = status.unwrap_or(404);
        write!(connection, "HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").ok()?;
        return Some(());
    };
    let start =
        header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| set.has_ranges);
    let body = &file[start.unwrap_or(0)..];
    let mut head = match start {
        Some(start) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{}\r\n",
            file.len() - 1,
            file.len()
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    if let Some(e_tag) = set.e_tag {
        head += &format!("ETag: {e_tag}\r\n");
    }
    let length = body.len() + if method == "HEAD" { set.too_long } else { 0 };
    head += "Last-Modified: Sat, 21 Nov 2026 06:00:00 GMT\r\nConnection: close\r\n";
    let sent = if method == "GET" { set.cuts.pop_front().unwrap_or(body.len()).min(body.len()) } else { 0 };
    let delay = set.delay;
    drop(set);
    connection.write_all(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes()).ok()?;
    if sent > 0 {
        thread::sleep(delay);
        connection.write_all(&body[..sent]).ok()?;
    }
    Some(())
}

fn settings(attempts: u32, variables: Vec<(String, String)>) -> Settings {
    Settings { attempts, pause: Duration::from_millis(1), variables, tell: |_| {} }
}

/// Bytes that differ everywhere.
fn content(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(length).collect()
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn shard(names: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let mut bytes = std::io::Cursor::new(Vec::new());
        ::image::RgbImage::new(64, 64).write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.get_ref().len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("{name}.png"), bytes.get_ref().as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn shards_are_fetched_once_and_then_read_without_the_server() {
    let (first, second) = (shard(&["a", "b"]), shard(&["c"]));
    let server = Server::start(&[("set/x-0.tar", &first), ("set/x-1.tar", &second)]);
    let folder = tempfile::tempdir().unwrap();
    let subset = Subset { path: server.address("set/x-{0..1}.tar").into(), ..Subset::default() };
    let config = DataConfig {
        subsets: vec![subset],
        resolution: Resolution::Square(64),
        caption: CaptionConfig { missing: MissingCaption::Empty },
        download_dir: Some(folder.path().to_owned()),
        ..DataConfig::default()
    };
    let data = DataSet::open(&config, 1, 16).unwrap();
    assert_eq!(data.images(), 3);
    assert!(data.load_image(2, false).is_ok());
    let place = folder.path().join(format!("http/127.0.0.1:{}/set", server.port));
    assert_eq!(fs::read(place.join("x-1.tar")).unwrap(), second);
    assert_eq!(server.requests().len(), 4, "{:?}", server.requests());
    let fingerprint = data.fingerprint().unwrap();
    assert_eq!(DataSet::open(&config, 1, 16).unwrap().fingerprint().unwrap(), fingerprint);
    assert_eq!(server.requests().len(), 4, "the second start asks nobody");
    // One that was shortened behind our back is no shard any more.
    fs::write(place.join("x-0.tar"), &first[..512]).unwrap();
    DataSet::open(&config, 1, 16).unwrap();
    assert_eq!(fs::read(place.join("x-0.tar")).unwrap(), first);
}

#[test]
fn a_cut_connection_is_continued_where_it_ended() {
    let content = content(300_000);
    let server = Server::start(&[("a.tar", &content)]);
    let folder = tempfile::tempdir().unwrap();
    server.set().cuts.extend([100_000, 50_000]);
    let file = server.fetch("a.tar", folder.path(), 2).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
    assert_eq!(files_in(file.parent().unwrap()), [".a.tar.fetched", "a.tar"]);
    let gets: Vec<String> = server.requests().into_iter().filter(|line| line.starts_with("GET")).collect();
    assert_eq!(gets, ["GET /a.tar", "GET /a.tar bytes=100000-", "GET /a.tar bytes=150000-"]);
}

#[test]
fn a_later_start_continues_what_an_earlier_one_left() {
    let content = content(300_000);
    let server = Server::start(&[("a.tar", &content)]);
    let folder = tempfile::tempdir().unwrap();
    server.set().cuts.push_back(100_000);
    let error = server.fetch("a.tar", folder.path(), 1).unwrap_err();
    assert!(error.to_string().starts_with(&format!("`{}`: cannot be fetched:", server.address("a.tar"))), "{error}");
    assert_eq!(error.hint().unwrap(), "the same command goes on behind the 100.0 kB that are here");
    assert_eq!(fs::read(server.fetch("a.tar", folder.path(), 1).unwrap()).unwrap(), content);
    assert_eq!(server.requests().last().unwrap(), "GET /a.tar bytes=100000-");
}

#[test]
fn a_file_that_was_exchanged_is_begun_anew() {
    let (old, new) = (content(200_000), vec![7; 200_000]);
    let server = Server::start(&[("a.tar", &old)]);
    let folder = tempfile::tempdir().unwrap();
    server.set().cuts.push_back(100_000);
    server.fetch("a.tar", folder.path(), 1).unwrap_err();
    server.set().files.insert("/a.tar".to_owned(), new.clone());
    server.set().e_tag = Some("\"2\"");
    assert_eq!(fs::read(server.fetch("a.tar", folder.path(), 1).unwrap()).unwrap(), new);
}

#[test]
fn a_server_without_ranges_sends_it_whole_again() {
    let content = content(200_000);
    let server = Server::start(&[("a.tar", &content)]);
    server.set().has_ranges = false;
    server.set().cuts.extend([100_000, 150_000]);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(fs::read(server.fetch("a.tar", folder.path(), 3).unwrap()).unwrap(), content);
    let gets: Vec<String> = server.requests().into_iter().filter(|line| line.starts_with("GET")).collect();
    assert_eq!(gets, ["GET /a.tar", "GET /a.tar bytes=100000-", "GET /a.tar"]);
}

#[test]
fn a_server_that_is_out_of_order_for_a_while_is_waited_for() {
    let server = Server::start(&[("a.tar", b"abc")]);
    server.set().statuses.extend([500, 503]);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(fs::read(server.fetch("a.tar", folder.path(), 3).unwrap()).unwrap(), b"abc");
    let server = Server::start(&[("a.tar", b"abc")]);
    server.set().statuses.extend([500; 3]);
    let error = server.fetch("a.tar", folder.path(), 3).unwrap_err();
    assert!(error.to_string().contains("500"), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn what_is_not_there_or_not_allowed_is_not_asked_for_twice() {
    let server = Server::start(&[("a.tar", b"abc")]);
    let folder = tempfile::tempdir().unwrap();
    let error = server.fetch("b.tar", folder.path(), 5).unwrap_err();
    assert_eq!(error.to_string(), format!("`{}`: is not there (404)", server.address("b.tar")));
    assert!(error.hint().unwrap().contains("look at the address"));
    for status in [401, 403] {
        server.set().statuses.push_back(status);
        let error = server.fetch("a.tar", folder.path(), 5).unwrap_err();
        assert_eq!(error.to_string(), format!("`{}`: may not be read (403 or 401)", server.address("a.tar")));
        assert!(error.hint().unwrap().contains("download it first"));
    }
    assert_eq!(server.requests().len(), 3);
    assert!(!folder.path().join("http").exists(), "nothing is left behind");
}

#[test]
fn a_length_that_is_not_kept_is_no_file() {
    let server = Server::start(&[("a.tar", b"abc")]);
    server.set().too_long = 2;
    let folder = tempfile::tempdir().unwrap();
    let error = server.fetch("a.tar", folder.path(), 2).unwrap_err().to_string();
    assert!(error.contains("5 bytes by one answer of the server and 3 by another"), "{error}");
    assert!(!place_of(folder.path(), &server.address("a.tar")).exists());
}

#[test]
fn several_starts_at_once_share_one_download() {
    let content = content(400_000);
    let server = Server::start(&[("a.tar", &content)]);
    server.set().delay = Duration::from_millis(200);
    let folder = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        let fetch = || scope.spawn(|| fs::read(server.fetch("a.tar", folder.path(), 2).unwrap()).unwrap());
        let fetched = [fetch(), fetch(), fetch()];
        assert!(fetched.into_iter().all(|fetched| fetched.join().unwrap() == content));
    });
    let gets = server.requests().iter().filter(|line| line.starts_with("GET")).count();
    assert_eq!(gets, 1);
}

#[test]
fn s3_is_asked_at_its_endpoint_and_with_a_signature() {
    let server = Server::start(&[("bucket/set/a.tar", b"abc")]);
    let folder = tempfile::tempdir().unwrap();
    let endpoint = ("AWS_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{}", server.port));
    let wanted = |name: &str| {
        let address = format!("s3://bucket/set/{name}");
        BTreeMap::from([(address.clone(), place_of(folder.path(), &address))])
    };
    let with = |more: &[(&str, &str)]| {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        settings(2, [endpoint.clone()].into_iter().chain(more).collect())
    };
    let keys = with(&[("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")]);
    fetch_all(&wanted("a.tar"), folder.path(), &keys).unwrap();
    assert_eq!(fs::read(folder.path().join("s3/bucket/set/a.tar")).unwrap(), b"abc");
    assert_eq!(server.requests(), ["HEAD /bucket/set/a.tar signed", "GET /bucket/set/a.tar signed"]);
    let open = with(&[("AWS_SKIP_SIGNATURE", "true")]);
    server.set().statuses.push_back(403);
    let error = fetch_all(&wanted("b.tar"), folder.path(), &open).unwrap_err();
    assert_eq!(error.to_string(), "`s3://bucket/set/b.tar`: may not be read (403 or 401)");
    assert!(error.hint().unwrap().contains("AWS_ACCESS_KEY_ID"));
    assert_eq!(server.requests().last().unwrap(), "HEAD /bucket/set/b.tar");
}

#[test]
fn a_server_that_does_not_speak_tls_is_an_error() {
    let server = Server::start(&[("a.tar", b"abc")]);
    let folder = tempfile::tempdir().unwrap();
    let address = server.address("a.tar").replace("http:", "https:");
    let wanted = BTreeMap::from([(address.clone(), place_of(folder.path(), &address))]);
    let error = fetch_all(&wanted, folder.path(), &settings(2, Vec::new())).unwrap_err();
    assert!(error.to_string().starts_with(&format!("`{address}`: cannot be fetched: ")), "{error}");
    assert!(error.hint().unwrap().contains("is the network there?"));
}

#[test]
fn too_little_room_is_said_before_anything_comes() {
    let folder = Path::new("/data");
    assert!(check_room(folder, 1 << 30, 2 << 30).is_ok());
    let error = check_room(folder, 5_000_000_000, 4_900_000_000).unwrap_err();
    assert!(error.to_string().ends_with("5.0 GB are needed, 4.9 GB are free"), "{error}");
    assert!(error.hint().unwrap().contains("data.download_dir"));
}

#[test]
fn an_address_that_cannot_be_fetched_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let error = |address: &str| {
        let subset = Subset { path: address.into(), ..Subset::default() };
        let download_dir = Some(folder.path().to_owned());
        fetched(&DataConfig { subsets: vec![subset], download_dir, ..DataConfig::default() }).unwrap_err()
    };
    for (address, reason) in [
        ("hf://datasets/a/b.tar", "is an address of a kind that is not read"),
        ("https://host/{.,a}./x.tar", "names no file"),
        ("https://host/{3..1}.tar", "does not count up"),
    ] {
        let error = error(address);
        assert!(error.to_string().contains(reason) && error.to_string().contains(address), "{error}");
    }
}
